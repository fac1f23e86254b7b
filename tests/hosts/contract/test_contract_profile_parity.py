"""A profile means the same in diffusers' Z-Image and in the web UI's blocks: same model, same conditioning."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import hosts
import pytest
import tiny
import torch
from backend.nn import lumina
from sampling import apart

from zvl_ext.conditioning import Conditioning, Part, joined
from zvl_ext.hosts.forge_blocks import MARKS, Call, routed
from zvl_ext.profiles import profile_of
from zvl_ext.weighting import Weighting

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "ZImageTransformer2DModel"):
    pytest.skip("this diffusers has no Z-Image", allow_module_level=True)

from zvl_ext.hosts.standalone_attention import weighted  # noqa: E402  diffusers is behind it

BLOCKS, HEADS, REFINERS, DIM, HIDDEN = 3, 4, 1, 256, 48
SIDE = 12  # of the latents: 36 rows of the picture, filled up to 64
SIGMA = 0.7
GENERATOR = torch.Generator().manual_seed(11)
PROFILE = profile_of(
    torch.randn(BLOCKS, HEADS, generator=GENERATOR).clamp(-3, 2), torch.randn(REFINERS, HEADS, generator=GENERATOR)
)
EVEN = profile_of(torch.full((BLOCKS, HEADS), -0.5), torch.full((REFINERS, HEADS), -0.5))
ROWS = torch.randn(45, HIDDEN, generator=GENERATOR)
LATENTS = torch.randn(16, SIDE, SIDE, generator=GENERATOR)
LEFT = torch.tensor([[1.0, 0.0]]).expand(4, 2)
WEIGHTS = {
    "a weight": Weighting(0.6, profile=PROFILE),
    "of some blocks": Weighting(1.5, blocks="early:0.3, 2", profile=PROFILE),
    "weight 1": Weighting(profile=PROFILE),
}


def web_ui() -> torch.nn.Module:
    """The web UI's image model at a small size: every part as the real one has it."""
    model = lumina.NextDiT(
        patch_size=2, in_channels=16, dim=DIM, n_layers=BLOCKS, n_refiner_layers=REFINERS, n_heads=HEADS,
        n_kv_heads=HEADS, multiple_of=1, ffn_dim_multiplier=8 / 3, qk_norm=True, cap_feat_dim=HIDDEN,
        axes_dims=[16, 24, 24], axes_lens=[512, 64, 64], rope_theta=256.0, z_image_modulation=True, time_scale=1000.0,
        pad_tokens_multiple=32,
    )  # fmt: skip
    torch.manual_seed(0)
    for token in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(token)
    return tiny.randomized(model).eval()


def alone() -> torch.nn.Module:
    """diffusers' of the same size."""
    model = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=DIM, n_layers=BLOCKS,
        n_refiner_layers=REFINERS, n_heads=HEADS, n_kv_heads=HEADS, cap_feat_dim=HIDDEN, axes_dims=[16, 24, 24],
        axes_lens=[512, 64, 64], rope_theta=256.0,
    )  # fmt: skip
    torch.manual_seed(1)
    for token in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(token)
    return tiny.randomized(model).eval()


def copied(source: torch.nn.Module, model: torch.nn.Module) -> None:
    """The web UI's weights in diffusers' model, which calls them by other names."""
    there = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name, value in source.state_dict().items():
        for old, new in (
            (".out.", ".to_out.0."), (".q_norm.", ".norm_q."), (".k_norm.", ".norm_k."),
            ("x_embedder.", "all_x_embedder.2-1."), ("final_layer.", "all_final_layer.2-1."),
        ):  # fmt: skip
            name = name.replace(old, new) if old[0] == "." or name.startswith(old) else name
        thirds = [name.replace(".qkv.", f".to_{part}.") for part in "qkv"]
        for each, part in zip(thirds, value.chunk(3)) if ".qkv." in name else [(name, value)]:
            # The layer in between of the time's embedding is wider here: what is more stays 0.
            there[each][tuple(slice(size) for size in part.shape)] = part
    model.load_state_dict(there)


