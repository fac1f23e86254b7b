"""Weight in diffusers' Z-Image: its own classes at the miniature's size, with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compare import hooks
from diffusers import ZImagePipeline
from diffusers_sampling import ODD_SIZE, SIZE, STEPS, apart, conditioning, make_pipeline, pictures_of, prompt

from zvl_ext.conditioning import Conditioning
from zvl_ext.hosts.standalone_attention import weighted


@pytest.fixture(scope="module")
def pipeline() -> ZImagePipeline:
    return make_pipeline()


@pytest.fixture
def model(pipeline: ZImagePipeline) -> torch.nn.Module:
    return pipeline.transformer


@pytest.fixture
def picture(pipeline: ZImagePipeline) -> Callable[..., torch.Tensor]:
    return pictures_of(pipeline)


# --- what a weight is


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_weight_1_is_the_picture_without_any_hook(
    picture: Callable, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    one = conditioning()
    bare = picture(one.rows, guidance=guidance)
    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", lambda *args, **kwargs: pytest.fail("a hook"))
    assert torch.equal(picture(one, guidance=guidance), bare)
    assert apart(bare, picture(prompt())) > 0.01


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"start": 0.5, "end": 0.5}, {"blocks": "all:0"}], ids=str)
def test_weight_0_is_the_plain_picture(picture: Callable, settings: dict) -> None:
    assert torch.equal(picture(conditioning(**settings)), picture(prompt()))


@pytest.mark.parametrize("size", [SIZE, ODD_SIZE], ids=["multiple of 32", "filled up"])
@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_towards_0_the_picture_tends_to_the_plain_one(
    picture: Callable, size: tuple[int, int], guidance: float
) -> None:
    more = {"size": size, "guidance": guidance}
    plain, whole = picture(prompt(), **more), picture(conditioning(), **more)
    for weight, most in ((1e-4, 1e-2), (1e-6, 1e-4)):
        assert apart(picture(conditioning(weight=weight), **more), plain) < most * apart(whole, plain)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
@pytest.mark.parametrize("merge", [1, 2])
def test_each_weight_is_farther_from_plain(picture: Callable, guidance: float, merge: int) -> None:
    """Merged rows are weighed at weight 1, too. Others are not: there the block is not filled up to 32 either, so that
    weight has a distance of its own."""
    plain = picture(prompt(), guidance=guidance)
    weights = (0.01, 0.1, 0.35, 0.7, *([1.0] if merge > 1 else []), 2.0)
    distances = [
        apart(picture(conditioning(weight=w, merge=merge, proportional=True), guidance=guidance), plain)
        for w in weights
    ]
    assert all(b > 1.01 * a for a, b in itertools.pairwise(distances)), distances


@pytest.mark.parametrize(("blocks", "factor"), [("all", 1.0), ("3", 0.0), ("2:0.5, 4", 0.5)])
def test_an_attention_block_by_hand(picture: Callable, model: torch.nn.Module, blocks: str, factor: float) -> None:
    """The third block's attention, with softmax shares times their weights in float64."""
    weight, seen = 0.3, []
    own, attention = conditioning(weight=weight, blocks=blocks), model.layers[2].attention

    def remember(module: torch.nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> None:
        seen.append((args[0].clone(), kwargs["freqs_cis"].clone(), output.clone()))

    handle = attention.register_forward_hook(remember, with_kwargs=True)
    try:
        picture(own, steps=1)
    finally:
        handle.remove()
    ((hidden, turns, got),) = seen
    factors = np.ones(hidden.shape[1])
    marks = own.marks.numpy()
    inserted = factors[64 : 64 + len(marks)]  # the caption stands behind the picture
    inserted[marks[:, 0] == 1] = weight * factor
    inserted[marks[:, 0] == -1] = 0.0
    assert (marks[:, 0] == -1).sum() == 24

    def heads_of(project: torch.nn.Module) -> torch.Tensor:
        return project(hidden).unflatten(-1, (attention.heads, -1))

    def turned(project: torch.nn.Module, norm: torch.nn.Module) -> np.ndarray:
        pairs = norm(heads_of(project)).double().unflatten(-1, (-1, 2)).numpy()
        rotated = (pairs[..., 0] + 1j * pairs[..., 1]) * turns.numpy()[:, :, None]
        return np.stack([rotated.real, rotated.imag], -1).reshape(*pairs.shape[:-2], -1)

    with torch.inference_mode():
        q, k = turned(attention.to_q, attention.norm_q), turned(attention.to_k, attention.norm_k)
        v = heads_of(attention.to_v).double().numpy()
        logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        shares = np.exp(logits - logits.max(-1, keepdims=True)) * factors
        shares /= shares.sum(-1, keepdims=True)
        values = torch.tensor(np.einsum("bhqk,bkhd->bqhd", shares, v)).flatten(2).float()
        assert apart(got, attention.to_out[0](values)) < 1e-5


# --- batches


def test_a_batch_is_its_pictures_made_alone(picture: Callable) -> None:
    """Other captions, other lengths, other weights, windows and blocks, and one without a reference."""
    batch = [
        conditioning(13, 0, weight=0.3),
        conditioning(41, 1, weight=1.5, blocks="late"),
        Conditioning(prompt(7, 2)),
        conditioning(13, 3, weight=1.0),
        conditioning(20, 4, weight=0.7, end=0.5),
    ]
    together = picture(*batch)
    for i, each in enumerate(batch):
        assert apart(together[i : i + 1], picture(each, seed=1 + i)) < 1e-5


@pytest.mark.parametrize("others", [{"weight": 0.3}, {"weight": 2.0, "blocks": "early"}], ids=str)
def test_the_unconditional_half_is_not_touched(picture: Callable, model: torch.nn.Module, others: dict) -> None:
    def half(each: Conditioning | torch.Tensor) -> torch.Tensor:
        """What the model makes of the negative prompt in the first step."""
        seen = []
        handle = model.register_forward_hook(lambda module, args, output: seen.append(output[0][1].clone()))
        try:
            picture(each, guidance=3.0, steps=1)
        finally:
            handle.remove()
        return seen[0]

    weighed = half(conditioning(**others))
    assert torch.equal(weighed, half(conditioning(weight=0.7))), "whatever the weight"
    assert apart(weighed, half(conditioning(weight=0.7).rows)) < 1e-5, "and with no hook at all"


# --- steps and blocks


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.5, 1.0), (0.25, 0.75)])
def test_outside_its_window_the_reference_has_no_part(
    picture: Callable, model: torch.nn.Module, start: float, end: float
) -> None:
    calls = []
    handle = model.register_forward_hook(
        lambda module, args, output: calls.append((args[0][0].clone(), args[1].clone(), output[0][0].clone()))
    )
    try:
        picture(conditioning(start=start, end=end))
    finally:
        handle.remove()
    for step, (latents, time, got) in enumerate(calls):
        with torch.inference_mode():
            plain = model([latents], time, [prompt()], return_dict=False)[0][0]
        assert (apart(got, plain) < 1e-5) == (not start <= step / STEPS < end), step


