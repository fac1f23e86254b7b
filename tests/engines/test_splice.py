"""The splice engine: image tokens read by the image model's own text encoder, against plain transformers."""

import pytest
import safetensors
import tiny
import torch
from cases import TOKENS
from compare import hooks, relative_error

from zvl_ext.conditioner import condition, extract
from zvl_ext.engines.sources import Text
from zvl_ext.engines.text_encoder import mrope_tables
from zvl_ext.hosts.standalone import StandaloneExtractor, StandaloneTextEncoder
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.qwen3vl import language, vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.reference import open_reference, sized

LAYERS = range(-7, 0)  # of the text encoder; the tiny Qwen3-VL has five
# DeepStack adds to the states after layers 1, 2 and 3. transformers 5 records those states before the addition,
# transformers 4 after it, so for them plain transformers is two references, not one. Every deeper state has all three
# additions inside.
BEHIND_DEEPSTACK = range(-4, 0)
TOLERANCE = 1e-4
PROMPTS = ["a photo of a cat", "", "\n\na <|image_pad|> cat\nin two lines"]
SIZES = [(160, 96), (64, 192), (500, 333), (32, 32)]


def spliced(**values) -> Settings:
    """The whole sequence by engine splice, nothing done to it."""
    return Settings.from_mapping(
        {
            "engine": "splice",
            "hidden_layer": -2,
            "token_mode": "all",
            "reference_tokens": TOKENS,
            "scale_to_text": False,
            **values,
        }
    )


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert relative_error(got, wanted) <= TOLERANCE


@pytest.fixture
def plain_sequential(model, text_encoder, tokenizer):
    """The text encoder's states on embeddings put together here; `scale` multiplies the prompt's own rows."""

    def make(
        prompt: str, size: tuple[int, int] = (160, 96), system: str = "", scale: torch.Tensor | float = 1.0
    ) -> tuple[tuple[torch.Tensor, ...], dict]:
        image = tiny.plain_image_tokens(model, tiny.plain_pixels(tiny.picture(*size), TOKENS))[0]
        ids, modes = tiny.plain_ids(tokenizer, prompt, image.shape[0], system)
        inputs = text_encoder.get_input_embeddings()(torch.tensor(ids))
        inputs[modes["text"]] *= scale
        inputs[modes["image_no_markers"]] = image
        return tiny.plain_text_states(text_encoder, inputs), modes

    return make


@pytest.fixture(scope="module")
def whole(model, text_encoder, tokenizer):
    return tiny.with_text_encoder(model, text_encoder, tokenizer)


