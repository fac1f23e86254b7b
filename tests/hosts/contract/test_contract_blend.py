"""Engine blend: the conditioning is the one that plain transformers and NumPy give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, CAT, close, conds, positions, same
from published import as_published

from zvl_ext.webui import run

pytest_plugins = ["host_fixtures"]


def test_the_blend_is_the_one_that_design_defines(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(web.p(CAT), reference=picture)
    (got,) = conds(p)
    assert got.dtype == torch.float32
    assert close(got, by_hand.blended(web.engine, CAT))
    assert not p.comments


@pytest.mark.parametrize("alpha", [0.05, 1.0])
@pytest.mark.parametrize("layer", [-1, -2, -9])
def test_alpha_and_layer(web: WebUI, picture: Any, by_hand: Any, alpha: float, layer: int) -> None:
    p = web.run(web.p(CAT), reference=picture, alpha=alpha, hidden_layer=layer)
    assert close(conds(p)[0], by_hand.blended(web.engine, CAT, alpha, layer))


def test_image_tokens_by_dimension_and_resampled(web: WebUI, picture: Any, by_hand: Any) -> None:
    settings = {"token_mode": "image", "normalization": "per_dim", "length_match": "interpolate", "alpha": 0.4}
    p = web.run(web.p(CAT), reference=picture, **settings)
    vl, text = by_hand.hidden(CAT, token_mode="image"), by_hand.text(web.engine, CAT)
    mean, std, _ = by_hand.statistics(web.engine)
    z = np.clip((vl - vl.mean(0)) / vl.std(0, ddof=1), -3, 3) * std + mean
    # Linear resampling without aligned corners: row i of n stands at (i + 0.5) · m / n - 0.5 of m.
    at = (np.arange(len(text)) + 0.5) * len(z) / len(text) - 0.5
    resampled = np.stack([np.interp(at, np.arange(len(z)), column) for column in z.T], axis=1)
    assert close(conds(p)[0], 0.4 * resampled + 0.6 * text)


def test_image_tokens_as_they_are_and_truncated(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(
        web.p(CAT), reference=picture, token_mode="image_no_markers", length_match="truncate", alpha=0.5, **BARE
    )
    vl, text = by_hand.hidden(CAT, token_mode="image_no_markers"), by_hand.text(web.engine, CAT)
    assert len(vl) == 6
    assert close(conds(p)[0], 0.5 * vl[: len(text)] + 0.5 * text[: len(vl)])


def test_the_panels_values_and_the_apis_names_are_the_same_settings(web: WebUI, picture: Any) -> None:
    by_name = web.run(web.p(), reference=picture, alpha=0.5, token_mode="image")
    in_order = web.run(web.p(), *positions(reference=picture, alpha=0.5, token_mode="image"))
    assert in_order.c is by_name.c


def test_the_apis_dict_may_be_followed_by_the_panels_defaults(web: WebUI, picture: Any) -> None:
    """The web UI fills a short list of arguments up with the panel's."""
    p = web.p()
    named = as_published({"enabled": True, "reference": picture, "alpha": 0.5})
    run.attach(p, (named, *positions()[1:]))
    assert same(web.condition(p).c, web.run(web.p(), reference=picture, alpha=0.5).c)
