before_ui, ui_settings = [], []


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


def clear_callbacks():
    before_ui.clear()
    ui_settings.clear()
