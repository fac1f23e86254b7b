"""When Qwen3-VL alone makes a conditioning: nothing of the text encoder is in it, whatever it would have read."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from published import research

from zvl_ext.alone import makes_alone
from zvl_ext.conditioner import condition_units, units_of
from zvl_ext.conditioning_file import About, save
from zvl_ext.errors import ZvlError
from zvl_ext.options import Settings

ALONE = {"alpha": 1.0, "scale_to_text": False, "hidden_layer": -2}
VARIED: dict[str, list[Any]] = {
    "alpha": [1.0, 0.99],
    "token_mode": ["text", "image", "image_no_markers", "all"],
    "length_match": ["interpolate", "truncate", "insert"],
    "blend_mode": ["linear", "slerp", "adain"],
    "weight": [0.5, 1.0, 1.5],
    "curve": ["constant", "ease in"],
    "vl_prompt": ["{prompt}", "", "in {prompt} oil"],
}


def at_all_steps(made: Any) -> list[torch.Tensor]:
    return [made.at(step / 4) for step in range(4)]


@pytest.fixture
def conditioned(sources: Any, reference: Any, text_of: Any) -> Any:
    def make(settings: Settings, change: Any) -> Any:
        text = change(text_of())
        units = units_of(dataclasses.replace(settings, reference=reference), (64, 64))
        return condition_units(units, [text], sources)[0](7)

    return make


def unread(text: Any) -> Any:
    return dataclasses.replace(text, embeddings=torch.full_like(text.embeddings, torch.nan), inputs=None, read=False)


@pytest.mark.parametrize(("token_mode", "length_match"), itertools.product(*list(VARIED.values())[1:3]))
def test_what_is_called_alone_has_nothing_of_the_text_encoder_in_it(
    conditioned: Any, token_mode: str, length_match: str
) -> None:
    """Every other combination changes with the text encoder's answer, or is not called so."""
    for values in itertools.product(*list(VARIED.values())[3:], VARIED["alpha"]):
        named = dict(zip((*list(VARIED)[3:], "alpha"), values))
        settings = research(**ALONE | named | {"token_mode": token_mode, "length_match": length_match})
        if not makes_alone([settings]):
            continue
        made, bare = conditioned(settings, lambda text: text), conditioned(settings, unread)
        assert all(map(torch.equal, at_all_steps(made), at_all_steps(bare))), named
        assert (made.text_read, bare.text_read, bare.plain) == (True, False, None)
        assert made.steady == bare.steady
        assert (made.marks is None) == (bare.marks is None)


def test_the_plain_way_is_alone_and_each_need_is_not(conditioned: Any) -> None:
    assert makes_alone([research(**ALONE)])
    assert makes_alone([research(**ALONE, token_mode="all", length_match="insert")])
    for need in (
        {"alpha": 0.99},
        {"scale_to_text": True},
        {"normalization": "sink_aware", "scale_to_text": True},
        {"outlier_repair": "zero"},
        {"blend_mode": "slerp"},
        {"end": 0.5},
        {"curve": "ease out"},
        {"engine": "splice"},
        {"token_mode": "image", "length_match": "insert"},
        {"token_mode": "all", "length_match": "insert", "weight": 0.99},
        {"token_mode": "all", "length_match": "insert", "vl_prompt": ""},
    ):
        assert not makes_alone([research(**ALONE | need)]), need
    assert not makes_alone([])
    assert not makes_alone([research(**ALONE)] * 2)


def test_a_text_that_was_not_read_is_refused_where_it_is_needed(conditioned: Any, refused: Any) -> None:
    with refused("not finite"):
        conditioned(research(**ALONE | {"alpha": 0.9}), unread)


def test_a_file_is_refused_because_it_holds_the_prompts_own_rows(conditioned: Any, tmp_path: Any) -> None:
    made = conditioned(research(**ALONE), unread)
    with pytest.raises(ZvlError, match=r"Set alpha to 0\.99"):
        save(made, str(tmp_path / "c.safetensors"), About())
    assert not list(tmp_path.iterdir())
