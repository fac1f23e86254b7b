"""An analysis against plain transformers and NumPy: of a text encoder by layer, of what a reference and a prompt
give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from cases import TOKENS
from published import research

from zvl_ext.analysis.data import data_of, encoder_data
from zvl_ext.analysis.layers import EncoderStatistics, encoder_statistics
from zvl_ext.analysis.measuring import VISION, Analysis, analysed
from zvl_ext.analysis.tables import encoder_table, tables
from zvl_ext.conditioner import Unit
from zvl_ext.errors import Stopped
from zvl_ext.image_models import KLEIN, Z_IMAGE
from zvl_ext.mixing.normalize import NORMALIZATIONS
from zvl_ext.sequence import TEMPLATE

PROMPTS = ("a cat", "a photo of a dog", "two red apples on a table")


@pytest.fixture
def by_layer(encode: Callable, text_encoder: Any) -> Callable[[], list[list[np.ndarray]]]:
    """Of each prompt the states after each layer, by plain transformers."""

    def states() -> list[list[np.ndarray]]:
        inputs = [text_encoder.get_input_embeddings()(torch.tensor(encode(TEMPLATE.format(p)))) for p in PROMPTS]
        return [[s.double().numpy() for s in tiny.plain_text_states(text_encoder, each)[1:]] for each in inputs]

    return states


@pytest.fixture
def measured(encoder: Any, encode: Callable) -> EncoderStatistics:
    return encoder_statistics(encoder, encode, Z_IMAGE.template, PROMPTS)


def test_every_layer_of_the_text_encoder_with_and_without_position_0(measured, by_layer) -> None:
    states = by_layer()
    assert measured.prompts == 3
    assert len(measured.layers) == len(states[0])
    for index, layer in enumerate(measured.layers):
        own = [each[index] for each in states]
        for got, first in ((layer.whole, 0), (layer.ordinary, 1)):
            rows = np.concatenate([each[first:] for each in own])
            assert got.tokens == len(rows)
            assert np.allclose(got.per_dim_mean, rows.mean(0), atol=1e-5)
            assert np.allclose(got.per_dim_std, rows.std(0, ddof=1), rtol=1e-4)
            assert got.global_std == pytest.approx(rows.std(ddof=1), rel=1e-5)
        norms = [np.linalg.norm(each, axis=1) for each in own]
        assert layer.first == pytest.approx(np.mean([norm[0] for norm in norms]), rel=1e-5)
        assert layer.others == pytest.approx(np.mean(np.concatenate([norm[1:] for norm in norms])), rel=1e-5)
        assert layer.sink == pytest.approx(layer.first / layer.others)


def test_layers_side_by_side_are_as_the_image_model_takes_them(measured, by_layer) -> None:
    """Klein reads three layers: their states stand beside each other in each row."""
    rows = np.concatenate([np.concatenate([each[0], each[1], each[-1]], axis=1) for each in by_layer()])
    got = measured.at((-len(measured.layers), 1 - len(measured.layers), -1))
    assert np.allclose(got.whole.per_dim_std, rows.std(0, ddof=1), rtol=1e-4)
    assert got.whole.global_std == pytest.approx(rows.std(ddof=1), rel=1e-5)
    assert measured.at((-2,)) == measured.layers[-2]


def test_what_only_fills_a_prompt_up_is_not_measured(encoder, encode) -> None:
    got = encoder_statistics(encoder, encode, KLEIN.template, PROMPTS)
    lengths = [len(encode(KLEIN.template.text.format(prompt))) for prompt in PROMPTS]
    assert got.layers[0].whole.tokens == sum(lengths) < KLEIN.template.rows


def test_progress_is_told_and_may_end_it(encoder, encode) -> None:
    done: list[int] = []
    encoder_statistics(encoder, encode, Z_IMAGE.template, PROMPTS, done.append)
    assert done == [0, 1, 2]
    encoder.passes.clear()

    def stop(count: int) -> None:
        if count == 1:
            raise Stopped

    with pytest.raises(Stopped):
        encoder_statistics(encoder, encode, Z_IMAGE.template, PROMPTS, stop)
    assert encoder.passes == ["states"]


def test_values_that_are_not_finite_are_refused(encoder, encode, refused) -> None:
    encoder.embed = lambda ids: torch.full((len(ids), 64), torch.nan)
    encoder.states = lambda rows, indices, image, sequence: dict.fromkeys(indices, rows)
    with refused("not finite at layer 1"):
        encoder_statistics(encoder, encode, Z_IMAGE.template, PROMPTS)


def settings(**more: Any) -> Any:
    return research(**{"reference_tokens": TOKENS, "alpha": 0.3, "hidden_layer": -2, **more})


@pytest.fixture
def analyse(sources: Any, reference: Any, text_of: Callable, measured: EncoderStatistics) -> Callable[..., Analysis]:
    def make(**more: Any) -> Analysis:
        return analysed(Unit(settings(**more), reference), text_of("a cat"), sources, measured)

    return make


@pytest.fixture
def plain_states(model: Any, tokenizer: Any) -> tuple[tuple[torch.Tensor, ...], dict[str, list[int]]]:
    """Qwen3-VL's states after the reference and the prompt, by plain transformers, and the rows of each kind."""
    pixels = tiny.plain_pixels(tiny.picture(160, 96), TOKENS)
    ids, modes = tiny.plain_ids(tokenizer, "a cat", int(pixels["image_grid_thw"].prod()) // 4)
    return tiny.plain_hidden_states(model, ids, pixels, modes["image_no_markers"]), modes


@pytest.mark.parametrize("token_mode", ["all", "text", "image_no_markers"])
def test_each_kind_of_rows_against_the_text_encoder(analyse, measured, plain_states, model, token_mode) -> None:
    """Whatever rows the settings take, all kinds are told."""
    by_layer, modes = plain_states
    found = analyse(token_mode=token_mode, hidden_layer=-3)
    tower = tiny.plain_image_tokens(model, tiny.plain_pixels(tiny.picture(160, 96), TOKENS))
    rows = {
        "text rows": by_layer[-3][modes["text"]],
        "image rows": by_layer[-3][modes["image_no_markers"]],
        "all rows": by_layer[-3][modes["all"]],
        VISION: tower,
    }
    assert [kind.name for kind in found.kinds] == list(rows)
    for kind in found.kinds:
        own = rows[kind.name].double().numpy()
        own = own[0] if own.ndim == 3 else own
        first = 1 if kind.name in ("text rows", "all rows") else 0
        for got, values, reference in (
            (kind.whole, own, measured.layers[-2].whole), (kind.ordinary, own[first:], measured.layers[-2].ordinary)
        ):  # fmt: skip
            text, spread = reference.per_dim_std.double().numpy(), values.std(0, ddof=1)
            ratio = spread / text
            assert got.tokens == len(values)
            assert got.std == pytest.approx(values.std(ddof=1), rel=1e-3)
            assert got.numbers["correlation"] == pytest.approx(np.corrcoef(text, spread)[0, 1], abs=1e-3)
            assert got.worst[0].dimension == int(np.maximum(ratio, 1 / ratio).argmax())
            assert got.worst[0].direction == ("too large" if ratio[got.worst[0].dimension] > 1 else "too small")
            assert np.allclose(got.ratios, np.sort(ratio)[::-1], rtol=1e-3)
        assert np.allclose(kind.norms, np.linalg.norm(own, axis=1), rtol=1e-3)
    text, image, every, _ = found.kinds
    assert sorted(text.positions + image.positions) == sorted(set(every.positions) - {3, 3 + 1 + len(image.norms)})


def test_every_layer_is_told_from_one_run(analyse, extractor, plain_states) -> None:
    by_layer, modes = plain_states
    found = analyse()
    assert extractor.passes.count("extend") == 1
    assert [each.layer for each in found.layers] == list(range(1 - len(by_layer), 0))
    for each in found.layers:
        for name, mode, first in (("text rows", "text", 1), ("image rows", "image_no_markers", 0)):
            rows = by_layer[each.layer][modes[mode]][first:].double().numpy()
            assert each.kinds[name].std == pytest.approx(rows.std(ddof=1), rel=1e-3)


@pytest.mark.parametrize("engine", ["blend", "splice"])
def test_both_engines_are_analysed_and_what_comes_out_can_be_written(analyse, engine) -> None:
    found = analyse(engine=engine, vl_prompt="what is it", layer_mix="-2, -3", image_layers="-1")
    data = data_of(found)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert [each["name"] for each in data["rows"]][1:] == ["text rows", "image rows", "all rows", VISION]
    assert data["attention"] is None
    for table in tables(found):
        assert len(table.html()) > len(table.text()) > len(table.title)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_share_of_each_side_is_that_of_the_sizes_of_its_rows(analyse, text_of, plain_states, alpha) -> None:
    by_layer, modes = plain_states
    found = analyse(alpha=alpha, hidden_layer=-2, normalization="none")
    text = np.linalg.norm(text_of("a cat").embeddings.double().numpy()[1:], axis=1)
    for kind, mode, first in zip(found.kinds, ("text", "image_no_markers"), (1, 0)):
        own = np.linalg.norm(by_layer[-2][modes[mode]].double().numpy()[first:], axis=1)
        lower = [np.sort(norms)[(len(norms) - 1) // 2] for norms in (own, text)]
        want = alpha * lower[0] / (alpha * lower[0] + (1 - alpha) * lower[1])
        assert kind.shares["none"] == pytest.approx(want, abs=1e-3)
        assert set(kind.shares) == set(NORMALIZATIONS)
    # What brings the median row to the text's size makes the share alpha itself.
    assert found.kinds[0].shares["sink_aware"] == pytest.approx(alpha, abs=0.05)


def test_what_is_done_is_told_and_may_end_it(sources, reference, text_of, measured) -> None:
    said: list[tuple[str, int, int]] = []
    unit = Unit(settings(), reference)
    analysed(unit, text_of("a cat"), sources, measured, lambda *told: said.append(told))
    layers = [done for what, done, of in said if "layer" in what]
    assert layers == list(range(len(layers)))
    assert {of for what, _, of in said if "layer" in what} == {len(layers)}

    def stop(what: str, done: int, of: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        analysed(unit, text_of("a cat"), sources, measured, stop)


def test_a_layer_that_the_model_lacks_is_refused_before_anything_is_read(analyse, extractor, refused) -> None:
    extractor.passes.clear()
    with refused("-30"):
        analyse(hidden_layer=-30)
    assert "extend" not in extractor.passes


def test_a_text_encoder_alone_is_a_table_and_data(measured) -> None:
    table, data = encoder_table(measured), encoder_data(measured)
    assert [row[0] for row in table.rows] == [str(each["layer"]) for each in data["layers"]]
    assert data["layers"][-2]["std"] == measured.layers[-2].whole.global_std
    assert "3 prompts" in table.note
