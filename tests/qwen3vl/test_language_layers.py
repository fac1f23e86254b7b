"""Layers of the language model: as many run and are loaded as are needed, and the model is whole afterwards."""

import pytest
import tiny
import torch
from cases import TOKENS, sequence_for
from compare import hooks
from weights import EMBEDDING

from zvl_ext.qwen3vl.checkpoint import Checkpoint
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
from zvl_ext.qwen3vl.pieces import Pieces
from zvl_ext.reference import open_reference

LAYERS = range(-5, 0)


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
    other = [name for name in checkpoint.tensors if not name.startswith("language_model.layers.") and name != EMBEDDING]
    assert sorted(read) == sorted(other + in_layers(checkpoint, 0, depth or 5)), "each once; the embedding row by row"


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


@pytest.mark.parametrize("fault", ["missing", "misshapen"])
def test_what_is_wrong_with_a_deep_layer_is_told_when_the_first_is_loaded(fault, model, tmp_path, refused):
    name = "language_model.layers.4.mlp.up_proj.weight"
    state = tiny.inner_state(model)
    whole = state.pop(name)
    if fault == "misshapen":
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


def test_of_the_embedding_only_the_rows_of_the_prompt_are_read(model, tmp_path, monkeypatch):
    path = tiny.save_single(tiny.inner_state(model), tmp_path / "one.safetensors")
    opened = load(open_checkpoint(str(path)), torch.float32, 1)
    pieces, real = [], Pieces.read_into
    monkeypatch.setattr(Pieces, "read_into", lambda self, at, to: pieces.append(len(to)) or real(self, at, to))
    ids = torch.tensor([[7, 7, 0, 511], [3, 7, 0, 0]])
    rows = opened.embedding(ids)
    assert pieces == [64 * 4] * 4
    assert torch.equal(rows, model.get_input_embeddings()(ids))
