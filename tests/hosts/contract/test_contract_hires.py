"""The second pass of hires."""

from __future__ import annotations

from typing import Any

import torch
from host_engine import AnotherArchitecture
from host_fixtures import WebUI
from host_runs import BARE, BEFORE, CAT, DOG, behind, close, conds, rows, same

pytest_plugins = ["host_fixtures"]


def second_pass(p: Any) -> Any:
    p.is_hr_pass = True
    with torch.inference_mode():
        p.calculate_hr_conds()
    p.is_hr_pass = False
    return p.hr_c


def test_hires_has_the_reference_in_both_passes(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(web.p(enable_hr=True, hr_prompt=DOG, hr_cfg=4.0), reference=picture)
    assert close(conds(p)[0], by_hand.blended(web.engine, CAT))
    assert close(rows(p.hr_c)[0], by_hand.blended(web.engine, DOG))
    assert same(p.hr_uc, web.plain(cfg_scale=4.0).uc)


def test_hires_with_the_same_prompt_costs_no_second_pass_of_qwen3_vl(web: WebUI, picture: Any) -> None:
    p = web.run(web.p(enable_hr=True), reference=picture, **BARE)
    assert same(p.hr_c, p.c)
    assert web.events.of("vl") == [BEFORE, *behind(web)[:1]]


def test_hires_with_another_checkpoint_uses_that_ones_text_encoder_and_statistics(
    web: WebUI, make_engine: Any, picture: Any, by_hand: Any
) -> None:
    first, second = web.engine, make_engine(seed=9, filename="second.safetensors")
    p = web.p(enable_hr=True)
    p.hr_checkpoint_info = {"another": "checkpoint"}
    web.run(p, reference=picture)
    assert p.hr_c is None
    web.use(second)
    assert close(rows(second_pass(p))[0], by_hand.blended(second, CAT))
    assert close(conds(p)[0], by_hand.blended(first, CAT))
    # The web UI's own key does not say which checkpoint the second pass had.
    web.use(first)
    again = web.run(web.p(enable_hr=True), reference=picture)
    assert close(rows(again.hr_c)[0], by_hand.blended(first, CAT))


def test_hires_with_another_architecture_stays_plain_in_the_second_pass(
    web: WebUI, make_engine: Any, picture: Any
) -> None:
    p = web.p(enable_hr=True)
    p.hr_checkpoint_info = {"another": "checkpoint"}
    web.run(p, reference=picture)
    other = make_engine(AnotherArchitecture, seed=9)
    web.use(other)
    hr_c = second_pass(p)
    assert torch.equal(rows(hr_c)[0], other.get_learned_conditioning([CAT])[0])
    assert any("is not Z-Image" in comment for comment in p.comments)