@pytest.fixture
def plain_mrope(whole, tokenizer):
    """The states of plain Qwen3-VL whose language model is the text encoder."""

    def make(prompt: str, size: tuple[int, int] = (160, 96), system: str = "") -> tuple[tuple[torch.Tensor, ...], dict]:
        pixels = tiny.plain_pixels(tiny.picture(*size), TOKENS)
        ids, modes = tiny.plain_ids(tokenizer, prompt, int(pixels["image_grid_thw"].prod()) // 4, system)
        return tiny.plain_hidden_states(whole, ids, pixels, modes["image_no_markers"]), modes

    return make


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


# --- the conditioning


# token mode -> length match -> rows, for n prompt tokens and 15 image tokens; row 0 is the prompt's own, the rest is
# matched
COUNTS = {
    "text": {"interpolate": lambda n: n, "truncate": lambda n: n, "insert": lambda n: n},
    "image": {"interpolate": lambda n: n, "truncate": lambda n: 1 + min(n - 1, 17), "insert": lambda n: n + 17},
    "image_no_markers": {
        "interpolate": lambda n: n,
        "truncate": lambda n: 1 + min(n - 1, 15),
        "insert": lambda n: n + 15,
    },
    "all": {"interpolate": lambda n: n, "truncate": lambda n: n, "insert": lambda n: n + 17},
}
SHORT, LONG = "a cat", "a photo of a cat in the rain at night, seen from below"
KEPT = [
    {"engine": "splice", "scale_to_text": False},
    {"engine": "splice", "scale_to_text": True, "normalization": "sink_aware"},
    {"engine": "blend", "scale_to_text": True, "normalization": "sink_aware"},
]


def test_the_two_prompts_are_shorter_and_longer_than_the_picture(text_of):
    assert len(text_of(SHORT).ids) - 1 < 15 < 17 < len(text_of(LONG).ids) - 1


@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: f"{kept['engine']}, {kept.get('normalization', 'none')}")
def test_row_0_is_the_prompts_own_bit_for_bit_and_the_rest_is_counted(
    kept, mode, length_match, sources, reference, text_of
):
    for prompt in (SHORT, LONG):
        text = text_of(prompt)
        for alpha, blend_mode in ((0.3, "linear"), (1.0, "linear"), (0.5, "slerp"), (0.5, "adain_per_dim")):
            got = condition(
                spliced(token_mode=mode, length_match=length_match, alpha=alpha, blend_mode=blend_mode, **kept),
                reference,
                text,
                sources,
            )
            assert got.shape == (COUNTS[mode][length_match](len(text.ids)), text.embeddings.shape[1])
            assert torch.equal(got[0], text.embeddings[0])
            assert not torch.equal(got, text.embeddings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_row_0_is_kept_in_half_precision_too(dtype, sources, reference, text_of):
    text = text_of(dtype=dtype)
    got = condition(spliced(length_match="insert", alpha=1.0), reference, text, sources)
    assert got.dtype == dtype
    assert torch.equal(got[0], text.embeddings[0])


def test_engine_blend_with_another_normalization_blends_row_0_like_any_other(sources, reference, text_of):
    """As the research defines it."""
    text = text_of()
    for length_match in ("interpolate", "insert"):
        got = condition(spliced(engine="blend", length_match=length_match, alpha=0.3), reference, text, sources)
        assert relative_error(got[0], text.embeddings[0]) > 0.01


@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
@pytest.mark.parametrize("mode", COUNTS)
def test_alpha_0_is_the_prompt_bit_for_bit_and_makes_no_pass(
    mode, length_match, sources, extractor, encoder, reference, text_of
):
    text = text_of()
    got = condition(spliced(token_mode=mode, length_match=length_match, alpha=0.0), reference, text, sources)
    assert torch.equal(got, text.embeddings)
    assert (extractor.passes, encoder.passes) == ([], [])


@pytest.mark.parametrize("engine", ["splice", "blend"])
def test_with_insert_the_rows_are_head_block_and_rest_in_this_order(engine, sources, reference, text_of):
    """Without normalization, alpha 1: what comes out is what was read, in its own order, but for row 0."""
    text = text_of()
    chosen = spliced(engine=engine, length_match="insert", alpha=1.0)
    got = condition(chosen, reference, text, sources)
    read = extract(chosen, reference, text, sources)
    assert read.image.nonzero().flatten().tolist() == list(range(4, 19))
    assert torch.equal(got[1:], read.states[1:])


@pytest.mark.parametrize("mode", ["image", "image_no_markers"])
def test_with_insert_and_image_rows_alone_the_prompts_rows_stay_as_they_are(mode, sources, reference, text_of):
    text = text_of()
    for alpha in (0.3, 1.0):
        chosen = spliced(token_mode=mode, length_match="insert", alpha=alpha)
        got = condition(chosen, reference, text, sources)
        block = extract(chosen, reference, text, sources).states
        assert torch.equal(got, torch.cat([text.embeddings[:3], block, text.embeddings[3:]]))


@pytest.mark.parametrize(
    "normalized", [{"scale_to_text": False}, {"scale_to_text": True, "normalization": "sink_aware"}]
)
@pytest.mark.parametrize("engine", ["splice", "blend"])
def test_with_insert_alpha_moves_the_prompts_rows_linearly_and_the_image_rows_not_at_all(
    engine, normalized, sources, reference, text_of
):
    text = text_of()
    own = torch.tensor([*range(3), *range(20, 20 + len(text.ids) - 3)])
    chosen = {"engine": engine, "length_match": "insert", **normalized}
    full = condition(spliced(alpha=1.0, **chosen), reference, text, sources)
    for alpha in (0.01, 0.3, 0.75):
        got = condition(spliced(alpha=alpha, **chosen), reference, text, sources)
        mixed = alpha * full[own] + (1 - alpha) * text.embeddings
        assert torch.equal(got[own][1:], mixed[1:])
        assert torch.equal(got[3:20], full[3:20])


@pytest.mark.parametrize("mode", ["image", "image_no_markers", "all"])
@pytest.mark.parametrize(("dropout", "stay"), [(0.5, 8), (0.75, 4), (0.99, 1)])
def test_dropout_leaves_out_its_share_of_the_image_rows_by_the_pictures_seed(
    mode, dropout, stay, sources, encoder, reference, text_of
):
    text = text_of()
    chosen = spliced(token_mode=mode, length_match="insert", alpha=1.0, image_dropout=dropout)
    first, again, other = (condition(chosen, reference, text, sources, seed) for seed in (1, 1, 3))
    assert len(first) == len(text.ids) + stay + {"image": 2, "image_no_markers": 0, "all": 2}[mode]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert encoder.passes == ["states"]  # another seed is no new pass


# --- what is reused


IMAGE_MODES = ["image", "image_no_markers"]
BEFORE = 3 + 17  # tokens up to the end of the vision block: the template's head, 15 image tokens and their markers


def test_the_same_prompt_again_makes_no_pass_and_another_prompt_does_not_look_again(
    sources, extractor, encoder, reference, text_of
):
    for prompt, looks, reads in (("a cat", 1, 1), ("a cat", 1, 1), ("a dog", 1, 2), ("", 1, 3), ("a cat", 1, 3)):
        condition(spliced(), reference, text_of(prompt), sources)
        assert (extractor.passes, encoder.passes) == (["image_tokens"] * looks, ["states"] * reads)


def test_whatever_comes_after_the_reading_makes_no_pass(sources, extractor, encoder, reference, text_of):
    for values in (
        {},
        {"alpha": 0.9},
        {"token_mode": "text"},
        {"length_match": "insert"},
        {"image_dropout": 0.5},
        {"reference_tokens": 256},
        {"scale_to_text": True, "normalization": "sink_aware"},
    ):
        condition(spliced(**values), reference, text_of(), sources)
    assert (extractor.passes, encoder.passes) == (["image_tokens"], ["states"])


@pytest.mark.parametrize("values", [{"positions": "mrope"}, {"system_prompt": "x"}, {"vl_prompt": "x"}])
def test_another_way_to_read_is_a_new_reading_of_the_same_look(values, sources, extractor, encoder, reference, text_of):
    first = extract(spliced(), reference, text_of(), sources).states
    other = extract(spliced(**values), reference, text_of(), sources).states
    assert not torch.equal(first, other)
    assert (extractor.passes, encoder.passes) == (["image_tokens"], ["states"] * 2)


@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_image_rows_alone_are_read_once_for_all_prompts(
    positions, mode, sources, reference, text_of, plain_sequential, plain_mrope
):
    wanted, modes = {"sequential": plain_sequential, "mrope": plain_mrope}[positions]("")
    texts = [text_of("a cat", emphasis=1.3), text_of("something else, longer"), text_of("")]
    chosen = spliced(positions=positions, token_mode=mode)
    with tiny.work() as done:
        for text in texts:
            assert_close(extract(chosen, reference, text, sources).states, wanted[-2][modes[mode]])
            condition(chosen, reference, text, sources)
    assert (done.encoded, done.looks) == (tiny.layers(0, 6, BEFORE), 1)


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_image_rows_are_read_anew_by_a_text_encoder_that_has_changed(mode, sources, encoder, reference, text_of):
    """No word of the prompt is read, so nothing of the prompt can tell: the text encoder's own state does."""
    for state, reads in (("", 1), ("a LoRA", 2), ("a LoRA", 2), ("", 2)):
        encoder.state = state
        extract(spliced(token_mode=mode), reference, text_of(), sources)
        assert encoder.passes == ["states"] * reads


@pytest.mark.parametrize("state", ["", "another for every picture"])
def test_where_the_prompt_is_read_its_embeddings_tell_of_a_change(state, sources, encoder, reference, text_of):
    extract(spliced(), reference, text_of(), sources)
    encoder.state = state
    extract(spliced(), reference, text_of(), sources)
    assert encoder.passes == ["states"]


DEPTHS = [
    [1, 2, 3, 4, 5, 6, 7],
    [7, 6, 5, 4, 3, 2, 1],
    [4, 1, 7, 2, 6, 3, 5],
    [2, 7, 3],
    [3, 5, 4, 6],
    [1, 7],
    [6, 7, 6, 1],
]


@pytest.mark.parametrize("order", DEPTHS, ids=str)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_grid_over_layers_runs_each_layer_once_in_any_order(
    positions, order, sources, reference, text_of, plain_sequential, plain_mrope
):
    text = text_of()
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions](text.prompt)
    sources.every_layer = True
    tokens = BEFORE + len(text.ids) - 3
    with tiny.work() as done:
        for depth in order:
            got = extract(spliced(hidden_layer=depth - 8, positions=positions), reference, text, sources).states
            if positions == "sequential" or depth - 8 in BEHIND_DEEPSTACK:
                assert_close(got, wanted[depth])
    assert done.encoded == tiny.layers(0, max(order), tokens)
    assert done.looks == 1


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_deeper_layer_goes_on_from_the_one_that_is_kept(
    positions, sources, reference, text_of, plain_sequential, plain_mrope
):
    """Also where the kept one is among those that DeepStack adds to."""
    text = text_of()
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions](text.prompt)
    tokens = BEFORE + len(text.ids) - 3
    with tiny.work() as done:
        extract(spliced(positions=positions, hidden_layer=-6), reference, text, sources)
        assert_close(
            extract(spliced(positions=positions, hidden_layer=-4), reference, text, sources).states, wanted[-4]
        )
        assert_close(
            extract(spliced(positions=positions, hidden_layer=-1), reference, text, sources).states, wanted[-1]
        )
        assert done.encoded == tiny.layers(0, 7, tokens)
        extract(spliced(positions=positions, hidden_layer=-5), reference, text, sources)
    assert done.encoded == tiny.layers(0, 7, tokens) + tiny.layers(2, 3, tokens), "from layer -6 on"
    assert done.looks == 1


