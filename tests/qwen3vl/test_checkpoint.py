"""Weights: what is opened, what is derived from shapes, what is refused, and that nothing is held twice."""

import json
import math
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from compare import mapped
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from zvl_ext.qwen3vl.checkpoint import Checkpoint, Stored
from zvl_ext.qwen3vl.config import config_from_shapes
from zvl_ext.qwen3vl.files import find, open_checkpoint
from zvl_ext.qwen3vl.fp8 import dequantize
from zvl_ext.qwen3vl.language import Qwen3VL, load
from zvl_ext.sequence import VisionTokens


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy of the one-shard folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture
def state(model) -> dict[str, torch.Tensor]:
    return tiny.inner_state(model)


EMBEDDING = "language_model.embed_tokens.weight"


def every_weight(model: Qwen3VL, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The module's weights as they are computed with, and the embedding, which is no part of the module, as it is
    kept."""
    weights = dict(model.module.named_parameters())
    assert EMBEDDING not in weights
    for name, weight in weights.items():
        if weight.dtype == torch.float8_e4m3fn:
            weights[name] = dequantize(weight, model.module.get_submodule(name.removesuffix(".weight")).scale, dtype)
    return weights | {EMBEDDING: model.embedding.weight}


def loaded_state(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return every_weight(load(open_checkpoint(str(path)), dtype), dtype)


def assert_same_weights(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name


# --- both forms


def test_a_folder_with_one_shard_is_opened(folder, state):
    assert_same_weights(loaded_state(folder), state)


def test_a_folder_with_several_shards_is_opened(sharded, state):
    assert_same_weights(loaded_state(sharded), state)


def test_several_shards_without_their_index_are_opened(sharded, state, tmp_path):
    path = Path(shutil.copytree(sharded, tmp_path / "copied"))
    (path / "model.safetensors.index.json").unlink()
    assert_same_weights(loaded_state(path), state)


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_single_file_is_opened_in_both_layouts(layout, dtype, state, tmp_path):
    stored = {name: value.to(dtype) for name, value in state.items()}
    path = tiny.save_single(stored, tmp_path / "one.safetensors", layout)
    assert_same_weights(loaded_state(path, dtype), stored)
    assert (
        open_checkpoint(str(path)).stored_dtype
        == {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]
    )


def test_the_layer_for_logits_is_not_read(state, tmp_path):
    renamed = tiny.in_layout(state, "model.layers + visual") | {"lm_head.weight": torch.zeros(3, 3)}
    save_file(renamed, tmp_path / "one.safetensors")
    assert_same_weights(loaded_state(tmp_path / "one.safetensors"), state)


def test_opening_reads_headers_only(folder):
    """The values are not even looked at: they may be anything."""
    opened = open_checkpoint(str(folder))
    assert isinstance(opened, Checkpoint)
    assert opened.parameters == sum(math.prod(stored.shape) for stored in opened.tensors.values())
    assert opened.scales == {}


def test_what_is_known_of_a_folder(folder, model, tokenizer):
    opened = open_checkpoint(str(folder))
    special = tiny.token_ids(tokenizer)
    assert (opened.name, opened.path) == ("tiny-vl", str(folder))
    assert (opened.hidden_size, opened.layers, opened.unit) == (64, 5, 32)
    assert opened.vision_tokens == VisionTokens(
        special["vision_start_token_id"], special["image_token_id"], special["vision_end_token_id"]
    )
    assert opened.parameters == sum(p.numel() for p in model.model.parameters())
    assert opened.files == [str(folder / "model.safetensors")]
    assert opened.tokenizer_folder == str(folder)


def test_the_name_can_be_given_and_is_otherwise_the_last_part_of_the_path(folder, state, tmp_path):
    assert open_checkpoint(str(folder), "shown").name == "shown"
    assert open_checkpoint(str(folder) + "/").name == "tiny-vl"
    path = tiny.save_single(state, tmp_path / "one.safetensors")
    assert open_checkpoint(str(path)).name == "one.safetensors"
    assert open_checkpoint(str(path)).tokenizer_folder == str(tmp_path)


def test_the_identity_changes_when_the_weights_do(copied):
    before = open_checkpoint(str(copied)).identity
    assert open_checkpoint(str(copied)).identity == before
    os.utime(copied / "model.safetensors", ns=(1, 1))
    assert open_checkpoint(str(copied)).identity != before


def test_the_grid_of_a_reference_is_counted_in_image_tokens(checkpoint):
    from zvl_ext.reference import open_reference

    assert checkpoint.grid(open_reference(tiny.picture(160, 96)), 256) == (3, 5)
    rows, columns = checkpoint.grid(open_reference(tiny.picture(1600, 960)), 64)
    assert rows * columns <= 64
    assert columns > rows


def test_the_stored_dtype_is_that_of_most_parameters():
    def stored(dtype: str, *shape: int) -> Stored:
        return Stored("file", "key", shape, dtype)

    tensors = {
        "a": stored("F8_E4M3", 100, 100),
        "b": stored("BF16", 10),
        "c": stored("BF16", 10),
        "d": stored("F32", 99, 99),
    }
    assert Checkpoint("x", "x", {}, tensors, {}).stored_dtype == "F8_E4M3"


def test_weights_come_in_the_dtype_that_was_asked_for_but_for_the_embedding(folder, state):
    """That one is looked up in the file, a token's row at a time, so it stays as it is stored."""
    got = loaded_state(folder, torch.bfloat16)
    assert_same_weights(
        got, {name: value if name == EMBEDDING else value.to(torch.bfloat16) for name, value in state.items()}
    )
    assert {name: value.dtype for name, value in got.items()} == {
        name: torch.float32 if name == EMBEDDING else torch.bfloat16 for name in state
    }


# --- fp8


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_fp8_weights_are_multiplied_with_their_scales(kind, layout, state, tmp_path):
    stored, meant = tiny.quantize(state, kind)
    renamed = tiny.in_layout(stored, layout)
    if kind == "older":
        renamed["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(renamed, tmp_path / "fp8.safetensors")
    opened = open_checkpoint(str(tmp_path / "fp8.safetensors"))
    assert opened.tensors.keys() == state.keys()
    assert len(opened.scales) == (0 if kind == "none" else 35)
    for dtype, exact in ((torch.float32, False), (torch.bfloat16, True)):
        got = every_weight(load(opened, dtype), dtype)
        assert got.keys() == meant.keys()
        for name, value in got.items():
            assert value.dtype == (stored[name].dtype if name == EMBEDDING else dtype), name
            if exact:
                assert torch.equal(value, meant[name].float().to(dtype)), name
            else:
                assert torch.allclose(value.double(), meant[name], rtol=1e-6, atol=0), name


def test_an_fp8_folder_with_block_scales_in_another_shard_is_opened(folder, state, tmp_path):
    """As Qwen publishes them: quantization_config in config.json, weight_scale_inv beside the weights."""
    stored, meant = tiny.quantize(state, "blocks")
    renamed = tiny.in_layout(stored, "model.language_model + model.visual")
    scales = {name: value for name, value in renamed.items() if name.endswith("_inv")}
    shards = {
        "model-00001-of-00002.safetensors": {n: v for n, v in renamed.items() if n not in scales},
        "model-00002-of-00002.safetensors": scales,
    }
    for shard, tensors in shards.items():
        save_file(tensors, tmp_path / shard)
    config = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {n: shard for shard, tensors in shards.items() for n in tensors}})
    )
    for name, value in loaded_state(tmp_path).items():
        assert torch.allclose(value.double(), meant[name], rtol=1e-6, atol=0), name


