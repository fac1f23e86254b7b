"""Hidden states against plain transformers: the same class, called in its own way with its own image processor."""

import sys

import pytest
import tiny
import torch
from cases import PICTURES, PROMPTS, TOKENS, sequence_for
from compare import hooks, mapped, relative_error

from zvl_ext.qwen3vl import vision
from zvl_ext.qwen3vl.checkpoint import Checkpoint
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


# --- the vision tower's input


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


# --- what runs, and what is left behind


@pytest.fixture
def prepared(loaded, encode):
    reference = open_reference(tiny.picture(160, 96))
    return sequence_for(loaded.checkpoint, encode, "a cat", reference), reference


@pytest.mark.parametrize(("layers", "run"), [([-5], 1), ([-4], 2), ([-2], 4), ([-1], 5), ([-4, -2], 4), ([-5, -1], 5)])
def test_only_the_layers_that_are_needed_run(layers, run, loaded, prepared):
    calls = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, layer in enumerate(loaded.module.language_model.layers)
    ]
    try:
        got = loaded.hidden_states(*prepared, TOKENS, layers)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [*range(run), *range(run)]  # the tokens before the fork, then those behind
    assert set(got) == set(layers)


@pytest.mark.parametrize("layer", LAYERS)
def test_one_layer_alone_is_the_same_as_among_all(layer, loaded, prepared):
    assert torch.equal(
        loaded.hidden_states(*prepared, TOKENS, [layer])[layer], loaded.hidden_states(*prepared, TOKENS, LAYERS)[layer]
    )


def test_the_same_call_gives_the_same_bits(loaded, prepared):
    first, second = (loaded.hidden_states(*prepared, TOKENS, [-2, -2, -1]) for _ in range(2))
    assert set(first) == {-2, -1}
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


def test_a_result_does_not_change_when_the_model_runs_again(loaded, prepared, encode):
    kept = loaded.hidden_states(*prepared, TOKENS, LAYERS)
    before = {layer: rows.clone() for layer, rows in kept.items()}
    other = open_reference(tiny.picture(96, 160, 5))
    loaded.hidden_states(sequence_for(loaded.checkpoint, encode, "else", other), other, TOKENS, LAYERS)
    assert all(torch.equal(kept[layer], before[layer]) for layer in LAYERS)


def test_after_a_pass_the_model_is_whole(loaded, prepared):
    every = loaded.module.language_model.layers
    before = hooks(loaded.module)
    loaded.hidden_states(*prepared, TOKENS, [-4])
    assert loaded.module.language_model.layers is every
    assert len(every) == 5
    assert hooks(loaded.module) == before == 0
    assert not any(weight.requires_grad for weight in loaded.module.parameters())


class InterruptedPassError(Exception):
    """What a host raises in the middle of a pass."""


@pytest.mark.parametrize(
    "where", ["visual.blocks.1", "language_model.layers.0", "language_model.layers.1", "language_model.rotary_emb"]
)
def test_after_an_interruption_the_model_is_whole_and_works(where, loaded, prepared):
    every = loaded.module.language_model.layers
    wanted = loaded.hidden_states(*prepared, TOKENS, [-4])[-4]

    def interrupt(*_):
        raise InterruptedPassError

    handle = loaded.module.get_submodule(where).register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(InterruptedPassError):
            loaded.hidden_states(*prepared, TOKENS, [-4])
    finally:
        handle.remove()
    assert loaded.module.language_model.layers is every
    assert len(every) == 5
    assert hooks(loaded.module) == 0
    assert torch.equal(loaded.hidden_states(*prepared, TOKENS, [-4])[-4], wanted)


