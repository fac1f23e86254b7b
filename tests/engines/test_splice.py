"""The splice engine: image tokens read by the image model's own text encoder, against plain transformers."""

import pytest
import tiny
import torch
from cases import SIZES
from compare import assert_close, hooks, relative_error
from splicing import BEHIND_DEEPSTACK, spliced

from zvl_ext.conditioner import condition, extract
from zvl_ext.engines.sources import Text
from zvl_ext.engines.text_encoder import mrope_tables
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.options import BY_NAME
from zvl_ext.reference import open_reference

LAYERS = range(-7, 0)  # of the text encoder; the tiny Qwen3-VL has five
PROMPTS = ["a photo of a cat", "", "\n\na <|image_pad|> cat\nin two lines"]


# --- parity


@pytest.mark.parametrize("prompt", PROMPTS)
def test_sequential_is_the_plain_text_encoder_on_those_embeddings_at_every_layer(
    prompt, sources, reference, text_of, plain_sequential
):
    wanted, _ = plain_sequential(prompt)
    for layer in LAYERS:
        assert_close(extract(spliced(hidden_layer=layer), reference, text_of(prompt), sources).states, wanted[layer])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_mrope_is_plain_qwen3_vl_with_the_text_encoders_weights(prompt, sources, reference, text_of, plain_mrope):
    wanted, _ = plain_mrope(prompt)
    for layer in BEHIND_DEEPSTACK:
        assert_close(
            extract(spliced(hidden_layer=layer, positions="mrope"), reference, text_of(prompt), sources).states,
            wanted[layer],
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_any_picture_is_read_as_by_plain_transformers(positions, size, sources, text_of, plain_sequential, plain_mrope):
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions]("a cat", size)
    got = extract(spliced(positions=positions), open_reference(tiny.picture(*size)), text_of("a cat"), sources)
    assert_close(got.states, wanted[-2])


@pytest.mark.parametrize("mode", BY_NAME["token_mode"].choices)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_system_text_is_read_first_in_every_token_mode(
    positions, mode, sources, reference, text_of, plain_sequential, plain_mrope
):
    wanted, modes = {"sequential": plain_sequential, "mrope": plain_mrope}[positions]("a cat", system="Draw a cat!\n\n")
    got = extract(
        spliced(positions=positions, token_mode=mode, system_prompt="Draw {prompt}!\n\n"),
        reference,
        text_of("a cat"),
        sources,
    )
    assert_close(got.states, wanted[-2][modes[mode]])


@pytest.mark.parametrize(
    ("vl_prompt", "read"), [("", ""), ("the style", "the style"), ("{prompt} in oil", "a cat in oil")]
)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_text_of_its_own_takes_the_place_of_the_prompt(
    positions, vl_prompt, read, sources, reference, text_of, plain_sequential, plain_mrope
):
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions](read)
    assert_close(
        extract(spliced(positions=positions, vl_prompt=vl_prompt), reference, text_of("a cat"), sources).states,
        wanted[-2],
    )


def test_emphasis_on_the_prompts_embeddings_is_read(sources, reference, text_of, plain_sequential):
    plain = text_of("a photo of a cat")
    scale = torch.ones(len(plain.ids), 1)
    scale[5] = 1.4  # as (photo:1.4) does
    wanted, modes = plain_sequential("a photo of a cat", scale=scale)
    got = extract(spliced(), reference, text_of("a photo of a cat", emphasis=scale), sources).states
    assert_close(got, wanted[-2])
    without = extract(spliced(), reference, plain, sources).states
    last = modes["text"][-1]
    assert relative_error(got[last], without[last]) > 0.01