@pytest.mark.parametrize(
    "shape", [(300, 260), (128, 128), (128, 256), (256, 128), (130, 64), (64, 130), (4304, 1152), (1, 300), (384, 1000)]
)
def test_block_scales_count_in_blocks_of_128_also_at_the_edges(shape):
    torch.manual_seed(0)
    value = torch.randn(shape).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) + 0.5
    wanted = value.double()
    for row in range(shape[0]):
        for block in range(scale.shape[1]):
            wanted[row, block * 128 : block * 128 + 128] *= scale[row // 128, block].double()
    assert torch.allclose(dequantize(value, scale, torch.float32).double(), wanted, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6,), (6, 1)])
def test_a_scale_is_for_the_tensor_or_for_each_row(shape):
    torch.manual_seed(0)
    value, scale = torch.randn(6, 10).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    wanted = value.double() * (scale.double().reshape(-1, 1) if scale.numel() > 1 else scale.double().item())
    assert torch.allclose(dequantize(value, scale, torch.float32).double(), wanted, rtol=1e-6)


def test_other_dtypes_of_fp8_and_of_scales_are_read():
    value = torch.tensor([[1.5, -2.0]]).to(torch.float8_e5m2)
    assert torch.equal(
        dequantize(value, torch.tensor(2.0, dtype=torch.bfloat16), torch.float16),
        torch.tensor([[3.0, -4.0]], dtype=torch.float16),
    )