# --- as much is loaded as is needed


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of all tensors that are read, in order."""
    names: list[str] = []
    real = Checkpoint.read_stored

    def watched(checkpoint, wanted):
        for name, *rest in real(checkpoint, wanted):
            names.append(name)
            yield name, *rest

    monkeypatch.setattr(Checkpoint, "read_stored", watched)
    return names


EMBEDDING = "language_model.embed_tokens.weight"


def in_layers(checkpoint, first, end) -> list[str]:
    return sorted(
        name
        for name in checkpoint.tensors
        if name.startswith(tuple(f"language_model.layers.{i}." for i in range(first, end)))
    )


@pytest.mark.parametrize("storage", ["auto", "fp8"])
@pytest.mark.parametrize("depth", [1, 3, 5, None])
def test_only_the_tensors_of_the_layers_that_are_asked_for_are_read(depth, storage, checkpoint, read):
    model = load(checkpoint, torch.float32, depth, storage)
    assert model.depth == len(model.module.language_model.layers) == (depth or 5)
    rest = sorted(name for name in read if name != EMBEDDING)
    other = [name for name in checkpoint.tensors if not name.startswith("language_model.layers.") and name != EMBEDDING]
    assert rest == sorted(other + in_layers(checkpoint, 0, depth or 5)), "each once"
    assert EMBEDDING in read


@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5), (1, 5), (3, 3, 2, 5, 1)])
def test_going_deeper_reads_what_is_missing_and_gives_the_model_that_was_loaded_whole(
    steps, checkpoint, loaded, prepared, read
):
    model, there = load(checkpoint, torch.float32, steps[0]), steps[0]
    for depth in steps[1:]:
        read.clear()
        model.deepen(depth)
        assert sorted(read) == in_layers(checkpoint, there, depth)
        there = max(there, depth)
        assert model.depth == there
        layers = [layer for layer in LAYERS if layer + 6 <= there]
        got, wanted = (each.hidden_states(*prepared, TOKENS, layers) for each in (model, loaded))
        assert all(torch.equal(got[layer], wanted[layer]) for layer in layers)
    assert dict(model.module.state_dict()).keys() == dict(loaded.module.state_dict()).keys()


@pytest.mark.parametrize("fault", ["missing", "too many", "misshapen"])
def test_what_is_wrong_with_a_deep_layer_is_told_when_the_first_is_loaded(fault, model, tmp_path, refused):
    name = "language_model.layers.4.mlp.up_proj.weight"
    state = tiny.inner_state(model)
    whole = state.pop(name)
    if fault == "too many":
        state |= {name: whole, "language_model.layers.4.more.weight": torch.zeros(2)}
    elif fault == "misshapen":
        state[name] = whole[:-1]
    path = tiny.save_single(state, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    with refused(r"one\.safetensors: the tensor language_model\.layers\.4\."):
        load(open_checkpoint(str(path)), torch.float32, 1)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
def test_the_embedding_stays_as_it_is_stored_and_gives_the_rows_that_a_conversion_would(
    stored, computed, model, encode, tmp_path
):
    """Against a file in which everything has the dtype that is computed in."""
    state = {name: value.to(stored) for name, value in tiny.inner_state(model).items()}
    models = []
    for name, tensors in (
        ("stored", state),
        ("converted", {name: value.to(computed) for name, value in state.items()}),
    ):
        path = tiny.save_single(tensors, tmp_path / f"{name}.safetensors", metadata=tiny.config_metadata(model.config))
        models.append(load(open_checkpoint(str(path)), computed))
    assert models[0].embedding.weight.dtype == stored
    assert models[0].module.language_model.embed_tokens is None
    assert not any("embed_tokens" in name for name in models[0].module.state_dict())
    reference = open_reference(tiny.picture(160, 96))
    sequence = sequence_for(models[0].checkpoint, encode, "a cat", reference)
    got, wanted = (each.hidden_states(sequence, reference, TOKENS, LAYERS) for each in models)
    assert all(torch.equal(got[layer], wanted[layer]) for layer in LAYERS)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_embedding_in_another_dtype_than_is_computed_in_stays_in_the_mapped_file(model, encode, tmp_path):
    state = {name: value.to(torch.bfloat16) for name, value in tiny.inner_state(model).items()}
    path = tiny.save_single(state, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    opened = load(open_checkpoint(str(path)), torch.float32, 1)
    reference = open_reference(tiny.picture(32, 32))
    opened.hidden_states(sequence_for(opened.checkpoint, encode, "a cat", reference), reference, TOKENS, [-5])
    assert mapped(opened.embedding.weight.data_ptr(), path)
    assert not mapped(opened.module.language_model.norm.weight.data_ptr(), path)


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
