"""Weight while sampling: what the image model makes with its attention to the reference weighted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compare import hooks
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, SPLICE, conds
from sampling import FRONT, ODD_SIZE, SIZE, STEPS, Studio, apart

from zvl_ext.webui import run

pytest_plugins = ["host_fixtures", "sampling"]

SCHEDULED = "a photo of a [cat:dog:0.5]"
EVERY = {"CAT": CAT, "schedule": SCHEDULED, "AND": "a cat AND a big dog on a mat :0.5", "batch": [CAT, "a big old dog"]}


# --- what a weight is


@pytest.mark.parametrize("place", ["front", "behind head"])
def test_weight_1_is_the_picture_without_any_bias(studio: Studio, place: str) -> None:
    """Nobody is asked, nothing is hooked: the rows alone, as the web UI samples them."""
    settings = FRONT | {"block_place": place}
    p = studio.condition(studio.p(), **settings, weight=1.0)
    bare = studio.sample(p, attached=False)
    assert torch.equal(studio.sample(p), bare)
    assert studio.modifiers == []
    assert apart(bare, studio.picture()) > 0.01, "the reference makes a difference"


def test_weight_1_at_every_step_and_in_every_block_is_that_as_well(studio: Studio) -> None:
    one = studio.picture(**FRONT)
    assert torch.equal(studio.picture(**FRONT, blocks="0-999", start=0.0, end=1.0, curve="constant"), one)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"start": 0.5, "end": 0.5}, {"blocks": "all:0"}], ids=str)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_weight_0_is_the_plain_picture(studio: Studio, settings: dict, cfg: float) -> None:
    assert torch.equal(studio.picture(cfg=cfg, **FRONT, **settings), studio.picture(cfg=cfg))
    assert studio.modifiers == []
    assert studio.web.events.count("vision") == 0


@pytest.mark.parametrize("engine", ["splice", "blend"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("merge", [1, 2])
def test_each_weight_is_farther_from_plain(studio: Studio, engine: str, cfg: float, merge: int) -> None:
    """Merged rows are weighed at weight 1, too. Others are not: there the block is not filled up to 32 either, so that
    weight has a distance of its own."""
    plain = studio.picture(cfg=cfg)
    settings = FRONT | {"engine": engine, "merge": merge, "proportional": True}
    weights = (0.01, 0.1, 0.35, 0.7, *([1.0] if merge > 1 else []), 2.0)
    distances = [apart(studio.picture(cfg=cfg, **settings, weight=weight), plain) for weight in weights]
    assert all(b > 1.01 * a for a, b in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("size", [SIZE, ODD_SIZE], ids=["multiple of 32", "filled up"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_towards_0_the_picture_tends_to_the_plain_one(studio: Studio, size: tuple[int, int], cfg: float) -> None:
    """A weight of 0.0001 is within a hundredth of the way that a weight of 1 goes, and 0.000001 within a
    ten-thousandth."""
    plain, whole = studio.picture(cfg=cfg, size=size), studio.picture(cfg=cfg, size=size, **FRONT)
    for weight, most in ((1e-4, 1e-2), (1e-6, 1e-4)):
        assert apart(studio.picture(cfg=cfg, size=size, **FRONT, weight=weight), plain) < most * apart(whole, plain)


def test_behind_the_head_the_picture_does_not_tend_to_the_plain_one(studio: Studio) -> None:
    """Which is why the block can stand in front."""
    settings = {**SPLICE, **BARE, "block_place": "behind head"}
    assert apart(studio.picture(**settings, weight=1e-6), studio.picture()) > 1e-3


def test_the_bias_is_what_makes_the_difference_not_only_the_rows(studio: Studio) -> None:
    """The prompt's own rows go back to the plain ones with the weight; above 1 they are all alike."""
    p, q = (studio.condition(studio.p(), **FRONT, weight=weight) for weight in (1.5, 2.0))
    assert torch.equal(conds(p)[0], conds(q)[0])
    assert apart(studio.sample(p), studio.sample(q)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_image_model_in_half_precision(studio: Studio, dtype: torch.dtype) -> None:
    weights = (0.0, 0.1, 0.5, 2.0)
    wanted = [studio.picture(**FRONT, weight=weight) for weight in weights]
    studio.model.to(dtype)
    studio.web.engine.loaded_unet.model.computation_dtype = dtype
    for weight, picture in zip(weights, wanted):
        assert apart(studio.picture(**FRONT, weight=weight), picture) < 0.02, weight


# --- what the web UI makes of prompts


@pytest.mark.parametrize("prompt", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_prompts_of_every_kind(studio: Studio, prompt: Any, cfg: float) -> None:
    plain, one = studio.picture(prompt, cfg), studio.picture(prompt, cfg, **FRONT)
    distances = [apart(studio.picture(prompt, cfg, **FRONT, weight=weight), plain) for weight in (1e-6, 0.1, 0.5)]
    assert distances[0] < 1e-3 * apart(one, plain)
    assert distances[0] < distances[1] < distances[2] < apart(one, plain)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_batch_is_its_pictures_made_alone(studio: Studio, cfg: float) -> None:
    both = studio.picture([CAT, DOG], cfg, **FRONT, weight=0.3)
    for i, prompt in enumerate((CAT, DOG)):
        alone = studio.picture(prompt, cfg, seed=1 + i, **FRONT, weight=0.3)
        assert apart(both[i : i + 1], alone) < 1e-5


def test_a_schedule_is_one_prompt_and_then_the_other(studio: Studio) -> None:
    """The first steps are the first prompt's, to the last bit; later ones are not."""
    made = studio.picture(SCHEDULED, **FRONT, weight=0.3)
    at = len(studio.calls)
    studio.picture("a photo of a cat", **FRONT, weight=0.3)
    scheduled, first = studio.calls[at - STEPS : at], studio.calls[at:]
    same = [torch.equal(a["output"], b["output"]) for a, b in zip(scheduled, first)]
    assert same[0]
    assert not same[-1]
    assert made.isfinite().all()


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_unconditional_half_is_not_touched(studio: Studio, weight: float) -> None:
    """It has no reference: what the model makes of it is what it makes of the same caption without any hook."""
    studio.picture(cfg=4.0, **FRONT, weight=weight)
    negative = studio.web.plain(cfg_scale=4.0).uc[0][0].cond
    halves = 0
    for call in studio.calls:
        for i, kind in enumerate(call["cond_or_uncond"]):
            if kind == 1:
                halves += 1
                caption = call["c_crossattn"][i : i + 1]
                assert torch.equal(caption[0, : len(negative)], negative)
                sigma = call["t"][i : i + 1]
                with torch.inference_mode():
                    plain = studio.model(call["x"][i : i + 1], sigma, context=caption)
                    wanted = call["x"][i : i + 1] - plain * sigma[:, None, None, None]
                got = call["output"][i : i + 1]
                assert torch.equal(got, wanted) if len(call["x"]) == 1 else apart(got, wanted) < 1e-5
    assert halves == STEPS


def test_captions_that_are_repeated_to_a_common_length(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """With guidance the web UI repeats both captions until they are equally long, and the marks go with them."""
    p = studio.condition(studio.p(cfg=4.0), **FRONT, weight=0.3)
    rows = len(conds(p)[0])
    negative = p.uc[0][0].cond
    p.uc[0][0] = type(p.uc[0][0])(p.uc[0][0].end_at_step, torch.cat([negative] * rows)[: 3 * rows])
    assert len(conds(p)[0]) == rows
    studio.sample(p, steps=1)
    call = studio.calls[-1]
    assert call["c_crossattn"].shape[:2] == (2, 3 * rows)
    marked = call["zvl_marks"]
    (place,) = [i for i, kind in enumerate(call["cond_or_uncond"]) if kind == 0]
    own = marked[place]
    assert not marked[1 - place].any()
    assert own[:rows].any()
    assert torch.equal(own, own[:rows].repeat(3, 1))


def test_lengths_that_do_not_go_together_are_called_one_by_one(studio: Studio) -> None:
    p = studio.condition(studio.p("a cat AND a large photo of a big old dog on a mat", cfg=4.0), **FRONT, weight=0.3)
    studio.sample(p, steps=1)
    kinds = [call["cond_or_uncond"] for call in studio.calls]
    assert sorted(kind for call in kinds for kind in call) == [0, 0, 1]
    for call in studio.calls:
        assert call["zvl_marks"].shape[:2] == call["c_crossattn"].shape[:2]


def test_merged_rows_are_weighed_by_what_they_stand_for_at_weight_1(studio: Studio) -> None:
    """2 × 3 image rows between two markers become two, of four and of two."""
    settings = FRONT | {"merge": 2}
    counted = studio.picture(**settings, proportional=True)
    assert studio.calls[-1]["zvl_marks"][0, :5].tolist() == [[1, 1], [1, 4], [1, 2], [1, 1], [-1, 0]]
    assert apart(counted, studio.picture(**settings, proportional=False)) > 1e-3
    assert studio.modifiers == [], "each stands for itself, so there is nothing to weigh"


# --- steps and blocks


@pytest.mark.parametrize(("start", "end", "steps"), [(0.0, 0.5, [0, 1]), (0.5, 1.0, [2, 3]), (0.25, 0.75, [1, 2])])
def test_outside_its_window_the_reference_has_no_part(studio: Studio, start: float, end: float, steps: list) -> None:
    """Up to the window the picture is the plain one; behind it the model sees the prompt as without a reference."""
    studio.picture(**FRONT, weight=1.0, start=start, end=end)
    ours = studio.calls[:]
    for step, call in enumerate(ours):
        with torch.inference_mode():
            plain = studio.model(
                call["x"], torch.tensor([1 - step / STEPS]), context=conds(studio.web.plain())[0][None]
            )
            model = (call["x"] - call["output"]) / (1 - step / STEPS)
        assert (apart(model, plain) < 1e-3) == (step not in steps), step


def test_a_curve_is_a_weight_for_each_step(studio: Studio) -> None:
    eased, plain, full = (
        studio.picture(**FRONT, **more) for more in ({"curve": "ease in"}, {"weight": 0.0}, {"weight": 1.0})
    )
    assert 0 < apart(eased, plain) < apart(full, plain)


def test_blocks(studio: Studio) -> None:
    plain, whole = studio.picture(), studio.picture(**FRONT)
    parts = [studio.picture(**FRONT, blocks=blocks) for blocks in ("early", "middle", "late", "early, late")]
    for part in parts:
        assert apart(part, plain) > 1e-4
        assert apart(part, whole) > 1e-4
    assert torch.equal(studio.picture(**FRONT, blocks="0"), parts[0])
    assert torch.equal(studio.picture(**FRONT, blocks="0, 2"), parts[3])


def test_a_factor_of_all_blocks_is_a_weight(studio: Studio) -> None:
    """Of the blocks that refine the caption, too."""
    assert torch.equal(
        studio.picture(**FRONT, weight=2.0, blocks="all:0.75"), studio.picture(**FRONT, weight=1.5, blocks="all")
    )


@pytest.mark.parametrize(
    "settings", [{"length_match": "interpolate"}, {"length_match": "interpolate", "engine": "blend"}]
)
def test_without_inserted_rows_steps_choose_between_the_prompts(studio: Studio, settings: dict) -> None:
    """There is nothing to weigh, so start and end exchange the prompt's rows."""
    base = {**SPLICE, **BARE, **settings, "alpha": 0.5}
    plain, full = studio.picture(), studio.picture(**base)
    half = studio.picture(**base, end=0.5)
    assert apart(half, plain) > 1e-4
    assert apart(half, full) > 1e-4
    assert apart(studio.picture(**base, weight=0.2), full) == 0.0, "a weight needs inserted rows"


# --- nothing is left


def test_nothing_of_the_image_model_is_changed_for_longer_than_a_call(studio: Studio) -> None:
    plain = studio.picture()
    parts = {id(part): dict(vars(part)) for part in studio.model.modules()}
    p = studio.condition(studio.p(cfg=4.0), **FRONT, weight=0.3)
    studio.sample(p)
    assert len(studio.modifiers) == 1
    assert hooks(studio.model) == 0
    for part in studio.model.modules():
        assert all(parts[id(part)][name] is value for name, value in vars(part).items()), type(part)
    assert studio.web.engine.loaded_unet.model_options.get("conditioning_modifiers", []) == []
    assert torch.equal(studio.picture(), plain)


@pytest.mark.parametrize("block", ["layers", "context_refiner", "final_layer"])
def test_after_an_exception_nothing_is_left(studio: Studio, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.nn import lumina

    plain, function = studio.picture(), lumina.attention_function
    p = studio.condition(studio.p(), **FRONT, weight=0.3)
    part = getattr(studio.model, block)
    part = part[0].feed_forward if isinstance(part, torch.nn.ModuleList) else part

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(part, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            studio.sample(p)
    assert hooks(studio.model) == 0
    assert lumina.attention_function is function
    assert torch.equal(studio.picture(), plain)
    assert apart(studio.picture(**FRONT, weight=0.3), plain) > 1e-4


def test_a_picture_without_the_reference_after_one_with_it(studio: Studio) -> None:
    plain = studio.picture()
    studio.picture(**FRONT, weight=0.3)
    assert torch.equal(studio.picture(), plain)
    assert studio.modifiers == []


def test_conditionings_from_the_web_uis_cache_bring_their_marks(studio: Studio, web: WebUI) -> None:
    first = studio.picture(**FRONT, weight=0.3)
    web.events.clear()
    assert torch.equal(studio.picture(**FRONT, weight=0.3), first)
    assert web.events.kinds() == [], "nothing was read again"


def test_when_nobody_asks_a_comment_says_so(studio: Studio) -> None:
    """A web UI that has conditioning modifiers and never calls them."""
    p = studio.condition(studio.p(), **FRONT, weight=0.3)
    own = run.current(p)
    own.before_sampling()
    own.after_sampling()
    assert [comment for comment in p.comments if "the weight had no effect" in comment]
    assert "ZVL weight" not in p.extra_generation_params