@pytest.mark.parametrize("shape", [(5,), (3, 3), (7, 1), (2, 2, 2)])
def test_a_scale_that_does_not_fit_its_tensor_is_refused_by_name(shape, state, tmp_path, refused):
    stored, _ = tiny.quantize(state, "rows")
    stored["language_model.layers.2.mlp.down_proj.weight_scale"] = torch.ones(shape)
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors")
    with refused(r"^fp8\.safetensors: the scale of language_model\.layers\.2\.mlp\.down_proj"):
        load(open_checkpoint(str(path)), torch.float32)


@pytest.mark.parametrize(
    "said", [{"format": "nvfp4"}, {"format": "int8"}, {"format": 8}, {"format": None}, {}, [], "float8_e4m3fn", 5]
)
def test_another_quantization_is_refused_by_its_name(said, state, tmp_path, refused):
    stored, _ = tiny.quantize(state, "comfy")
    stored["language_model.layers.2.mlp.down_proj.comfy_quant"] = tiny.as_bytes(said)
    with refused(r"down_proj\.comfy_quant says"):
        open_checkpoint(str(tiny.save_single(stored, tmp_path / "q.safetensors")))


def test_a_quantization_note_that_is_not_json_is_refused(state, tmp_path, refused):
    stored, _ = tiny.quantize(state, "comfy")
    stored["language_model.layers.2.mlp.down_proj.comfy_quant"] = torch.tensor([255, 0, 1], dtype=torch.uint8)
    with refused(r"down_proj\.comfy_quant says"):
        open_checkpoint(str(tiny.save_single(stored, tmp_path / "q.safetensors")))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float64])
def test_weights_in_another_dtype_are_refused_by_name(dtype, state, tmp_path, refused):
    state["language_model.layers.1.mlp.up_proj.weight"] = state["language_model.layers.1.mlp.up_proj.weight"].to(dtype)
    with refused(r"language_model\.layers\.1\.mlp\.up_proj\.weight is stored as"):
        open_checkpoint(str(tiny.save_single(state, tmp_path / "q.safetensors")))


# --- what is not a whole Qwen3-VL


def test_nothing_at_the_path_is_refused(tmp_path, refused):
    for name in ("nothing", "nothing.txt"):
        with refused("there is nothing at"):
            open_checkpoint(str(tmp_path / name))
    with refused(r"nothing\.safetensors"):
        open_checkpoint(str(tmp_path / "nothing.safetensors"))


