"""The descriptions of image models: which layers they read, and what stands around their prompts."""

import pytest
import torch

from zvl_ext.image_models import IMAGE_MODELS, KLEIN, NAMES, Z_IMAGE
from zvl_ext.sequence import build_sequence

FILLER = 7


def encode(text: str) -> list[int]:
    """A token for each character, and one for the token that fills up."""
    return [FILLER] if text == "<|endoftext|>" else [100 + ord(each) for each in text]


# --- layers


@pytest.mark.parametrize("layer", range(-36, 0))
def test_z_image_reads_the_layer_itself(layer):
    assert Z_IMAGE.read_at(layer, 36) == (layer,)
    assert Z_IMAGE.joined({layer: "rows"}, [layer], 36) == {layer: "rows"}
    Z_IMAGE.check_layer(layer, 36, "it")


def test_klein_reads_three_layers_and_all_are_moved_alike():
    """From the end of 36 layers, the state after layer 9 is the 28th: the last of 37 states is -1."""
    assert KLEIN.read_at(-2, 36) == (-28, -19, -10)
    assert KLEIN.read_at(-3, 36) == (-29, -20, -11)
    assert KLEIN.read_at(-1, 36) == (-27, -18, -9)
    assert KLEIN.read_at(-2, 28) == (-20, -11, -2), "the same places of a model of other depth"


def test_states_stand_side_by_side_in_the_models_own_order():
    states = {at: torch.full((2, 3), float(at)) for at in (-28, -19, -10, -29, -20, -11)}
    joined = KLEIN.joined(states, (-3, -2), 36)
    assert joined[-2][0].tolist() == [-28.0] * 3 + [-19.0] * 3 + [-10.0] * 3
    assert joined[-3][1].tolist() == [-29.0] * 3 + [-20.0] * 3 + [-11.0] * 3
    assert KLEIN.hidden(joined[-2].shape[1]) == 3
    assert Z_IMAGE.hidden(2560) == 2560


@pytest.mark.parametrize(
    ("model", "layer", "layers", "line"),
    [
        (Z_IMAGE, -37, 36, "Hidden layer -37 does not exist: it has layers -1 to -36."),
        (Z_IMAGE, 0, 36, "Hidden layer 0 does not exist: it has layers -1 to -36."),
        (Z_IMAGE, -2, 1, "Hidden layer -2 does not exist: it has layers -1 to -1."),
        (KLEIN, -11, 36, "Hidden layer -11 does not exist: it has layers -1 to -10 with Flux.2 Klein, which reads 3 "
                         "at once."),
        (KLEIN, -1, 27, "Hidden layer -1 does not exist: it has layers -2 to -10 with Flux.2 Klein, which reads 3 at "
                        "once."),
        (KLEIN, -2, 14, "Flux.2 Klein reads its text encoder after layer 27, and it has 14."),
    ],
)  # fmt: skip
def test_a_layer_that_is_not_there_is_refused_in_one_line(model, layer, layers, line, refused):
    with refused(line.replace(".", r"\.")):
        model.check_layer(layer, layers, "it")


@pytest.mark.parametrize("layer", range(-10, 0))
def test_what_klein_takes_is_there(layer):
    KLEIN.check_layer(layer, 36, "it")
    assert all(-36 <= at <= -1 for at in KLEIN.read_at(layer, 36))


# --- prompts


def test_descriptions_are_told_apart():
    assert NAMES == "Z-Image or Flux.2 Klein"
    assert len({model.template.text for model in IMAGE_MODELS}) == len(IMAGE_MODELS)


def test_a_prompt_is_filled_up_with_its_own_token():
    text = KLEIN.template.text.format("a cat")
    ids = KLEIN.template.ids("a cat", encode)
    assert ids == (*encode(text), *[FILLER] * (512 - len(text)))
    assert KLEIN.template.filled(ids, encode) == 512 - len(text)
    assert KLEIN.template.ids("x" * 600, encode) == tuple(encode(KLEIN.template.text.format("x" * 600)))
    assert Z_IMAGE.template.ids("a cat", encode) == tuple(encode(Z_IMAGE.template.text.format("a cat")))
    assert Z_IMAGE.template.filled((1, FILLER), encode) == 0


def test_what_fills_up_belongs_to_the_templates_end():
    template = KLEIN.template
    ids = template.ids("a cat", encode)
    sequence = build_sequence(ids, (2, 3), encode, template=template)
    fill = template.filled(ids, encode)
    assert (sequence.head, sequence.filled) == (len(template.head), fill)
    assert sequence.tail == len(template.tail) + fill
    assert len(sequence.ids) == 512 + 6 + 2
    assert sequence.without_text().filled == 0


def test_another_models_prompt_is_refused_by_name(refused):
    with refused(r"do not begin with Flux\.2 Klein's template"):
        build_sequence(encode("[INST]a cat[/INST]"), (2, 3), encode, template=KLEIN.template)
