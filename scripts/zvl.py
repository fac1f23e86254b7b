from zvl_ext.hosts import forge
from zvl_ext.webui import axes, settings
from zvl_ext.webui.script import ZImageVL  # noqa: F401  the web UI finds the class by looking through this module

# Here and not in the package: "Reload UI" forgets all callbacks and runs this file again, but not the package.
forge.on_before_ui(axes.register)
forge.on_ui_settings(settings.register)