def test_other_files_are_refused_and_never_unpickled(tmp_path, refused):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    data = pickle.dumps(Trap())
    for name in ("weights.pt", "weights.bin", "weights.gguf", "weights.safetensors"):
        (tmp_path / name).write_bytes(data)
        with refused(name):
            open_checkpoint(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("part", [0.0, 0.00001, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(part, copied, refused):
    file = copied / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with refused(r"model\.safetensors is not a whole safetensors file .*Download it again"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        b"\0" * 100,
        struct.pack("<Q", 3) + b"{\xff}",
    ],
)
def test_a_false_header_is_refused(data, tmp_path, refused):
    (tmp_path / "false.safetensors").write_bytes(data)
    with refused(r"false\.safetensors"):
        open_checkpoint(str(tmp_path / "false.safetensors"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '{"model_type": "qwen3_vl"', "\xff\xfe", '{"model_type": "qwen3_vl"}']
)
def test_a_broken_config_is_refused(text, copied, refused):
    (copied / "config.json").write_text(text, encoding="latin-1")
    with refused("copied.* config.json"):
        open_checkpoint(str(copied))


def test_a_folder_without_config_is_refused(copied, refused):
    (copied / "config.json").unlink()
    with refused("config.json can't be read"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize("kind", ["qwen3", "qwen2_5_vl", "qwen3_vl_moe", "llama", None])
def test_the_config_of_another_model_is_refused_with_its_name(kind, copied, refused):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with refused(f"not a Qwen3-VL .*{kind}"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "hidden_size", None),
        ("text_config", "hidden_size", "wide"),
        ("text_config", "num_hidden_layers", []),
        ("vision_config", "depth", {}),
        ("text_config", None, None),
        ("vision_config", None, 5),
        ("text_config", None, [1]),
    ],
)
def test_a_config_with_senseless_values_is_refused(part, key, value, copied, refused):
    config = json.loads((copied / "config.json").read_text())
    if key:
        config[part][key] = value
    else:
        config[part] = value
    (copied / "config.json").write_text(json.dumps(config))
    with refused("copied"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "num_attention_heads", 0),
        ("text_config", "hidden_size", 65),
        ("text_config", "num_hidden_layers", 4),
        ("text_config", "num_hidden_layers", 6),
        ("vision_config", "depth", 3),
        ("vision_config", "hidden_size", 48),
        ("text_config", "vocab_size", 100),
        ("vision_config", "patch_size", 14),
        ("vision_config", "deepstack_visual_indexes", [0]),
        ("text_config", "head_dim", 16),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_refused_when_loading(part, key, value, copied, refused):
    config = json.loads((copied / "config.json").read_text())
    config[part][key] = value
    (copied / "config.json").write_text(json.dumps(config))
    with refused("copied"):
        load(open_checkpoint(str(copied)), torch.float32)


def test_a_shard_that_is_missing_is_named(sharded, tmp_path, refused):
    path = Path(shutil.copytree(sharded, tmp_path / "copied"))
    last = sorted(path.glob("*.safetensors"))[-1]
    last.unlink()
    with refused(last.name + " is missing"):
        open_checkpoint(str(path))


def test_a_folder_without_weights_is_refused(copied, refused):
    (copied / "model.safetensors").unlink()
    with refused("safetensors file is missing"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "../../x", "./model.safetensors", ".."]
)
def test_an_index_that_leaves_the_folder_is_refused(shard, copied, refused):
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with refused("copied: .*(outside the folder|is missing)"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"weight_map": []}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": ["b"]}}',
        "\0",
    ],
)
def test_a_broken_index_is_refused(index, copied, refused):
    (copied / "model.safetensors.index.json").write_text(index)
    with refused("copied: "):
        open_checkpoint(str(copied))