def test_without_a_grid_over_layers_only_the_layers_asked_for_are_kept(sources, reference, text_of):
    for layer in (-6, -4):
        extract(spliced(hidden_layer=layer), reference, text_of(), sources)
    kept = [set(bundle) for bundle, _ in sources.store._kept.values()]
    assert kept == [{"tokens"}, {"2", "4"}]


@pytest.mark.parametrize("change", ["picture", "size", "precision"])
def test_another_picture_size_or_precision_is_a_new_look(change, sources, extractor, reference, text_of):
    extract(spliced(), reference, text_of(), sources)
    values = {"reference_tokens": 8} if change == "size" else {}
    if change == "precision":
        extractor.precision = "cuda:0 torch.bfloat16"
    elif change == "picture":
        reference = open_reference(tiny.picture(160, 96, seed=1))
    extract(spliced(**values), reference, text_of(), sources)
    assert extractor.passes == ["image_tokens"] * 2


def test_emphasis_is_a_new_reading(sources, encoder, reference, text_of):
    for emphasis in (1.0, 1.1, 1.0):
        extract(spliced(), reference, text_of(emphasis=emphasis), sources)
    assert encoder.passes == ["states"] * 2


@pytest.mark.parametrize("vl_prompt", ["{prompt}", "the style"])
def test_a_text_encoder_that_has_changed_under_the_same_name_is_not_served_stale(
    vl_prompt, sources, tokenizer, reference, text_of
):
    """As with a LoRA on the text encoder: the same file, the same prompt, the same input embeddings, other outputs."""
    text = text_of()
    stale = extract(spliced(vl_prompt=vl_prompt), reference, text, sources).states
    changed = tiny.make_text_encoder(tokenizer)
    changed.layers[2].mlp.down_proj.weight.mul_(1.5)
    sources.text_encoder = StandaloneTextEncoder(changed, sources.text_encoder.identity)
    told = Text(text.prompt, text.ids, tiny.plain_text_states(changed, text.inputs)[-2], text.inputs)
    assert relative_error(extract(spliced(vl_prompt=vl_prompt), reference, told, sources).states, stale) > 0.01


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


