"""Passes of the language model: going on from what is kept is the same as starting anew, and nothing is run twice."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from cases import PICTURES, PROMPTS, TOKENS, sequence_for
from compare import relative_error

from zvl_ext import budget
from zvl_ext.conditioner import condition, condition_all, extract, extract_all
from zvl_ext.engines.sources import Text
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.mixing.statistics import measure
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.qwen3vl import language
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import Qwen3VL
from zvl_ext.qwen3vl.passes import Pass
from zvl_ext.reference import Reference, open_reference
from zvl_ext.sequence import Sequence
from zvl_ext.store import Disk, Store

LAYERS = 8  # of the deep model
DEEPSTACK = 3  # layers that DeepStack adds to; nothing goes on from behind one of them
DEEP = {"text": {**tiny.REGULAR["text"], "layers": LAYERS}, "vision": tiny.REGULAR["vision"]}
TOLERANCE = 1e-4
BEFORE = 3 + 17  # tokens up to the fork: the template's head, 15 image tokens and their markers


@pytest.fixture(scope="module")
def deep_model(tokenizer):
    """Plain transformers, deeper than DeepStack goes, as the real models are."""
    return tiny.make_model(tiny.make_config(tokenizer, DEEP), seed=4)


@pytest.fixture(scope="module")
def deep_folder(deep_model, tokenizer, tmp_path_factory) -> Path:
    return tiny.save_folder(deep_model, tokenizer, tmp_path_factory.mktemp("models") / "deep-vl")


@pytest.fixture(scope="module")
def deep(deep_folder) -> Qwen3VL:
    return language.load(open_checkpoint(str(deep_folder)), torch.float32)


@dataclasses.dataclass
class Case:
    """One prompt behind one picture, and the states [tokens, hidden] that plain transformers has, embeddings first."""

    sequence: Sequence
    reference: Reference
    wanted: tuple[torch.Tensor, ...]

    def run(
        self, model: Qwen3VL, depth: int, prefix: Pass | None = None, tail: Pass | None = None
    ) -> tuple[Pass, Pass]:
        prefix, (tail,) = model.extend([self.sequence], self.reference, TOKENS, depth, prefix, [tail])
        return prefix, tail

    def check(self, prefix: Pass, tail: Pass, tolerance: float = TOLERANCE) -> None:
        """Every state that is kept is plain transformers', before the fork and behind it."""
        count, fork = len(self.wanted) - 1, self.sequence.fork
        assert (prefix.tokens, tail.tokens) == (fork, len(self.sequence.ids) - fork)
        for part, rows in ((prefix, slice(fork)), (tail, slice(fork, None))):
            assert part.keys.shape == part.values.shape == (part.depth, 2, part.tokens, 32)
            for index in range(part.depth + 1):
                layer = index - count - 1
                assert relative_error(part.state(layer, count), self.wanted[index][rows]) <= tolerance, (layer, rows)


