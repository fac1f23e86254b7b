"""What is not a whole Qwen3-VL is refused with the name of what is wrong."""

import json
import pickle
import re
import shutil
import struct
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load


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


@pytest.mark.parametrize("dtype", ["a\nb", "x" * 5000, "\ud800", 5, None, [], ""], ids=range(7))
def test_a_type_of_any_content_is_refused_in_one_short_line(dtype, copied, refused):
    with (copied / "model.safetensors").open("rb+") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["model.visual.pos_embed.weight"]["dtype"] = dtype
        data = json.dumps(header).encode()
        file.seek(0)
        file.write(struct.pack("<Q", len(data)) + data)
    with refused("^copied: model.safetensors is not a whole .{20,120} Download it again.$"):
        open_checkpoint(str(copied))


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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("qwen3", "Qwen3 .*text only"),
        ("qwen2_5_vl", r"Qwen2\.5-VL"),
        ("qwen3_5", r"Qwen3\.5"),
        ("qwen3_vl_moe", "Qwen3-VL-MoE"),
        ("llama", "llama"),
        ("a\nb\ud800" + "x" * 10_000, "a b.x"),
        (None, "another model"),
        (5, "another model"),
        ([], "another model"),
    ],
)
def test_the_config_of_another_model_is_refused_with_its_name(kind, said, copied, refused):
    config = json.loads((copied / "config.json").read_text())
    if isinstance(kind, str):  # JSON can't hold half a character
        kind = kind.encode("utf-8", "replace").decode()
    (copied / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with refused(f"copied is not a Qwen3-VL-4B: it is .*{said}"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(("width", "size"), [(2048, "2B"), (4096, "8B"), (5120, "32B")])
def test_another_size_is_refused_with_its_size_and_not_to_be_downloaded_again(width, size, copied, refused):
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["hidden_size"] = width
    (copied / "config.json").write_text(json.dumps(config))
    with refused(f"copied is not a Qwen3-VL-4B: it is a Qwen3-VL-{size}(?!.* again)"):
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


def test_a_model_without_eyes_is_refused(state, tmp_path, refused):
    rest = {name: value for name, value in state.items() if not name.startswith("visual.")}
    with refused("is not a Qwen3-VL-4B: it is a Qwen3 .*text only: it has no vision tower"):
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
    "name",
    [
        "language_model.layers.999999999.mlp.up_proj.weight",
        "language_model.layers.7.mlp.up_proj.weight",
        "language_model.layers.05.mlp.up_proj.weight",
        "visual.blocks.9.norm1.weight",
        "visual.deepstack_merger_list.4.norm.weight",
    ],
    ids=range(5),
)
@pytest.mark.parametrize("shape", [(2,), (0,)])
def test_a_layer_after_a_gap_is_named_and_never_counted(name, shape, copied, state, tmp_path, refused):
    tensors = load_file(copied / "model.safetensors")
    tensors["model." + name] = torch.zeros(shape)
    save_file(tensors, copied / "model.safetensors")
    save_file(
        tiny.in_layout(state, "model.language_model + model.visual") | {"model." + name: torch.zeros(shape)},
        tmp_path / "one.safetensors",
    )
    for path in (copied, tmp_path / "one.safetensors"):
        with refused(f"the tensor {re.escape(name[:40])}.* is not part of a Qwen3|the weights have"):
            open_checkpoint(str(path))


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


@pytest.mark.parametrize("size", ["2B", "8B"])
def test_another_size_is_opened_for_whoever_has_a_projection(size, copied, refused, monkeypatch):
    from zvl_ext.qwen3vl import kinds

    width = json.loads((copied / "config.json").read_text())["text_config"]["hidden_size"]
    monkeypatch.setitem(kinds._SIZES["Qwen3-VL"], width, size)
    with refused(f"copied is not a Qwen3-VL-4B: it is a Qwen3-VL-{size}"):
        open_checkpoint(str(copied))
    opened = open_checkpoint(str(copied), any_size=True)
    assert opened.hidden_size == width
    with refused(f"copied: .* is {width} wide, the image model's text encoder 2560.*projection"):
        opened.require_width(2560)
