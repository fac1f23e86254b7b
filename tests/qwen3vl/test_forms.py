"""The forms that language models are stored in: read back, they mean what their definitions say."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from compare import relative_error
from quantized import blockwise, hadamard, in_runs, noted, rotated, rowwise, store, tensorwise, turned
from safetensors.torch import save_file
from weights import opened

from zvl_ext.qwen3vl import vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.notes import is_group
from zvl_ext.qwen3vl.rotation import hadamard as ours
from zvl_ext.qwen3vl.rotation import rotate
from zvl_ext.qwen3vl.scales import block_of

INT8 = {"format": "int8_tensorwise"}
FP8 = {"format": "float8_e4m3fn"}
FORMS = {
    "fp8, one scale": ("fp8", tensorwise),
    "fp8, a scale for each row": ("fp8", noted(rowwise, format="float8_e4m3fn_rowwise")),
    "fp8, blocks of 32": ("fp8", noted(blockwise(32, 32), format="float8_e4m3fn_blockwise", group_size=32)),
    "fp8, blocks of 32 of which nothing is said": ("fp8", blockwise(32, 32)),
    "fp8, blocks of 16": ("fp8", blockwise(16, 16)),
    "fp8, blocks of 2": ("fp8", blockwise(2, 2)),
    "fp8, blocks of 64, cut off": ("fp8", blockwise(64, 64)),
    "fp8, blocks of 40, cut off": ("fp8", noted(blockwise(40, 40), format="float8_e4m3fn_blockwise", group_size=40)),
    "fp8, blocks of 8 × 32": ("fp8", blockwise(8, 32)),
    "fp8, runs of 32": ("fp8", in_runs(32)),
    "fp8, runs of 16": ("fp8", in_runs(16)),
    "int8, one scale": ("int8", noted(tensorwise, **INT8)),
    "int8, a scale for each row": ("int8", noted(rowwise, **INT8, per_row=True)),
    "int8 of which nothing is said": ("int8", rowwise),
    "int8, blocks of 32": ("int8", noted(blockwise(32, 32), format="int8_blockwise", group_size=32)),
    "int8, rotated": ("int8", noted(turned(rowwise, 16), **INT8, convrot=True, convrot_groupsize=16)),
    "int8, rotated by 4": ("int8", noted(turned(rowwise, 4), **INT8, convrot=True, convrot_groupsize=4)),
    "int8, rotated, an early note": (
        "int8",
        noted(turned(rowwise, 16), **INT8, params={"convrot": True, "convrot_groupsize": 16}),
    ),
    "int8, rotated by its format's name": (
        "int8",
        noted(turned(rowwise, 16), format="int8_convrot", convrot_groupsize=16),
    ),
    "fp8, rotated": ("fp8", noted(turned(rowwise, 16), **FP8, convrot=True, convrot_groupsize=16)),
    "fp8, blocks, rotated": ("fp8", noted(turned(blockwise(32, 32), 16), **FP8, convrot=True, convrot_groupsize=16)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_as_it_is_defined(name, state, saved):
    form, make = FORMS[name]
    stored, meant = store(state, make, form)
    checkpoint = open_checkpoint(str(saved(stored)))
    checkpoint.require_language()
    got = dict(checkpoint.read(checkpoint.tensors, torch.float32))
    assert got.keys() == meant.keys() == state.keys()
    for weight, value in got.items():
        assert torch.allclose(value.double(), meant[weight], rtol=1e-5, atol=1e-6), weight
        assert relative_error(value, state[weight]) < 0.1, weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_it_stays_in_eight_bits_and_gives_the_states_of_what_it_means(name, dtype, state, saved, states):
    form, make = FORMS[name]
    stored, meant = store(state, make, form)
    kept = opened(saved(stored), dtype)
    plain = opened(saved({key: value.to(dtype) for key, value in meant.items()}, "plain.safetensors"), dtype)
    for layer in kept.module.language_model.layers:
        assert layer.mlp.down_proj.weight.dtype == (torch.int8 if form == "int8" else torch.float8_e4m3fn)
    got, wanted = states(kept), states(plain)
    for layer in wanted:
        assert relative_error(got[layer], wanted[layer]) < (1e-5 if dtype == torch.float32 else 0.03), layer


def test_a_rotation_that_nothing_is_quantized_under_is_undone_as_well(state, saved):
    """A flag beside a plain format is honoured."""
    name = "language_model.layers.1.mlp.up_proj"
    note = {"format": "float32", "convrot": True, "convrot_groupsize": 64}
    stored = state | {
        name + ".weight": rotated(state[name + ".weight"], 64).float(),
        name + ".comfy_quant": tiny.as_bytes(note),
    }
    got = dict(open_checkpoint(str(saved(stored))).read([name + ".weight"], torch.float32))
    assert torch.allclose(got[name + ".weight"], state[name + ".weight"], atol=1e-5)


@pytest.mark.parametrize("form", ["fp8", "int8"])
@pytest.mark.parametrize("make", [tensorwise, rowwise, blockwise(32, 32), turned(rowwise, 16)])
def test_an_embedding_in_eight_bits_gives_single_rows(form, make, state, saved):
    name = "language_model.embed_tokens"
    parts, meant = make(state[name + ".weight"], form)
    stored = state | {f"{name}.{ending}": part.contiguous() for ending, part in parts.items()}
    if make not in (tensorwise, rowwise) and "block" not in make.__qualname__:
        note = {"format": "int8_tensorwise" if form == "int8" else "float8_e4m3fn", "convrot": True}
        stored[name + ".comfy_quant"] = tiny.as_bytes(note | {"convrot_groupsize": 16})
    embedding = opened(saved(stored), torch.float32, depth=1).embedding
    ids = [0, 511, 33, 33, 64]
    assert torch.allclose(embedding(torch.tensor(ids)).double(), meant[ids], rtol=1e-5, atol=1e-6)
    assert torch.allclose(embedding.weight.double(), meant, rtol=1e-5, atol=1e-6)


def test_storage_fp8_brings_what_is_in_four_bytes_to_fp8_and_leaves_int8(state, saved, states):
    stored, _ = store(state, rowwise, "int8")
    path = saved(stored)
    kept, told = opened(path, torch.float32), opened(path, torch.float32, storage="fp8")
    assert told.module.language_model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    assert all(torch.equal(one, other) for one, other in zip(states(kept).values(), states(told).values()))


# --- rotation


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_the_rotation_is_the_regular_hadamard_matrix(size):
    matrix = ours(size).double()
    assert torch.equal(matrix, hadamard(size))
    assert torch.allclose(matrix @ matrix, torch.eye(size, dtype=torch.float64))
    assert torch.equal(matrix.sum(0), torch.full((size,), 1.0, dtype=torch.float64)), "each row has the same sum"


def test_rotated_twice_it_is_what_it_was():
    value = torch.randn(3, 5, 48)
    assert torch.allclose(rotate(rotate(value, 16), 16), value, atol=1e-6)
    assert not torch.allclose(rotate(value, 16), value, atol=0.1)


def test_only_powers_of_four_are_groups():
    assert [size for size in range(-5, 2000) if is_group(size)] == [4, 16, 64, 256, 1024]
    assert not any(is_group(size) for size in (True, 4.0, "4", None, 10**40))


# --- the shapes of scales


@pytest.mark.parametrize(
    ("shape", "scale", "size", "block"),
    [
        ((96, 64), (), 0, (96, 64)),
        ((96, 64), (1, 1), 0, (96, 64)),
        ((96, 64), (96,), 0, (1, 64)),
        ((96, 64), (96, 1), 0, (1, 64)),
        ((96, 64), (96, 1, 1), 0, (1, 64)),
        ((96, 64), (96, 4, 1), 0, (1, 16)),
        ((96, 64), (3, 2), 0, (32, 32)),
        ((96, 64), (2, 1), 0, (64, 64)),
        ((96, 64), (12, 2), 0, (8, 32)),
        ((96, 64), (3, 2), 40, (40, 40)),
        ((96, 64), (3, 2), 128, (32, 32)),
        ((100, 100), (2, 2), 0, (50, 50)),
        ((9728, 2560), (76, 20), 0, (128, 128)),
        ((9728, 2560), (152, 40), 0, (64, 64)),
        ((4304, 1152), (34, 9), 0, (128, 128)),
        ((384, 1000), (3, 8), 0, (128, 128)),
        ((4096,), (4096,), 0, (1, 1)),
        ((96, 64), (64,), 0, None),
        ((96, 64), (1, 64), 0, (96, 1)),
        ((96, 64), (97, 1), 0, None),
        ((96, 64), (7, 3), 0, None),
        ((96, 64), (2, 2, 2), 0, None),
        ((96, 64), (0,), 0, None),
        ((0, 64), (1,), 0, None),
        ((), (3,), 0, None),
        ((3, 3, 3), (3, 3), 0, None),
    ],
)
def test_a_block_is_told_by_two_shapes(shape, scale, size, block):
    assert block_of(shape, scale, size) == block


# --- where the parts stand in a file


PLACES = {
    "all in one": ("text_encoders.qwen3vl_4b.transformer.model.", "text_encoders.qwen3vl_4b.transformer.visual."),
    "as a model of its own": ("cond_stage_model.qwen3vl.model.", "cond_stage_model.qwen3vl.model.visual."),
    "the language model under its name": ("a.b.language_model.", "a.b.visual."),
    "nothing in front": ("", "visual."),
    "DataParallel": ("module.model.language_model.", "module.model.visual."),
}
FOREIGN = {
    "model.diffusion_model.layers.0.attention.qkv.weight": torch.zeros(2, 2, dtype=torch.int64),
    "model.diffusion_model.visual.blocks.0.norm1.weight": torch.zeros(7),
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight": torch.zeros(3, 3),
    "text_encoders.gemma.transformer.model.layers.0.self_attn.q_proj.weight": torch.zeros(3, 3),
    "text_encoders.gemma.transformer.model.layers.0.self_attn.q_norm.weight": torch.zeros(3),
    "vae.decoder.conv_in.weight": torch.zeros(2),
    "text_encoders.qwen3vl_4b.logit_scale": torch.zeros(()),
    "lm_head.weight": torch.zeros(2, 2, dtype=torch.uint8),
    "spiece_model": torch.zeros(9, dtype=torch.uint8),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_model_is_found_by_the_endings_of_its_names(place, state, model, tmp_path):
    language, tower = PLACES[place]
    stored = {
        (language if name.startswith("language_model.") else tower) + name.partition(".")[2]: value
        for name, value in state.items()
    }
    path = tmp_path / "one.safetensors"
    save_file(FOREIGN | stored, path, tiny.config_metadata(model.config))
    checkpoint = open_checkpoint(str(path))
    got = dict(checkpoint.read(checkpoint.tensors, torch.float32))
    assert got.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in got.items())


@pytest.mark.parametrize("name", ["language_model.layers.0.mlp.extra.weight", "visual.more.weight", "visual.rope"])
def test_what_the_model_has_no_place_for_is_passed_over(name, state, saved, states):
    plain = states(opened(saved(state, "plain.safetensors")))
    more = states(opened(saved(state | {name: torch.zeros(2, dtype=torch.int32)}, "more.safetensors")))
    assert all(torch.equal(plain[layer], more[layer]) for layer in plain)


# --- a vision tower is enough for engine splice


@pytest.mark.parametrize("rest", ["missing", "nvfp4", "half", "four bits"])
def test_a_vision_tower_alone_can_be_read_whatever_the_language_model_is(rest, state, model, tmp_path, refused):
    kept = {name: value for name, value in state.items() if name.startswith("visual.")}
    for name, value in state.items():
        if name.startswith("visual.") or rest == "missing":
            continue
        stem = name.removesuffix("weight")
        if rest == "nvfp4" and value.ndim == 2:
            kept[name] = torch.zeros(value.shape[0], value.shape[1] // 2, dtype=torch.uint8)
            kept[stem + "weight_scale"] = torch.zeros(value.shape[0], 4).to(torch.float8_e4m3fn)
            kept[stem + "weight_scale_2"] = torch.ones(())
            kept[stem + "comfy_quant"] = tiny.as_bytes({"format": "nvfp4", "group_size": 16})
        elif rest == "four bits" and value.ndim == 2:
            kept[name] = torch.zeros(value.numel() // 2, 1, dtype=torch.uint8)
            kept[stem + "weight.absmax"] = torch.ones(3)
            kept[stem + "weight.quant_state.bitsandbytes__nf4"] = tiny.as_bytes({"quant_type": "nf4"})
        elif rest != "half" or "layers.4" not in name:
            kept[name] = value
    path = tmp_path / "one.safetensors"
    save_file({"model." + name: value for name, value in kept.items()}, path)
    checkpoint = open_checkpoint(str(path))
    tower = vision.load(checkpoint, torch.float32)
    assert all(torch.equal(value, state["visual." + name]) for name, value in tower.named_parameters())
    if rest != "half":
        said = (
            "has no language model: it serves engine splice" if rest == "missing" else "Engine splice can use the file"
        )
        with refused(rf"^one\.safetensors.*{said}.*For engine blend get qwen3vl_4b_fp8_scaled\.safetensors"):
            checkpoint.check_layer(-2)


def test_a_folder_whose_config_is_the_whole_models_may_hold_the_tower_alone(folder, state, tmp_path, refused):
    kept = {"model." + name: value for name, value in state.items() if name.startswith("visual.")}
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    checkpoint = open_checkpoint(str(tmp_path))
    vision.load(checkpoint, torch.float32)
    assert json.loads((folder / "config.json").read_text())["text_config"]["hidden_size"] == checkpoint.hidden_size
    with refused("has no language model"):
        checkpoint.depth(-2)
