"""Weights in fp8 and their scales: what is multiplied with what, and which quantizations are refused."""

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file
from weights import EMBEDDING, every_weight, loaded_state

from zvl_ext.qwen3vl import vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.fp8 import dequantize
from zvl_ext.qwen3vl.language import load
from zvl_ext.qwen3vl.scales import block_of


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


# --- refused where the language model is asked for: for engine splice such a file is as good as any

LAYER = "language_model.layers.2.mlp.down_proj"


@pytest.fixture
def opens_for_splice_only(state, tmp_path, refused, model):
    """Saves tensors: the file opens, its vision tower is read, and its language model is refused with a pattern."""

    def check(stored: dict[str, torch.Tensor], pattern: str) -> None:
        path = tiny.save_single(stored, tmp_path / "q.safetensors", metadata=tiny.config_metadata(model.config))
        opened = open_checkpoint(str(path))
        tower = vision.load(opened, torch.float32)
        assert all(torch.equal(value, state["visual." + name]) for name, value in tower.named_parameters())
        for asked in (opened.require_language, lambda: opened.check_layer(-2), lambda: load(opened, torch.float32)):
            with refused(pattern):
                asked()
        with refused(rf"{pattern}.*Engine splice can use the file.*5\.2 GB"):
            opened.require_language()

    return check


def quantized(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    stored, _ = tiny.quantize(state, kind)
    return stored | {name: value for name, value in state.items() if name.startswith("visual.")}


@pytest.mark.parametrize("shape", [(5,), (3, 3), (7, 1), (2, 2, 2), (96,), (65, 1), (0,), (64, 96), (64, 5, 1)])
def test_a_scale_that_does_not_fit_its_tensor_is_refused_by_name(shape, state, opens_for_splice_only):
    """But for (64, 96): a number for each weight is a block of one."""
    stored = quantized(state, "rows") | {LAYER + ".weight_scale": torch.ones(shape)}
    if shape == (64, 96):
        assert block_of((64, 96), shape) == (1, 1)
        return
    opens_for_splice_only(
        stored, r"^q\.safetensors: the scale of language_model\.layers\.2\.mlp\.down_proj\.weight does"
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_a_scale_in_a_form_that_is_none_of_numbers_is_refused(dtype, state, opens_for_splice_only):
    stored = quantized(state, "rows") | {LAYER + ".weight_scale": torch.ones(64).to(dtype)}
    opens_for_splice_only(stored, r"the scale of language_model\.layers\.2\.mlp\.down_proj\.weight is stored as")


NOTES = [
    {"format": "nvfp4"},
    {"format": "mxfp8"},
    {"format": "int8"},
    {"format": "int8_tensorwise", "convrot": True},
    {"format": "float8_e5m2"},
    {"format": "float8_e4m3fn_of_the_future"},
    {"format": "convrot_w4a4"},
    {"format": 8},
    {"format": None},
    {"format": ["float8_e4m3fn"]},
    {"format": "float8_e4m3fn", "convrot": True, "convrot_groupsize": 32},
    {"format": "float8_e4m3fn", "convrot": True, "convrot_groupsize": "16"},
    {"format": "float8_e4m3fn", "convrot": True, "convrot_groupsize": -4},
    {"format": "float8_e4m3fn", "convrot": True, "convrot_groupsize": 10**30},
    {},
    [],
    "float8_e4m3fn",
    5,
]


@pytest.mark.parametrize("said", NOTES)
def test_another_quantization_is_refused_by_its_name(said, state, opens_for_splice_only):
    stored = quantized(state, "comfy") | {LAYER + ".comfy_quant": tiny.as_bytes(said)}
    opens_for_splice_only(stored, r"down_proj\.comfy_quant says")


@pytest.mark.parametrize(
    "note",
    [
        torch.tensor([255, 0, 1], dtype=torch.uint8),
        torch.tensor(list(b"[" * 60_000), dtype=torch.uint8),
        torch.tensor(list(b'{"a":' * 10_000), dtype=torch.uint8),
        torch.tensor(list(b'{"format": ' + b"1" * 5000 + b"}"), dtype=torch.uint8),
        torch.tensor(list(b'{"format": "\\ud800"}'), dtype=torch.uint8),
        torch.zeros(2**20, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(5),
        torch.zeros(3, 3, 3, dtype=torch.int64),
    ],
    ids=["bytes", "deep", "deeper", "long number", "half a character", "long", "empty", "floats", "numbers"],
)
def test_a_quantization_note_of_any_content_is_refused(note, state, opens_for_splice_only):
    stored = quantized(state, "comfy") | {LAYER + ".comfy_quant": note}
    opens_for_splice_only(stored, r"down_proj\.comfy_quant says")


def test_notes_in_the_metadata_count_as_well(state, tmp_path, refused):
    stored = quantized(state, "comfy")
    del stored[LAYER + ".comfy_quant"]
    notes = {"layers": {"model." + LAYER: {"format": "nvfp4"}, "model.something.else": {"format": "nvfp4"}}}
    path = tiny.save_single(stored, tmp_path / "q.safetensors", metadata={"_quantization_metadata": json.dumps(notes)})
    with refused(r"down_proj\.comfy_quant says 'nvfp4'"):
        open_checkpoint(str(path)).require_language()


@pytest.mark.parametrize("text", ["", "[", "[]", "5", "{}", '{"layers": 3}', '{"layers": [1]}', "[" * 100_000])
def test_metadata_that_is_no_note_says_nothing(text, state, tmp_path):
    path = tiny.save_single(state, tmp_path / "one.safetensors", metadata={"_quantization_metadata": text})
    open_checkpoint(str(path)).require_language()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float64])
def test_weights_in_another_dtype_are_refused_by_name(dtype, state, opens_for_splice_only):
    name = "language_model.layers.1.mlp.up_proj.weight"
    opens_for_splice_only(
        state | {name: state[name].to(dtype)}, r"language_model\.layers\.1\.mlp\.up_proj\.weight is stored as"
    )


@pytest.mark.parametrize("leaf", ["weight_scale_2", "pre_quant_scale", "weight_zero_point", "scale_weight_tensor"])
def test_what_changes_the_meaning_of_a_weight_beside_it_is_refused(leaf, state, opens_for_splice_only):
    """The second scale of nvfp4, of ModelOpt's smoothing and of musubi-tuner; a zero point."""
    stored = quantized(state, "rows") | {f"{LAYER}.{leaf}": torch.ones(1)}
    opens_for_splice_only(stored, rf"language_model\.layers\.2\.mlp\.down_proj\.weight has {leaf} beside it")


def test_a_vision_tower_that_cannot_be_read_is_refused_when_it_is_opened(state, tmp_path, refused):
    state["visual.blocks.1.mlp.linear_fc1.weight"] = state["visual.blocks.1.mlp.linear_fc1.weight"].to(torch.int32)
    with refused(r"the tensor visual\.blocks\.1\.mlp\.linear_fc1\.weight is stored as I32, which can't be read"):
        open_checkpoint(str(tiny.save_single(state, tmp_path / "q.safetensors")))
