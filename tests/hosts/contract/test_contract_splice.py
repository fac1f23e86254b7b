"""Engine splice: the web UI's own text encoder reads what the vision tower sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, SPLICE, close, conds, restarted, same

from zvl_ext.mixing.statistics import REFERENCE_PROMPTS

pytest_plugins = ["host_fixtures"]


def test_splice_is_the_image_models_own_text_encoder_over_image_tokens(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(web.p(CAT), reference=picture, **SPLICE, **BARE)
    text = by_hand.text(web.engine, CAT)
    expected = by_hand.spliced(web.engine, CAT)
    expected[0] = text[0]  # the first token is about no picture
    assert len(expected) == len(text) + 6 + 2
    assert close(conds(p)[0], expected)
    assert p.extra_generation_params["ZVL engine"] == "splice"


@pytest.mark.parametrize("layer", [-1, -2])
def test_splice_with_rows_columns_and_deepstack(web: WebUI, picture: Any, by_hand: Any, layer: int) -> None:
    p = web.run(web.p(CAT), reference=picture, **SPLICE | {"positions": "mrope", "hidden_layer": layer}, **BARE)
    expected = by_hand.spliced(web.engine, CAT, layer, mrope=True)
    assert not close(conds(p)[0][1:], by_hand.spliced(web.engine, CAT, layer)[1:]), "positions make a difference"
    assert close(conds(p)[0][1:], expected[1:])


def test_splice_scaled_by_what_is_not_the_first_token(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(web.p(CAT), reference=picture, **SPLICE, normalization="sink_aware")
    text, expected = by_hand.text(web.engine, CAT), by_hand.spliced(web.engine, CAT)
    loudness = [np.median(np.sqrt((rows[1:] ** 2).mean(1))) for rows in (text, expected)]
    expected *= loudness[0] / loudness[1]
    expected[0] = text[0]
    assert web.events.count("text") < len(REFERENCE_PROMPTS), "no reference statistics are needed"
    assert close(conds(p)[0], expected)


def test_splice_loads_the_vision_tower_alone_and_runs_it_once(web: WebUI, picture: Any) -> None:
    web.run(web.p([CAT, DOG]), reference=picture, **SPLICE)
    web.run(web.p(CAT), reference=picture, **SPLICE | {"alpha": 0.5})
    assert web.events.count("tower") == web.events.count("vision") == 1
    assert web.events.count("load") == web.events.count("vl") == 0


def test_a_layer_that_gives_way_need_not_be_there(web: WebUI, picture: Any) -> None:
    """Pasted parameters do not name what has no part in a picture: it is as a fresh panel has it."""
    own = {**SPLICE, **BARE, "token_mode": "image", "image_layers": "-3"}
    wanted = web.run(web.p(), reference=picture, **own)
    assert same(web.run(web.p(), reference=picture, **own | {"hidden_layer": -8}).c, wanted.c)


def test_off_blend_and_splice_do_not_mix(web: WebUI, picture: Any) -> None:
    off, splice, blend = web.plain(), web.run(web.p(), reference=picture, **SPLICE), web.run(web.p(), reference=picture)
    assert same(web.run(web.p(), False).c, off.c)
    assert same(web.run(web.p(), reference=picture, **SPLICE).c, splice.c)
    assert same(web.run(web.p(), reference=picture).c, blend.c)


def test_dropout_goes_by_the_pictures_seed(web: WebUI, picture: Any) -> None:
    dropped = {**SPLICE, "reference": picture, "image_dropout": 0.5}
    batch = conds(web.run(web.p([CAT, CAT, DOG], seed=7), **dropped))
    assert [
        len(a) - len(b) for a, b in zip(conds(web.run(web.p([CAT, CAT, DOG]), reference=picture, **SPLICE)), batch)
    ] == [3, 3, 3]
    assert not torch.equal(batch[0], batch[1])
    for i, prompt in enumerate((CAT, CAT, DOG)):
        assert torch.equal(conds(web.run(web.p(prompt, seed=7 + i), **dropped))[0], batch[i])


def in_half_precision(encoder: torch.nn.Module) -> None:
    """As the web UI loads it: its layers bring their weights to the dtype of what they are given."""
    for module in encoder.bfloat16().modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.forward = lambda x, m=module: torch.nn.functional.rms_norm(
                x, x.shape[-1:], m.weight.to(x.dtype), m.eps
            )
        elif type(module).__name__ == "Linear":
            module.forward = lambda x, m=module: torch.nn.functional.linear(x, m.weight.to(x.dtype))


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
@pytest.mark.parametrize("mode", [{}, {"token_mode": "image"}, {"vl_prompt": "an oil painting"}], ids=str)
def test_a_deeper_layer_after_another_is_the_one_made_alone_in_half_precision(
    web: WebUI, picture: Any, mode: dict, positions: str
) -> None:
    """The web UI's text encoder computes in the dtype of its embeddings, and so does what goes on from a kept layer."""
    in_half_precision(web.engine.text_encoder)
    settings = {name: value for name, value in {**SPLICE, **BARE, **mode}.items() if name != "hidden_layer"}
    settings["positions"] = positions
    alone = web.run(web.p(), reference=picture, **settings, hidden_layer=-1)
    restarted(web)
    web.run(web.p(), reference=picture, **settings, hidden_layer=-3)
    after = web.run(web.p(), reference=picture, **settings, hidden_layer=-1)
    assert same(after.c, alone.c)
