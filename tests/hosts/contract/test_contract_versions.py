"""Other versions of the web UI, whose engines and text encoders are built in another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_fixtures import WebUI
from host_runs import CAT, close, conds
from modules import prompt_parser
from published import as_published

from zvl_ext.webui import run

pytest_plugins = ["host_fixtures"]


def test_an_engine_that_returns_one_tensor_gets_one(web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = web.run(web.p(), reference=picture)
    original = type(web.engine).get_learned_conditioning
    monkeypatch.setattr(
        type(web.engine), "get_learned_conditioning", lambda self, prompt: torch.stack(original(self, prompt))
    )
    asked: list = []
    web.run(web.p(), reference=picture, alpha=0.5)  # another entry in the cache
    p = web.p()
    run.attach(p, [as_published({"enabled": True, "reference": picture})])

    def parser(engine: Any, prompts: Any, *rest: Any) -> Any:
        asked.append(engine.get_learned_conditioning(prompts))
        return asked[-1]

    with torch.inference_mode():
        p.get_conds_with_caching(parser, prompt_parser.SdConditioning([CAT]), 8, [[None, None, None]], {})
    assert isinstance(asked[-1], torch.Tensor)
    assert asked[-1].shape[0] == 1
    assert torch.equal(asked[-1][0], conds(first)[0])


def test_a_wrapped_tokenizer_is_unwrapped(web: WebUI, picture: Any, by_hand: Any) -> None:
    text_engine = web.engine.text_processing_engine_gemma
    inner = text_engine.tokenizer
    if hasattr(inner, "tokenizer"):
        pytest.skip("this web UI wraps it by itself")

    class Wrapper:
        tokenizer = staticmethod(inner)

        def __call__(self, texts: list[str]) -> dict:
            return inner(texts)

    text_engine.tokenizer = Wrapper()
    assert close(conds(web.run(web.p(), reference=picture))[0], by_hand.blended(web.engine, CAT))


@pytest.mark.parametrize("change", ["template", "no text engine", "two text encoders", "rows"])
def test_an_engine_that_is_built_in_another_way_is_refused(
    web: WebUI, picture: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    engine = web.engine
    if change == "template":
        engine.text_processing_engine_gemma.llama_template = (
            "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        )
    elif change == "no text engine":
        encode = engine.text_processing_engine_gemma.__call__
        del engine.text_processing_engine_gemma
        monkeypatch.setattr(type(engine), "get_learned_conditioning", lambda self, prompt: encode(prompt))
    elif change == "two text encoders":
        engine.forge_objects.clip.cond_stage_model["more"] = torch.nn.ModuleDict(
            {"embed_tokens": torch.nn.Embedding(2, 2), "layers": torch.nn.ModuleList()}
        )
    else:
        original = type(engine).get_learned_conditioning
        monkeypatch.setattr(
            type(engine), "get_learned_conditioning", lambda self, prompt: [rows[1:] for rows in original(self, prompt)]
        )
    with refused("Look for an update of Z-Image VL"):
        web.run(web.p(), reference=picture)
    assert web.events.count("vl") == 0
