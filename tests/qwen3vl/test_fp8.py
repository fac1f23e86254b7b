"""A language model kept in fp8, half the memory: read as it is stored, or brought to it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from compare import relative_error
from safetensors.torch import save_file
from weights import opened

from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import Qwen3VL

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def matrices(model: Qwen3VL) -> dict[str, torch.nn.Linear]:
    """The linear layers of the language model, 7 in each layer."""
    found = {
        name: part
        for name, part in model.module.language_model.layers.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    assert len(found) == 7 * model.depth
    return found


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[layer], other[layer]) for layer in one)


# --- a file in fp8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*tiny.FP8_KINDS, "e5m2"])
def test_the_states_are_those_of_the_same_weights_brought_to_the_dtype_first(kind, dtype, state, saved, states):
    """To the last bit, against a file in which every number is written out in that dtype."""
    if kind == "e5m2":
        stored = {
            name: value.to(E5M2) if tiny.is_linear(name, value) else value.to(torch.bfloat16)
            for name, value in state.items()
        }
    else:
        stored, _ = tiny.quantize(state, kind)
    path = saved(stored)
    checkpoint = open_checkpoint(str(path))
    written_out = dict(checkpoint.read(checkpoint.tensors, dtype))
    plain, kept = opened(saved(written_out, "plain.safetensors"), dtype), opened(path, dtype)
    assert {part.weight.dtype for part in matrices(kept).values()} == {E5M2 if kind == "e5m2" else E4M3}
    assert {part.weight.dtype for part in matrices(plain).values()} == {dtype}
    assert same(states(kept), states(plain))


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_a_matrix_takes_a_byte_a_number_and_everything_else_what_it_takes_in_the_dtype(kind, state, saved):
    stored, _ = tiny.quantize(state, kind)
    kept = opened(saved(stored), torch.bfloat16)
    ours = {name: value.nbytes for name, value in kept.module.state_dict().items()}
    scales = {
        name.rpartition(".")[0] + ".scale": value.nbytes
        for name, value in stored.items()
        if name.endswith(("weight_scale", "scale_weight", "_inv"))
    }
    wanted = {
        name: value.numel() * (1 if tiny.is_linear(name, value) else 2)
        for name, value in state.items()
        if "embed_tokens" not in name
    } | scales
    assert ours == wanted
    assert len(scales) == (0 if kind == "none" else 35)


def test_the_vision_tower_the_norms_and_the_embedding_are_not_in_fp8(state, saved):
    stored, _ = tiny.quantize(state, "rows")
    kept = opened(saved(stored), torch.bfloat16, storage="fp8")
    for name, weight in kept.module.named_parameters():
        assert weight.dtype == (E4M3 if tiny.is_linear(name, weight) else torch.bfloat16), name
    assert kept.embedding.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_in_fp8_is_multiplied_with_its_scale(dtype, state, saved, states):
    name = "language_model.embed_tokens.weight"
    scale = state[name].abs().amax(dim=1) / 448
    stored = {key: value.to(torch.bfloat16) for key, value in state.items()} | {
        name: (state[name] / scale[:, None]).to(E4M3),
        name + "_scale": scale,
    }
    meant = {key: value.float() for key, value in stored.items() if key in state} | {
        name: stored[name].float() * scale[:, None]
    }
    kept = opened(saved(stored), dtype)
    assert kept.embedding.weight.dtype == dtype
    plain = opened(saved({key: value.to(dtype) for key, value in meant.items()}, "plain.safetensors"), dtype)
    assert same(states(kept), states(plain))


# --- brought to fp8


def as_numbers(weight: torch.Tensor) -> np.ndarray:
    """e4m3 from its bits, by its definition: a sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinities."""
    bits = weight.view(torch.uint8).numpy().astype(int)
    sign, exponent, mantissa = 1 - 2 * (bits >> 7), (bits >> 3) & 15, bits & 7
    assert not ((exponent == 15) & (mantissa == 7)).any(), "not a number"
    return sign * np.where(exponent > 0, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0**-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_rounded_to_the_nearest_number_of_fp8_under_its_own_scale(dtype, state, saved):
    stored = {name: value.to(dtype).clone() for name, value in state.items()}
    stored["language_model.layers.1.mlp.up_proj.weight"] *= torch.logspace(-6, 6, 96)[:, None].to(
        dtype
    )  # rows of very different sizes
    kept = opened(saved(stored), torch.float32, storage="fp8")
    for name, part in matrices(kept).items():
        value = stored[f"language_model.layers.{name}.weight"].double().numpy()
        largest = np.abs(value).max(axis=1, keepdims=True)
        scale = part.scale.double().numpy()
        assert part.weight.dtype == E4M3
        assert scale.shape == (len(value), 1)
        assert np.allclose(scale, largest / 448, rtol=1e-6), name
        got = as_numbers(part.weight)
        assert np.abs(got).max(axis=1).tolist() == [448] * len(got), "the row's largest value is fp8's largest"
        inside = np.abs(value / scale)
        step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(inside, 1e-30))), -6) - 3)
        assert (np.abs(got - value / scale) <= step / 2 * 1.001).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_states_are_near_those_in_full_precision(dtype, state, saved, states):
    path = saved({name: value.to(torch.bfloat16) for name, value in state.items()}, "bf16.safetensors")
    full, kept = states(opened(path, torch.float32)), states(opened(path, dtype, storage="fp8"))
    for layer in full:
        assert 0.001 < relative_error(kept[layer], full[layer]) < 0.1, layer


def test_they_are_those_of_a_file_with_the_same_rounded_weights(state, saved, states):
    path = saved(state, "f32.safetensors")
    kept = opened(path, torch.float32, storage="fp8")
    rounded = dict(state)
    for name, part in matrices(kept).items():
        rounded[f"language_model.layers.{name}.weight"] = (
            torch.tensor(as_numbers(part.weight), dtype=torch.float32) * part.scale
        )
    assert same(states(kept), states(opened(saved(rounded, "rounded.safetensors"), torch.float32)))


def test_rows_of_zeros_stay_zeros_and_tiny_and_huge_ones_stay_finite(state, saved, states):
    name = "language_model.layers.2.self_attn.v_proj.weight"
    stored = {key: value.clone() for key, value in state.items()}
    stored[name][0], stored[name][1], stored[name][2], stored[name][3] = (
        0.0,
        1e-38,
        torch.tensor([3e38, *[-1.0] * 63]),
        -0.0,
    )
    kept = opened(saved(stored), torch.float32, storage="fp8")
    part = matrices(kept)["2.self_attn.v_proj"]
    assert torch.isfinite(part.scale).all()
    assert (part.scale > 0).all()
    rows = as_numbers(part.weight) * part.scale.double().numpy()
    assert not rows[0].any()
    assert not rows[3].any()
    assert np.abs(rows[1]).max() < 1e-11
    assert np.isclose(rows[2, 0], 3e38, rtol=1e-3)
    stored[name][2] = 1.0
    assert all(
        torch.isfinite(rows).all() for rows in states(opened(saved(stored), torch.float32, storage="fp8")).values()
    )


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_what_is_stored_in_fp8_is_not_rounded_again(kind, state, saved, states):
    path = saved(tiny.quantize(state, kind)[0])
    assert same(states(opened(path, torch.bfloat16, storage="fp8")), states(opened(path, torch.bfloat16)))


def test_without_being_told_nothing_is_brought_to_fp8(state, saved):
    path = saved({name: value.to(torch.bfloat16) for name, value in state.items()})
    kept = opened(path, torch.bfloat16)
    assert {weight.dtype for weight in kept.module.state_dict().values()} == {torch.bfloat16}


def test_layers_that_are_loaded_later_are_kept_in_the_same_way(state, saved, states):
    path = saved(state, "f32.safetensors")
    later = opened(path, torch.bfloat16, depth=2, storage="fp8")
    later.deepen(5)
    assert {part.weight.dtype for part in matrices(later).values()} == {E4M3}
    assert same(states(later), states(opened(path, torch.bfloat16, storage="fp8")))


def test_results_are_not_shared_between_storages(checkpoint):
    assert StandaloneExtractor(checkpoint, storage="fp8").precision != StandaloneExtractor(checkpoint).precision


# --- refused


@pytest.mark.parametrize("layer", [0, 4])
def test_a_scale_that_does_not_fit_is_refused_before_anything_is_read(layer, state, saved, refused, get_tensor):
    stored, _ = tiny.quantize(state, "rows")
    stored[f"language_model.layers.{layer}.mlp.down_proj.weight_scale"] = torch.ones(5)
    path = saved(stored)
    wrong = rf"^fp8\.safetensors: the scale of language_model\.layers\.{layer}\.mlp\.down_proj\.weight does not fit it"
    for depth in (1, 5):
        with refused(wrong):
            opened(path, torch.float32, depth=depth)
    assert get_tensor == {}


# --- the module is one like any other


@pytest.fixture(params=["stored", "rounded"])
def kept(request, state, saved):
    stored, options = (
        (tiny.quantize(state, "rows")[0], {}) if request.param == "stored" else (state, {"storage": "fp8"})
    )
    return opened(saved(stored), torch.float32, **options)


def test_it_moves_with_its_scales_and_keeps_its_dtypes(kept):
    before = {name: value.dtype for name, value in kept.module.state_dict().items()}
    moved = copy.deepcopy(kept.module).to("meta")
    assert {name: value.dtype for name, value in moved.state_dict().items()} == before
    assert all(value.is_meta for value in moved.state_dict().values())
    scales = [name for name in before if name.endswith(".scale")]
    assert len(scales) == 35


def test_a_copy_gives_the_same_states(kept, states):
    before = states(kept)
    kept.module = copy.deepcopy(kept.module)
    assert same(states(kept), before)


def test_its_state_is_saved_and_loaded(kept, states, tmp_path):
    before, state = states(kept), {name: value.clone() for name, value in kept.module.state_dict().items()}
    save_file(state, tmp_path / "state.safetensors")
    for value in kept.module.state_dict().values():
        value.zero_()
    kept.module.load_state_dict(state, strict=True)
    assert same(states(kept), before)


def test_it_is_left_without_gradients_and_out_of_training(kept):
    assert not any(weight.requires_grad for weight in kept.module.parameters())
    assert not kept.module.training
