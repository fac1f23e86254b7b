"""The newest web UIs: other classes around the same text encoder, one text per call, no emphasis, a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, SPLICE, conds, restarted, rows, same
from modules import prompt_parser
from newer_host import OneText, TextEngine, one_text_per_call
from published import as_published

from zvl_ext.engines.splice import embeddings
from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]

WAYS = {"blend": {}, "splice": SPLICE, "mrope": SPLICE | {"positions": "mrope"}}


def is_newest(text_engine: Any) -> bool:
    return hasattr(text_engine.tokenizer, "tokenizer")


def newer(web: WebUI, **options: Any) -> None:
    engine = web.engine
    if is_newest(engine.text_processing_engine_gemma):
        pytest.skip("this web UI has it")
    engine.text_processing_engine_gemma = TextEngine(engine.text_processing_engine_gemma, **options)


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_the_newer_text_engine_gives_the_same(web: WebUI, picture: Any, settings: dict) -> None:
    expected = web.run(web.p([CAT, DOG]), reference=picture, **settings).c
    KEEPER.store.clear()
    newer(web)
    web.engine.filename = "newer.safetensors"  # so that nothing kept for the older one is served
    assert same(web.run(web.p([CAT, DOG]), reference=picture, **settings).c, expected)


def test_brackets_are_read_as_the_newer_engine_reads_them(web: WebUI, picture: Any) -> None:
    """No emphasis: the text encoder reads the brackets, and `\\(` as `(`."""
    newer(web)
    read = {}
    for prompt in ("a (red:1.3) cat", "a red cat", "a \\(cat\\)", "a (cat)"):
        read[prompt] = conds(web.run(web.p(prompt), reference=picture, **SPLICE | BARE))[0]
    assert len(read["a (red:1.3) cat"]) > len(read["a red cat"])
    assert torch.equal(read["a \\(cat\\)"], read["a (cat)"])


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("prompt", [CAT, "a [red:blue:0.5] cat"], ids=["one text", "a schedule"])
def test_one_text_per_call(web: WebUI, picture: Any, settings: dict, prompt: str) -> None:
    """From the first picture on, when the reference statistics are measured, too."""
    expected = rows(web.run(web.p(prompt), reference=picture, **settings).c)
    restarted(web)
    KEEPER._measured.clear()
    web.engine.get_learned_conditioning = ask = OneText(web.engine)
    p = web.p(prompt)
    run.attach(p, [as_published({"enabled": True, "reference": picture, **settings})])
    prompts = prompt_parser.SdConditioning([prompt])
    with torch.inference_mode():
        made = p.get_conds_with_caching(one_text_per_call, prompts, 8, [[None, None, None]], {})
    got = [entry.cond for schedule in made for entry in schedule]
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected))
    assert ask.asked >= len(expected)


@pytest.mark.parametrize("which", ["this web UI's engine", "the newer engine"])
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_what_stands_behind_an_end_of_text_is_masked_as_the_web_ui_masks_it(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch, which: str, positions: str
) -> None:
    """A prompt may hold the text of a special token; this one's tokenizer has another for it."""
    line = "a photo, of a cat"
    text_engine = web.engine.text_processing_engine_gemma
    if is_newest(text_engine):
        pytest.skip("this web UI's own end of text is a constant of its code")
    comma = text_engine.tokenizer([","])["input_ids"][0]
    assert len(comma) == 1
    if which == "the newer engine":
        newer(web, pad=comma[0])
    else:
        text_engine.id_pad = comma[0]
    settings = SPLICE | BARE | {"positions": positions}
    read: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        read.append(kwargs["attention_mask"].flatten(0, -2)[-1])

    handle = web.engine.text_encoder.model.layers[0].register_forward_hook(keep, with_kwargs=True)
    masked = conds(web.run(web.p(line), reference=picture, **settings))[0]
    handle.remove()
    own, spliced = ((mask < -1.0).tolist() for mask in (read[0], read[-1]))
    hidden = sum(own)
    assert 0 < hidden < len(own)
    assert own == [False] * (len(own) - hidden) + [True] * hidden
    assert spliced == [False] * (len(spliced) - hidden) + [True] * hidden, "the reference's rows can be seen"
    other = conds(web.run(web.p(line.replace("cat", "dog")), reference=picture, **settings))[0]
    start = len(masked) - hidden
    assert torch.allclose(masked[1:start], other[1:start], atol=1e-5)
    assert torch.allclose(masked[-4:], other[-4:], atol=1e-5), "the template's end does not attend to what is masked"


def test_rows_that_come_from_elsewhere_join_the_prompts() -> None:
    """The newest text engine looks its tokens up where the embedding lies, which need not be the card."""
    elsewhere = torch.zeros(4, 2, device="meta", dtype=torch.float16)
    system, ends, image = torch.ones(3, 2), torch.ones(2, 2), torch.ones(5, 2)
    whole = embeddings(elsewhere, system, [ends[:1], ends[1:]], [image], 2)
    assert whole.device.type == "meta"
    assert (whole.shape, whole.dtype) == ((14, 2), torch.float16)
    back = embeddings(ends, torch.ones(3, 2, dtype=torch.float64), [ends[:1], ends[1:]], [image], 1)
    assert back.dtype == torch.float32
