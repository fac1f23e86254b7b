"""Several references in one sequence, each named and read after those before it, against plain transformers."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import tiny
import torch
from cases import TOKENS
from compare import assert_close, relative_error
from published import research
from splicing import spliced

from zvl_ext.budget import MAX_TOKENS
from zvl_ext.conditioner import Unit, condition_units, extract_in_turn
from zvl_ext.engines.sources import Sources
from zvl_ext.mixing.statistics import measure
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.reference import open_reference

SIZES = [(160, 96), (64, 192), (96, 96)]
PROMPTS = ["a photo of a cat", "", "the cat of Picture 1, <|image_pad|>\nthe style of Picture 2"]
ENGINES = {
    "blend": research(hidden_layer=-2, token_mode="all", reference_tokens=TOKENS),
    "sequential": spliced(),
    "mrope": spliced(positions="mrope"),
}


def units_for(settings: Settings, sizes: list[tuple[int, int]], numbers: tuple[int, ...] = (1, 2, 3)) -> list[Unit]:
    settings = dataclasses.replace(settings, combine="in turn")
    references = [open_reference(tiny.picture(*size, seed)) for seed, size in enumerate(sizes)]
    return [Unit(settings, reference, number=number) for number, reference in zip(numbers, references)]


@pytest.fixture
def plain(model, whole, text_encoder, tokenizer):
    """The states of plain transformers at layer -2 of one sequence with all pictures, and where in it each picture's
    block is and the prompt's own tokens are."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def make(engine: str, prompt: str, sizes: list[tuple[int, int]], numbers: tuple[int, ...] = (1, 2, 3)) -> tuple:
        every = [tiny.plain_pixels(tiny.picture(*size, seed), TOKENS) for seed, size in enumerate(sizes)]
        special = tiny.token_ids(tokenizer)
        host = encode(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
        ids, blocks = host[:3], []
        for number, pixels in zip(numbers, every):
            ids += [*encode(f"Picture {number}: "), special["vision_start_token_id"]]
            blocks.append(list(range(len(ids), len(ids) + int(pixels["image_grid_thw"].prod()) // 4)))
            ids += [special["image_token_id"]] * len(blocks[-1]) + [special["vision_end_token_id"]]
        own = [0, 1, 2, *range(len(ids), len(ids) + len(host) - 3)]
        ids += host[3:]
        images = list(itertools.chain(*blocks))
        if engine == "sequential":
            inputs = text_encoder.get_input_embeddings()(torch.tensor(ids))
            inputs[images] = torch.cat([tiny.plain_image_tokens(model, pixels)[0] for pixels in every])
            states = tiny.plain_text_states(text_encoder, inputs)
        else:
            pixels = {name: torch.cat([each[name] for each in every]) for name in every[0]}
            states = tiny.plain_hidden_states({"blend": model, "mrope": whole}[engine], ids, pixels, images)
        return states[-2], blocks, own

    return make


def rows_of(mode: str, block: list[int], own: list[int]) -> list[int]:
    """The positions that a token mode selects for one picture, in order."""
    markers = [block[0] - 1, block[-1] + 1]
    return sorted(
        {"text": own, "image": block + markers, "image_no_markers": block, "all": own + block + markers}[mode]
    )


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_each_block_and_the_prompt_are_those_of_plain_transformers(engine, prompt, sources, text_of, plain):
    wanted, blocks, own = plain(engine, prompt, SIZES)
    got = extract_in_turn(units_for(ENGINES[engine], SIZES), [text_of(prompt)], sources)
    for (rows,), block in zip(got, blocks, strict=True):
        assert_close(rows.states, wanted[rows_of("all", block, own)])
        assert (int(rows.text.sum()), int(rows.image.sum())) == (len(own), len(block))
        assert rows.grid[0] * rows.grid[1] == len(block)


@pytest.mark.parametrize("mode", BY_NAME["token_mode"].choices)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_token_mode_selects_one_block_and_never_what_names_the_pictures(engine, mode, sources, text_of, plain):
    wanted, blocks, own = plain(engine, "a cat", SIZES[:2])
    chosen = dataclasses.replace(ENGINES[engine], token_mode=mode)
    got = extract_in_turn(units_for(chosen, SIZES[:2]), [text_of("a cat")], sources)
    for (rows,), block in zip(got, blocks, strict=True):
        assert_close(rows.states, wanted[rows_of(mode, block, own)])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_has_the_number_of_its_reference(engine, sources, text_of, plain):
    """Whatever others are switched off: the prompt goes on meaning the same one."""
    wanted, blocks, own = plain(engine, "a cat", SIZES[:2], (2, 4))
    got = extract_in_turn(units_for(ENGINES[engine], SIZES[:2], (2, 4)), [text_of("a cat")], sources)
    for (rows,), block in zip(got, blocks, strict=True):
        assert_close(rows.states, wanted[rows_of("all", block, own)])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_later_has_seen_the_earlier_and_not_the_other_way_round(engine, sources, text_of):
    text = text_of("a cat")
    first, second, other = (open_reference(tiny.picture(96, 96, seed)) for seed in range(3))

    def blocks(*references) -> list[torch.Tensor]:
        units = units_for(ENGINES[engine], [(96, 96)] * 2)
        units = [dataclasses.replace(unit, reference=each) for unit, each in zip(units, references)]
        return [rows.states[rows.image] for (rows,) in extract_in_turn(units, [text], sources)]

    both, later, earlier = blocks(first, second), blocks(first, other), blocks(other, second)
    assert_close(later[0], both[0])
    assert relative_error(earlier[1], both[1]) > 1e-3


# --- the conditioning


def settings_of(engine: str, **values) -> Settings:
    return dataclasses.replace(ENGINES[engine], length_match="insert", alpha=1.0, **values)


@pytest.fixture
def made(sources, text_of):
    """The conditioning of a cat with references, as condition_units makes it."""
    sources.statistics = lambda: measure(text_of().embeddings)

    def make(units: list[Unit], prompt: str = "a cat"):
        return condition_units(units, [text_of(prompt)], sources)[0](0)

    return make


@pytest.mark.parametrize("engine", ENGINES)
def test_each_reference_has_the_rows_of_its_block_and_the_prompts_from_the_one_sequence(engine, made, plain):
    wanted, blocks, own = plain(engine, "a cat", SIZES[:2])
    got = made(units_for(settings_of(engine, scale_to_text=False), SIZES[:2]))
    for part, block in zip(got.parts, blocks, strict=True):
        assert_close(part.block, wanted[[block[0] - 1, *block, block[-1] + 1]])
        assert_close(part.own[1:], wanted[own][1:])  # row 0 stays the text encoder's in engine splice
    start, count = got.place
    assert count == sum(len(block) + 2 for block in blocks)
    assert_close(torch.cat([got.rows[:start], got.rows[start + count :]])[1:], wanted[own][1:])


@pytest.mark.parametrize("engine", ENGINES)
def test_one_reference_is_read_as_it_was(engine, made):
    """To the last bit, and without a name: there is nothing to tell it from."""
    turn = units_for(settings_of(engine), SIZES[:1])
    alone = [dataclasses.replace(unit, settings=settings_of(engine)) for unit in turn]
    assert torch.equal(made(turn).rows, made(alone).rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_negative_one_is_in_a_sequence_of_its_own(engine, made):
    one, two = units_for(settings_of(engine), SIZES[:2])
    against = dataclasses.replace(two, settings=dataclasses.replace(two.settings, negative=True))
    assert torch.equal(made([one, against]).rows, made([one]).rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_in_turn_is_another_conditioning_than_each_alone(engine, made):
    turn = units_for(settings_of(engine), SIZES[:2])
    alone = [dataclasses.replace(unit, settings=settings_of(engine)) for unit in turn]
    assert relative_error(made(turn).rows, made(alone).rows) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_tokens_that_a_long_prompt_leaves_are_shared(engine, made, text_of, said):
    long = "a" * 955
    got = made(units_for(settings_of(engine), SIZES), long)
    assert len(got) <= MAX_TOKENS
    left = (MAX_TOKENS - len(text_of(long).ids)) // 3 - 2
    shown = [tiny.plain_pixels(tiny.picture(*size), left)["image_grid_thw"].prod() // 4 for size in SIZES]
    assert [len(part.block) - 2 for part in got.parts] == shown
    assert sum("was reduced from" in line for line in said) == 2, "the third one is small enough"


# --- what is kept


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_regions_and_marks_read_nothing_again_and_an_order_does(engine, made, extractor, encoder):
    settings = settings_of(engine)
    units = units_for(settings, SIZES[:2])
    first, read = made(units), list(extractor.passes) + list(encoder.passes)
    left = torch.tensor([[1.0, 0.0]])
    changed = [
        dataclasses.replace(unit, settings=dataclasses.replace(unit.settings, weight=0.5), region=left)
        for unit in units
    ]
    made(changed)
    assert list(extractor.passes) + list(encoder.passes) == read
    turned = made([dataclasses.replace(each, number=n) for n, each in enumerate(reversed(units), 1)])
    assert len(extractor.passes) + len(encoder.passes) == len(read) + 1
    assert relative_error(turned.rows, first.rows) > 1e-3
    assert torch.equal(made(units).rows, first.rows)


@pytest.mark.parametrize("layers", [(-4, -2, -1), (-1, -2, -4)])
@pytest.mark.parametrize("engine", ENGINES)
def test_another_layer_goes_on_from_what_is_kept_and_is_the_same(engine, layers, sources, text_of):
    def rows(layer: int, sources: Sources) -> list[torch.Tensor]:
        units = units_for(dataclasses.replace(ENGINES[engine], hidden_layer=layer), SIZES[:2])
        return [rows.states for (rows,) in extract_in_turn(units, [text_of("a cat")], sources)]

    for layer in layers:
        fresh = dataclasses.replace(sources, store=type(sources.store)())
        for kept, new in zip(rows(layer, sources), rows(layer, fresh), strict=True):
            assert torch.equal(kept, new)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_prompts_are_each_as_alone(engine, sources, text_of):
    units, texts = units_for(ENGINES[engine], SIZES[:2]), [text_of("a cat"), text_of("a longer text of a dog")]
    together = extract_in_turn(units, texts, sources)
    for number, text in enumerate(texts):
        fresh = dataclasses.replace(sources, store=type(sources.store)())
        for rows, (alone,) in zip(together, extract_in_turn(units, [text], fresh), strict=True):
            assert torch.equal(rows[number].states, alone.states)
