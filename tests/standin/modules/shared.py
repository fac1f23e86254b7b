from types import SimpleNamespace


class FakeInitialModel:
    """What stands for the model until the first one is loaded."""


class OptionInfo:
    """One setting as the settings page shows it."""

    def __init__(self, default=None, label="", component=None, component_args=None, onchange=None, section=None):
        self.default, self.label, self.component, self.component_args, self.section = (
            default,
            label,
            component,
            component_args,
            section,
        )
        self.comment_after = ""

    def info(self, text):
        self.comment_after += f"<span class='info'>({text})</span>"
        return self


class Options:
    """Settings: the values in `data`, as the user's file holds them, and what extensions have added, in
    `data_labels`."""

    def __init__(self, **data):
        self.data, self.data_labels = data, {}

    def __getattr__(self, name):
        if name in self.data:
            return self.data[name]
        if name in self.data_labels:
            return self.data_labels[name].default
        raise AttributeError(name)

    def add_option(self, name, info):
        self.data_labels[name] = info
        self.data.setdefault(name, info.default)


opts = Options(
    CLIP_stop_at_last_layers=1,
    emphasis="Original",
    persistent_cond_cache=True,
    use_old_scheduling=False,
    img2img_fix_steps=False,
    initial_noise_multiplier=1.0,
    sd_vae_encode_method="Full",
)
device = "cpu"  # as torch takes it: loading this module is to need nothing heavy
cmd_opts = SimpleNamespace()


class State:
    """What is being done, and whether the user has ended it."""

    textinfo, job, interrupted, skipped = None, "", False, False

    def begin(self, job="(unknown)"):
        self.textinfo, self.job, self.interrupted, self.skipped = None, job, False, False

    def end(self):
        self.job = ""


state = State()
sd_model = FakeInitialModel()
