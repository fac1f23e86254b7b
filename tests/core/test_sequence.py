"""The token sequence: the host's own tokens, in order, with the vision block behind the template's head."""

import pytest
import tiny
import torch
from cases import PROMPTS

from zvl_ext.sequence import HEAD, TEMPLATE, VisionTokens, build_sequence, build_sequence_of

GRID = (3, 5)


@pytest.fixture(scope="module")
def vision(tokenizer) -> VisionTokens:
    ids = tiny.token_ids(tokenizer)
    return VisionTokens(ids["vision_start_token_id"], ids["image_token_id"], ids["vision_end_token_id"])


@pytest.fixture
def host(encode):
    """The host's ids of a prompt in Z-Image's template."""
    return lambda prompt: encode("<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n")


def test_the_tokenizer_of_these_tests_merges_line_breaks_as_qwens_does(encode):
    """Otherwise the prompts that begin with line breaks would prove nothing."""
    assert len(encode("\n")) == len(encode("\n\n")) == len(encode("\n\n\n")) == 1
    assert len({*encode("\n"), *encode("\n\n"), *encode("\n\n\n")}) == 3
    assert len(encode(HEAD)) == len(encode(HEAD + "\n")) == len(encode(HEAD + "\n\n")) == 3
    assert encode(HEAD + "\n")[:3] != encode(HEAD)


def test_the_template_is_z_images():
    assert TEMPLATE.format("x") == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert TEMPLATE.startswith(HEAD)


def test_the_default_vision_tokens_are_qwen3_vls():
    assert VisionTokens() == VisionTokens(start=151652, image=151655, end=151653)


@pytest.mark.parametrize("system", ["", "Describe\n\nthe style."])
@pytest.mark.parametrize("name", PROMPTS)
def test_ids_and_rows_are_those_of_the_definition(name, system, encode, host, vision, tokenizer):
    sequence = build_sequence(host(PROMPTS[name]), GRID, encode, system, vision)
    ids, modes = tiny.plain_ids(tokenizer, PROMPTS[name], 15, system)
    assert list(sequence.ids) == ids
    for mode, rows in modes.items():
        assert sequence.rows(mode) == rows, mode


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_text_rows_are_exactly_the_hosts_tokens_in_order(name, system, encode, host, vision):
    ids = host(PROMPTS[name])
    sequence = build_sequence(ids, GRID, encode, system, vision)
    assert [sequence.ids[i] for i in sequence.rows("text")] == ids


@pytest.mark.parametrize("name", PROMPTS)
def test_the_modes_have_the_sizes_that_are_promised(name, encode, host, vision):
    ids = host(PROMPTS[name])
    sequence = build_sequence(ids, GRID, encode, "Be brief.", vision)
    n, images = len(ids), 15
    sizes = {mode: len(sequence.rows(mode)) for mode in ("text", "image", "image_no_markers", "all")}
    assert sizes == {"text": n, "image": images + 2, "image_no_markers": images, "all": n + images + 2}
    block = [sequence.ids[i] for i in sequence.rows("image")]
    assert block == [vision.start, *[vision.image] * images, vision.end]
    assert sorted(sequence.rows("text") + sequence.rows("image")) == sequence.rows("all")


def test_a_system_text_stands_in_front_and_is_in_no_mode(encode, host, vision):
    without = build_sequence(host("a cat"), GRID, encode, "", vision)
    with_system = build_sequence(host("a cat"), GRID, encode, "Be brief.", vision)
    front = encode("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert list(with_system.ids) == front + list(without.ids)
    assert with_system.rows("all") == [i + len(front) for i in without.rows("all")]


def test_braces_in_a_system_text_are_text(encode, host, vision):
    sequence = build_sequence(host("a"), GRID, encode, "{} {x}", vision)
    assert list(sequence.ids[: sequence.system]) == encode("<|im_start|>system\n{} {x}<|im_end|>\n")


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (5, 3), (1, 9), (9, 1), (4, 4)])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_positions_are_those_of_transformers(grid, system, encode, host, vision, model):
    sequence = build_sequence(host("a photo of a cat"), grid, encode, system, vision)
    pixels = {"image_grid_thw": torch.tensor([[1, grid[0] * 2, grid[1] * 2]])}
    inputs = tiny.plain_inputs(model, list(sequence.ids), pixels)
    expected, _ = model.model.get_rope_index(**inputs)
    assert sequence.position_ids().dtype == torch.int64
    assert torch.equal(sequence.position_ids(), expected[:, 0])


