"""The one pipeline: which passes are made, what is reused, and that alpha 0 is the text itself."""

import numpy as np
import pytest
import tiny
import torch
from published import research

from zvl_ext.conditioner import condition, extract, mix, needs_statistics
from zvl_ext.engines.sources import Text
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.mixing.select import Rows
from zvl_ext.mixing.statistics import measure
from zvl_ext.options import Settings
from zvl_ext.qwen3vl.checkpoint import Checkpoint
from zvl_ext.reference import open_reference

HIDDEN = 64


def settings(**values) -> Settings:
    return research(**({"hidden_layer": -2, "reference_tokens": 24} | values))


@pytest.fixture
def plain_rows(model, tokenizer):
    """Rows of plain transformers for a prompt, a picture and a token mode."""

    def make(prompt, mode="text", layer=-2, system="", size=(160, 96), pixels=None):
        pixels = pixels or tiny.plain_pixels(tiny.picture(*size), 24)
        ids, modes = tiny.plain_ids(tokenizer, prompt, int(pixels["image_grid_thw"].prod()) // 4, system)
        return tiny.plain_hidden_states(model, ids, pixels, modes["image_no_markers"])[layer][modes[mode]]

    return make


def text_rows(states: torch.Tensor) -> Rows:
    """Hidden states of text positions, position 0 first."""
    every = torch.ones(states.shape[0], dtype=torch.bool)
    return Rows(states, every, ~every, 3)


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-3


# --- extract


@pytest.mark.parametrize("mode", ["text", "image", "image_no_markers", "all"])
@pytest.mark.parametrize("layer", [-5, -2, -1])
def test_extracted_rows_are_those_of_plain_transformers(mode, layer, sources, reference, text_of, plain_rows):
    got = extract(settings(token_mode=mode, hidden_layer=layer), reference, text_of(), sources).states
    assert_close(got, plain_rows("a photo of a cat", mode, layer))


@pytest.mark.parametrize(
    ("vl_prompt", "read"),
    [
        ("{prompt}", "a cat"),
        ("", ""),
        ("the style", "the style"),
        ("{prompt}, {prompt} in oil", "a cat, a cat in oil"),
        ("{} {0} {x} %s", "{} {0} {x} %s"),
    ],
)
def test_the_text_for_qwen3_vl_takes_the_place_of_the_prompt(vl_prompt, read, sources, reference, text_of, plain_rows):
    got = extract(settings(vl_prompt=vl_prompt), reference, text_of("a cat"), sources).states
    assert_close(got, plain_rows(read))


def test_braces_in_the_prompt_are_text(sources, reference, text_of, plain_rows):
    got = extract(settings(vl_prompt="x {prompt}"), reference, text_of("{prompt} {0} {}"), sources).states
    assert_close(got, plain_rows("x {prompt} {0} {}"))


@pytest.mark.parametrize(("system", "read"), [("Be brief.", "Be brief."), ("Draw {prompt}!", "Draw a cat!")])
def test_a_system_text_is_read_first_and_not_selected(system, read, sources, reference, text_of, plain_rows):
    got = extract(settings(system_prompt=system, token_mode="all"), reference, text_of("a cat"), sources).states
    assert_close(got, plain_rows("a cat", "all", system=read))


def test_the_hosts_own_ids_are_read_not_the_prompts_text(sources, reference, text_of, plain_rows):
    """A host may shorten or rewrite a prompt before its tokenizer."""
    text = text_of("a cat")
    got = extract(settings(), reference, Text("something else", text.ids, text.embeddings), sources).states
    assert_close(got, plain_rows("a cat"))


def test_a_pass_is_made_once_for_all_that_comes_after_the_selection(extractor, sources, reference, text_of):
    text = text_of()
    for values in (
        {},
        {"alpha": 0.9},
        {"token_mode": "image"},
        {"token_mode": "all"},
        {"normalization": "per_dim"},
        {"scale_to_text": False},
        {"blend_mode": "slerp"},
        {"outlier_repair": "zero"},
        {"length_match": "truncate"},
        {"vl_prompt": "{prompt}"},
        {"reference_tokens": 256},
    ):
        extract(settings(**values), reference, text, sources)
    assert extractor.passes == ["extend"]  # 256 tokens give the same grid: the reference is smaller than either budget


def test_the_same_picture_opened_anew_makes_no_new_pass(extractor, sources, text_of):
    for source in (tiny.picture(160, 96), tiny.encoded(tiny.picture(160, 96), "PNG")):
        extract(settings(), open_reference(source), text_of(), sources)
    assert extractor.passes == ["extend"]


BEFORE = 3 + 17  # tokens up to the fork: the template's head, 15 image tokens and their markers
EVERYTHING = (0, 4), (0, 4)
# what is changed -> settings, and which layers run over the tokens before the fork and over those behind it
CHANGES = {
    "prompt": ({}, ((0, 0), (0, 4))),
    "vl_prompt": ({"vl_prompt": "x"}, ((0, 0), (0, 4))),
    "shallower layer": ({"hidden_layer": -3}, ((0, 0), (0, 0))),
    "deeper layer": ({"hidden_layer": -1}, ((4, 5), (4, 5))),
    "system": ({"system_prompt": "x"}, EVERYTHING),
    "size": ({"reference_tokens": 8}, EVERYTHING),
    "picture": ({}, EVERYTHING),
    "precision": ({}, EVERYTHING),
    "weights": ({}, EVERYTHING),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_states_runs_what_it_changes_and_nothing_else(
    change, extractor, sources, reference, text_of, plain_rows, encode
):
    text, (values, (before, behind)) = text_of(), CHANGES[change]
    extract(settings(), reference, text, sources)
    prompt, source = "a photo of a cat", tiny.picture(160, 96)
    if change == "prompt":
        prompt, text = "a photo of a dog, seen from behind", text_of("a photo of a dog, seen from behind")
    elif change == "picture":
        source = tiny.picture(160, 96, seed=1)
    elif change == "precision":
        extractor.precision = "cuda:0 torch.bfloat16"
    elif change == "weights":
        extractor.checkpoint = Renamed(**vars(extractor.checkpoint))
    with tiny.work() as done:
        got = extract(settings(token_mode="all", **values), open_reference(source), text, sources).states
    assert done.looks == (before == (0, 4))
    fork = {"system": BEFORE + len(encode("<|im_start|>system\nx<|im_end|>\n")), "size": BEFORE - 15 + 6}.get(
        change, BEFORE
    )
    rest = (
        len(encode("<|im_start|>user\n" + values.get("vl_prompt", prompt) + "<|im_end|>\n<|im_start|>assistant\n")) - 3
    )
    assert done.read == tiny.layers(*before, fork) + tiny.layers(*behind, rest)
    pixels = tiny.plain_pixels(source, values.get("reference_tokens", 24))
    assert_close(
        got,
        plain_rows(
            values.get("vl_prompt", prompt),
            "all",
            values.get("hidden_layer", -2),
            values.get("system_prompt", ""),
            pixels=pixels,
        ),
    )


class Renamed(Checkpoint):
    """The same weights under another identity."""

    identity = ("other",)


def test_what_is_kept_is_not_changed_by_mixing(extractor, sources, reference, text_of):
    text = text_of()
    sources.statistics = lambda: measure(text.embeddings)
    first = extract(settings(), reference, text, sources).states.clone()
    condition(settings(alpha=1.0, outlier_repair="zero", outlier_threshold=1.0), reference, text, sources)
    assert torch.equal(extract(settings(), reference, text, sources).states, first)


@pytest.mark.parametrize("layer", [-6, -36])
def test_a_layer_the_model_does_not_have_is_refused_before_a_pass(
    layer, extractor, sources, reference, text_of, refused
):
    with refused(f"Hidden layer {layer} does not exist"):
        extract(settings(hidden_layer=layer), reference, text_of(), sources)
    assert extractor.passes == []


# --- mix


def test_mix_is_repair_then_normalization_then_matching_then_blending():
    """Every step written again in NumPy, in this order; each of them changes something here."""
    random = np.random.default_rng(0)
    text, vl, sample = (random.normal(size=(n, HIDDEN)) * random.uniform(0.5, 30, HIDDEN) for n in (9, 31, 50))
    vl[:, 5] *= 1000
    statistics = measure(torch.tensor(sample, dtype=torch.float32))
    mean, spread = sample.mean(axis=0), sample.std(axis=0, ddof=1)
    ratio = vl.std(axis=0, ddof=1) / spread
    repaired = vl * np.where(np.maximum(ratio, 1 / ratio) > 20, np.clip(ratio, 1 / 20, 20) / ratio, 1)
    scaled = repaired * sample.std(ddof=1) / repaired.std(ddof=1)
    z = (repaired - repaired.mean(axis=0)) / repaired.std(axis=0, ddof=1)
    normalized = (scaled + np.clip(z, -3, 3) * spread + mean) / 2
    at = np.clip((np.arange(9) + 0.5) * 31 / 9 - 0.5, 0, 30)
    matched = np.stack([np.interp(at, np.arange(31), normalized[:, i]) for i in range(HIDDEN)], axis=1)
    wanted = 0.3 * matched + 0.7 * text
    repair = {"outlier_repair": "clamp", "outlier_threshold": 20, "outlier_direction": "both"}
    chosen = settings(normalization="hybrid", alpha=0.3, **repair)
    got = mix(
        chosen, torch.tensor(text, dtype=torch.float32), text_rows(torch.tensor(vl, dtype=torch.float32)), statistics
    )
    assert np.abs(got.double().numpy() - wanted).max() < 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["linear", "slerp", "adain", "adain_per_dim"])
def test_the_result_has_the_dtype_of_the_text_and_is_computed_in_float32(dtype, mode):
    torch.manual_seed(0)
    text, vl = (torch.randn(7, HIDDEN) * 20).to(dtype), torch.randn(7, HIDDEN)
    chosen = settings(alpha=0.5, blend_mode=mode, scale_to_text=False)
    got = mix(chosen, text, text_rows(vl), None)
    assert got.dtype == dtype
    assert torch.equal(got, mix(chosen, text.float(), text_rows(vl), None).to(dtype))


@pytest.mark.parametrize("length_match", ["interpolate", "truncate", "insert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alpha_0_is_the_text_itself(dtype, length_match):
    text = (torch.randn(7, HIDDEN) * 1e3).to(dtype)
    got = mix(
        settings(alpha=0, length_match=length_match, normalization="per_dim"),
        text,
        text_rows(torch.full((3, HIDDEN), float("nan"))),
        None,
    )
    assert got.dtype == dtype
    assert torch.equal(got, text)


def test_scale_to_text_off_means_no_normalization():
    torch.manual_seed(0)
    text, vl = torch.randn(7, HIDDEN), torch.randn(7, HIDDEN) * 50
    assert torch.equal(
        mix(settings(alpha=1, scale_to_text=False, normalization="per_dim"), text, text_rows(vl), None), vl
    )


@pytest.mark.parametrize(
    ("m", "length_match", "rows"),
    [(3, "interpolate", 7), (20, "interpolate", 7), (3, "truncate", 3), (20, "truncate", 7)],
)
def test_the_number_of_rows_is_that_of_the_length_match(m, length_match, rows):
    torch.manual_seed(0)
    text = torch.randn(7, HIDDEN)
    assert mix(
        settings(alpha=0.5, length_match=length_match), text, text_rows(torch.randn(m, HIDDEN)), measure(text)
    ).shape == (rows, HIDDEN)


def test_the_inputs_are_not_written_into():
    torch.manual_seed(0)
    text, vl = torch.randn(7, HIDDEN), torch.randn(7, HIDDEN)
    before = text.clone(), vl.clone()
    mix(settings(alpha=0.5, outlier_repair="zero", outlier_threshold=1.0), text, text_rows(vl), measure(text))
    assert torch.equal(text, before[0])
    assert torch.equal(vl, before[1])


# --- condition


def test_the_conditioning_at_alpha_1_without_normalization_is_qwen3_vls_own(sources, reference, text_of, plain_rows):
    got = condition(settings(alpha=1, scale_to_text=False), reference, text_of(), sources)
    assert_close(got, plain_rows("a photo of a cat"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_alpha_0_no_pass_is_made_and_the_embeddings_are_the_hosts_own(dtype, extractor, sources, reference, text_of):
    text = text_of(dtype=dtype)
    got = condition(settings(alpha=0), reference, text, sources)
    assert got is text.embeddings
    assert extractor.passes == []


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({}, True),
        ({"normalization": "per_dim"}, True),
        ({"normalization": "hybrid"}, True),
        ({"normalization": "none"}, False),
        ({"normalization": "sink_aware"}, False),
        ({"normalization": "sink_aware", "outlier_repair": "clamp"}, True),
        ({"scale_to_text": False}, False),
        ({"scale_to_text": False, "outlier_repair": "zero"}, True),
        ({"normalization": "none", "outlier_repair": "scale"}, True),
    ],
)
def test_statistics_are_asked_for_only_where_they_are_used(values, needed, extractor, sources, reference, text_of):
    asked, text = [], text_of()
    sources.statistics = lambda: asked.append(True) or measure(text.embeddings)
    condition(settings(**values), reference, text, sources)
    assert bool(asked) == needed == needs_statistics(settings(**values))


def test_a_text_encoder_of_another_width_is_refused_before_a_pass(extractor, sources, reference, text_of, refused):
    text = text_of()
    with refused("tiny-vl: this model is 64 wide, the image model's text encoder 2560. Choose a Qwen3-VL-4B"):
        condition(settings(), reference, Text(text.prompt, text.ids, torch.zeros(len(text.ids), 2560)), sources)
    assert extractor.passes == []


def test_a_host_with_another_template_is_refused(sources, encode, reference, text_of, refused):
    with refused("do not begin with Z-Image's template"):
        condition(
            settings(scale_to_text=False), reference, Text("a", tuple(encode("a cat")), torch.zeros(3, HIDDEN)), sources
        )


# --- the standalone extractor


def test_the_model_is_loaded_on_first_use_and_once(checkpoint, sources, reference, text_of, monkeypatch):
    from zvl_ext.qwen3vl import language

    loads = []
    real = language.load
    monkeypatch.setattr(language, "load", lambda *args: loads.append(args) or real(*args))
    sources.extractor = StandaloneExtractor(checkpoint)
    assert loads == []
    for prompt in ("a", "b"):
        extract(settings(), reference, text_of(prompt), sources)
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("dtype", "used"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)],
)
def test_the_precision_is_named(dtype, used, checkpoint):
    extractor = StandaloneExtractor(checkpoint, "cpu", dtype)
    assert (extractor.dtype, extractor.precision) == (used, f"cpu {used}")
