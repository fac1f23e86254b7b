"""A batch of references: one picture for each, as the web UI counts, seeds and describes its pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from host_fixtures import WebUI
from host_runs import DOG, conds
from infotexts import own
from modules import infotext_utils, processing, shared
from published import as_published

from zvl_ext.errors import ZvlError
from zvl_ext.options import Settings
from zvl_ext.reference import open_reference
from zvl_ext.webui import axes, batch, run

pytest_plugins = ["host_fixtures"]

PICTURES = [tiny.picture(64, 64, seed=20 + i) for i in range(3)]
DIGESTS = [open_reference(picture).digest[:12] for picture in PICTURES]


def prepared(web: WebUI, p: Any, args: list) -> Any:
    """What the web UI does before its loop over the iterations."""
    batch.widen(p, args)
    p.setup_prompts()
    p.all_seeds = [p.seed + i for i in range(len(p.all_prompts))]
    p.all_subseeds = [100 + i for i in range(len(p.all_prompts))]
    batch.with_same_seeds(p)
    run.attach(p, args)
    return p


def iterations(web: WebUI, p: Any) -> list[dict[str, Any]]:
    """Each iteration's conditioning, seeds and parameters."""
    made = []
    for n in range(p.n_iter):
        p.iteration = n
        seeds = p.all_seeds[n * p.batch_size : (n + 1) * p.batch_size]
        web.condition(p)
        more = {"iteration": n, "position_in_batch": 0}
        text = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, **more)
        parameters = infotext_utils.parse_generation_parameters(text)
        made.append({"conds": conds(p), "seeds": seeds, "parameters": parameters})
    return made


def asking(**named: Any) -> list:
    return [as_published({"enabled": True, "reference_batch": PICTURES, **named})]


def test_each_reference_makes_the_picture_that_it_makes_alone(web: WebUI) -> None:
    p = prepared(web, web.p(), asking())
    assert p.n_iter == 3
    for made, picture, digest in zip(iterations(web, p), PICTURES, DIGESTS, strict=True):
        alone = web.run(web.p(), reference=picture)
        assert all(torch.equal(a, b) for a, b in zip(made["conds"], conds(alone), strict=True))
        parameters = own(made["parameters"])
        assert parameters["ZVL reference"] == digest
        assert parameters == own({key: str(value) for key, value in alone.extra_generation_params.items()})


def test_the_count_is_the_references_times_the_batch_count_with_the_same_seeds(web: WebUI) -> None:
    p = prepared(web, web.p(n_iter=2, batch_size=2), asking())
    assert p.n_iter == 6
    made = iterations(web, p)
    assert [each["seeds"] for each in made] == [[1, 2], [3, 4]] * 3
    assert [each["parameters"]["ZVL reference"] for each in made] == [d for d in DIGESTS for _ in range(2)]
    assert [each["parameters"]["Seed"] for each in made] == ["1", "3"] * 3
    assert "Z-Image VL: a batch of references: 3 × 4 = 12 pictures." in p.comments
    grid = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, use_main_prompt=True)
    assert infotext_utils.parse_generation_parameters(grid)["ZVL reference"] == DIGESTS[0], "as its seed"


def test_the_other_references_stay(web: WebUI, picture: Any) -> None:
    more = {"reference_2": picture, "weight_2": 0.3}
    p = prepared(web, web.p(), asking(**more))
    for made, each in zip(iterations(web, p), PICTURES, strict=True):
        alone = web.run(web.p(), reference=each, **more)
        assert all(torch.equal(a, b) for a, b in zip(made["conds"], conds(alone), strict=True))


def test_hires_has_each_reference_in_both_passes(web: WebUI) -> None:
    p = prepared(web, web.p(enable_hr=True, hr_prompt=DOG), asking())
    for n, picture in enumerate(PICTURES):
        p.iteration = n
        web.condition(p)
        alone = web.run(web.p(enable_hr=True, hr_prompt=DOG), reference=picture)
        assert torch.equal(conds(p)[0], conds(alone)[0])
        assert torch.equal(p.hr_c.batch[0][0].schedules[0].cond, alone.hr_c.batch[0][0].schedules[0].cond)


def test_a_generation_that_is_used_again_is_not_widened_twice(web: WebUI) -> None:
    p = prepared(web, web.p(n_iter=2), asking())
    cell = prepared(web, copy.copy(p), asking())
    assert cell.n_iter == 6
    assert prepared(web, p, asking()).n_iter == 6
    batch.narrow(p)
    assert p.n_iter == 2
    assert prepared(web, cell, [{"enabled": False}]).n_iter == 2


@pytest.mark.parametrize(
    "nothing",
    [{"enabled": False}, {"alpha": 0.0}, {"reference_batch": []}, {"reference_batch": ()}, {"start": 1.0, "end": 0.5}],
    ids=str,
)
def test_what_does_nothing_makes_no_more_pictures(web: WebUI, nothing: dict) -> None:
    p = prepared(web, web.p(n_iter=2), asking(**nothing))
    assert p.n_iter == 2
    assert torch.equal(conds(web.condition(p))[0], conds(web.plain())[0])


