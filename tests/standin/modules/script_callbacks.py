before_ui = []


def on_before_ui(callback, *, name=None):
    before_ui.append(callback)


def before_ui_callback():
    for callback in before_ui:
        callback()
