"""Web UIs without Z-Image, and what loading the script costs. All of it in fresh processes: this one has a web UI
already."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

STANDIN = Path(__file__).parents[1] / "standin"
# The web UI has gradio and its own modules by the time it loads scripts/zvl.py; only what comes on top is measured.
LOAD = """
import importlib.util, json, os, sys, time
import gradio, modules.scripts, modules.script_callbacks, modules.shared, modules.ui_components, modules.infotext_utils
from modules import processing

def load(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

before = set(sys.modules)
result = {}
start = time.perf_counter()
module = load(root + "/scripts/zvl.py")
result["seconds"] = time.perf_counter() - start
result["loaded"] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
modules.script_callbacks.before_ui_callback()  # there is no X/Y/Z plot
modules.script_callbacks.ui_settings_callback()
result["settings"] = sorted(modules.shared.opts.data_labels)
(script_class,) = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, modules.scripts.Script)]
script = script_class()
with gradio.Blocks() as page:
    result["controls"] = len(script.ui(False))
result["html"] = " ".join(b.value or "" for b in page.blocks.values() if isinstance(b, gradio.HTML))
result["loaded with the panel"] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
"""
UNSUPPORTED = """
result["always"] = script.show(False) is modules.scripts.AlwaysVisible
result["fields"] = len(script.infotext_fields or [])
p = processing.StableDiffusionProcessingTxt2Img(prompt="a cat")
state = dict(vars(p))
for args in ((), (True, "blend", None), ({"enabled": True, "reference": "x"},)):
    script.process(p, *args)
result["untouched"] = vars(p) == state and not p.comments
result["torch"] = "torch" in sys.modules
plot_file = host + "/scripts/xyz_grid.py"
plot = load(plot_file)
modules.scripts.scripts_data.append(modules.scripts.ScriptClassData(plot.Script, plot_file, host, plot))
modules.script_callbacks.before_ui_callback()
result["axes"] = [axis.label for axis in plot.axis_options]
"""


def python(root: Path, host: Path, code: str) -> dict[str, Any]:
    """Run code in a web UI that is nothing but the folder `host`; its `result` comes back."""
    head = f"import sys; root, host = {str(root)!r}, {str(host)!r}; sys.path[:0] = [host, root]\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code + "\nprint(json.dumps(result))"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# What a web UI has that the stand-in has not, or the other way round, and what is said there.
WEB_UIS = {
    "lllyasviel's": (["modules_forge"], ["backend/diffusion_engine/zimage.py"]),
    "reForge": (["modules_forge", "ldm_patched"], ["backend"]),
    "AUTOMATIC1111": (["modules/sd_models.py"], ["backend"]),
    "SD.Next loads Z-Image through diffusers": (["installer.py", "pipelines", "modules/sd_models.py"], ["backend"]),
    "This web UI can't load Z-Image": ([], ["backend"]),
}


@pytest.fixture(scope="module", params=WEB_UIS)
def unsupported(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happens in a web UI of the family that can't load Z-Image."""
    host = tmp_path_factory.mktemp("webui") / "host"
    shutil.copytree(STANDIN, host)
    more, less = WEB_UIS[request.param]
    for name in more:
        (host / name).touch() if name.endswith(".py") else (host / name).mkdir()
    for name in less:
        (host / name).unlink() if name.endswith(".py") else shutil.rmtree(host / name)
    return python(root, host, LOAD + UNSUPPORTED) | {"says": request.param}


@pytest.fixture(scope="module")
def supported(root: Path) -> dict[str, Any]:
    return python(root, STANDIN, LOAD)


def test_the_panel_says_so_and_has_no_controls(unsupported: dict[str, Any]) -> None:
    assert unsupported["controls"] == unsupported["fields"] == 0
    assert unsupported["always"]
    said = html.unescape(unsupported["html"])
    assert unsupported["says"] in said
    assert "Forge Neo" in said
    assert ("can't load Z-Image" in said) == ("SD.Next" not in said and "lllyasviel" not in said)


def test_a_generation_is_left_alone(unsupported: dict[str, Any]) -> None:
    assert unsupported["untouched"]
    assert not unsupported["torch"], "nothing of the pipeline is needed there"


def test_the_plot_gets_no_axes(unsupported: dict[str, Any]) -> None:
    assert not any("Z-Image" in label for label in unsupported["axes"])


def test_there_is_nothing_in_the_settings(unsupported: dict[str, Any], supported: dict[str, Any]) -> None:
    assert unsupported["settings"] == []
    assert {"zvl_disk", "zvl_memory"} <= set(supported["settings"])


def test_a_supported_web_ui_gets_the_controls(supported: dict[str, Any]) -> None:
    assert supported["controls"] > 10


@pytest.mark.parametrize("when", ["loaded", "loaded with the panel"])
def test_loading_the_script_loads_no_models(supported: dict[str, Any], when: str) -> None:
    assert "zvl_ext" in supported[when]
    assert not {"torch", "transformers", "safetensors", "tokenizers", "diffusers"} & set(supported[when])


def test_loading_the_script_is_quick(root: Path, supported: dict[str, Any]) -> None:
    """On top of gradio and the web UI. More than one try: a busy machine is not the script's fault."""
    seconds = supported["seconds"]
    for _ in range(2):
        if seconds >= 0.3:
            seconds = python(root, STANDIN, LOAD)["seconds"]
    assert seconds < 0.3