def test_a_pass_within_a_picture_has_that_pictures_reference(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shared.opts.data, "zvl_nested", True)
    outer = prepared(web, web.p(), asking())
    outer.iteration = 1
    web.condition(outer)

    def process_images_inner(p: Any, work: Callable[[], Any]) -> Any:
        return work()

    def face() -> Any:
        inner = web.p("a face")
        return process_images_inner(inner, lambda: web.condition(prepared(web, inner, asking())))

    inner = process_images_inner(outer, face)
    assert inner.n_iter == 1
    assert torch.equal(conds(inner)[0], conds(web.run(web.p("a face"), reference=PICTURES[1]))[0])
    assert inner.extra_generation_params["ZVL reference"] == DIGESTS[1]


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ({"reference": PICTURES[0]}, "a first reference besides"),
        ({"reference_batch": [PICTURES[0], "no picture"]}, "Batch, picture 2 of 2: Reference image: "),
        ({"reference_batch": "x"}, "must be a list of pictures"),
        ({"reference_batch": [PICTURES[0]] * 257}, "257 pictures; 256 are the most"),
    ],
    ids=["both", "no picture", "no list", "too many"],
)
def test_what_can_not_be_is_said_before_the_first_picture(web: WebUI, named: dict, line: str) -> None:
    p = prepared(web, web.p(), asking(**named))
    with pytest.raises(ZvlError, match=line):
        web.condition(p)
    assert not web.events


def test_a_list_of_prompts_is_refused(web: WebUI) -> None:
    p = prepared(web, web.p(["a cat", "a dog"]), asking())
    assert p.n_iter == 1
    with pytest.raises(ZvlError, match="together with a list of prompts"):
        web.condition(p)


def enlarged(web: WebUI, parameters: str) -> Any:
    """A generation as the button under a picture begins it: its second pass alone."""
    image = tiny.picture(64, 64)
    image.info["parameters"] = parameters
    p = web.p(enable_hr=True)
    p.txt2img_upscale, p.firstpass_image = True, image
    return p


def test_a_picture_that_is_made_larger_keeps_its_own_reference(web: WebUI) -> None:
    parameters = f"a cat, ZVL reference: 000000000000\nSteps: 8, ZVL: 0.2, ZVL reference: {DIGESTS[1]}, ZVL alpha: 1"
    p = prepared(web, enlarged(web, parameters), asking())
    assert p.n_iter == 1
    web.condition(p)
    alone = web.run(web.p(enable_hr=True), reference=PICTURES[1])
    assert torch.equal(p.hr_c.batch[0][0].schedules[0].cond, alone.hr_c.batch[0][0].schedules[0].cond)
    assert p.extra_generation_params["ZVL reference"] == DIGESTS[1]


@pytest.mark.parametrize("parameters", ["", "Steps: 8, ZVL: 0.2, ZVL reference: 000000000000"])
def test_a_picture_of_no_reference_of_the_batch_is_not_made_larger_with_another(web: WebUI, parameters: str) -> None:
    p = prepared(web, enlarged(web, parameters), asking())
    assert p.n_iter == 1
    with pytest.raises(ZvlError, match="take the batch out and choose its reference"):
        web.condition(p)


def test_an_axis_of_references_and_a_batch_are_refused(web: WebUI) -> None:
    p = web.p()
    setattr(p, axes.VALUES, {"reference": PICTURES[0]})
    with pytest.raises(ZvlError, match="a first reference besides"):
        web.condition(prepared(web, p, asking()))


def test_the_batch_is_ended_while_it_is_looked_through(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.state, "interrupted", True, raising=False)
    p = prepared(web, web.p(), asking())
    assert torch.equal(conds(web.condition(p))[0], conds(web.plain())[0])
    assert not own(p.extra_generation_params)


def test_a_skip_while_it_is_looked_through_skips_one_picture_and_harms_no_other(
    web: WebUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = web.plain()
    p = prepared(web, web.p(), asking())
    with monkeypatch.context() as patch:
        patch.setattr(shared.state, "skipped", True, raising=False)
        assert torch.equal(conds(web.condition(p))[0], conds(plain)[0])
    run.current(p).after_sampling()
    p.iteration = 1
    web.condition(p)
    assert own(p.extra_generation_params)
    assert torch.equal(conds(p)[0], conds(web.run(web.p(), reference=PICTURES[1]))[0])
    assert torch.equal(conds(web.plain())[0], conds(plain)[0])


def test_each_is_the_settings_of_one_picture() -> None:
    assert Settings().each() == [Settings()]
    several = Settings.from_mapping({"reference_batch": PICTURES, "weight": 0.3})
    assert [each.reference for each in several.each()] == PICTURES
    assert all(
        each == Settings.from_mapping({"reference": p, "weight": 0.3}) for each, p in zip(several.each(), PICTURES)
    )
