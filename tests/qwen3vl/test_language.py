"""Hidden states against plain transformers: the same class, called in its own way with its own image processor."""

import pytest
import tiny
import torch
from cases import PICTURES, PROMPTS, TOKENS, sequence_for
from compare import relative_error

from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
from zvl_ext.reference import open_reference
from zvl_ext.sequence import TEMPLATE, build_sequence

LAYERS = range(-5, 0)


def compare(loaded, plain, tokenizer, encode, prompt, size, system="", tokens=TOKENS) -> None:
    """Every layer and every token mode of one prompt and picture."""
    image = tiny.picture(*size)
    reference = open_reference(image)
    pixels = tiny.plain_pixels(image, tokens)
    images = int(pixels["image_grid_thw"].prod()) // 4
    ids, modes = tiny.plain_ids(tokenizer, prompt, images, system)
    wanted = tiny.plain_hidden_states(plain, ids, pixels, modes["image_no_markers"])

    sequence = sequence_for(loaded.checkpoint, encode, prompt, reference, tokens, system)
    assert list(sequence.ids) == ids
    got = loaded.hidden_states(sequence, reference, tokens, LAYERS)
    assert set(got) == set(LAYERS)
    for layer in LAYERS:
        assert got[layer].dtype == torch.float32
        assert got[layer].device.type == "cpu"
        for mode, rows in modes.items():
            assert relative_error(got[layer][sequence.rows(mode)], wanted[layer][rows]) <= 1e-3, (layer, mode)


# --- parity


@pytest.mark.parametrize("name", PROMPTS)
def test_every_layer_and_token_mode_is_that_of_transformers_for_any_prompt(name, loaded, model, tokenizer, encode):
    compare(loaded, model, tokenizer, encode, PROMPTS[name], (160, 96))


@pytest.mark.parametrize("name", PICTURES)
def test_every_layer_and_token_mode_is_that_of_transformers_for_any_picture(name, loaded, model, tokenizer, encode):
    compare(loaded, model, tokenizer, encode, "a photo of a cat", PICTURES[name])


@pytest.mark.parametrize("system", ["Describe the style.", "\n\nTwo lines\n\n", "<|image_pad|>"])
def test_with_a_system_text_the_states_are_still_those_of_transformers(system, loaded, model, tokenizer, encode):
    compare(loaded, model, tokenizer, encode, "a photo of a cat", (160, 96), system)


def test_a_model_whose_config_tells_what_its_shapes_do_not_is_read_by_its_config(
    irregular, irregular_folder, tokenizer, encode
):
    loaded = load(open_checkpoint(str(irregular_folder)), torch.float32)
    for name in ("ordinary", "two line breaks first"):
        compare(loaded, irregular, tokenizer, encode, PROMPTS[name], (160, 96))


def test_a_single_file_gives_the_states_of_the_folder(model, tokenizer, encode, tmp_path):
    path = tiny.save_single(
        tiny.inner_state(model),
        tmp_path / "one.safetensors",
        "model.layers + visual",
        tiny.config_metadata(model.config),
    )
    compare(load(open_checkpoint(str(path)), torch.float32), model, tokenizer, encode, "a photo of a cat", (160, 96))


def test_a_single_file_whose_configuration_is_derived_gives_the_states_of_the_folder(model, loaded, encode, tmp_path):
    """Without metadata the ids of the vision block are Qwen3-VL's own, which this vocabulary does not have: the
    sequence brings others."""
    path = tiny.save_single(tiny.inner_state(model), tmp_path / "one.safetensors", "model.layers + visual")
    derived = load(open_checkpoint(str(path)), torch.float32)
    reference = open_reference(tiny.picture(160, 96))
    sequence = sequence_for(loaded.checkpoint, encode, "a cat", reference)
    got, wanted = (each.hidden_states(sequence, reference, TOKENS, LAYERS) for each in (derived, loaded))
    assert all(torch.equal(got[layer], wanted[layer]) for layer in LAYERS)


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_fp8_weights_give_the_states_of_the_weights_they_stand_for(kind, model, tokenizer, encode, tmp_path):
    stored, meant = tiny.quantize(tiny.inner_state(model), kind)
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors", metadata=tiny.config_metadata(model.config))
    plain = tiny.make_model(model.config)
    for name, weight in plain.model.named_parameters():
        weight.copy_(meant[name].float())
    compare(load(open_checkpoint(str(path)), torch.float32), plain, tokenizer, encode, "a photo of a cat", (160, 96))


