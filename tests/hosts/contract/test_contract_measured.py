"""Measured values: in the parameters of the pictures that they are of, and under a plot's cells; no picture changes."""

from __future__ import annotations

import inspect
from typing import Any

import hosts
import pytest

pytest.importorskip("gradio")

from host_fixtures import WebUI
from modules import infotext_utils, processing
from modules import scripts as host_scripts
from PIL import Image
from published import as_published

from zvl_ext.hosts import forge
from zvl_ext.webui import axes, measuring
from zvl_ext.webui.infotext import MEASURED
from zvl_ext.webui.script import ZImageVL

pytest_plugins = ["host_fixtures"]

SIZE = (320, 240)
RED, BLUE = (Image.new("RGB", SIZE, colour) for colour in ((250, 10, 10), (10, 10, 250)))


def asked(**values: Any) -> list[dict]:
    return [{"enabled": True, "measured": True, **values}]


def parameters(p: Any, **more: Any) -> dict[str, str]:
    text = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, **more)
    return infotext_utils.parse_generation_parameters(text)


def generation(web: WebUI, count: int = 1) -> Any:
    p = web.p(batch_size=count)
    p.setup_prompts()
    p.prompts = p.all_prompts
    p.all_seeds = p.seeds = list(range(1, count + 1))
    p.all_subseeds = p.subseeds = [0] * count
    p.negative_prompts = p.all_negative_prompts
    return p


def test_the_values_stand_in_the_parameters(web: WebUI) -> None:
    p = generation(web)
    measuring.measure(p, RED, asked(reference=BLUE))
    said = parameters(p)[MEASURED]
    assert "Colour distance 1" in said
    assert "Saturation 0.9" in said
    again = generation(web)
    measuring.measure(again, RED, asked(reference=RED.copy()))
    assert "Colour distance 0" in parameters(again)[MEASURED]


def test_each_picture_of_a_batch_has_its_own_and_the_grid_the_firsts(web: WebUI) -> None:
    p = generation(web, 2)
    said = []
    for number, picture in enumerate((RED, BLUE)):
        measuring.measure(p, picture, asked(reference=BLUE))
        said.append(parameters(p, position_in_batch=number)[MEASURED])
    assert "Colour distance 1" in said[0]
    assert "Colour distance 0" in said[1]
    assert parameters(p, use_main_prompt=True)[MEASURED] == said[0]


@pytest.mark.parametrize(
    "args",
    [[], [{"enabled": False, "measured": True}], [{"enabled": True}], [{"enabled": True, "no such": 1}]],
    ids=["nothing", "off", "not asked for", "refused"],
)
def test_nothing_is_measured_where_nobody_asks(web: WebUI, args: list) -> None:
    p = generation(web)
    measuring.measure(p, RED, args)
    assert MEASURED not in p.extra_generation_params


def test_without_a_reference_what_needs_none_is_measured(web: WebUI) -> None:
    p = generation(web)
    measuring.measure(p, RED, asked())
    said = parameters(p)[MEASURED]
    assert "Grid energy 0" in said
    assert "Colour distance" not in said


def test_what_can_not_be_measured_is_said_and_the_picture_is_made(web: WebUI) -> None:
    p = generation(web)
    measuring.measure(p, RED, asked(reference="bm90IGEgcGljdHVyZQ=="))
    assert MEASURED not in p.extra_generation_params
    assert any("the picture could not be measured (" in comment for comment in p.comments)


def test_outside_of_a_plot_pictures_have_no_labels(web: WebUI) -> None:
    p = generation(web)
    measuring.measure(p, RED, asked(reference=BLUE))
    processed = processing.Processed(p, [RED], 1, "")
    measuring.label(p, processed)
    assert processed.images[0] is RED


class Cells:
    """The web UI's plot, with one picture for each cell; as the web UI does, the hooks are called for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, picture: Image.Image = RED):
        if forge.xyz_module() is None:
            hosts.load_scripts()
        axes.register()
        self.plot, self.made, self._picture = forge.xyz_module(), [], picture
        monkeypatch.setattr(self.plot, "process_images", self._cell)
        self.script = ZImageVL()

    def _cell(self, p: Any) -> Any:
        p.setup_prompts()
        p.all_seeds = p.all_subseeds = [1]
        image = self._picture.copy()
        made = type("Made", (), {"image": image, "index": 0})()
        p.extra_generation_params = dict(p.extra_generation_params)
        self.script.postprocess_image_after_composite(p, made, *p.script_args)
        processed = processing.Processed(p, [image], 1, "")
        self.script.postprocess(p, processed, *p.script_args)
        self.made.append((processed.images[0], dict(p.extra_generation_params)))
        return processed

    def run(self, p: Any, label: str, values: list) -> list[tuple[Image.Image, dict]]:
        script = self.plot.Script()
        script.current_axis_options = self.plot.axis_options
        labels = [axis.label for axis in self.plot.axis_options]
        nothing = [labels.index("Nothing"), "", []]
        chosen = [labels.index(label), ", ".join(map(str, values)), []]
        rest = list(inspect.signature(script.run).parameters)[10:]
        script.run(p, *chosen, *nothing, *nothing, *(name == "no_fixed_seeds" for name in rest if name != "rest"))
        return self.made


@pytest.mark.parametrize("axis", ["[Z-Image VL] Alpha", "Seed"])
def test_a_plots_cells_have_the_values_under_them(web: WebUI, monkeypatch: pytest.MonkeyPatch, axis: str) -> None:
    p = web.p()
    p.script_args = [as_published({"enabled": True, "measured": True, "reference": BLUE})]
    cells = Cells(monkeypatch).run(p, axis, [0, 1])
    assert len(cells) == 2
    for image, said in cells:
        assert "Colour distance 1" in said[MEASURED]
        assert image.width == SIZE[0]
        assert image.height > SIZE[1]
        assert image.crop((0, 0, *SIZE)).tobytes() == RED.tobytes(), "the picture itself stays"
        assert len(set(image.crop((0, SIZE[1], *image.size)).convert("L").tobytes())) > 2, "something is written"
    assert MEASURED not in p.extra_generation_params


def test_a_plots_cells_are_as_they_were_where_nobody_asks(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    p = web.p()
    p.script_args = [{"enabled": True, "reference": BLUE}]
    for image, said in Cells(monkeypatch).run(p, "Seed", [1, 2]):
        assert image.size == SIZE
        assert MEASURED not in said


def test_labels_of_pictures_of_one_size_have_one_size() -> None:
    few, many = {"SSIM": "0.1", "Grid energy": "-"}, {"SSIM": "-0.123", "Grid energy": "12.3"}
    assert measuring.labelled(RED, few).size == measuring.labelled(RED, many).size
    narrow = measuring.labelled(Image.new("RGB", (64, 64)), many)
    assert narrow.width == 64
    assert narrow.height > measuring.labelled(Image.new("RGB", (640, 64)), many).height - 40


@pytest.mark.skipif(not hosts.REAL, reason="the stand-in makes no pictures")
def test_the_web_ui_calls_before_it_writes_the_parameters() -> None:
    source = inspect.getsource(processing.process_images_inner)
    hook = source.index("p.scripts.postprocess_image_after_composite(p, pp)")
    assert hook < source.index("infotexts.append(")
    assert "pp.image" in source[hook:]
    assert source.index("p.scripts.postprocess(p, res)") > source.index("infotexts.append(")
    assert hasattr(host_scripts.ScriptRunner, "postprocess_image_after_composite")