# --- the vision tower alone


def tower_tokens(path, size=(150, 77), dtype=torch.float32) -> torch.Tensor:
    """What the tower alone makes of a picture, loaded from a folder or a file."""
    checkpoint = open_checkpoint(str(path))
    return vision.stacked_tokens(
        vision.load(checkpoint, dtype), sized(open_reference(tiny.picture(*size)), TOKENS, checkpoint.unit)
    )


def whole_tokens(model, size=(150, 77)) -> torch.Tensor:
    return tiny.plain_image_tokens(model, tiny.plain_pixels(tiny.picture(*size), TOKENS))


@pytest.fixture(scope="module")
def state(model):
    return tiny.inner_state(model)


@pytest.fixture
def get_tensor(monkeypatch):
    """The names of all tensors that are read, from now on, and their bytes."""
    read: dict[str, int] = {}
    real = safetensors.safe_open

    class Recording:
        def __init__(self, *args):
            self.file = real(*args)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def get_tensor(self, key):
            assert key not in read, f"{key} is read twice"
            value = self.file.get_tensor(key)
            read[key] = value.nbytes
            return value

    monkeypatch.setattr(safetensors, "safe_open", Recording)
    return read


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_the_tower_alone_is_the_whole_models(kind, size, model, request):
    """Image tokens and every DeepStack addition."""
    got = tower_tokens(request.getfixturevalue(kind), size)
    wanted = whole_tokens(model, size)
    assert got.dtype == torch.float32
    assert got.shape[0] == 4
    for one, other in zip(got, wanted):
        assert_close(one, other)


