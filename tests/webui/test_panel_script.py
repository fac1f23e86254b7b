"""The script as the web UI's runner handles it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hosts
import pytest

pytest.importorskip("gradio")

import gradio as gr
from host_fixtures import WebUI
from host_runs import same
from modules import script_callbacks, scripts
from panel_fixtures import TITLE
from PIL import Image
from published import NAME, as_published

from zvl_ext.options import OPTIONS
from zvl_ext.presets import PRESETS
from zvl_ext.webui import infotext
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "panel_fixtures"]

ORDER = [option.name for option in OPTIONS]


@pytest.fixture
def runner(web: WebUI) -> Any:
    """The web UI's runner of the txt2img tab with this script alone."""
    hosts.load_scripts()
    script_callbacks.before_ui_callback()
    runner = scripts.ScriptRunner()
    runner.initialize_scripts(False)
    ours = [script for script in runner.alwayson_scripts if script.title() == TITLE]
    assert len(ours) == 1
    runner.alwayson_scripts[:] = runner.scripts[:] = ours
    with gr.Blocks():
        runner.create_script_ui(ours[0])
    return runner


def with_scripts(web: WebUI, runner: Any, change: Callable[[list], None], **fields: Any) -> Any:
    """A generation of this tab: the panel's values, some of them changed."""
    script = runner.alwayson_scripts[0]
    p = web.p(**fields)
    arguments = [0, *[component.value for component in runner.inputs[1:]]]
    own = arguments[script.args_from : script.args_to]
    change(own)
    p.scripts, p.script_args = runner, [*arguments[: script.args_from], *own, *arguments[script.args_to :]]
    p.setup_prompts()
    runner.process(p)
    p.scripts = None  # its other callbacks belong to sampling
    return web.condition(p)


def test_the_runner_hands_the_panel_over_in_order(web: WebUI, runner: Any, picture: Any) -> None:
    def change(own: list) -> None:
        for name, value in {**PRESETS[NAME], "enabled": True, "reference": picture, "alpha": 0.5}.items():
            own[ORDER.index(name)] = value

    p = with_scripts(web, runner, change)
    assert same(p.c, web.run(web.p(), reference=picture, alpha=0.5).c)


def test_the_runners_defaults_change_nothing(web: WebUI, runner: Any) -> None:
    plain = web.plain()
    assert with_scripts(web, runner, lambda own: None).c is plain.c


def test_an_error_stops_the_run_though_the_runner_swallows_what_scripts_raise(
    web: WebUI, runner: Any, refused: Any
) -> None:
    def change(own: list) -> None:
        own[ORDER.index("enabled")], own[ORDER.index("reference")] = True, "no picture"

    with refused("not base64"):
        with_scripts(web, runner, change)


def test_the_apis_dict_in_the_first_place(web: WebUI, runner: Any, picture: Any) -> None:
    def change(own: list) -> None:
        own[0] = as_published({"enabled": True, "reference": picture, "alpha": 0.5})

    assert same(with_scripts(web, runner, change).c, web.run(web.p(), reference=picture, alpha=0.5).c)


def test_recent_references_can_be_pasted_again(web: WebUI, picture: Any) -> None:
    web.run(web.p(), reference=picture)
    key = next(iter(KEEPER.recent._kept))
    assert len(key) == infotext.DIGEST
    assert isinstance(KEEPER.recent.get(key), Image.Image)


@pytest.mark.skipif(not hosts.REAL, reason="the stand-in has no API")
def test_script_info_names_the_options(runner: Any) -> None:
    info = runner.alwayson_scripts[0].api_info
    assert [argument.label for argument in info.args] == ORDER
    assert info.name == TITLE.lower()


def test_what_the_web_ui_tells_of_the_arguments_has_the_options_names(runner: Any) -> None:
    script = runner.alwayson_scripts[0]
    labels = [component.label for component in runner.inputs[script.args_from : script.args_to]]
    script.api_info = SimpleNamespace(args=[SimpleNamespace(label=label) for label in labels])
    assert [argument.label for argument in script.api_info.args] == ORDER
    script.api_info = None
    assert script.api_info is None