def test_blocks(picture: Callable) -> None:
    plain, whole = picture(prompt()), picture(conditioning())
    parts = [picture(conditioning(blocks=blocks)) for blocks in ("early", "middle", "late")]
    for part in parts:
        assert apart(part, plain) > 1e-4
        assert apart(part, whole) > 1e-4
    assert torch.equal(picture(conditioning(blocks="0-1")), parts[0])
    assert torch.equal(picture(conditioning(blocks="4, 5")), parts[2])


def test_a_factor_of_all_blocks_is_a_weight(picture: Callable) -> None:
    """Of the blocks that refine the caption, too."""
    assert torch.equal(picture(conditioning(weight=2.0, blocks="all:0.75")), picture(conditioning(weight=1.5)))


def test_without_inserted_rows_steps_choose_between_the_prompts(picture: Callable) -> None:
    plain, full = picture(prompt()), picture(conditioning(length_match="interpolate", alpha=0.5))
    half = picture(conditioning(length_match="interpolate", alpha=0.5, end=0.5))
    assert apart(half, plain) > 1e-4
    assert apart(half, full) > 1e-4


# --- nothing is left


def test_no_hook_is_left(picture: Callable, model: torch.nn.Module) -> None:
    plain = picture(prompt())
    picture(conditioning(weight=0.3), guidance=3.0)
    assert hooks(model) == 0
    assert torch.equal(picture(prompt()), plain)


@pytest.mark.parametrize("part", ["layers", "context_refiner"])
def test_after_an_exception_no_hook_is_left(
    picture: Callable, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    plain = picture(prompt())

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(getattr(model, part)[0].feed_forward, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            picture(conditioning(weight=0.3))
    assert hooks(model) == 0
    assert torch.equal(picture(prompt()), plain)


def test_a_compiled_model_is_refused(model: torch.nn.Module, refused: Callable) -> None:
    compiled = torch.nn.Module()
    compiled._orig_mod = model
    with refused("compiled.*Load it without torch.compile"), weighted(compiled, [conditioning(weight=0.3)], STEPS):
        pass
    with weighted(compiled, [conditioning()], STEPS):  # weight 1 needs nothing of it
        pass
    assert hooks(compiled) == 0


def test_blocks_that_do_not_take_part_are_refused(
    picture: Callable, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(model.layers[1], "forward", lambda x, *args, **kwargs: x)
    with refused("Only 6 of the image model's 7 blocks took the weight"):
        picture(conditioning(weight=0.3))
    assert hooks(model) == 0
