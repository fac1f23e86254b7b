"""Prompts of every kind: batches, schedules, parts, emphasis, and what nobody expects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, BEFORE, CAT, DOG, behind, close, conds

pytest_plugins = ["host_fixtures"]


def test_a_batch_of_different_prompts(web: WebUI, picture: Any) -> None:
    batch = conds(web.run(web.p([CAT, DOG, ""]), reference=picture))
    single = [conds(web.run(web.p(prompt), reference=picture))[0] for prompt in (CAT, DOG, "")]
    assert all(torch.equal(a, b) for a, b in zip(batch, single))


def test_repeated_prompts_are_read_once(web: WebUI, picture: Any) -> None:
    batch = conds(web.run(web.p([CAT, DOG, CAT, CAT]), reference=picture, **BARE))
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(batch[0], batch[3])
    assert not torch.equal(batch[0], batch[1])
    assert web.events.of("vl") == [BEFORE, *behind(web)]
    assert len(behind(web)) == 2


def test_a_schedule_keeps_its_steps_and_every_text_gets_its_own_blend(web: WebUI, picture: Any) -> None:
    prompt = "a [red:blue:0.5] apple on a [table:cat:6]"
    p, plain = web.run(web.p(prompt), reference=picture), web.plain(prompt)
    ((part,),), ((plain_part,),) = p.c.batch, plain.c.batch
    assert (
        [entry.end_at_step for entry in part.schedules]
        == [entry.end_at_step for entry in plain_part.schedules]
        == [4, 6, 8]
    )
    texts = ["a red apple on a table", "a blue apple on a table", "a blue apple on a cat"]
    for entry, text in zip(part.schedules, texts):
        assert torch.equal(entry.cond, conds(web.run(web.p(text), reference=picture))[0])


def test_parts_keep_their_weights_and_each_gets_its_own_blend(web: WebUI, picture: Any) -> None:
    p = web.run(web.p("a cat AND a dog :0.5 AND a cat:-0.25"), reference=picture)
    (parts,) = p.c.batch
    assert [part.weight for part in parts] == [1.0, 0.5, -0.25]
    (plain,) = web.plain("a cat AND a dog :0.5 AND a cat:-0.25").c.batch
    assert [[tuple(e.cond.shape) for e in part.schedules] for part in parts] == [
        [tuple(e.cond.shape) for e in part.schedules] for part in plain
    ]
    for part, plain_part in zip(parts, plain):
        assert not torch.equal(part.schedules[0].cond, plain_part.schedules[0].cond)


def test_emphasis_wraps_every_segment_in_a_template_and_the_image_stands_in_the_first(
    web: WebUI, picture: Any, by_hand: Any, tokenizer: Any
) -> None:
    prompt = "a (red:1.5) apple"
    p, plain = web.run(web.p(prompt), reference=picture, alpha=0.5, **BARE), web.plain(prompt)
    templated = tokenizer.encode(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n").ids
    without_emphasis = len(templated) == len(conds(plain)[0])  # newer web UIs read the brackets
    ids = [
        i
        for text in ((prompt,) if without_emphasis else ("a ", "red", " apple"))
        for i in tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n").ids
    ]
    assert len(ids) == len(conds(plain)[0])
    expected = 0.5 * by_hand.hidden(prompt, ids=ids) + 0.5 * conds(plain)[0].double().numpy()
    assert close(conds(p)[0], expected)


@pytest.mark.parametrize(
    "prompt", ["", "\n\n a cat", "a <|image_pad|> and a <|vision_start|>", "{prompt} {0}", "日本 🍎", "a cat " * 150]
)
def test_prompts_nobody_expects(web: WebUI, picture: Any, prompt: str) -> None:
    p = web.run(web.p(prompt), reference=picture)
    (got,), (plain,) = conds(p), conds(web.plain(prompt))
    assert got.shape == plain.shape
    assert torch.isfinite(got).all()
    assert not torch.equal(got, plain)


def test_the_text_for_qwen3_vl_replaces_the_prompt_only_there(web: WebUI, picture: Any, by_hand: Any) -> None:
    p = web.run(web.p(CAT), reference=picture, vl_prompt=DOG, alpha=0.5, **BARE)
    assert close(conds(p)[0], 0.5 * by_hand.hidden(DOG) + 0.5 * by_hand.text(web.engine, CAT))
    p = web.run(
        web.p(CAT), reference=picture, vl_prompt="in blue: {prompt}", alpha=1.0, length_match="truncate", **BARE
    )
    assert close(conds(p)[0], by_hand.hidden(f"in blue: {CAT}")[: len(by_hand.text(web.engine, CAT))])
