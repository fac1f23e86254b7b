import gradio as gr
from gradio import component_meta

component_meta.create_or_modify_pyi = lambda *args, **kwargs: None  # gradio would write a file beside this one


class ToolButton(gr.Button):
    """A small button; `webui_tooltip` is an attribute that this web UI gives every component."""

    def __init__(self, value="", tooltip=None, **kwargs):
        super().__init__(value, **kwargs)
        self.webui_tooltip = tooltip


class InputAccordion(gr.Checkbox):
    """An accordion that is an input at the same time: a hidden checkbox that holds whether it is on."""

    def __init__(self, value=None, **kwargs):
        elem_id = kwargs.pop("elem_id")
        super().__init__(value, elem_id=f"{elem_id}-checkbox", visible=False, **kwargs)
        self.accordion = gr.Accordion(kwargs.get("label"), open=bool(value), elem_id=elem_id)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *error):
        self.accordion.__exit__(*error)

    def get_block_name(self):
        return "checkbox"
