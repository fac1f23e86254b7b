"""Other versions of the web UI, whose engines and text encoders are built in another way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import TEMPLATE
from host_fixtures import WebUI
from host_runs import CAT, DOG, SPLICE, close, conds, same
from modules import prompt_parser
from published import as_published

from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER

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


# --- newer web UIs, as their source has it: other classes around the same text encoder


class NewerTextEngine:
    """A tokenizer inside a tokenizer, a model inside a model, no emphasis; the text encoder is called with more
    arguments."""

    llama_template = TEMPLATE

    def __init__(self, old: Any):
        self.text_encoder, self.tokenizer = (
            SimpleNamespace(transformer=old.text_encoder),
            SimpleNamespace(tokenizer=old.tokenizer),
        )

    def __call__(self, texts: list[str]) -> list[torch.Tensor]:
        model, made = self.text_encoder.transformer, []
        for text in texts:
            ids = self.tokenizer.tokenizer([TEMPLATE.format(text)])["input_ids"]
            embeds = model.get_input_embeddings()(torch.tensor(ids)).to(torch.float32)
            mask = torch.ones(1, len(ids[0]), dtype=torch.long)
            more = {
                "num_tokens": [len(ids[0])],
                "intermediate_output": -2,
                "final_layer_norm_intermediate": False,
                "dtype": torch.float32,
                "embeds_info": [],
            }
            made.extend(model(None, mask, embeds=embeds, **more)[1].float())
        return made


@pytest.mark.parametrize("settings", [{}, SPLICE, SPLICE | {"positions": "mrope"}], ids=["blend", "splice", "mrope"])
def test_the_newer_text_engine_gives_the_same(web: WebUI, picture: Any, settings: dict) -> None:
    expected = web.run(web.p([CAT, DOG]), reference=picture, **settings).c
    KEEPER.store.clear()
    web.engine.text_processing_engine_gemma = NewerTextEngine(web.engine.text_processing_engine_gemma)
    web.engine.filename = "newer.safetensors"  # so that nothing kept for the older one is served
    assert same(web.run(web.p([CAT, DOG]), reference=picture, **settings).c, expected)


def test_a_web_ui_that_asks_for_one_stacked_prompt_at_a_time(web: WebUI, picture: Any) -> None:
    """Some versions call with a single text and take a tensor [1, tokens, hidden] back."""
    expected = conds(web.run(web.p(CAT), reference=picture))[0]
    KEEPER.store.clear()
    plain = web.engine.get_learned_conditioning
    web.engine.get_learned_conditioning = lambda prompts: torch.stack(list(plain(prompts)))
    p = web.p(CAT)
    run.attach(p, [as_published({"enabled": True, "reference": picture})])

    def one_at_a_time(engine: Any, prompts: Any, *rest: Any) -> list[torch.Tensor]:
        return [engine.get_learned_conditioning([prompt]).squeeze(0) for prompt in prompts]

    with torch.inference_mode():
        made = p.get_conds_with_caching(one_at_a_time, [CAT], 8, [[None, None]], {})
    assert torch.equal(made[0], expected)
