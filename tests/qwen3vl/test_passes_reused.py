"""What the passes of one picture after another run, and what is kept of them."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from cases import BEFORE, TOKENS
from compare import TOLERANCE, relative_error
from deep import LAYERS
from published import research

from zvl_ext import budget
from zvl_ext.conditioner import condition, condition_all, extract, extract_all
from zvl_ext.engines.sources import Text
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.mixing.statistics import measure
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.qwen3vl import language
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.reference import open_reference
from zvl_ext.store import Disk, Store

# --- how much is run


def settings(**values) -> Settings:
    return research(**({"hidden_layer": -2, "reference_tokens": TOKENS, "scale_to_text": False} | values))


@pytest.fixture
def deep_sources(sources, deep_folder):
    sources.extractor = StandaloneExtractor(open_checkpoint(str(deep_folder)))
    return sources


def rest(text: Text) -> int:
    """Its tokens behind the fork."""
    return len(text.ids) - 3


def test_layers_asked_for_in_any_order_are_those_of_transformers(sources, reference, text_of, case, loaded, model):
    text, wanted = text_of(), case("a photo of a cat", of=(loaded, model)).wanted
    for order in itertools.permutations(range(-5, 0)):
        sources.store.clear()
        for layer in order:
            got = extract(settings(hidden_layer=layer, token_mode="all"), reference, text, sources).states
            assert relative_error(got, wanted[layer]) <= TOLERANCE, (order, layer)


def test_a_first_picture_runs_each_layer_once_over_each_token_and_the_vision_tower_once(
    deep_sources, reference, text_of
):
    text = text_of()
    with tiny.work() as done:
        condition(settings(), reference, text, deep_sources)
    assert done.read == tiny.layers(0, 7, BEFORE) + tiny.layers(0, 7, rest(text))
    assert (done.looks, done.encoded) == (1, [])


def test_another_prompt_runs_its_own_tokens(deep_sources, reference, text_of):
    texts = [text_of(prompt) for prompt in ("a cat", "a photo of a dog", "")]
    condition(settings(), reference, texts[0], deep_sources)
    for text in texts[1:]:
        with tiny.work() as done:
            condition(settings(), reference, text, deep_sources)
        assert done.read == tiny.layers(0, 7, rest(text))
        assert done.looks == 0


@pytest.mark.parametrize("mode", ["image", "image_no_markers"])
def test_image_rows_alone_are_read_without_a_prompt(mode, deep_sources, reference, text_of):
    """The first prompt runs the tokens before the fork, others nothing; one in whose text the prompt stands is read no
    more."""
    texts = [text_of(prompt) for prompt in ("a cat", "a photo of a dog", "")]
    with tiny.work() as done:
        condition(settings(token_mode=mode), reference, texts[0], deep_sources)
    assert (done.read, done.looks) == (tiny.layers(0, 7, BEFORE), 1)
    with tiny.work() as done:
        for text in texts:
            for vl_prompt in (BY_NAME["vl_prompt"].default, "the style of {prompt}"):
                condition(settings(token_mode=mode, vl_prompt=vl_prompt), reference, text, deep_sources)
    assert not done
    with tiny.work() as done:
        condition(settings(), reference, texts[0], deep_sources)
    assert done.read == tiny.layers(0, 7, rest(texts[0])), "a mode that reads the prompt goes on from there"


AFTERWARDS = {
    "alpha": [0.1, 0.5, 1.0],
    "scale_to_text": [True, False],
    "normalization": BY_NAME["normalization"].choices,
    "outlier_repair": BY_NAME["outlier_repair"].choices,
    "outlier_threshold": [1.5, 5.0],
    "length_match": BY_NAME["length_match"].choices,
    "blend_mode": BY_NAME["blend_mode"].choices,
    "image_dropout": [0.0, 0.5, 0.9],
    "token_mode": BY_NAME["token_mode"].choices,
}


@pytest.mark.parametrize("engine", ["blend", "splice"])
@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_grid_over_what_comes_after_the_reading_runs_nothing(name, engine, deep_sources, reference, text_of):
    text = text_of()
    deep_sources.statistics = lambda: measure(text.embeddings)
    base = {"engine": engine, "token_mode": "all", "scale_to_text": True, "outlier_repair": "clamp"}
    condition(settings(**base), reference, text, deep_sources)
    values = [
        value
        for value in AFTERWARDS[name]
        if engine == "blend" or not (name == "token_mode" and value.startswith("image"))
    ]
    with tiny.work() as done:
        for value in values:
            for seed in (0, 1):
                condition(settings(**base | {name: value}), reference, text, deep_sources, seed)
    assert not done


def test_a_grid_over_hidden_layers_runs_each_layer_once_over_each_token_in_any_order(deep_sources, reference, text_of):
    """Layers behind those that DeepStack adds to; what is asked for among those is not gone on from, but read once
    more."""
    text = text_of()
    for order in itertools.permutations([-1, -2, -4, -5]):
        deep_sources.store.clear()
        with tiny.work() as done:
            for layer in order:
                extract(settings(hidden_layer=layer), reference, text, deep_sources)
        tokens = [sum(n for at, n in done.read if at == layer) for layer in range(LAYERS)]
        assert tokens == [BEFORE + rest(text)] * LAYERS, order
        assert done.looks == 1


def test_several_prompts_behind_one_reference_look_once_and_read_each_token_once(deep_sources, reference, text_of):
    texts = [text_of(prompt) for prompt in ("a cat", "a photo of a dog", "", *"abcdefgh", "a cat")]
    with tiny.work() as done:
        made = condition_all(settings(), reference, texts, deep_sources)
    assert done.looks == 1
    each = BEFORE + sum(rest(text) for text in texts[:-1])  # the last one is the first again
    assert [sum(n for at, n in done.read if at == layer) for layer in range(7)] == [each] * 7
    assert sum(n for _, n in done.read) == 7 * each
    for text, make in zip(texts, made):
        deep_sources.store.clear()
        assert torch.equal(make(0).rows, condition(settings(), reference, text, deep_sources))


def test_prompts_whose_references_differ_in_size_are_read_behind_their_own(
    deep_sources, reference, text_of, said, monkeypatch
):
    """A long prompt leaves less room for image tokens, where they are put in."""
    monkeypatch.setattr(budget, "MAX_TOKENS", 30)
    chosen = settings(length_match="insert", token_mode="all")
    texts = [text_of("a cat"), text_of("a photo of a cat in the rain"), text_of("a dog")]
    with tiny.work() as done:
        together = [rows.states for rows in extract_all(chosen, reference, texts, deep_sources)]
    assert done.looks == 2
    assert len(said) == 1
    assert [len(states) - len(text.ids) for states, text in zip(together, texts)] == [17, 8, 17]
    for text, states in zip(texts, together):
        deep_sources.store.clear()
        assert torch.equal(states, extract(chosen, reference, text, deep_sources).states)


def test_a_prompt_whose_first_tokens_differ_is_read_behind_its_own_prefix(deep_sources, reference, text_of, case):
    """Line breaks that begin a prompt become one token with the template's, in front of the picture."""
    for prompt in ("a cat", "\n\na cat", "\na cat", "a cat", ""):
        for mode in ("all", "image"):
            new = case(prompt)
            got = extract(settings(token_mode=mode), reference, text_of(prompt), deep_sources).states
            assert relative_error(got, new.wanted[-2][new.sequence.rows(mode)]) <= TOLERANCE


