"""The attention sink: position 0 carries massive values that decide a text sequence's spread, and image tokens have
none.

What that does to normalization and alpha, shown on planted embeddings of the published proportions: a spread of 61 over
    all
values that is 6 without position 0, image tokens of 7.
"""

import json

import numpy as np
import pytest
import tiny
import torch
from published import research
from safetensors.torch import load_file, save_file

from zvl_ext.__main__ import main
from zvl_ext.conditioner import mix
from zvl_ext.mixing.normalize import sink_aware
from zvl_ext.mixing.select import Rows
from zvl_ext.mixing.statistics import compare, measure
from zvl_ext.options import BY_NAME
from zvl_ext.sequence import TEMPLATE

HIDDEN = 256
SINK = {4: 4900.0, 39: 1700.0, 0: 700.0}  # dimension -> the value at position 0
ORDINARY, IMAGE = 6.2, 7.0


def ordinary(count: int, spread: float, seed: int, hidden: int = HIDDEN) -> np.ndarray:
    """Rows of different sizes, as tokens have them."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, hidden)) * spread * random.uniform(0.8, 1.2, (count, 1))


def with_sink(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    values = values.copy()
    for dimension, value in SINK.items():
        values[0, dimension] = value * scale
    return values


def text_embeddings(count: int = 30, seed: int = 0, hidden: int = HIDDEN) -> np.ndarray:
    return with_sink(ordinary(count, ORDINARY, seed, hidden))


def as_tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def image_rows(values: np.ndarray) -> Rows:
    image = torch.ones(len(values), dtype=torch.bool)
    return Rows(as_tensor(values), ~image, image, 3)


def text_rows(values: np.ndarray) -> Rows:
    text = torch.ones(len(values), dtype=torch.bool)
    return Rows(as_tensor(values), text, ~text, 3)


def mixed(
    text: np.ndarray, rows: Rows, normalization: str, alpha: float = 0.3, length_match: str = "truncate"
) -> np.ndarray:
    settings = research(alpha=alpha, normalization=normalization, length_match=length_match)
    return mix(settings, as_tensor(text), rows, measure(as_tensor(text))).double().numpy()


def shares(text: np.ndarray, result: np.ndarray, alpha: float) -> np.ndarray:
    """What part of each ordinary row comes from the reference: the size of alpha·V against that of (1 - alpha)·T beside
    it."""
    own = (1 - alpha) * text[1:]
    size_of_vl, size_of_text = (np.linalg.norm(part, axis=1) for part in (result[1:] - own, own))
    return size_of_vl / (size_of_vl + size_of_text)


# --- what it does to the statistics


def test_the_planted_embeddings_have_the_published_proportions():
    text = text_embeddings()
    assert text.std(ddof=1) == pytest.approx(61, rel=0.05)
    assert text[1:].std(ddof=1) == pytest.approx(ORDINARY, rel=0.05)


def test_one_row_of_thirty_decides_the_spread_of_all_values():
    text, image = text_embeddings(), ordinary(40, IMAGE, 1)
    with_it = compare(as_tensor(text), as_tensor(image))
    without = compare(as_tensor(text[1:]), as_tensor(image))
    assert with_it["text_std"] > 8 * without["text_std"]
    assert without["vl_std"] / without["text_std"] == pytest.approx(
        IMAGE / ORDINARY, rel=0.1
    )  # in truth they are alike
    # The dimensions the findings call outliers of the image tokens are those of the sink.
    assert {dimension for dimension, _ in with_it["worst_dimensions"][: len(SINK)]} == set(SINK)
    assert (with_it["outliers"], without["outliers"]) == (len(SINK), 0)
    assert with_it["worst_ratio"] > 50 > 2 > without["worst_ratio"]


def test_the_command_line_tells_both_figures(tmp_path, capsys):
    text, image = text_embeddings(), ordinary(40, IMAGE, 1)
    save_file({"hidden_states": as_tensor(text)}, tmp_path / "T")
    save_file({"hidden_states": as_tensor(image)}, tmp_path / "V", {"tokens": "image_no_markers"})
    assert main(["statistics", "--text", str(tmp_path / "T"), "--vl", str(tmp_path / "V"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vl_holds_position_0"] is False
    assert told["with_position_0"]["text_std"] == pytest.approx(text.std(ddof=1), rel=1e-4)
    assert told["without_position_0"]["text_std"] == pytest.approx(text[1:].std(ddof=1), rel=1e-4)
    assert (
        told["with_position_0"]["vl_std"]
        == told["without_position_0"]["vl_std"]
        == pytest.approx(image.std(ddof=1), rel=1e-4)
    )


# --- what it does to alpha


def test_under_global_thirty_percent_of_image_rows_are_most_of_every_token():
    text = text_embeddings()
    result = mixed(text, image_rows(ordinary(40, IMAGE, 1)), "global")
    share = shares(text, result, 0.3)
    assert share.min() > 0.6
    assert share.mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_sink_aware_alpha_is_the_share(seed, alpha):
    text = text_embeddings(seed=seed)
    result = mixed(text, image_rows(ordinary(40, IMAGE, seed + 10)), "sink_aware", alpha)
    assert np.median(shares(text, result, alpha)) == pytest.approx(alpha, abs=0.02)
    assert shares(text, result, alpha).mean() == pytest.approx(alpha, abs=0.05)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_under_sink_aware_the_scale_of_the_hidden_states_does_not_matter(factor):
    text, image = text_embeddings(), ordinary(40, IMAGE, 1)
    assert np.allclose(
        mixed(text, image_rows(image * factor), "sink_aware"),
        mixed(text, image_rows(image), "sink_aware"),
        rtol=1e-4,
        atol=1e-3,
    )


def test_under_sink_aware_a_massive_row_0_on_either_side_changes_nothing_else():
    text, vl = ordinary(30, ORDINARY, 0), ordinary(30, IMAGE, 1)
    results = [
        mixed(with_sink(text, a), text_rows(with_sink(vl, b)), "sink_aware")[1:]
        for a in (0.0, 1.0, 5.0)
        for b in (0.0, 1.0, 5.0)
    ]
    assert all(np.array_equal(results[0], result) for result in results[1:])


def test_between_text_rows_global_is_right_because_both_sides_have_a_sink():
    """Which is why the findings see artifacts grow with image tokens and not with text tokens."""
    text = text_embeddings()
    for normalization in ("global", "sink_aware"):
        result = mixed(text, text_rows(with_sink(ordinary(30, ORDINARY * 0.8, 1), 0.8)), normalization)
        assert shares(text, result, 0.3).mean() == pytest.approx(0.3, abs=0.05)


def test_under_sink_aware_row_0_is_the_text_encoders_own_and_under_global_it_is_not():
    text, rows = text_embeddings(), image_rows(ordinary(40, IMAGE, 1))
    for length_match in BY_NAME["length_match"].choices:
        result = mixed(text, rows, "sink_aware", length_match=length_match)
        assert np.array_equal(result[0], as_tensor(text[0]).double().numpy())
    assert abs(mixed(text, rows, "global")[0, 4]) < 0.8 * SINK[4]  # the sink's value is blended away with the rest


# --- the formula


def row_rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).mean(axis=1))


@pytest.mark.parametrize(("n", "m"), [(10, 15), (11, 15), (30, 256), (31, 257), (2, 1), (3, 2)])
@pytest.mark.parametrize("holds_first", [True, False])
def test_the_factor_is_the_ratio_of_median_row_sizes_without_position_0(holds_first, n, m):
    text, vl = text_embeddings(n), ordinary(m + holds_first, IMAGE, 1)
    if holds_first:
        vl = with_sink(vl)
    wanted = vl * np.median(row_rms(text[1:])) / np.median(row_rms(vl[int(holds_first) :]))
    assert np.allclose(sink_aware(as_tensor(vl), as_tensor(text), holds_first), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length_match", ["interpolate", "truncate"])
@pytest.mark.parametrize(("m", "holds_first"), [(8, False), (9, False), (30, False), (9, True), (10, True), (30, True)])
def test_mixing_is_the_formula_with_row_0_left_out_of_the_resampling(m, holds_first, length_match):
    """Row 0 of T stands; T's other nine rows meet V's rows, without its own position 0 where V has it."""
    text = text_embeddings(10)
    vl = with_sink(ordinary(m, IMAGE, 1)) if holds_first else ordinary(m, IMAGE, 1)
    v = vl[int(holds_first) :]
    v = v * np.median(row_rms(text[1:])) / np.median(row_rms(v))
    if length_match == "interpolate":
        at = np.clip((np.arange(9) + 0.5) * len(v) / 9 - 0.5, 0, len(v) - 1)
        v = np.stack([np.interp(at, np.arange(len(v)), v[:, i]) for i in range(HIDDEN)], axis=1)
    rows = min(9, len(v))
    wanted = np.concatenate([text[:1], 0.3 * v[:rows] + 0.7 * text[1 : 1 + rows]])
    result = mixed(text, (text_rows if holds_first else image_rows)(vl), "sink_aware", length_match=length_match)
    assert result.shape == wanted.shape
    assert np.allclose(result, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "m", "holds_first"), [(1, 5, False), (1, 1, True), (5, 1, True), (5, 1, False)])
def test_sequences_without_ordinary_rows_stay_finite(n, m, holds_first):
    got = sink_aware(as_tensor(ordinary(m, IMAGE, 1)), as_tensor(text_embeddings(n)), holds_first)
    assert got.shape == (m, HIDDEN)
    assert torch.isfinite(got).all()
    assert torch.isfinite(sink_aware(torch.zeros(m, HIDDEN), as_tensor(text_embeddings(n)), holds_first)).all()


def test_the_inputs_are_not_written_into():
    text, vl = as_tensor(text_embeddings()), as_tensor(with_sink(ordinary(30, IMAGE, 1)))
    before = text.clone(), vl.clone()
    sink_aware(vl, text, True)
    assert torch.equal(text, before[0])
    assert torch.equal(vl, before[1])


# --- on the command line


@pytest.fixture
def blended(folder, encode, tmp_path):
    """Text embeddings with a sink, what extract wrote in a token mode, and what blend made of both at alpha 0.3."""

    def make(mode: str, length_match: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        text = text_embeddings(len(encode(TEMPLATE.format("a cat"))), hidden=64)
        tiny.picture(160, 96).save(tmp_path / "image.png")
        save_file({"hidden_states": as_tensor(text)}, tmp_path / "T")
        image, t, v, c = (str(tmp_path / name) for name in ("image.png", "T", "V", "C"))
        assert (
            main(
                [
                    "extract",
                    image,
                    "--model",
                    str(folder),
                    "--prompt",
                    "a cat",
                    "--layer=-2",
                    "--tokens",
                    mode,
                    "--out",
                    v,
                ]
            )
            == 0
        )
        assert (
            main(
                [
                    "blend",
                    "--text",
                    t,
                    "--vl",
                    v,
                    "--normalization",
                    "sink_aware",
                    "--length-match",
                    length_match,
                    "--alpha",
                    "0.3",
                    "--out",
                    c,
                ]
            )
            == 0
        )
        return tuple(load_file(file)["hidden_states"] for file in (t, v, c))

    return make


@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
@pytest.mark.parametrize("mode", BY_NAME["token_mode"].choices)
def test_what_extract_wrote_blends_into_the_texts_own_row_0_in_every_token_mode(mode, length_match, blended):
    text, _, result = blended(mode, length_match)
    assert torch.equal(result[0], text[0])
    assert not torch.equal(result, text)


@pytest.mark.parametrize(
    ("mode", "block"),
    [("text", slice(3, 3)), ("image", slice(0, 17)), ("image_no_markers", slice(0, 15)), ("all", slice(3, 20))],
)
def test_the_files_metadata_tells_blend_which_rows_are_the_prompts(mode, block, blended):
    """Image rows go in behind the head as they are, the prompt's rows meet the text's one to one."""
    text, vl, result = blended(mode, "insert")
    scaled = sink_aware(vl, text, mode in ("text", "all"))
    own = torch.cat([scaled[: block.start], scaled[block.stop :]])
    wanted = 0.3 * own + 0.7 * text if len(own) else text
    wanted = torch.cat([text[:1], wanted[1:3], scaled[block], wanted[3:]])
    assert result.shape == wanted.shape
    assert torch.allclose(result, wanted, rtol=1e-5, atol=1e-5)
