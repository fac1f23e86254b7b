"""Weights in fp8 and their scales: what is multiplied with what, and which quantizations are refused."""

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file
from weights import EMBEDDING, every_weight, loaded_state

from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.fp8 import dequantize
from zvl_ext.qwen3vl.language import load


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