def test_in_bfloat16_the_states_are_near_those_in_float32(folder, loaded, encode):
    reference = open_reference(tiny.picture(160, 96))
    sequence = sequence_for(loaded.checkpoint, encode, "a cat", reference)
    half = load(open_checkpoint(str(folder)), torch.bfloat16).hidden_states(sequence, reference, TOKENS, [-2])
    assert half[-2].dtype == torch.float32
    assert 0 < relative_error(half[-2], loaded.hidden_states(sequence, reference, TOKENS, [-2])[-2]) < 0.05


# --- causality, which everything that is reused relies on


def test_image_rows_depend_on_the_reference_alone(loaded, encode):
    reference = open_reference(tiny.picture(160, 96))
    rows = []
    for prompt in ("a cat", "something entirely different and longer"):
        sequence = sequence_for(loaded.checkpoint, encode, prompt, reference)
        rows.append(loaded.hidden_states(sequence, reference, TOKENS, [-2])[-2][sequence.rows("image")])
    assert relative_error(*rows) < 1e-5


def test_text_rows_behind_the_image_see_it_and_those_before_do_not(loaded, encode):
    rows = []
    for seed in (0, 1):
        reference = open_reference(tiny.picture(160, 96, seed))
        sequence = sequence_for(loaded.checkpoint, encode, "a cat", reference)
        rows.append(loaded.hidden_states(sequence, reference, TOKENS, [-2])[-2][sequence.rows("text")])
    assert relative_error(rows[0][:3], rows[1][:3]) < 1e-5
    assert relative_error(rows[0][3:], rows[1][3:]) > 1e-3


# --- refusals


@pytest.mark.parametrize("layer", [0, 1, -6, -36])
def test_a_layer_that_does_not_exist_is_refused(layer, loaded, prepared, refused):
    with refused(f"Hidden layer {layer} does not exist"):
        loaded.hidden_states(*prepared, TOKENS, [-1, layer])


@pytest.mark.parametrize("extra", [tiny.EMBEDDINGS, 151655])
def test_ids_outside_the_vocabulary_are_refused(extra, loaded, encode, refused):
    reference = open_reference(tiny.picture(160, 96))
    sequence = build_sequence(
        [*encode(TEMPLATE.format("a")), extra], (3, 5), encode, "", loaded.checkpoint.vision_tokens
    )
    with refused(f"vocabulary of {tiny.EMBEDDINGS}, the prompt a token {extra}"):
        loaded.hidden_states(sequence, reference, TOKENS, [-1])


def test_a_sequence_for_another_picture_is_a_mistake_of_the_program(loaded, prepared):
    with pytest.raises(ValueError, match="built for"):
        loaded.hidden_states(prepared[0], open_reference(tiny.picture(96, 96)), TOKENS, [-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_layer_and_the_model_stays_whole(
    value, folder, encode, prepared, refused
):
    broken = load(open_checkpoint(str(folder)), torch.float32)
    weight = broken.module.language_model.layers[2].mlp.down_proj.weight
    broken.module.language_model.layers[2].mlp.down_proj.weight = torch.nn.Parameter(
        torch.full_like(weight, value), requires_grad=False
    )
    with refused(r"Hidden layer -2 of tiny-vl has values that are not finite"):
        broken.hidden_states(*prepared, TOKENS, [-2])
    assert len(broken.module.language_model.layers) == 5
    assert torch.isfinite(broken.hidden_states(*prepared, TOKENS, [-5])[-5]).all()


def test_a_transformers_without_qwen3_vl_is_refused_with_what_to_do(checkpoint, monkeypatch, refused):
    import transformers

    monkeypatch.setitem(transformers.__dict__, "Qwen3VLConfig", None)
    monkeypatch.setitem(__import__("sys").modules, "transformers.models.qwen3_vl.modeling_qwen3_vl", None)
    with refused(r"transformers 4\.57 or newer .*pip install"):
        load(checkpoint, torch.float32)
