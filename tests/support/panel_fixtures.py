"""A panel in a page of its own, for the tests of the accordion. It needs gradio.

A pytest plugin: test modules name it in `pytest_plugins`, after "host_fixtures". They import from it as well, and there
is no assertion in it, hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
from host_fixtures import WebUI

from zvl_ext.options import OPTIONS
from zvl_ext.webui import panel
from zvl_ext.webui.host import WebUI as PanelHost

TITLE = "Z-Image VL"


def elem_id(name: str) -> str:
    return f"script_txt2img_z-image_vl_{name}"


class Built:
    """A panel in a page of its own.

    Args:
        host: What it asks for what it does; default: the web UI's.
    """

    def __init__(self, host: Any = None) -> None:
        with gr.Blocks() as self.page:
            components, self.fields = panel.build(TITLE, elem_id, host or PanelHost())
        self.controls = dict(zip([o.name for o in OPTIONS], components))
        self.components = components

    @property
    def labels(self) -> list[str]:
        return [c.label for c in self.components]

    def html(self) -> str:
        return " ".join(b.value for b in self.page.blocks.values() if isinstance(b, gr.HTML) and b.value)

    def button(self, name: str) -> Any:
        return next(b for b in self.page.blocks.values() if b.elem_id == elem_id(name))

    @property
    def memory(self) -> Any:
        """What shows the line about memory."""
        (found,) = (b for b in self.page.blocks.values() if "zvl-memory" in (b.elem_classes or []))
        return found

    def events(self, component: Any, event: str) -> list[Any]:
        """What happens on an event of a component: objects with fn, inputs and outputs."""
        found = []
        for block_function in self.page.fns.values():
            if (component._id, event) in block_function.targets and block_function.fn is not None:
                found.append(block_function)
        return found

    def pasted(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The values that the web UI's paste button puts into the controls; untouched ones are missing."""
        values: dict[str, Any] = {}
        for component, target in self.fields:
            value = target(parameters) if callable(target) else parameters.get(target)
            if value is None:
                continue
            name = next(name for name, control in self.controls.items() if control is component)
            values[name] = value["value"] if isinstance(value, dict) else type(component.value)(value)
        return values


@pytest.fixture
def built(web: WebUI) -> Built:
    return Built()


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What gradio tells the user from now on."""
    lines: list[str] = []
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(gr, kind, lines.append)
    return lines