@pytest.mark.parametrize("names", [("Picture 1: ", "Picture 2: ", "Picture 3: "), ("", "", "")], ids=["named", "not"])
@pytest.mark.parametrize("grids", [[(3, 5), (5, 3)], [(1, 1), (4, 4), (9, 1)], [(2, 2)] * 3], ids=str)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_positions_of_several_pictures_are_those_of_transformers(grids, names, system, encode, host, vision, model):
    sequence = build_sequence_of(host("a photo of a cat"), list(zip(names, grids)), encode, system, vision)
    pixels = {"image_grid_thw": torch.tensor([[1, rows * 2, columns * 2] for rows, columns in grids])}
    inputs = tiny.plain_inputs(model, list(sequence.ids), pixels)
    expected, _ = model.model.get_rope_index(**inputs)
    assert torch.equal(sequence.position_ids(), expected[:, 0])


def test_several_pictures_stand_one_after_another_each_behind_its_name(encode, host, vision):
    """The names are the tokens that they are in the whole text, and in no mode; nor is another picture's block."""
    pictures = [("Picture 1: ", (1, 2)), ("Picture 2: ", (3, 1))]
    sequence = build_sequence_of(host("a cat"), pictures, encode, "Be brief.", vision)
    block = "<|vision_start|>{}<|vision_end|>"
    text = "".join(name + block.format("<|image_pad|>" * rows * columns) for name, (rows, columns) in pictures)
    system = encode("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert list(sequence.ids) == system + host(text + "a cat")
    assert [sequence.ids[i] for i in sequence.rows("text")] == host("a cat")
    for number, (_, (rows, columns)) in enumerate(pictures):
        chosen = sequence.rows("image", number)
        assert [sequence.ids[i] for i in chosen] == encode(block.format("<|image_pad|>" * rows * columns))
        assert chosen == list(range(chosen[0], chosen[0] + rows * columns + 2))
        assert sorted(sequence.rows("text") + chosen) == sequence.rows("all", number)
    assert sequence.rows("image", 0)[-1] < sequence.rows("image", 1)[0]
    assert sequence.without_text().ids == sequence.ids[: sequence.fork]
    assert sequence.ids[sequence.fork - 1] == vision.end


def test_positions_take_the_literal_text_of_an_image_token_for_text(encode, host, vision):
    literal = build_sequence(host("a <|image_pad|> b"), GRID, encode, "", vision)
    ordinary = build_sequence(
        [i if i != vision.image else 0 for i in host("a <|image_pad|> b")], GRID, encode, "", vision
    )
    assert torch.equal(literal.position_ids(), ordinary.position_ids())


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("name", PROMPTS)
def test_up_to_the_fork_a_sequence_has_no_word_of_the_prompt_and_all_that_image_rows_need(
    name, system, encode, host, vision
):
    """But for line breaks that begin a prompt: they are one token with the template's."""
    sequence = build_sequence(host(PROMPTS[name]), GRID, encode, system, vision)
    front = sequence.without_text()
    assert sequence.fork == len(front.ids) == sequence.system + 3 + 1 + 15 + 1
    assert front.ids == sequence.ids[: sequence.fork]
    assert front.without_text() == front
    for mode in ("image", "image_no_markers"):
        assert front.rows(mode) == sequence.rows(mode)
    assert torch.equal(front.position_ids(), sequence.position_ids()[:, : sequence.fork])
    another = build_sequence(host("another"), GRID, encode, system, vision).without_text()
    assert (front == another) == (host(PROMPTS[name])[:3] == host("another")[:3])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "<|im_start|>",
        "<|im_start|>user",
        "<|im_start|>user\n",
        "<|im_start|>system\nx",
        "user\na cat<|im_end|>",
        "<|im_start|>assistant\na",
    ],
)
def test_ids_of_another_template_are_refused(text, encode, vision, refused):
    with refused("do not begin with Z-Image's template"):
        build_sequence(encode(text), GRID, encode, "", vision)


def test_sequences_can_be_keys(encode, host, vision):
    first, second = (build_sequence(ids, GRID, encode, "", vision) for ids in (host("a cat"), tuple(host("a cat"))))
    assert first == second
    assert hash(first) == hash(second)
    assert first != build_sequence(host("a cat"), (5, 3), encode, "", vision)
