"""Where the extension must change nothing of a generation: switched off, at alpha 0, in the negative prompt, with other
models."""

from __future__ import annotations

from typing import Any

import pytest
from host_engine import AnotherArchitecture
from host_fixtures import WebUI
from host_runs import CAT, DOG, same

pytest_plugins = ["host_fixtures"]


WHY = "Z-Image VL: the picture is as without a reference, because alpha is 0."


@pytest.mark.parametrize(
    ("settings", "said"), [({"enabled": False}, []), ({"alpha": 0.0}, [WHY])], ids=["off", "alpha 0"]
)
def test_off_and_alpha_0_are_the_web_uis_own_conditioning(web: WebUI, picture: Any, settings: dict, said: list) -> None:
    plain = web.plain(cfg_scale=4.0)
    web.events.clear()
    p = web.run(web.p(cfg_scale=4.0), reference=picture, **settings)
    assert p.c is plain.c
    assert p.uc is plain.uc
    assert not web.events, "the web UI's own cache was not used"
    assert list(p.comments) == said


def test_negative_prompts_stay_plain_and_are_shared_by_on_and_off(web: WebUI, picture: Any) -> None:
    plain = web.plain(cfg_scale=4.0)
    on = web.run(web.p(cfg_scale=4.0), reference=picture)
    assert on.uc is plain.uc
    assert not same(on.c, plain.c)
    other = web.run(web.p(cfg_scale=4.0, negative_prompt=DOG), reference=picture)
    assert same(other.uc, web.plain(cfg_scale=4.0, negative_prompt=DOG).uc)


def test_a_prompt_that_is_also_the_negative_prompt_is_told_apart(web: WebUI, picture: Any) -> None:
    plain = web.plain(CAT, cfg_scale=4.0, negative_prompt=CAT)
    on = web.run(web.p(CAT, cfg_scale=4.0, negative_prompt=CAT), reference=picture)
    assert same(on.uc, plain.uc)
    assert not same(on.c, plain.c)


def test_another_architecture_stays_as_it_is_and_the_picture_says_so(
    web: WebUI, make_engine: Any, picture: Any
) -> None:
    web.use(make_engine(AnotherArchitecture))
    plain = web.plain(cfg_scale=4.0)
    on = web.run(web.p(cfg_scale=4.0), reference=picture)
    assert on.c is plain.c
    assert on.uc is plain.uc
    assert web.events.count("vl") == 0
    assert any("this checkpoint is not Z-Image" in comment for comment in on.comments)
    assert not any(key.startswith("ZVL") for key in on.extra_generation_params)
