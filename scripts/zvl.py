from zvl_ext.webui.script import ZImageVL  # noqa: F401  the web UI finds the class by looking through this module
