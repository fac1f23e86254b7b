from zvl_ext.hosts import forge
from zvl_ext.webui import api, axes, settings
from zvl_ext.webui.script import ZImageVL, during_sampling  # noqa: F401  the web UI finds the class in this module

# Here and not in the package: "Reload UI" forgets all callbacks and runs this file again, but not the package.
forge.on_before_ui(axes.register)
forge.on_ui_settings(settings.register)
forge.on_cfg_denoiser(during_sampling)
forge.on_app_started(api.register)
