"""The vision tower alone: what it is shown, what it makes of it, and that nothing else is read for it."""

import pytest
import tiny
import torch
from cases import PICTURES, SIZES, TOKENS
from compare import assert_close, relative_error

from zvl_ext.qwen3vl import language, vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.reference import open_reference, sized


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (64, 160), (320, 32)])
def test_patches_are_those_of_transformers_image_processor(size):
    image = tiny.picture(*size)
    wanted = tiny.plain_pixels(image, 256)
    got, grid = vision.patches(image)
    assert [1, *grid] == wanted["image_grid_thw"][0].tolist()
    assert torch.allclose(got, wanted["pixel_values"].float(), atol=1e-6)


@pytest.mark.parametrize("name", PICTURES)
def test_the_grid_is_that_of_transformers_image_processor(name, checkpoint):
    image = tiny.picture(*PICTURES[name])
    _, rows, columns = tiny.plain_pixels(image, TOKENS)["image_grid_thw"][0].tolist()
    assert checkpoint.grid(open_reference(image), TOKENS) == (rows // 2, columns // 2)


# --- the tower


def tower_tokens(path, size=(150, 77), dtype=torch.float32) -> torch.Tensor:
    """What the tower alone makes of a picture, loaded from a folder or a file."""
    checkpoint = open_checkpoint(str(path))
    return vision.stacked_tokens(
        vision.load(checkpoint, dtype), sized(open_reference(tiny.picture(*size)), TOKENS, checkpoint.unit)
    )


def whole_tokens(model, size=(150, 77)) -> torch.Tensor:
    return tiny.plain_image_tokens(model, tiny.plain_pixels(tiny.picture(*size), TOKENS))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_the_tower_alone_is_the_whole_models(kind, size, model, request):
    """Image tokens and every DeepStack addition."""
    got = tower_tokens(request.getfixturevalue(kind), size)
    wanted = whole_tokens(model, size)
    assert got.dtype == torch.float32
    assert got.shape[0] == 4
    for one, other in zip(got, wanted):
        assert_close(one, other)


def test_the_tower_alone_is_made_by_the_config_where_its_shapes_do_not_tell(irregular, irregular_folder):
    assert_close(tower_tokens(irregular_folder), whole_tokens(irregular))


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("told", [True, False], ids=["configuration told", "configuration derived"])
def test_the_tower_alone_is_read_from_single_files(layout, told, model, state, tmp_path):
    metadata = tiny.config_metadata(model.config) if told else None
    assert_close(
        tower_tokens(tiny.save_single(state, tmp_path / "one.safetensors", layout, metadata)), whole_tokens(model)
    )


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_the_tower_alone_is_read_from_fp8_files_with_a_tower_in_bf16(kind, model, state, tmp_path):
    stored, meant = tiny.quantize(state, kind)
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors", metadata=tiny.config_metadata(model.config))
    plain = tiny.make_model(model.config)
    for name, weight in plain.model.named_parameters():
        weight.copy_(meant[name].float())
    assert_close(tower_tokens(path), whole_tokens(plain))


def test_a_tower_in_fp8_is_multiplied_with_its_scales(model, state, tmp_path):
    stored = {name: value.to(torch.bfloat16) for name, value in state.items()}
    plain = tiny.make_model(model.config)
    for name, weight in plain.model.named_parameters():
        if name.startswith("visual.blocks.") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix(".weight") + ".weight_scale"] = scale
            weight.copy_(stored[name].float() * scale)
        else:
            weight.copy_(stored[name].float())
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors", metadata=tiny.config_metadata(model.config))
    assert_close(tower_tokens(path), whole_tokens(plain))


def test_the_tower_in_bfloat16_is_near_float32(folder):
    assert 0 < relative_error(tower_tokens(folder, dtype=torch.bfloat16), tower_tokens(folder)) < 0.05


@pytest.mark.parametrize("kind", ["folder", "sharded", "one file"])
def test_only_the_towers_tensors_are_read_and_each_once(kind, request, state, tmp_path, get_tensor):
    path = (
        tiny.save_single(state, tmp_path / "one.safetensors") if kind == "one file" else request.getfixturevalue(kind)
    )
    checkpoint = open_checkpoint(str(path))
    assert get_tensor == {}  # headers alone tell what is in the files
    vision.load(checkpoint, torch.float32)
    assert set(get_tensor) == {stored.key for name, stored in checkpoint.tensors.items() if name.startswith("visual.")}
    assert all(".visual." in key or key.startswith("visual.") for key in get_tensor)
    assert sum(get_tensor.values()) == 4 * checkpoint.count("visual.") < 4 * checkpoint.parameters


@pytest.mark.parametrize(
    "name",
    ["merger.linear_fc1.weight", "blocks.3.attn.qkv.bias", "pos_embed.weight", "deepstack_merger_list.2.norm.bias"],
)
def test_a_missing_tensor_of_the_tower_is_named(name, model, state, tmp_path, refused):
    rest = {key: value for key, value in state.items() if key != "visual." + name}
    path = tiny.save_single(rest, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    with refused(f"one.safetensors: the tensor visual.{name} is missing"):
        vision.load(open_checkpoint(str(path)), torch.float32)


@pytest.mark.parametrize("fault", ["missing", "misshapen"])
def test_what_is_wrong_with_the_language_model_does_not_matter_to_the_tower(fault, model, state, tmp_path, refused):
    name = "language_model.layers.3.mlp.up_proj.weight"
    faulty = {key: value for key, value in state.items() if key != name}
    if fault == "misshapen":
        faulty[name] = state[name][:-1]
    path = tiny.save_single(faulty, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    assert_close(tower_tokens(path), whole_tokens(model))
    with refused("language_model.layers.3"):
        language.load(open_checkpoint(str(path)), torch.float32)