@pytest.fixture
def case(tokenizer, encode, deep_model, deep) -> Callable[..., Case]:
    def make(prompt: str, size: tuple[int, int] = (160, 96), system: str = "", of: tuple = (deep, deep_model)) -> Case:
        (loaded, plain), image = of, tiny.picture(*size)
        reference, pixels = open_reference(image), tiny.plain_pixels(image, TOKENS)
        ids, modes = tiny.plain_ids(tokenizer, prompt, int(pixels["image_grid_thw"].prod()) // 4, system)
        sequence = sequence_for(loaded.checkpoint, encode, prompt, reference, TOKENS, system)
        assert list(sequence.ids) == ids
        return Case(sequence, reference, tiny.plain_hidden_states(plain, ids, pixels, modes["image_no_markers"]))

    return make


def same(one: Pass, other: Pass) -> bool:
    """To the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True))


def cut(whole: Pass, depth: int, count: int) -> Pass:
    """A pass as it would be had only so many layers been run."""
    return whole if depth == count else Pass(whole.states[: depth + 1], whole.keys[:depth], whole.values[:depth])


# --- behind a prefix that is kept


@pytest.mark.parametrize("name", PROMPTS)
def test_behind_a_kept_prefix_any_prompt_is_read_as_by_transformers(name, case, deep):
    new = case(PROMPTS[name])
    blank = PROMPTS[name][
        : -len(PROMPTS[name].lstrip()) or None
    ]  # white space that begins a prompt is part of the template's head
    first = case(blank + "something else, and longer than that")
    assert first.sequence.ids[: first.sequence.fork] == new.sequence.ids[: new.sequence.fork]
    kept, _ = first.run(deep, LAYERS)
    with tiny.work() as done:
        prefix, tail = new.run(deep, LAYERS, kept)
    new.check(prefix, tail)
    assert prefix is kept
    assert done.read == tiny.layers(0, LAYERS, len(new.sequence.ids) - new.sequence.fork), (
        "its own tokens and nothing else"
    )
    assert done.looks == 0


@pytest.mark.parametrize("system", ["", "\n\nDescribe the style.\n"])
@pytest.mark.parametrize("name", PICTURES)
def test_behind_a_kept_prefix_of_any_picture_a_prompt_is_read_as_by_transformers(name, system, case, deep):
    kept, _ = case("something else", PICTURES[name], system).run(deep, LAYERS)
    new = case("a photo of a cat", PICTURES[name], system)
    new.check(*new.run(deep, LAYERS, kept))


@pytest.mark.parametrize(
    "goes_on",
    [lambda rows, columns: rows * columns, min, lambda *_: 0],
    ids=["by tokens", "by the smaller side", "not at all"],
)
@pytest.mark.parametrize("size", [(160, 96), (64, 192)])
def test_positions_behind_a_picture_go_on_by_its_larger_side(size, goes_on, case, deep, monkeypatch):
    """Any other count is far from plain transformers, so the tests above would notice it."""
    new = case("a photo of a cat", size)
    prefix, tail = new.run(deep, LAYERS)
    right = Sequence.position_ids

    def wrong(sequence: Sequence) -> torch.Tensor:
        positions = right(sequence).clone()
        positions[:, sequence.image_end :] += goes_on(*sequence.grid) - max(sequence.grid)
        return positions

    monkeypatch.setattr(Sequence, "position_ids", wrong)
    # The position of vision_end, which stands before the fork, is among those that are wrong.
    assert not same(new.run(deep, LAYERS)[0], prefix)
    _, moved = new.run(deep, LAYERS, prefix)
    assert relative_error(moved.state(-2, LAYERS), tail.state(-2, LAYERS)) > 0.01


def test_prompts_that_are_asked_for_together_are_each_as_alone(case, deep, encode):
    prompts = [prompt for prompt in PROMPTS.values() if not prompt[:1].isspace()]
    prompts += ["a cat", "a cat", "a photo of a dog in the rain at night, seen from below and from very far away"]
    cases = [case(prompt) for prompt in prompts]
    assert len({len(each.sequence.ids) for each in cases}) > 6
    short = cases[0]
    one = dataclasses.replace(
        short.sequence, ids=short.sequence.ids[: short.sequence.fork + 1]
    )  # a single token behind the fork
    cases.append(Case(one, short.reference, tuple(states[: len(one.ids)] for states in short.wanted)))
    prefix, tails = deep.extend([each.sequence for each in cases], short.reference, TOKENS, LAYERS)
    assert len(tails) == len(cases) > 10
    for each, tail in zip(cases, tails):
        each.check(prefix, tail)
        alone = each.run(deep, LAYERS)
        assert same(alone[0], prefix)
        assert same(alone[1], tail)


def test_a_sequence_that_ends_at_the_fork_has_no_tail(case, deep):
    new = case("a cat")
    prefix, tails = deep.extend([new.sequence.without_text()], new.reference, TOKENS, LAYERS)
    assert tails == [None]
    assert same(prefix, new.run(deep, LAYERS)[0])


# --- whatever is kept


@pytest.mark.parametrize("depth", range(1, 6))
def test_whatever_is_kept_of_prefix_and_tail_the_rest_is_run_and_the_result_is_the_same(depth, case, loaded, model):
    """To the last bit: the same prompt gives the same picture, whatever was made before it."""
    new, count = case("a photo of a cat", of=(loaded, model)), 5
    whole = new.run(loaded, count)
    new.check(*whole)
    rest = len(new.sequence.ids) - new.sequence.fork
    for of_prefix, of_tail in itertools.product([None, *range(1, count + 1)], repeat=2):
        kept = [None if of is None else cut(part, of, count) for part, of in zip(whole, (of_prefix, of_tail))]
        with tiny.work() as done:
            got = new.run(loaded, depth, *kept)
        for part, full, before in zip(got, whole, kept):
            assert part.depth == max(depth, before.depth if before else 0), (of_prefix, of_tail)
            assert same(part, cut(full, part.depth, count)), (of_prefix, of_tail)
        start = of_prefix if of_prefix and of_prefix > DEEPSTACK else 0
        prefix_runs = (of_prefix or 0) < depth
        assert done.read == (tiny.layers(start, depth, BEFORE) if prefix_runs else []) + tiny.layers(
            of_tail or 0, depth, rest
        ), (of_prefix, of_tail)
        assert done.looks == (prefix_runs and start == 0)


def test_layers_asked_for_in_any_order_are_those_of_transformers(sources, reference, text_of, case, loaded, model):
    text, wanted = text_of(), case("a photo of a cat", of=(loaded, model)).wanted
    for order in itertools.permutations(range(-5, 0)):
        sources.store.clear()
        for layer in order:
            got = extract(settings(hidden_layer=layer, token_mode="all"), reference, text, sources).states
            assert relative_error(got, wanted[layer]) <= TOLERANCE, (order, layer)


def test_the_last_layer_goes_through_the_final_norm_and_the_others_do_not(case, deep, deep_model):
    new = case("a cat")
    for tail in (new.run(deep, LAYERS)[1], new.run(deep, LAYERS, *new.run(deep, LAYERS - 1))[1]):
        before = tail.states[LAYERS].double().numpy()
        weight = deep_model.model.language_model.norm.weight.double().numpy()
        normed = before / ((before**2).mean(1, keepdims=True) + 1e-6) ** 0.5 * weight
        assert relative_error(tail.state(-1, LAYERS).double(), torch.tensor(normed)) < 1e-6
        assert relative_error(tail.state(-1, LAYERS), tail.states[LAYERS]) > 0.1
        new.check(new.run(deep, LAYERS)[0], tail)


@pytest.mark.parametrize("size", [(160, 96), (64, 192)])
def test_in_bfloat16_too_nothing_depends_on_what_is_kept_and_it_is_as_near_as_a_whole_pass(
    size, case, deep_folder, deep_model, tokenizer, deep
):
    """Near to float32, that is, and as near as plain transformers comes in bfloat16 with all tokens in one pass."""
    half, prompts = (
        language.load(open_checkpoint(str(deep_folder)), torch.bfloat16),
        ["a photo of a cat", "", "the same in blue, in the rain"],
    )
    plain = tiny.make_model(tiny.make_config(tokenizer, DEEP), seed=4).to(torch.bfloat16)
    errors = []
    kept, _ = case("something else", size).run(half, LAYERS - 2)
    for prompt in prompts:
        new = case(prompt, size)
        prefix, tail = new.run(half, LAYERS, kept)
        assert all(same(*pair) for pair in zip((prefix, tail), new.run(half, LAYERS)))
        got = torch.cat([prefix.state(-2, LAYERS), tail.state(-2, LAYERS)])
        assert got.dtype == torch.bfloat16
        whole = case(prompt, size, of=(deep, plain)).wanted[-2]
        errors.append(
            [relative_error(each.float(), new.wanted[-2]) for each in (got, whole)]
            + [relative_error(got.float(), whole.float())]
        )
    ours, theirs, apart = torch.tensor(errors).mean(0).tolist()
    assert 0 < ours < 1.25 * theirs < 0.05
    assert apart < 0.05


# --- how much is run


def settings(**values) -> Settings:
    return Settings.from_mapping({"hidden_layer": -2, "reference_tokens": TOKENS, "scale_to_text": False, **values})


@pytest.fixture
def deep_sources(sources, deep_folder):
    sources.extractor = StandaloneExtractor(open_checkpoint(str(deep_folder)))
    return sources


def rest(text: Text) -> int:
    """Its tokens behind the fork."""
    return len(text.ids) - 3


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
        assert torch.equal(make(0), condition(settings(), reference, text, deep_sources))


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
