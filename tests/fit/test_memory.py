"""The memory of learning: what is calculated is what torch keeps."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from zvl_ext.conditioning import Part, joined
from zvl_ext.fit.memory import Learned, Shape, needed, tokens_of
from zvl_ext.hosts.standalone_learning import learning
from zvl_ext.weighting import Weighting

WIDTH, HEADS, ROWS = 480, 4, 64


def image_model(layers: int) -> torch.nn.Module:
    from diffusers import ZImageTransformer2DModel

    return (
        ZImageTransformer2DModel(
            all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=WIDTH, n_layers=layers, n_refiner_layers=1,
            n_heads=HEADS, n_kv_heads=HEADS, cap_feat_dim=32, axes_dims=[24, 48, 48], axes_lens=[512, 64, 64],
        )
        .bfloat16()
        .requires_grad_(False)
    )  # fmt: skip


def kept(model: torch.nn.Module, recompute: bool) -> int:
    """Bytes that torch keeps for gradients, the model's own weights left out."""
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    part = Part(Weighting(0.5), block=torch.randn(32, 32), counts=torch.ones(32))
    wanted = [joined(torch.randn(ROWS - 32, 32), (part,), 0, torch.bfloat16)]
    tables = [torch.zeros(len(blocks), HEADS, requires_grad=True) for blocks in (model.layers, model.context_refiner)]
    model.enable_gradient_checkpointing() if recompute else model.disable_gradient_checkpointing()
    latents, time = [torch.randn(16, 1, 32, 32).bfloat16()], torch.tensor([0.5]).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), learning(model, wanted, [0.5], *tables):
        output = model(latents, time, [each.rows for each in wanted], return_dict=False)[0]
        assert output[0].requires_grad
    return sum(seen.values())


def calculated(blocks: int, recompute: bool) -> int:
    tokens = tokens_of(256, ROWS)
    assert tokens == 256 + 64
    return needed(Shape(10**6, blocks, HEADS, WIDTH), 2, tokens, 1, recompute, 10, 100).activations


def test_what_a_block_keeps_is_what_is_counted():
    torch.manual_seed(0)
    more = kept(image_model(3), False) - kept(image_model(2), False)
    assert more == pytest.approx(calculated(3, False) - calculated(2, False), rel=0.1)


def test_recomputing_keeps_what_goes_into_a_block():
    torch.manual_seed(0)
    more = kept(image_model(3), True) - kept(image_model(2), True)
    assert more == pytest.approx(calculated(3, True) - calculated(2, True), rel=0.25)


def test_it_is_said_in_a_line():
    need = needed(Shape(6 * 10**9, 34, 30, 3840), 2, tokens_of(512, 400), 1, True, 600, 400 * 2560 * 2)
    assert need.weights == 12 * 10**9
    assert need.conditionings == 3 * 600 * 400 * 2560 * 2
    line = need.line(24, "cuda")
    assert "11.18 the image model" in line
    assert "on cuda" in line


def test_a_lora_adds_its_numbers_and_what_blocks_keep_for_it():
    shape, tokens = Shape(10**6, 3, HEADS, WIDTH), tokens_of(256, ROWS)
    without = needed(shape, 2, tokens, 1, False, 10, 100)
    need = needed(shape, 2, tokens, 1, False, 10, 100, Learned(1000, 64))
    assert need.learned == 32 * 1000
    assert need.activations - without.activations == 3 * tokens * 64
    assert "what is learned" in need.line(24, "cuda")
    assert "what is learned" not in without.line(24, "cuda")


def test_what_a_block_keeps_for_a_lora_is_what_is_counted():
    pytest.importorskip("peft", reason="a LoRA needs peft, an optional package")
    from peft import LoraConfig

    from zvl_ext.fit.adapters import Form

    def added(layers: int) -> int:
        plain, model, form = image_model(layers), image_model(layers), Form(8, 8.0)
        model.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=list(form.of(model))))
        for name, each in model.named_parameters():
            each.data = each.data.float() if "lora" in name else each.data
        return kept(model, False) - kept(plain, False)

    torch.manual_seed(0)
    counted = Form(8, 8.0).learned(image_model(1), 1 + 2).kept * tokens_of(256, ROWS)
    assert added(2) - added(1) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(("side", "rows", "tokens"), [(512, 1, 1056), (80, 40, 96), (1024, 64, 4160)])
def test_tokens_are_filled_as_the_image_model_does(side, rows, tokens):
    assert tokens_of(side, rows) == tokens


def test_the_page_names_what_is_calculated_for_the_real_sizes():
    """Z-Image as diffusers declares it, a conditioning of 384 rows: a prompt of 60 tokens and a reference of 324."""
    from diffusers import ZImageTransformer2DModel

    from zvl_ext.fit.adapters import Form

    with torch.device("meta"):
        transformer = ZImageTransformer2DModel()
    parameters, blocks = sum(each.numel() for each in transformer.parameters()), 34
    lora = Form().learned(transformer, blocks)

    def takes(side, learned):
        return needed(Shape(parameters, blocks, 30, 3840), 2, tokens_of(side, 384), 1, True, 600, 384 * 5120, learned)

    def gib(side, learned, digits):
        need = takes(side, learned)
        return f"{(need.weights + need.activations + need.learned) / 2**30:.{digits}f} GiB"

    page = (Path(__file__).parents[2] / ".github" / "docs" / "research.md").read_text(encoding="utf-8")
    profile, projection, adapter = re.findall(r"(?:Calculated|How much it takes).*?(?:\n\n|\n- )", page, re.S)
    assert [gib(512, Learned(), 1), gib(1024, Learned(), 0)] == re.findall(r"[\d.]+ GiB", profile)
    operations = takes(512, Learned()).operations
    assert f"{operations / 1e12:.0f} TFLOP for" in profile
    assert 18 <= 1000 * operations / 60e12 / 60 <= 22, "twenty minutes at 60 TFLOP/s"
    assert [gib(512, lora, 1), gib(1024, lora, 0)] == re.findall(r"[\d.]+ GiB", adapter)
    assert f"{lora.numbers / 1e6:.0f} million numbers" in adapter
    assert f"the\nfile has {2 * lora.numbers / 2**20:.0f} MiB" in adapter

    from zvl_ext.fit import projection as fitting

    for hidden, number in ((4096, "42 MB"), (2048, "21 MB")):
        assert number == f"{4 * 2560 * (hidden + 1) / 1e6:.3g} MB"
        assert number in projection
    assert f"{fitting.memory(4096, 2560, 3) / 2**30:.1f} GiB" == "1.9 GiB"
    assert f"{fitting.memory(2048, 2560, 3) / 2**30:.1f}" == "0.6"
    assert "1.9 GiB of main memory for 8B and\n  three layers, 0.6 for 2B" in projection