def test_an_empty_index_is_refused(copied, refused):
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with refused("safetensors file is missing"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize("gone", ["visual.", "language_model."])
def test_a_model_without_eyes_or_without_language_is_refused(gone, state, tmp_path, refused):
    rest = {name: value for name, value in state.items() if not name.startswith(gone)}
    with refused("is not a Qwen3-VL: it has no vision tower or no language model"):
        open_checkpoint(str(tiny.save_single(rest, tmp_path / "one.safetensors")))


NAMES = (
    "language_model.layers.3.self_attn.k_norm.weight",
    "language_model.norm.weight",
    "visual.merger.norm.bias",
    "visual.deepstack_merger_list.2.linear_fc2.weight",
    "visual.pos_embed.weight",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_named(name, copied, refused):
    tensors = load_file(copied / "model.safetensors")
    del tensors["model." + name]
    save_file(tensors, copied / "model.safetensors")
    with refused(f"the tensor {name} is missing"):
        load(open_checkpoint(str(copied)), torch.float32)


@pytest.mark.parametrize(
    "name", ["language_model.layers.0.mlp.extra.weight", "visual.blocks.9.norm1.weight", "something.else"]
)
def test_a_tensor_too_many_is_named(name, copied, refused):
    tensors = load_file(copied / "model.safetensors")
    tensors[name if name == "something.else" else "model." + name] = torch.zeros(2)
    save_file(tensors, copied / "model.safetensors")
    with refused(f"the tensor {name} is not part of a Qwen3-VL"):
        load(open_checkpoint(str(copied)), torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_misshapen_tensor_is_named_with_both_shapes(name, copied, refused):
    tensors = load_file(copied / "model.safetensors")
    right = list(tensors["model." + name].shape)
    tensors["model." + name] = torch.zeros(right[0] + 1, *right[1:])
    save_file(tensors, copied / "model.safetensors")
    with refused(f"the tensor {name} is .*{right[0] + 1}.*it should be .*{right[0]}"):
        load(open_checkpoint(str(copied)), torch.float32)


# Tensors the configuration is derived from.
TELLING = (
    "language_model.layers.0.self_attn.q_norm.weight",
    "language_model.layers.0.mlp.gate_proj.weight",
    "visual.patch_embed.proj.weight",
    "visual.merger.linear_fc1.weight",
    "visual.pos_embed.weight",
)


@pytest.mark.parametrize("name", TELLING)
def test_a_single_file_without_a_telling_tensor_is_refused_by_its_name(name, state, tmp_path, refused):
    del state[name]
    with refused(f"the tensor {name} is missing"):
        open_checkpoint(str(tiny.save_single(state, tmp_path / "one.safetensors")))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 2, 2), (2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("name", [*TELLING, "language_model.embed_tokens.weight"])
def test_a_single_file_with_a_misshapen_telling_tensor_is_refused(name, shape, state, tmp_path, refused):
    if state[name].ndim == len(shape) and shape != (0,):
        pytest.skip("the shape is one the tensor may have")
    state[name] = torch.zeros(shape)
    path = tiny.save_single(state, tmp_path / "one.safetensors")
    with refused(r"one\.safetensors"):
        load(open_checkpoint(str(path)), torch.float32)


def test_layers_that_do_not_exist_are_refused(checkpoint, refused):
    for layer in (-5, -1):
        checkpoint.check_layer(layer)
    for layer in (0, 1, -6, -36):
        with refused(f"Hidden layer {layer} does not exist: tiny-vl has layers -1 to -5"):
            checkpoint.check_layer(layer)


@pytest.mark.parametrize(("width", "size"), [(2048, "Qwen3-VL-2B"), (4096, "Qwen3-VL-8B")])
def test_a_qwen3_vl_of_another_size_is_refused_by_its_size(width, size, refused):
    wrong = Checkpoint("x", "x", {"text_config": {"hidden_size": width}}, {}, {})
    with refused(rf"{size} is {width} wide, .* 2560\. Choose a Qwen3-VL-4B"):
        wrong.require_width(2560)


def test_widths_that_fit_are_accepted(refused):
    Checkpoint("x", "x", {"text_config": {"hidden_size": 2560}}, {}, {}).require_width(2560)
    with refused("same width"):
        Checkpoint("x", "x", {"text_config": {"hidden_size": 2560}}, {}, {}).require_width(64)


# --- configuration from shapes


def published(
    hidden, layers, mlp, heads, kv_heads, vision_depth, vision_hidden, vision_mlp
) -> dict[str, tuple[int, ...]]:
    """The tensors of a published Qwen3-VL: names and shapes, written down from the architecture."""
    shapes = {"language_model.embed_tokens.weight": (151936, hidden), "language_model.norm.weight": (hidden,)}
    for i in range(layers):
        layer = f"language_model.layers.{i}."
        shapes |= {
            layer + "self_attn.q_proj.weight": (heads * 128, hidden),
            layer + "self_attn.k_proj.weight": (kv_heads * 128, hidden),
            layer + "self_attn.v_proj.weight": (kv_heads * 128, hidden),
            layer + "self_attn.o_proj.weight": (hidden, heads * 128),
            layer + "self_attn.q_norm.weight": (128,),
            layer + "self_attn.k_norm.weight": (128,),
            layer + "mlp.gate_proj.weight": (mlp, hidden),
            layer + "mlp.up_proj.weight": (mlp, hidden),
            layer + "mlp.down_proj.weight": (hidden, mlp),
            layer + "input_layernorm.weight": (hidden,),
            layer + "post_attention_layernorm.weight": (hidden,),
        }

    def with_bias(name: str, *shape: int) -> None:
        shapes[name + ".weight"], shapes[name + ".bias"] = shape, shape[:1]

    with_bias("visual.patch_embed.proj", vision_hidden, 3, 2, 16, 16)
    shapes["visual.pos_embed.weight"] = (2304, vision_hidden)
    for i in range(vision_depth):
        block = f"visual.blocks.{i}."
        with_bias(block + "norm1", vision_hidden)
        with_bias(block + "norm2", vision_hidden)
        with_bias(block + "attn.qkv", 3 * vision_hidden, vision_hidden)
        with_bias(block + "attn.proj", vision_hidden, vision_hidden)
        with_bias(block + "mlp.linear_fc1", vision_mlp, vision_hidden)
        with_bias(block + "mlp.linear_fc2", vision_hidden, vision_mlp)
    merged = 4 * vision_hidden
    for merger, normed in (("merger", vision_hidden), *((f"deepstack_merger_list.{i}", merged) for i in range(3))):
        with_bias(f"visual.{merger}.norm", normed)
        with_bias(f"visual.{merger}.linear_fc1", merged, merged)
        with_bias(f"visual.{merger}.linear_fc2", hidden, merged)
    return shapes


PUBLISHED = {
    "2B": ((2048, 28, 6144, 16, 8, 24, 1024, 4096), [5, 11, 17]),
    "4B": ((2560, 36, 9728, 32, 8, 24, 1024, 4096), [5, 11, 17]),
    "8B": ((4096, 36, 12288, 32, 8, 27, 1152, 4304), [8, 16, 24]),
}


def test_the_4b_has_713_tensors_and_4437815808_parameters():
    shapes = published(*PUBLISHED["4B"][0])
    assert len(shapes) == 713
    assert sum(math.prod(shape) for shape in shapes.values()) == 4_437_815_808


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_configuration_from_shapes_is_the_published_one(size):
    numbers, deepstack = PUBLISHED[size]
    hidden, layers, mlp, heads, kv_heads, depth, vision_hidden, vision_mlp = numbers
    config = config_from_shapes(published(*numbers))
    assert config["model_type"] == "qwen3_vl"
    text, vision = config["text_config"], config["vision_config"]
    wanted_text = {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000,
        "max_position_embeddings": 262144,
    }
    assert {key: text[key] for key in wanted_text} == wanted_text
    assert text["rope_scaling"] == {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    wanted_vision = {
        "depth": depth,
        "hidden_size": vision_hidden,
        "intermediate_size": vision_mlp,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": hidden,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": deepstack,
    }
    assert {key: vision[key] for key in wanted_vision} == wanted_vision


@pytest.mark.parametrize("size", PUBLISHED)
def test_transformers_builds_from_that_configuration_exactly_these_tensors(size):
    """The lists above are not only ours: the real class, built without memory, has the same names and shapes."""
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    shapes = published(*PUBLISHED[size][0])
    config = config_from_shapes(shapes)
    with torch.device("meta"):
        built = Qwen3VLModel(Qwen3VLConfig(text_config=config["text_config"], vision_config=config["vision_config"]))
    assert {name: tuple(p.shape) for name, p in built.named_parameters()} == shapes


def test_the_tiny_models_configuration_follows_from_its_shapes(model, state):
    config = config_from_shapes({name: tuple(value.shape) for name, value in state.items()})
    for part in ("text_config", "vision_config"):
        true = model.config.to_dict()[part]
        for key, value in config[part].items():
            if key not in ("rope_theta", "rope_scaling", "max_position_embeddings"):
                assert true[key] == value, key
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [6, 5, 5]


def test_a_config_in_the_files_metadata_goes_before_the_shapes(irregular, tmp_path):
    path = tiny.save_single(
        tiny.inner_state(irregular), tmp_path / "one.safetensors", metadata=tiny.config_metadata(irregular.config)
    )
    opened = open_checkpoint(str(path))
    assert opened.config["vision_config"]["num_heads"] == 4
    assert opened.config["text_config"]["rope_theta"] == 1e4
    assert opened.config["text_config"]["rope_scaling"]["mrope_section"] == [4, 2, 2]
    assert opened.vision_tokens.image == irregular.config.image_token_id


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"text_config": 5}', '{"text_config": {}, "vision_config": []}']
)
def test_metadata_without_a_usable_config_is_passed_over(text, state, tmp_path):
    opened = open_checkpoint(str(tiny.save_single(state, tmp_path / "one.safetensors", metadata={"config": text})))
    assert opened.config["vision_config"]["num_heads"] == 16


@pytest.mark.parametrize("words", ["rope_parameters", "rope_theta and rope_scaling"])
def test_the_rotary_settings_are_found_in_the_words_of_both_generations_of_transformers(words, copied):
    config = json.loads((copied / "config.json").read_text())
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]}
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        config["text_config"].pop(key, None)
    config["text_config"] |= (
        {"rope_parameters": rope | {"rope_theta": 12345.0}}
        if words == "rope_parameters"
        else {"rope_theta": 12345.0, "rope_scaling": rope}
    )
    (copied / "config.json").write_text(json.dumps(config))
    text = open_checkpoint(str(copied)).config["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 12345.0
    assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"] == [6, 5, 5]


# --- the list of names


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_folders_and_files_are_listed_by_names_relative_to_where_they_were_found(tmp_path):
    for name in (
        "one.safetensors",
        "deep/er/two.safetensors",
        "Qwen3-VL/config.json",
        "Qwen3-VL/model-1.safetensors",
        "Qwen3-VL/model-2.safetensors",
    ):
        touch(tmp_path / "a" / name)
    for name in (
        "x/Thinking/config.json",
        "x/Thinking/model.safetensors",
        "notes.txt",
        "empty/config.json",
        ".hidden/three.safetensors",
        "old.bin",
    ):
        touch(tmp_path / "b" / name)
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert find(roots) == {
        "one.safetensors": str(tmp_path / "a" / "one.safetensors"),
        "deep/er/two.safetensors": str(tmp_path / "a" / "deep" / "er" / "two.safetensors"),
        "Qwen3-VL": str(tmp_path / "a" / "Qwen3-VL"),
        "x/Thinking": str(tmp_path / "b" / "x" / "Thinking"),
    }


def test_the_first_folder_wins_where_names_are_the_same(tmp_path):
    for root in ("a", "b"):
        touch(tmp_path / root / "one.safetensors")
    assert find([str(tmp_path / "b"), str(tmp_path / "a")])["one.safetensors"].startswith(str(tmp_path / "b"))


def test_no_name_leaves_its_folder(tmp_path):
    touch(tmp_path / "secret.safetensors")
    touch(tmp_path / "root" / "in" / "one.safetensors")
    names = find([str(tmp_path / "root"), str(tmp_path / "root") + "/"])
    assert set(names) == {"in/one.safetensors"}
    assert not any(name.startswith(("/", "..")) or ".." in name.split("/") for name in names)
    for name in (
        "../secret.safetensors",
        "/etc/passwd",
        str(tmp_path / "secret.safetensors"),
        "in/../../secret.safetensors",
    ):
        assert name not in names


def test_folders_that_are_not_there_and_links_in_a_circle_do_no_harm(tmp_path):
    touch(tmp_path / "root" / "one.safetensors")
    os.symlink(tmp_path / "root", tmp_path / "root" / "again", target_is_directory=True)
    names = find([str(tmp_path / "nowhere"), str(tmp_path / "root")])
    assert names["one.safetensors"] == str(tmp_path / "root" / "one.safetensors")
    assert len(names) < 10


# --- memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_stored_in_the_wanted_dtype_stay_in_the_mapped_file(state, tmp_path):
    path = tiny.save_single(
        {name: value.to(torch.bfloat16) for name, value in state.items()}, tmp_path / "one.safetensors"
    )
    opened = load(open_checkpoint(str(path)), torch.bfloat16)
    assert all(mapped(weight.data_ptr(), path) for weight in [opened.embedding.weight, *opened.module.parameters()])


MEASURE = """
import sys, torch
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
path, small = sys.argv[1:]
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
load(open_checkpoint(small), torch.float32)  # everything is imported and warm
before = peak()
model = load(open_checkpoint(path), torch.bfloat16)
# every page is really there
sum(int(weight.view(torch.uint8).flatten()[::4096].sum()) for weight in model.module.parameters())
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_loading_does_not_hold_the_weights_twice(kind, tokenizer, folder, tmp_path, root):
    """Peak memory of a process that loads about 200 MB (in fp8: 100), above what the same imports take: that of the
    file."""
    config = tiny.make_config(tokenizer)
    config.text_config.num_hidden_layers = 40
    config.text_config.intermediate_size = 12_800
    with torch.device("meta"):
        shapes = {
            name: weight.shape for name, weight in Qwen3VLForConditionalGeneration(config).model.named_parameters()
        }
    state = {}
    for name, shape in shapes.items():
        state[name] = torch.full(shape, 0.5, dtype=torch.bfloat16)  # not zeros: pages that hold nothing take no memory
        if kind == "fp8" and tiny.is_linear(name, state[name]):
            state[name] = state[name].to(torch.float8_e4m3fn)
            state[name + "_scale"] = torch.ones(())
    path = tiny.save_single(state, tmp_path / "large.safetensors")
    weights = sum(value.nbytes for value in state.values())
    del state
    assert weights > {"bf16": 190e6, "fp8": 95e6}[kind]
    # The C library maps tensors as large as real ones by themselves, but puts tensors as small as these into one heap,
    # where gaps remain.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(folder)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert weights * 0.9 < int(done.stdout) < weights * 1.15
