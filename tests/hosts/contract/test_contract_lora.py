"""A LoRA that is written here, in the web UI's own loader: every name is taken, and its weights are what they should
be."""

from __future__ import annotations

from types import SimpleNamespace

import hosts  # enters the web UI
import pytest
import tiny
import torch
from backend.nn import lumina
from backend.patcher.lora import load_lora, merge_lora_to_weight, model_lora_keys_unet

from zvl_ext.loras import read_lora, write_lora

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "ZImageTransformer2DModel"):
    pytest.skip("this diffusers has no Z-Image", allow_module_level=True)

from zvl_ext.fit.adapters import LAYERS, Form  # noqa: E402  diffusers is behind it

CONFIG = {"dim": 64, "n_layers": 2, "n_refiner_layers": 1}
RANK, ALPHA, STRENGTH = 3, 2.0, 0.75


@pytest.fixture(scope="module")
def model() -> SimpleNamespace:
    """The web UI's image model at a small size, held as it holds it."""
    with torch.device("cpu"):
        inner = lumina.NextDiT(
            patch_size=2, in_channels=16, **CONFIG, n_heads=4, n_kv_heads=4, multiple_of=1, ffn_dim_multiplier=8 / 3,
            qk_norm=True, cap_feat_dim=32, axes_dims=[4, 6, 6], axes_lens=[512, 64, 64], rope_theta=256.0,
            z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32,
        )  # fmt: skip
    inner = tiny.randomized(inner)
    inner.config = CONFIG
    weights = {f"diffusion_model.{name}": each.detach() for name, each in inner.state_dict().items()}
    repository = SimpleNamespace(huggingface_repo="Tongyi-MAI/Z-Image-Turbo")
    return SimpleNamespace(diffusion_model=inner, config=repository, state_dict=lambda: weights)


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """diffusers' of the same size: the layers that a LoRA is fitted to."""
    with torch.device("meta"):
        return diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, **CONFIG, n_heads=4, n_kv_heads=4,
            cap_feat_dim=32, axes_dims=[4, 6, 6], axes_lens=[512, 64, 64],
        )  # fmt: skip


@pytest.mark.parametrize("layers", LAYERS)
def test_the_web_ui_takes_every_name_and_adds_what_was_learned(model, theirs, tmp_path, layers):
    if layers == "blocks" and not hosts.REAL:
        pytest.skip("the stand-in's blocks have a simpler feed-forward part: set ZVL_HOST")
    form, made = Form(RANK, ALPHA, layers), torch.Generator().manual_seed(2)
    pairs = {
        layer: (torch.randn(RANK, inputs, generator=made), torch.randn(outputs, RANK, generator=made))
        for layer, (inputs, outputs) in form.of(theirs).items()
    }
    path = str(tmp_path / "own.safetensors")
    write_lora(path, pairs, form.alpha, {"rank": str(RANK)})

    patches, left = load_lora(read_lora(path), model_lora_keys_unet(model, {}))
    assert not left, "a name is not taken"
    assert len(patches) == len(pairs)
    weights, patched = model.state_dict(), {}
    for to, patch in patches.items():
        name, offset = (to, None) if isinstance(to, str) else to
        before = patched.get(name, weights[name])
        patched[name] = merge_lora_to_weight([(STRENGTH, patch, 1.0, offset, None)], before, name, torch.float32)

    expected = {}
    for layer, (down, up) in pairs.items():
        block, _, end = layer.partition(".attention.")
        added = STRENGTH * ALPHA / RANK * up @ down
        if end in ("to_q", "to_k", "to_v"):
            name, start = f"diffusion_model.{block}.attention.qkv.weight", 64 * "qkv".index(end[-1])
            expected.setdefault(name, weights[name].clone())[start : start + 64] += added
        else:
            name = f"diffusion_model.{block}.attention.out" if end else f"diffusion_model.{layer}"
            expected[f"{name}.weight"] = weights[f"{name}.weight"] + added
    assert patched.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(patched[name], each, atol=1e-5, rtol=1e-5)
    blocks = 2 + 1 + 1
    assert len(patched) == blocks * {"attention": 2, "blocks": 5}[layers]
