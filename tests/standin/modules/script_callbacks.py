import traceback

before_ui, ui_settings, cfg_denoiser, app_started = [], [], [], []


def on_before_ui(callback, *, name=None):
    before_ui.append(callback)


def before_ui_callback():
    for callback in before_ui:
        callback()


def on_ui_settings(callback, *, name=None):
    ui_settings.append(callback)


def ui_settings_callback():
    for callback in ui_settings:
        callback()


def on_app_started(callback, *, name=None):
    app_started.append(callback)


def app_started_callback(demo, app):
    for callback in app_started:
        callback(demo, app)


def clear_callbacks():
    app_started.clear()
    before_ui.clear()
    ui_settings.clear()
    cfg_denoiser.clear()


class CFGDenoiserParams:
    """One step, before it is made. Extensions change it."""

    def __init__(
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x, self.image_cond, self.sigma = x, image_cond, sigma
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond, self.denoiser = text_cond, text_uncond, denoiser


def on_cfg_denoiser(callback, *, name=None):
    cfg_denoiser.append(callback)


def cfg_denoiser_callback(params):
    for callback in cfg_denoiser:
        try:
            callback(params)
        except Exception:  # noqa: BLE001  the web UI prints it and goes on
            traceback.print_exc()


def remove_callbacks_for_function(callback):
    for callbacks in (before_ui, ui_settings, cfg_denoiser, app_started):
        callbacks[:] = [each for each in callbacks if each != callback]
