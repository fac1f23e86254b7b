"""Passes of the language model: going on from what is kept is the same as starting anew, and nothing is run twice."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import tiny
import torch
from cases import BEFORE, PICTURES, PROMPTS, TOKENS
from compare import relative_error
from deep import DEEP, DEEPSTACK, LAYERS, Case

from zvl_ext.qwen3vl import language
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.passes import Pass
from zvl_ext.sequence import Sequence


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
        (block,) = sequence.blocks
        positions[:, block.end :] += goes_on(*block.grid) - max(block.grid)
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