# --- what is kept


EVERYTHING = [
    {"token_mode": "all"},
    {"token_mode": "image"},
    {"engine": "splice", "token_mode": "all"},
    {"engine": "splice", "token_mode": "image"},
    {"engine": "splice", "positions": "mrope", "token_mode": "text"},
]


@pytest.mark.parametrize("every_layer", [False, True])
def test_what_is_kept_owns_its_memory_and_no_more(every_layer, deep_sources, reference, text_of):
    deep_sources.every_layer = every_layer
    for chosen in EVERYTHING:
        for layer in (-5, -2, -1):
            extract(settings(hidden_layer=layer, **chosen), reference, text_of(), deep_sources)
    kept = [tensor for bundle, _ in deep_sources.store._kept.values() for tensor in bundle.values()]
    assert len(kept) > 10
    for tensor in kept:
        assert tensor.device.type == "cpu"
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert len({tensor.data_ptr() for tensor in kept}) == len(kept), "none in the memory of another"
    assert deep_sources.store.size == sum(tensor.nbytes for tensor in kept)


def test_what_is_kept_is_not_written_into_by_later_runs(deep_sources, reference, text_of):
    for chosen in EVERYTHING:
        extract(settings(hidden_layer=-5, **chosen), reference, text_of("a cat"), deep_sources)
    kept = [tensor for bundle, _ in deep_sources.store._kept.values() for tensor in bundle.values()]
    before = [tensor.clone() for tensor in kept]
    for chosen in EVERYTHING:
        for prompt in ("a cat", "a photo of a dog"):
            condition(settings(hidden_layer=-1, **chosen), reference, text_of(prompt), deep_sources)
        condition(settings(**chosen), open_reference(tiny.picture(96, 160, 5)), text_of("a cat"), deep_sources)
    assert all(torch.equal(a, b) for a, b in zip(kept, before))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_on_disk_gives_the_same_bits_without_a_model(
    dtype, deep_folder, deep_sources, reference, text_of, tmp_path, monkeypatch
):
    def asked() -> list[torch.Tensor]:
        chosen = [settings(hidden_layer=layer, **each) for each in EVERYTHING for layer in (-5, -1)]
        return [
            condition(each, reference, text_of(prompt), deep_sources, 3)
            for each in chosen
            for prompt in ("a cat", "a photo of a dog")
        ]

    checkpoint = open_checkpoint(str(deep_folder))
    deep_sources.extractor = StandaloneExtractor(checkpoint, dtype=dtype)
    deep_sources.store = Store(disk=Disk(str(tmp_path / "kept"), 2**30))
    before = asked()
    deep_sources.extractor = StandaloneExtractor(checkpoint, dtype=dtype)  # as after a restart: nothing is loaded
    deep_sources.store = Store(disk=Disk(str(tmp_path / "kept"), 2**30))
    monkeypatch.setattr(language, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(
        type(deep_sources.text_encoder.part), "states", lambda *_: pytest.fail("the text encoder was asked")
    )
    after = asked()
    assert len(before) == len(after) == 20
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_from_what_is_on_disk_a_deeper_layer_goes_on(deep_sources, reference, text_of, tmp_path):
    text, folder = text_of(), str(tmp_path / "kept")
    deep_sources.store = Store(disk=Disk(folder, 2**30))
    extract(settings(hidden_layer=-4), reference, text, deep_sources)
    deep_sources.store = Store(disk=Disk(folder, 2**30))
    with tiny.work() as done:
        got = extract(settings(hidden_layer=-1), reference, text, deep_sources).states
    assert done.read == tiny.layers(5, 8, BEFORE) + tiny.layers(5, 8, rest(text))
    assert done.looks == 0
    deep_sources.store = Store()
    assert torch.equal(got, extract(settings(hidden_layer=-1), reference, text, deep_sources).states)
