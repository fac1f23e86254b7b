"""Regions where a picture is painted into another: the inpaint mask as a region, and what is sampled is a part."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from host_fixtures import WebUI
from host_runs import CAT, conds, rows, same
from modules import processing
from PIL import Image
from published import as_published
from sampling import FRONT, UNWEIGHED, Studio, apart

from zvl_ext.errors import ZvlError
from zvl_ext.options import BY_NAME
from zvl_ext.webui import run
from zvl_ext.webui.infotext import read

pytest_plugins = ["host_fixtures", "sampling"]

SIDE = 64  # of the pictures


def mask(left: int, top: int, right: int, bottom: int, side: int = SIDE) -> Image.Image:
    made = Image.new("L", (side, side), 0)
    made.paste(255, (left, top, right, bottom))
    return made


LEFT, RIGHT, MIDDLE = mask(0, 0, 32, 64), mask(32, 0, 64, 64), mask(16, 16, 48, 48)


class Painter:
    """img2img of the web UI, as far as the sampler."""

    def __init__(self, studio: Studio, monkeypatch: pytest.MonkeyPatch):
        self.studio = studio
        monkeypatch.setattr(
            processing, "images_tensor_to_samples", lambda image, *rest: torch.zeros(1, 16, SIDE // 8, SIDE // 8)
        )
        self._patch = monkeypatch

    def p(self, painted: Image.Image | None, only_masked: bool = False, **fields: Any) -> Any:
        given = {"steps": 4, "cfg_scale": 1.0, "width": SIDE, "height": SIDE, "seed": 1, "sampler_name": "Euler"}
        more = {"mask": painted, "inpaint_full_res": only_masked, "mask_blur": 0, "inpaint_full_res_padding": 0}
        image = tiny.picture(SIDE, SIDE, seed=4)
        return processing.StableDiffusionProcessingImg2Img(prompt=CAT, init_images=[image], **given | more | fields)

    def prepared(self, p: Any, **settings: Any) -> Any:
        """As the web UI does it: scripts, then its own preparation, then the conditioning."""
        settings = {**FRONT, **UNWEIGHED, "reference": self.studio.reference, **settings}
        run.attach(p, [{"enabled": True, **as_published(settings)}])
        if samplers := getattr(processing, "sd_samplers", None):
            self._patch.setattr(samplers, "create_sampler", lambda *args: None)
            self._patch.setattr(type(p), "img2img_image_conditioning", lambda *args, **kwargs: None)
        p.setup_prompts()
        p.init(p.all_prompts, [1] * len(p.all_prompts), [1] * len(p.all_prompts))
        return self.studio.web.condition(p)

    def region(self, p: Any) -> torch.Tensor:
        (unit,) = run.current(p).units
        assert unit.region is not None
        return unit.region

    def picture(self, p: Any, **settings: Any) -> torch.Tensor:
        return self.studio.sample(self.prepared(p, **settings))


@pytest.fixture
def painter(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Painter:
    return Painter(studio, monkeypatch)


def test_the_inpaint_mask_is_a_region_like_an_uploaded_one(painter: Painter) -> None:
    taken = painter.picture(painter.p(LEFT), region="inpaint mask")
    uploaded = painter.picture(painter.p(LEFT), region_mask=LEFT)
    assert apart(taken, uploaded) < 1e-6
    assert apart(taken, painter.picture(painter.p(LEFT))) > 1e-3, "everywhere it is another picture"
    assert apart(taken, painter.picture(painter.p(RIGHT), region="inpaint mask")) > 1e-3


def test_a_mask_is_taken_as_the_web_ui_takes_it(painter: Painter) -> None:
    """Inverted, blurred, of another size, as a picture with transparent parts; in a batch."""
    plain = painter.region(painter.prepared(painter.p(LEFT), region="inpaint mask"))
    assert torch.equal(plain[:, :4], torch.ones(8, 4))
    assert not plain[:, 4:].any()
    inverted = painter.prepared(painter.p(RIGHT, inpainting_mask_invert=1), region="inpaint mask")
    larger = painter.prepared(painter.p(mask(0, 0, 100, 200, side=200)), region="inpaint mask")
    batch = painter.prepared(painter.p(LEFT, batch_size=2), region="inpaint mask")
    for p in (inverted, larger, batch):
        assert torch.equal(painter.region(p), plain)


def test_with_only_masked_the_region_is_within_what_is_sampled(painter: Painter) -> None:
    p = painter.prepared(painter.p(MIDDLE, only_masked=True), region="inpaint mask", region_mask=LEFT)
    region = painter.region(p)
    width = region.shape[1]
    assert region[:, : width // 2].mean() > 0.99
    assert not region[:, width // 2 :].any()


@pytest.mark.parametrize(
    "own", [{"region": "left"}, {"region_mask": LEFT}, {"region": "0, 0, 50%, 1"}], ids=["word", "mask", "edges"]
)
def test_with_only_masked_other_regions_are_parts_of_the_whole_picture(painter: Painter, own: dict) -> None:
    middle = painter.region(painter.prepared(painter.p(MIDDLE, only_masked=True), **own))
    width = middle.shape[1]
    assert torch.equal(middle[:, : width // 2], torch.ones_like(middle[:, : width // 2]))
    assert not middle[:, width // 2 :].any(), "the middle of the picture is the edge of its left half"
    inside = painter.prepared(painter.p(mask(4, 4, 28, 28), only_masked=True), **own)
    assert run.current(inside).units[0].region is None, "all that is sampled lies in it"
    with pytest.raises(ZvlError, match="nothing of what is inpainted"):
        painter.prepared(painter.p(mask(36, 4, 60, 28), only_masked=True), **own)


def test_without_an_inpaint_mask_it_is_refused(painter: Painter, web: WebUI) -> None:
    with pytest.raises(ZvlError, match=r"this picture has none\. Paint one under Inpaint"):
        painter.prepared(painter.p(None), region="inpaint mask")
    with pytest.raises(ZvlError, match="this picture has none"):
        painter.studio.picture(**FRONT, region="inpaint mask")
    blank = Image.new("L", (SIDE, SIDE), 0)
    with pytest.raises(ZvlError, match="this picture has none"):
        painter.prepared(painter.p(blank, only_masked=True), region="inpaint mask")
    with pytest.raises(ZvlError, match="nothing of what is inpainted"):
        painter.prepared(painter.p(blank), region="inpaint mask")


def test_a_blank_mask_has_nothing_of_the_one_before_it(painter: Painter) -> None:
    """The web UI's batch makes all its pictures with one `p`."""
    p = painter.prepared(painter.p(MIDDLE, only_masked=True), region="inpaint mask")
    p.image_mask = Image.new("L", (SIDE, SIDE), 0)
    with pytest.raises(ZvlError, match="this picture has none"):
        painter.prepared(p, region="inpaint mask")


def test_another_mask_is_another_conditioning(painter: Painter) -> None:
    """The web UI's cache is asked for the same prompt."""
    first = painter.prepared(painter.p(LEFT), region="inpaint mask")
    again = painter.prepared(painter.p(LEFT), region="inpaint mask")
    assert rows(again.c)[0] is rows(first.c)[0]
    other = painter.prepared(painter.p(MIDDLE), region="inpaint mask")
    assert rows(other.c)[0] is not rows(first.c)[0]
    assert same(other.c, first.c), "its rows are the same ones"
    assert conds(other)


def test_the_parameters_name_it(painter: Painter) -> None:
    p = painter.prepared(painter.p(LEFT), region="Inpaint  Mask")
    assert p.extra_generation_params["ZVL region"] == "inpaint mask"
    assert read(BY_NAME["region"], p.extra_generation_params) == "inpaint mask"
