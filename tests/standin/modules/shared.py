from types import SimpleNamespace


class FakeInitialModel:
    """What stands for the model until the first one is loaded."""


opts = SimpleNamespace(CLIP_stop_at_last_layers=1, emphasis="Original", persistent_cond_cache=True, use_old_scheduling=False)
cmd_opts = SimpleNamespace()
state = SimpleNamespace(textinfo=None, interrupted=False)
sd_model = FakeInitialModel()