def conditioning(weighting: Weighting, region: bool = False) -> Conditioning:
    parts = (Part(weighting, block=ROWS[:7], region=LEFT if region else None), Part(weighting, block=ROWS[7:12] * 2))
    return joined(ROWS[12:], parts, 0, torch.float32)


def seen_by(attentions: list[torch.nn.Module], mask: str, into: list[torch.Tensor | None]) -> contextlib.ExitStack:
    """What each attention is given as its mask, while the context is open."""

    def remember(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        into.append(kwargs.get(mask, args[1] if len(args) > 1 else None))

    stack = contextlib.ExitStack()
    for each in attentions:
        stack.callback(each.register_forward_hook(remember, with_kwargs=True).remove)
    return stack


@torch.inference_mode()
def in_the_web_ui(model: torch.nn.Module, made: Conditioning, masks: list) -> torch.Tensor:
    call = Call(model, made.parts, made.weights(0.0))
    attentions = [block.attention for block, _ in call.blocks]
    with seen_by(attentions, "x_mask", masks), contextlib.ExitStack() as hooks:
        call.install()
        hooks.callback(call.remove)
        with routed(call.blocks):
            made_of = model(LATENTS[None], torch.tensor([SIGMA]), made.rows[None], **{MARKS: made.marks[None]})
    assert call.whole
    return -made_of[0]


@torch.inference_mode()
def in_diffusers(model: torch.nn.Module, made: Conditioning, masks: list) -> torch.Tensor:
    attentions = [block.attention for block in (*model.context_refiner, *model.layers)]
    with seen_by(attentions, "attention_mask", masks), weighted(model, [made], 1):
        (output,) = model([LATENTS[:, None]], torch.tensor([1 - SIGMA]), [made.rows], return_dict=False)[0]
    return output[:, 0]


def same_rows(of_diffusers: torch.Tensor, picture: int) -> torch.Tensor:
    """A bias with the caption in front of the picture, as the web UI has them, for keys and for queries."""
    for dim in (2, 3):
        if of_diffusers.shape[dim] > 1:
            of_diffusers = of_diffusers.roll(-picture, dim)
    return of_diffusers


@pytest.mark.parametrize("region", [False, True], ids=["everywhere", "in a region"])
@pytest.mark.parametrize("weighting", WEIGHTS.values(), ids=WEIGHTS)
def test_every_block_attends_with_the_same_bias_by_head(weighting: Weighting, region: bool) -> None:
    made, there, here = conditioning(weighting, region), [], []
    in_the_web_ui(web_ui(), made, there)
    in_diffusers(alone(), made, here)
    assert len(there) == len(here) == REFINERS + BLOCKS
    for number, (one, other) in enumerate(zip(there, here)):
        main = number >= REFINERS
        looks = weighting.factors(BLOCKS)[number - REFINERS] > 0 if main else True
        assert one.shape[1] == (HEADS if looks else 1)
        assert torch.equal(one.float(), same_rows(other.float(), 64 if main else 0))


@pytest.mark.skipif(not hosts.REAL, reason="the stand-in's blocks are not Z-Image's own")
@pytest.mark.parametrize("region", [False, True], ids=["everywhere", "in a region"])
@pytest.mark.parametrize("weighting", WEIGHTS.values(), ids=WEIGHTS)
def test_the_same_model_makes_the_same_of_it(weighting: Weighting, region: bool) -> None:
    one, other = web_ui(), alone()
    copied(one, other)
    made, even = (conditioning(dataclasses.replace(weighting, profile=each), region) for each in (PROFILE, EVEN))
    here = in_diffusers(other, made, [])
    assert apart(in_the_web_ui(one, made, []), here) < 1e-4
    assert apart(in_diffusers(other, even, []), here) > 1e-2, "the profile makes a difference"