def test_a_host_that_keeps_its_input_embeddings_to_itself_gets_those_of_the_ids(sources, reference, text_of):
    text = text_of()
    got = extract(spliced(), reference, Text(text.prompt, text.ids, text.embeddings), sources).states
    assert torch.equal(got, extract(spliced(), reference, text, sources).states)


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_the_text_encoder_in_bfloat16_is_near_float32(positions, sources, tokenizer, reference, text_of):
    wanted = extract(spliced(positions=positions), reference, text_of(), sources).states
    sources.text_encoder = StandaloneTextEncoder(tiny.make_text_encoder(tokenizer).to(torch.bfloat16), "half")
    got = extract(spliced(positions=positions), reference, text_of(), sources).states
    assert got.dtype == torch.float32
    assert 0 < relative_error(got, wanted) < 0.05


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize(("head_dim", "section"), [(128, (24, 20, 20)), (32, (6, 5, 5)), (16, (4, 2, 2))])
def test_rotary_tables_follow_the_definition_frequency_by_frequency(head_dim, section, theta):
    """Interleaved: time, row, column, time, row, column, … while rows and columns have frequencies left, then time
    alone."""
    positions = torch.tensor([[0, 1, 1, 9], [0, 1, 2, 9], [0, 3, 1, 9]])
    cosine, sine = mrope_tables(positions, head_dim, theta, section)
    assert cosine.shape == sine.shape == (4, head_dim)
    counted = [0, 0, 0]
    for i in range(head_dim // 2):
        axis = i % 3 if counted[i % 3] < section[i % 3] else 0
        counted[axis] += 1
        angle = positions[axis].double() / theta ** (2 * i / head_dim)
        for column in (i, i + head_dim // 2):
            assert torch.allclose(cosine[:, column].double(), angle.cos(), atol=1e-5)
            assert torch.allclose(sine[:, column].double(), angle.sin(), atol=1e-5)
    assert tuple(counted) == section


# --- causality


def test_prompt_rows_before_the_vision_block_are_the_plain_text_encoders_and_those_after_it_are_not(
    sources, reference, text_of
):
    text = text_of()
    got = extract(spliced(token_mode="text"), reference, text, sources)
    assert got.states.shape == text.embeddings.shape
    assert got.head == 3
    assert_close(got.states[: got.head], text.embeddings[: got.head])
    for row in range(got.head, len(text.ids)):
        assert relative_error(got.states[row], text.embeddings[row]) > 0.01


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_image_rows_depend_on_the_reference_alone(positions, sources, reference, text_of):
    rows = [
        extract(spliced(positions=positions, token_mode="image"), reference, text_of(prompt), sources).states
        for prompt in ("a cat", "something else, longer")
    ]
    assert_close(*rows)


# --- refusals, and what is left behind


@pytest.mark.parametrize("layer", [-8, -36])
def test_a_layer_the_text_encoder_does_not_have_is_refused_before_a_pass(
    layer, sources, extractor, encoder, reference, text_of, refused
):
    with refused(f"Hidden layer {layer} does not exist: the text encoder has layers -1 to -7"):
        condition(spliced(hidden_layer=layer), reference, text_of(), sources)
    assert (extractor.passes, encoder.passes) == ([], [])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite_are_refused_and_not_kept(value, sources, tokenizer, reference, text_of, refused):
    broken = tiny.make_text_encoder(tokenizer)
    broken.layers[3].mlp.down_proj.weight.fill_(value)
    sources.text_encoder = StandaloneTextEncoder(broken, "broken")
    for _ in range(2):
        with refused("Hidden layer -2 of the text encoder has values that are not finite"):
            condition(spliced(), reference, text_of(), sources)
    assert torch.isfinite(condition(spliced(hidden_layer=-6), reference, text_of(), sources)).all()


def test_a_text_encoder_of_another_width_is_refused_before_a_pass(
    sources, extractor, encoder, reference, text_of, refused
):
    text = text_of()
    with refused("tiny-vl: this model is 64 wide, the image model's text encoder 2560"):
        condition(
            spliced(), reference, Text(text.prompt, text.ids, torch.zeros(len(text.ids), 2560), text.inputs), sources
        )
    assert (extractor.passes, encoder.passes) == ([], [])


@pytest.fixture
def untouched(text_encoder, text_of):
    """Call it to see that the text encoder is what it was before the test: its layers, its hooks, its answers."""
    text, layers = text_of(), text_encoder.layers
    before = hooks(text_encoder)  # transformers 5 leaves some of its own where hidden states were asked for

    def check() -> None:
        assert text_encoder.layers is layers
        assert (len(layers), hooks(text_encoder)) == (7, before)
        assert torch.equal(text_of().embeddings, text.embeddings)

    return check


@pytest.mark.parametrize("layer", [-7, -2, -1])
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_the_text_encoder_is_left_as_it_was(positions, layer, sources, reference, text_of, untouched):
    extract(spliced(positions=positions, hidden_layer=layer), reference, text_of(), sources)
    untouched()


@pytest.mark.parametrize("fails", [0, 3])
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_the_text_encoder_is_left_as_it_was_when_a_pass_fails(
    positions, fails, sources, text_encoder, reference, text_of, untouched, monkeypatch
):
    text = text_of()

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(text_encoder.layers[fails], "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            extract(spliced(positions=positions), reference, text, sources)
    untouched()
    assert torch.isfinite(extract(spliced(positions=positions), reference, text, sources).states).all()