def test_the_tower_alone_is_made_by_the_config_where_its_shapes_do_not_tell(irregular, irregular_folder):
    assert_close(tower_tokens(irregular_folder), whole_tokens(irregular))


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("told", [True, False], ids=["configuration told", "configuration derived"])
def test_the_tower_alone_is_read_from_single_files(layout, told, model, state, tmp_path):
    metadata = tiny.config_metadata(model.config) if told else None
    assert_close(
        tower_tokens(tiny.save_single(state, tmp_path / "one.safetensors", layout, metadata)), whole_tokens(model)
    )


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_the_tower_alone_is_read_from_fp8_files_with_a_tower_in_bf16(kind, model, state, tmp_path):
    stored, meant = tiny.quantize(state, kind)
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors", metadata=tiny.config_metadata(model.config))
    plain = tiny.make_model(model.config)
    for name, weight in plain.model.named_parameters():
        weight.copy_(meant[name].float())
    assert_close(tower_tokens(path), whole_tokens(plain))


def test_a_tower_in_fp8_is_multiplied_with_its_scales(model, state, tmp_path):
    stored = {name: value.to(torch.bfloat16) for name, value in state.items()}
    plain = tiny.make_model(model.config)
    for name, weight in plain.model.named_parameters():
        if name.startswith("visual.blocks.") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix(".weight") + ".weight_scale"] = scale
            weight.copy_(stored[name].float() * scale)
        else:
            weight.copy_(stored[name].float())
    path = tiny.save_single(stored, tmp_path / "fp8.safetensors", metadata=tiny.config_metadata(model.config))
    assert_close(tower_tokens(path), whole_tokens(plain))


def test_the_tower_in_bfloat16_is_near_float32(folder):
    assert 0 < relative_error(tower_tokens(folder, dtype=torch.bfloat16), tower_tokens(folder)) < 0.05


@pytest.mark.parametrize("kind", ["folder", "sharded", "one file"])
def test_only_the_towers_tensors_are_read_and_each_once(kind, request, state, tmp_path, get_tensor):
    path = (
        tiny.save_single(state, tmp_path / "one.safetensors") if kind == "one file" else request.getfixturevalue(kind)
    )
    checkpoint = open_checkpoint(str(path))
    assert get_tensor == {}  # headers alone tell what is in the files
    vision.load(checkpoint, torch.float32)
    assert set(get_tensor) == {stored.key for name, stored in checkpoint.tensors.items() if name.startswith("visual.")}
    assert all(".visual." in key or key.startswith("visual.") for key in get_tensor)
    assert sum(get_tensor.values()) == 4 * checkpoint.count("visual.") < 4 * checkpoint.parameters


def test_splice_never_loads_qwen3_vls_language_model(checkpoint, sources, reference, text_of, monkeypatch, get_tensor):
    monkeypatch.setattr(language, "load", lambda *args: pytest.fail("the whole model was loaded"))
    sources.extractor = StandaloneExtractor(checkpoint)
    for positions in ("sequential", "mrope"):
        for prompt in ("a cat", "a dog"):
            condition(spliced(positions=positions), reference, text_of(prompt), sources)
    assert set(get_tensor) == {stored.key for name, stored in checkpoint.tensors.items() if name.startswith("visual.")}


@pytest.mark.parametrize(
    "name",
    ["merger.linear_fc1.weight", "blocks.3.attn.qkv.bias", "pos_embed.weight", "deepstack_merger_list.2.norm.bias"],
)
def test_a_missing_tensor_of_the_tower_is_named(name, model, state, tmp_path, refused):
    rest = {key: value for key, value in state.items() if key != "visual." + name}
    path = tiny.save_single(rest, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    with refused(f"one.safetensors: the tensor visual.{name} is missing"):
        vision.load(open_checkpoint(str(path)), torch.float32)


@pytest.mark.parametrize("fault", ["missing", "too many", "misshapen"])
def test_what_is_wrong_with_the_language_model_does_not_matter_to_the_tower(fault, model, state, tmp_path, refused):
    name = "language_model.layers.3.mlp.up_proj.weight"
    faulty = {key: value for key, value in state.items() if key != name}
    if fault == "too many":
        faulty |= {name: state[name], "language_model.layers.3.more.weight": torch.zeros(2)}
    elif fault == "misshapen":
        faulty[name] = state[name][:-1]
    path = tiny.save_single(faulty, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    assert_close(tower_tokens(path), whole_tokens(model))
    with refused("language_model.layers.3"):
        language.load(open_checkpoint(str(path)), torch.float32)
