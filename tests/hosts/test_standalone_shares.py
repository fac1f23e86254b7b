"""The attention that a reference gets, measured in diffusers' Z-Image against its definition, computed anew from what
each block was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from compare import hooks
from diffusers import ZImagePipeline
from diffusers_sampling import HEAD, ODD_SIZE, SIZE, STEPS, conditioning, make_pipeline, pictures_of, prompt

from zvl_ext.attention_shares import AttentionShares
from zvl_ext.conditioning import Conditioning, joined
from zvl_ext.hosts.standalone_attention import weighted
from zvl_ext.hosts.standalone_shares import watched


@pytest.fixture(scope="module")
def pipeline() -> ZImagePipeline:
    return make_pipeline()


@pytest.fixture
def picture(pipeline: ZImagePipeline) -> Callable[..., torch.Tensor]:
    return pictures_of(pipeline)


def sampled(pipeline: ZImagePipeline, picture: Callable, own: Conditioning, **more) -> tuple:
    found = AttentionShares()
    with watched(pipeline.transformer, own, found):
        return picture(own, **more), found


PLAIN = {"weight": 1.0}  # nothing is weighed: the image model runs as ever
WAYS = [PLAIN, {"weight": 0.3, "blocks": "2:0.5, 4"}, {"merge": 2, "proportional": True}]


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize(("guidance", "size"), [(0.0, SIZE), (3.0, ODD_SIZE)], ids=["alone", "guided, filled up"])
def test_the_picture_stays_bit_for_bit_and_nothing_is_left(pipeline, picture, settings, guidance, size) -> None:
    own, model = conditioning(**settings), pipeline.transformer
    without = picture(own, guidance=guidance, size=size)
    got, found = sampled(pipeline, picture, own, guidance=guidance, size=size)
    assert torch.equal(got, without)
    assert hooks(model) == 0
    assert (found.blocks, sorted(found.steps)) == (len(model.layers), list(range(STEPS)))
    assert torch.equal(picture(own, guidance=guidance, size=size), without)


@pytest.mark.parametrize(("settings", "size"), zip(WAYS, (SIZE, ODD_SIZE, ODD_SIZE)), ids=str)
def test_shares_are_the_softmax_of_each_blocks_own_queries_and_keys(pipeline, picture, settings, size) -> None:
    own, given = conditioning(**settings), []

    def remember(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        given.append((module, args[0].clone(), kwargs["freqs_cis"].clone(), kwargs.get("attention_mask")))

    with torch.inference_mode(), watched(pipeline.transformer, own, found := AttentionShares()):
        with weighted(pipeline.transformer, [own], STEPS):  # its hooks stand before these
            handles = [
                layer.attention.register_forward_pre_hook(remember, with_kwargs=True)
                for layer in pipeline.transformer.layers
            ]
            pipeline(
                prompt_embeds=[own.rows], generator=[torch.Generator().manual_seed(1)], width=size[0], height=size[1],
                num_inference_steps=STEPS, guidance_scale=0.0, output_type="latent",
            )  # fmt: skip
        for handle in handles:
            handle.remove()
    patches = size[0] * size[1] // 256
    begins = -(-patches // 32) * 32  # the caption stands behind the picture and what fills that up
    block = own.parts[0].block
    start = next(i for i in range(len(own.rows)) if torch.equal(own.rows[i], block[0]))
    of_reference = slice(begins + start, begins + start + len(block))
    for number, (attention, hidden, turns, bias) in enumerate(given):
        weights = softmax_of(attention, hidden, turns, bias)[:, :patches]
        got = found.of(1)[number % found.blocks][number // found.blocks]
        assert got == pytest.approx(weights[..., of_reference].sum(-1).mean(), rel=1e-4, abs=1e-7)
        every = weights[..., begins : begins + len(own.rows)].sum(-1).mean()
        together = got + found.of(0)[number % found.blocks][number // found.blocks]
        assert together == pytest.approx(every, rel=1e-4, abs=1e-7), "rows that fill get nothing"
    assert len(given) == STEPS * found.blocks


def softmax_of(attention: torch.nn.Module, hidden: torch.Tensor, turns: torch.Tensor, bias: torch.Tensor | None):
    """The attention weights [heads, queries, keys] of a block, in float64."""

    def turned(project: torch.nn.Module, norm: torch.nn.Module) -> np.ndarray:
        rows = norm(project(hidden).unflatten(-1, (attention.heads, -1)))[0]
        pairs = rows.double().unflatten(-1, (-1, 2)).numpy()
        rotated = (pairs[..., 0] + 1j * pairs[..., 1]) * turns[0].numpy()[:, None]
        return np.stack([rotated.real, rotated.imag], -1).reshape(rows.shape)

    with torch.inference_mode():
        q, k = turned(attention.to_q, attention.norm_q), turned(attention.to_k, attention.norm_k)
    logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    if bias is not None and bias.dtype == torch.bool:
        logits = np.where(bias[0].numpy(), logits, -np.inf)
    elif bias is not None:
        logits = logits + bias[0].double().numpy()
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_a_smaller_weight_leaves_a_smaller_share(pipeline, picture) -> None:
    means = [
        np.mean(sampled(pipeline, picture, conditioning(weight=w, merge=2, proportional=True))[1].of(1))
        for w in (0.01, 0.1, 1.0)
    ]
    assert 0 < means[0] < 0.2 * means[1] < means[2]


def test_a_prompt_alone_gives_all_of_its_rows_to_the_prompt(pipeline, picture) -> None:
    _, found = sampled(pipeline, picture, Conditioning(prompt()))
    assert not np.any(found.of(1))
    assert np.all(np.array(found.of(0)) > 0)


def test_each_of_two_references_has_a_share_of_its_own(pipeline, picture) -> None:
    parts = [conditioning(seed=seed).parts[0] for seed in (0, 1)]
    two = joined(prompt(), tuple(replace(part, own=None) for part in parts), HEAD, torch.float32)
    assert two.owners.tolist() == [0] * HEAD + [1] * 8 + [2] * 8 + [0] * 10
    _, found = sampled(pipeline, picture, two)
    assert found.references == 2
    one, other = (np.array(found.of(number)) for number in (1, 2))
    assert one.min() > 0
    assert other.min() > 0
    assert not np.allclose(one, other)


def test_attention_that_can_not_be_watched_is_said_in_a_line(pipeline, picture, refused, monkeypatch) -> None:
    """Another backend than PyTorch's own."""
    from diffusers.models.transformers import transformer_z_image as theirs

    def another(query, key, value, attn_mask=None, **more):
        return torch.softmax(torch.einsum("bqhd,bkhd->bhqk", query, key), -1) @ value.transpose(1, 2)

    monkeypatch.setattr(theirs, "dispatch_attention_fn", lambda *args, **more: another(*args, **more).transpose(1, 2))
    with refused("can't be measured"):
        sampled(pipeline, picture, conditioning())
    assert hooks(pipeline.transformer) == 0
