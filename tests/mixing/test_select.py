"""Which rows a token mode selects, what they are, and which of them dropout leaves out."""

import dataclasses

import pytest
import tiny
import torch
from published import research

from zvl_ext.budget import dropped
from zvl_ext.mixing.select import Rows, drop_image_rows, select
from zvl_ext.options import BY_NAME
from zvl_ext.sequence import TEMPLATE, build_sequence

GRID = (3, 5)
IMAGES = 15
MODES = BY_NAME["token_mode"].choices
WITH_IMAGES = ("image", "image_no_markers", "all")
SYSTEMS = ["", "Describe the style."]


def numbered(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Hidden states that say which row they are."""
    return torch.arange(count, dtype=dtype)[:, None].expand(-1, 3).clone()


def numbers(rows: Rows) -> list[int]:
    return rows.states[:, 0].int().tolist()


@pytest.fixture
def selected(encode, tokenizer):
    """Rows of a token mode, and where every role stands in the whole sequence by definition."""

    def make(
        mode: str, prompt: str = "a cat", system: str = "", dtype: torch.dtype = torch.float32
    ) -> tuple[Rows, dict[str, list[int]]]:
        sequence = build_sequence(encode(TEMPLATE.format(prompt)), GRID, encode, system)
        _, where = tiny.plain_ids(tokenizer, prompt, IMAGES, system)
        return select(numbered(len(sequence.ids), dtype), sequence, mode), where

    return make


# --- roles


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("prompt", ["a cat", "", "a <|image_pad|> b <|vision_end|>"])
@pytest.mark.parametrize("mode", MODES)
def test_every_row_has_the_role_of_its_place(mode, prompt, system, selected):
    """By place, never by id: a prompt may hold the image token's own text."""
    rows, where = selected(mode, prompt, system)
    assert numbers(rows) == where[mode]
    assert rows.text.tolist() == [place in where["text"] for place in where[mode]]
    assert rows.image.tolist() == [place in where["image_no_markers"] for place in where[mode]]
    assert rows.head == 3


@pytest.mark.parametrize(
    ("mode", "text", "image", "markers"),
    [("text", "n", 0, 0), ("image", 0, IMAGES, 2), ("image_no_markers", 0, IMAGES, 0), ("all", "n", IMAGES, 2)],
)
def test_a_token_mode_has_so_many_rows_of_each_role(mode, text, image, markers, selected, encode):
    rows, _ = selected(mode)
    n = len(encode(TEMPLATE.format("a cat")))
    assert int(rows.text.sum()) == (n if text == "n" else 0)
    assert int(rows.image.sum()) == image
    assert int((~rows.text & ~rows.image).sum()) == markers
    assert not (rows.text & rows.image).any()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("mode", MODES)
def test_modes_with_the_prompts_rows_hold_position_0_and_the_others_do_not(mode, system, selected):
    """With a system text in front it is the template's first row still, the one that stands against the prompt's own
    first."""
    assert selected(mode, system=system)[0].holds_first == (mode in ("text", "all"))


# --- dropout


@pytest.mark.parametrize("count", [0, 1, 7, 14])
@pytest.mark.parametrize("mode", WITH_IMAGES)
def test_only_image_rows_go_exactly_as_many_as_asked_and_the_order_stays(mode, count, selected):
    rows, where = selected(mode)
    left = drop_image_rows(rows, count, seed=5)
    assert int(left.image.sum()) == IMAGES - count
    assert numbers(left) == sorted(numbers(left))
    gone = set(where[mode]) - set(numbers(left))
    assert len(gone) == count
    assert gone <= set(where["image_no_markers"])
    assert left.image.tolist() == [place in where["image_no_markers"] for place in numbers(left)]
    assert left.text.tolist() == [place in where["text"] for place in numbers(left)]
    assert (left.head, left.holds_first) == (rows.head, rows.holds_first)


def test_nothing_is_dropped_where_nothing_is_asked(selected):
    rows, _ = selected("all")
    assert drop_image_rows(rows, 0, seed=5) is rows


def test_the_same_seed_drops_the_same_rows_and_other_seeds_others(selected):
    rows, _ = selected("all")
    left = [tuple(numbers(drop_image_rows(rows, 7, seed))) for seed in (*range(20), *range(20))]
    assert left[:20] == left[20:]
    assert len(set(left)) > 15


def test_the_same_image_rows_go_in_every_token_mode(selected):
    """A mode changed between two pictures compares the modes, not two draws."""
    gone = []
    for mode in WITH_IMAGES:
        rows, _ = selected(mode)
        gone.append(set(numbers(rows)) - set(numbers(drop_image_rows(rows, 7, seed=3))))
    assert gone[0] == gone[1] == gone[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_draw_depends_on_the_seed_alone(dtype, selected):
    """Neither on torch's own random state, which samplers use, nor on the states: these numbers hold on every
    device."""
    rows, _ = selected("image_no_markers", dtype=dtype)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    left = drop_image_rows(rows, 10, seed=42)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = torch.randperm(IMAGES, generator=torch.Generator("cpu").manual_seed(42))[10:]
    assert [number - 4 for number in numbers(left)] == sorted(drawn.tolist())


@pytest.mark.parametrize("seed", [0, -1, 2**32 - 1, 2**63, 2**64 + 3, -(2**70)])
def test_any_whole_number_is_a_seed(seed, selected):
    assert len(numbers(drop_image_rows(selected("image_no_markers")[0], 10, seed))) == 5


def test_every_image_row_has_the_same_chance(selected):
    rows, _ = selected("image_no_markers")
    stayed = torch.zeros(100)
    for seed in range(1500):
        stayed[numbers(drop_image_rows(rows, 10, seed))] += 1
    assert ((stayed[4:19] - 500).abs() < 90).all()  # five standard deviations


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.95, 0.99, 1.0])  # 1.0 is more than the control allows
@pytest.mark.parametrize("images", [0, 1, 2, 3, 15, 256, 1024])
def test_the_share_is_rounded_down_and_one_image_row_always_stays(images, share):
    count = dropped(dataclasses.replace(research(), image_dropout=share), images)
    assert count == max(0, min(round(share * 100) * images // 100, images - 1))
    assert images == 0 or images - count >= 1
