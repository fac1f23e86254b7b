"""What the extension promises of one generation, between the web UI's `process` and its sampler.

Runs in the stand-in of the web UI and, with ZVL_HOST, in a real one.
"""

from __future__ import annotations

import base64
import copy
import functools
import gc
import itertools
import os
import uuid
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hosts
import numpy as np
import pytest
import tiny
import torch
from backend import memory_management as mm
from host_fixtures import LAYERS, TEMPLATE, AnotherArchitecture, WebUI, close, conds, positions, rows, same
from modules import prompt_parser, shared

from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_files
from zvl_ext.hosts.forge_extractor import ForgeExtractor
from zvl_ext.mixing.statistics import REFERENCE_PROMPTS
from zvl_ext.options import Settings
from zvl_ext.qwen3vl import language
from zvl_ext.store import Store
from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER, RECORDINGS

pytest_plugins = ["host_fixtures"]

CAT, DOG = "a photo of a cat", "a photo of a dog"
# No statistics are needed, so the text encoder reads the prompts and nothing else.
BARE = {"scale_to_text": False}
BEFORE = 3 + 6 + 2  # tokens up to the end of the vision block: the template's head, those of `picture`, the markers


def behind(web: WebUI) -> list[int]:
    """How many tokens stand behind the vision block, for each text that the text encoder has read."""
    return [len(line) - 3 for ids in web.events.of("text") for line in ids]


# --- where nothing may change


@pytest.mark.parametrize("settings", [{"enabled": False}, {"alpha": 0.0}], ids=["off", "alpha 0"])
def test_off_and_alpha_0_are_the_web_uis_own_conditioning(web: WebUI, picture: Any, settings: dict) -> None:
    plain = web.plain(cfg_scale=4.0)
    web.events.clear()
    p = web.run(web.p(cfg_scale=4.0), reference=picture, **settings)
    assert p.c is plain.c
    assert p.uc is plain.uc
    assert not web.events, "the web UI's own cache was not used"
    assert not p.comments


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
    assert any("AnotherArchitecture is not Z-Image" in comment for comment in on.comments)
    assert not any(key.startswith("ZVL") for key in on.extra_generation_params)


# --- the blend


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
    run.attach(p, ({"enabled": True, "reference": picture, "alpha": 0.5}, *positions()[1:]))
    assert same(web.condition(p).c, web.run(web.p(), reference=picture, alpha=0.5).c)


# --- engine splice: the web UI's own text encoder reads what the vision tower sees

SPLICE = {"engine": "splice", "alpha": 1.0, "hidden_layer": -2, "token_mode": "all", "length_match": "insert"}


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


# --- prompts of every kind


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
    ids = [
        i
        for text in ("a ", "red", " apple")
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


# --- the web UI's cache of one slot


def test_on_off_on(web: WebUI, picture: Any) -> None:
    off = web.plain()
    on = web.run(web.p(), reference=picture)
    off_again = web.run(web.p(), False)
    on_again = web.run(web.p(), reference=picture)
    assert same(off_again.c, off.c)
    assert same(on_again.c, on.c)
    assert not same(on.c, off.c)


def test_the_same_settings_hit_the_cache(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    web.events.clear()
    again = web.run(web.p(), reference=tiny.encoded(picture, "PNG"))  # the same picture, come in another way
    assert again.c is first.c
    assert not web.events
    assert again.extra_generation_params == first.extra_generation_params


CHANGES = {
    "alpha": 0.31,
    "hidden_layer": -7,
    "token_mode": "image",
    "scale_to_text": False,
    "normalization": "per_dim",
    "outlier_repair": "zero",
    "outlier_threshold": 2.0,
    "length_match": "truncate",
    "blend_mode": "slerp",
    "reference_tokens": 4,
    "vl_prompt": "",
    "system_prompt": "Look.",
}


@pytest.mark.parametrize(("name", "value"), CHANGES.items(), ids=CHANGES)
def test_a_changed_setting_is_a_new_conditioning(web: WebUI, picture: Any, name: str, value: Any) -> None:
    # A base in which every option matters.
    base = {"reference": picture, "token_mode": "all", "outlier_repair": "clamp", "outlier_threshold": 1.1}
    first = web.run(web.p(), **base)
    changed = web.run(web.p(), **base | {name: value})
    assert not same(changed.c, first.c)
    assert same(web.run(web.p(), **base).c, first.c)


def test_another_reference_is_a_new_conditioning(web: WebUI, picture: Any, other_picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    second = web.run(web.p(), reference=other_picture)
    assert not same(first.c, second.c)
    assert same(web.run(web.p(), reference=picture).c, first.c)


def test_weights_that_change_on_disk_are_read_again(web: WebUI, picture: Any, vl_model: Any, tokenizer: Any) -> None:
    folder = tiny.save_folder(vl_model, tokenizer, web.weights / "mine")
    first = web.run(web.p(), reference=picture, model="mine")
    state = {name: value * 1.01 for name, value in tiny.inner_state(vl_model).items()}
    tiny.save_single(state, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = web.run(web.p(), reference=picture, model="mine")
    assert web.events.count("load") == 2
    assert not same(first.c, second.c)


def test_another_checkpoint_of_the_same_architecture(web: WebUI, make_engine: Any, picture: Any, by_hand: Any) -> None:
    web.run(web.p(), reference=picture)
    other = make_engine(seed=9, filename="another.safetensors")
    web.use(other)
    assert close(conds(web.run(web.p(), reference=picture))[0], by_hand.blended(other, CAT))


def test_a_failed_run_leaves_the_cache_as_it_was(web: WebUI, picture: Any, refused: Any) -> None:
    first = web.run(web.p(), reference=picture)
    for broken in (
        {"reference": "no picture"},
        {"reference": picture, "model": "none of that name"},
        {"reference": picture, "hidden_layer": -30},
    ):
        with refused():
            web.run(web.p(DOG), **broken)
    web.events.clear()
    assert web.run(web.p(), reference=picture).c is first.c
    assert not web.events


def test_a_cached_conditioning_is_never_written_to(web: WebUI, picture: Any) -> None:
    plain, on = web.plain(), web.run(web.p(DOG), reference=picture)
    before = [tensor.clone() for tensor in conds(plain) + conds(on)]
    for settings in ({"alpha": 0.7}, {"blend_mode": "adain"}, {"outlier_repair": "scale", "outlier_threshold": 1.0}):
        web.run(web.p(DOG), reference=picture, **settings)
    assert all(torch.equal(a, b) for a, b in zip(conds(plain) + conds(on), before))


# --- how much is done


def test_each_model_has_one_phase(web: WebUI, picture: Any) -> None:
    """The text encoder reads everything, then Qwen3-VL does: neither has to make room for the other twice."""
    web.run(web.p([f"{CAT} AND a [red:blue:0.5] {DOG}", DOG, ""]), reference=picture)
    kinds = web.events.kinds()
    last_text = len(kinds) - 1 - kinds[::-1].index("text")
    assert last_text < kinds.index("load") < kinds.index("vl")
    assert kinds.count("vl") == 1 + 5, "the reference, and five texts behind it"
    assert kinds.count("load") == kinds.count("place") == kinds.count("vision") == 1
    assert kinds.count("text") == 5 + len(REFERENCE_PROMPTS)


def test_qwen3_vl_is_placed_whole_and_once_for_all_that_a_picture_reads(web: WebUI, picture: Any) -> None:
    web.run(web.p([CAT, DOG]), reference=picture, **BARE)
    assert web.events.kinds() == ["text", "text", "load", "place", "vision", "vl", "vl", "vl"]
    web.run(web.p(""), reference=picture, **BARE)
    assert web.events.kinds()[8:] == ["text", "place", "vl"]
    assert all(whole is True for whole in web.events.of("place"))


def test_a_sweep_costs_no_pass_of_any_model(web: WebUI, picture: Any) -> None:
    web.run(web.p([CAT, DOG]), reference=picture)
    web.events.clear()
    for name in (
        "alpha",
        "token_mode",
        "scale_to_text",
        "normalization",
        "length_match",
        "blend_mode",
        "outlier_repair",
        "outlier_threshold",
    ):
        web.run(web.p([CAT, DOG]), reference=picture, **{name: CHANGES[name]})
    assert not web.events


def test_what_does_cost_a_pass(web: WebUI, picture: Any, other_picture: Any, tokenizer: Any) -> None:
    base = {"reference": picture, **BARE}
    web.run(web.p(), **base)
    (tail,), depth = behind(web), LAYERS - 8 + 1

    def read(prompt: str = CAT, **changed: Any) -> tuple[list, int]:
        with tiny.work() as done:
            web.run(web.p(prompt), **base | changed)
        return done.read, done.looks

    assert read(hidden_layer=-7) == (tiny.layers(depth, depth + 1, BEFORE) + tiny.layers(depth, depth + 1, tail), 0), (
        "it goes on from layer -8"
    )
    assert read(hidden_layer=-9) == ([], 0), "it has been passed"
    system = len(tokenizer.encode("<|im_start|>system\nLook.<|im_end|>\n").ids)
    for changed, more in (
        ({"reference": other_picture}, 4 - 6),
        ({"reference_tokens": 4}, 2 - 6),
        ({"system_prompt": "Look."}, system),
    ):
        assert read(**changed) == (tiny.layers(0, depth, BEFORE + more) + tiny.layers(0, depth, tail), 1), changed
    assert read(vl_prompt="") == (tiny.layers(0, depth, 5), 0), "the template's end alone"
    assert read(DOG) == (tiny.layers(0, depth, behind(web)[-1]), 0)
    assert (web.events.count("load"), web.events.of("deepen")) == (1, [depth + 1])


def test_the_text_encoder_is_measured_once_and_only_if_needed(web: WebUI, picture: Any) -> None:
    web.run(web.p(CAT), reference=picture, **BARE)
    assert web.events.count("text") == 1
    web.run(web.p(CAT), reference=picture)
    assert web.events.count("text") == 1 + len(REFERENCE_PROMPTS), "the prompt has been read"
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("text") == 2 + len(REFERENCE_PROMPTS)


# --- what is reused of the web UI's own work


def restarted(web: WebUI) -> WebUI:
    """As after a restart of the web UI with the same checkpoint."""
    for slot in (web.p().cached_c, web.p().cached_uc):
        slot[:] = [None, None, None]
    KEEPER.store.clear()
    KEEPER.recorded.clear()
    KEEPER.residence.drop()
    web.events.clear()
    return web


SWEPT = {
    "blend": {},
    "image rows inserted": {"token_mode": "image", "length_match": "insert"},
    "dropout": {"token_mode": "image", "length_match": "insert", "image_dropout": 0.5},
    "splice": SPLICE,
    "splice, image rows": SPLICE | {"token_mode": "image", "positions": "mrope"},
}


@pytest.mark.parametrize("settings", SWEPT.values(), ids=SWEPT)
def test_a_sweep_over_alpha_encodes_the_prompts_once_and_is_what_its_pictures_are_one_by_one(
    web: WebUI, picture: Any, settings: dict
) -> None:
    alphas, encodings = (0.1, 0.45, 0.8, 1.0), []
    web.engine.text_encoder.model.register_forward_pre_hook(lambda *_: encodings.append(1))

    def made(alpha: float) -> Any:
        return web.run(web.p([CAT, DOG, CAT]), reference=picture, **BARE, **settings | {"alpha": alpha}).c

    swept = [made(alphas[0])]
    first, encoded = len(web.events), len(encodings)
    swept += [made(alpha) for alpha in alphas[1:]]
    assert (len(web.events), len(encodings)) == (first, encoded), "after the first picture no model runs"
    assert encoded == 2 + {"splice": 2, "splice, image rows": 1}.get(
        next(name for name in SWEPT if SWEPT[name] is settings), 0
    )
    for alpha, c in zip(alphas, swept):
        restarted(web)
        assert same(made(alpha), c)
    if settings.get("token_mode") != "image":  # image rows that are put in do not depend on it
        assert not any(same(one, other) for one, other in itertools.combinations(swept, 2))


def test_the_sampler_is_told_the_shift_of_every_picture(web: WebUI, picture: Any) -> None:
    """The web UI's engine tells it when it encodes a prompt; a picture whose prompt is not encoded again must not keep
    another one's."""
    for i, shift in enumerate((3.0, 5.0, 3.0, 5.0, 5.0, 3.0)):
        web.run(web.p(distilled_cfg_scale=shift), reference=picture, alpha=0.1 * (i + 1), **BARE)
        assert web.engine.shifts[-1] == shift
    assert web.events.count("text") == 2, "one for each shift: it is part of the web UI's own key"


@pytest.mark.parametrize("change", ["lora", "prompt", "checkpoint", "size", "setting"])
def test_what_may_change_the_text_embeddings_has_the_prompt_encoded_again(
    web: WebUI, make_engine: Any, picture: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    web.run(web.p(), reference=picture, alpha=0.2, **BARE)
    web.run(web.p(), reference=picture, alpha=0.3, **BARE)
    assert web.events.count("text") == 1
    prompt, fields = CAT, {}
    if change == "lora":
        web.engine.forge_objects.clip.patcher.patches_uuid = uuid.uuid4()  # what the web UI does when it puts one on
        web.engine.text_encoder.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    elif change == "prompt":
        prompt = DOG
    elif change == "checkpoint":
        web.use(make_engine(seed=9, filename="another.safetensors"))
    elif change == "size":
        fields = {"width": 128}
    else:
        monkeypatch.setitem(shared.opts.data, "persistent_cond_cache", False)
    got = conds(web.run(web.p(prompt, **fields), reference=picture, alpha=0.4, **BARE))[0]
    assert web.events.count("text") == 2
    restarted(web)
    assert torch.equal(got, conds(web.run(web.p(prompt, **fields), reference=picture, alpha=0.4, **BARE))[0])


def test_image_rows_alone_are_read_again_with_another_lora(web: WebUI, picture: Any) -> None:
    """Engine splice: no word of the prompt is read, but the text encoder reads the picture."""
    settings = SPLICE | BARE | {"token_mode": "image", "reference": picture}
    first = conds(web.run(web.p(CAT), **settings))[0]
    web.engine.forge_objects.clip.patcher.patches_uuid = uuid.uuid4()
    web.engine.text_encoder.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    changed = conds(web.run(web.p(CAT), **settings | {"alpha": 0.9}))[0]
    assert not torch.allclose(first[3:11], changed[3:11], rtol=0.01), "with insert, image rows do not depend on alpha"
    restarted(web)
    assert torch.equal(changed, conds(web.run(web.p(CAT), **settings | {"alpha": 0.9}))[0])


def test_a_web_ui_that_does_not_count_its_loras_encodes_every_time(web: WebUI, picture: Any) -> None:
    web.engine.forge_objects.clip.patcher.patches_uuid = None
    for i, alpha in enumerate((0.2, 0.3, 0.4)):
        web.run(web.p(), reference=picture, alpha=alpha, **BARE)
        assert web.events.count("text") == i + 1


def test_a_checkpoint_that_is_gone_is_not_kept_by_what_was_recorded_of_it(
    web: WebUI, make_engine: Any, picture: Any
) -> None:
    first, second = shared.sd_model, make_engine(seed=9, filename="second.safetensors")
    gone = [weakref.ref(second), weakref.ref(second.text_encoder)]
    shared.sd_model = second
    for prompt in (CAT, DOG):
        web.run(web.p(prompt), reference=picture)
        web.run(web.p(prompt), reference=picture, **SPLICE)
    assert second in KEEPER.recorded
    shared.sd_model = first
    del second
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert first not in KEEPER.recorded
    web.run(web.p(CAT), reference=picture)
    assert list(KEEPER.recorded) == [first]


def test_a_few_recordings_are_kept_and_the_oldest_goes(web: WebUI, picture: Any) -> None:
    prompts = [f"{n} cats" for n in range(RECORDINGS + 1)]
    for prompt in prompts:
        web.run(web.p(prompt), reference=picture, alpha=0.2, **BARE)
    assert len(KEEPER.recorded[web.engine]) == RECORDINGS
    web.events.clear()
    web.run(web.p(prompts[1]), reference=picture, alpha=0.3, **BARE)
    assert web.events.count("text") == 0
    web.run(web.p(prompts[0]), reference=picture, alpha=0.3, **BARE)
    assert web.events.count("text") == 1


# --- what is kept, and where


def test_the_users_limit_on_memory_holds_from_the_next_picture_on(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.run(web.p(), reference=picture, **BARE)
    KEEPER.store.put("large", {"x": torch.zeros(100 * 2**18)})  # 100 MiB
    web.run(web.p(), reference=picture, alpha=0.4, **BARE)
    assert KEEPER.store.get("large") is not None
    monkeypatch.setitem(shared.opts.data, "zvl_memory", 64)
    web.run(web.p(), reference=picture, alpha=0.5, **BARE)
    assert KEEPER.store.limit == 64 * 2**20
    assert KEEPER.store.get("large") is None
    assert 0 < KEEPER.store.size <= 64 * 2**20
    monkeypatch.setitem(shared.opts.data, "zvl_memory", 2048)
    web.run(web.p(), reference=picture, alpha=0.6, **BARE)
    assert KEEPER.store.limit == 2048 * 2**20


@pytest.mark.parametrize("settings", [{}, SPLICE], ids=["blend", "splice"])
def test_what_is_kept_on_disk_outlives_the_web_ui_and_gives_the_same_bits(
    web: WebUI, picture: Any, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.run(web.p(), reference=picture, **BARE, **settings)
    assert not (tmp_path / "kept").exists(), "off by default"
    restarted(web)
    monkeypatch.setitem(shared.opts.data, "zvl_disk", 256)
    first = web.run(web.p(), reference=picture, **BARE, **settings)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    monkeypatch.setattr(KEEPER, "store", Store())
    restarted(web)
    again = web.run(web.p(), reference=picture, **BARE, **settings)
    assert set(web.events.kinds()) == {"text"}, "only the prompt, by the web UI itself"
    assert same(again.c, first.c)


@pytest.mark.parametrize("still_on", [True, False], ids=["disk on", "disk switched off since"])
def test_forgetting_leaves_nothing_of_references_and_prompts(
    web: WebUI, picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_on: bool
) -> None:
    monkeypatch.setitem(shared.opts.data, "zvl_disk", 256)
    for settings in (SPLICE, {}):
        web.run(web.p(), reference=picture, **BARE, **settings)
    if not still_on:
        monkeypatch.setitem(shared.opts.data, "zvl_disk", 0)
        web.run(web.p(), reference=picture, alpha=0.9, **BARE)
    in_memory, on_disk = KEEPER.store.size, sum(file.stat().st_size for file in (tmp_path / "kept").iterdir())
    assert 0 < in_memory < on_disk
    assert KEEPER.forget() >= in_memory + on_disk
    assert (KEEPER.store.size, KEEPER.recent.size, len(KEEPER.recorded)) == (0, 0, 0)
    assert not list((tmp_path / "kept").iterdir())
    assert KEEPER.forget() == 0
    web.events.clear()
    web.run(web.p(), reference=picture, alpha=0.6, **BARE)
    assert [kind for kind in web.events.kinds() if kind not in ("load", "tower")] == [
        "text",
        "place",
        "vision",
        "vl",
        "vl",
    ]
    assert KEEPER.forget() > 0


# --- hooks on p, and on nothing else


def hooks(p: Any) -> dict[str, Any]:
    return {name: p.__dict__[name] for name in ("cached_params", "get_conds_with_caching") if name in p.__dict__}


def test_nothing_of_the_web_ui_is_replaced(web: WebUI, picture: Any) -> None:
    def state() -> list:
        return [dict(vars(type(p))), dict(vars(type(web.engine))), dict(vars(web.engine)), dict(vars(prompt_parser))]

    p = web.p()
    before = state()
    web.run(p, reference=picture)
    kept = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc", "extra_generation_params")
    for a, b in zip(before, state()):
        assert all(a[key] is b[key] for key in a if key not in kept)
        assert a.keys() == b.keys()
    assert set(hooks(p)) == {"cached_params", "get_conds_with_caching"}


def test_off_puts_no_hook_on(web: WebUI, picture: Any) -> None:
    for settings in ({"enabled": False}, {"reference": picture, "alpha": 0.0}, {"reference": None}):
        p = web.p()
        run.attach(p, [{"enabled": True, **settings}])
        assert not hooks(p)


def test_copies_get_hooks_of_their_own(web: WebUI, picture: Any, other_picture: Any) -> None:
    """The X/Y/Z plot makes shallow copies; `process` is called for each."""
    p = web.p()
    run.attach(p, [{"enabled": True, "reference": picture}])
    cell, off = copy.copy(p), copy.copy(p)
    run.attach(cell, [{"enabled": True, "reference": other_picture}])
    run.attach(off, [{"enabled": False}])
    assert not hooks(off)
    assert hooks(cell)["cached_params"].__self__.p is cell
    assert hooks(p)["cached_params"].__self__.p is p
    assert same(web.condition(off).c, web.plain().c)
    assert same(web.condition(cell).c, web.run(web.p(), reference=other_picture).c)
    assert same(web.condition(p).c, web.run(web.p(), reference=picture).c)


def test_attached_twice_is_attached_once(web: WebUI, picture: Any) -> None:
    """Loops hand the same p to `process` again and again."""
    p = web.p()
    for alpha in (0.9, 0.5, 0.3):
        run.attach(p, [{"enabled": True, "reference": picture, "alpha": alpha}])
    assert same(web.condition(p).c, web.run(web.p(), reference=picture).c)
    run.attach(p, [{"enabled": False}])
    assert not hooks(p)


class OtherExtension:
    """One that hooks p in the same two places, around whatever it finds there."""

    def __init__(self, p: Any):
        self.calls: list[str] = []
        self.inner = {name: getattr(p, name) for name in ("cached_params", "get_conds_with_caching")}
        p.cached_params, p.get_conds_with_caching = self.cached_params, self.get_conds_with_caching

    def cached_params(self, *args: Any, **kwargs: Any) -> tuple:
        self.calls.append("key")
        return (*self.inner["cached_params"](*args, **kwargs), "other")

    def get_conds_with_caching(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("conds")
        return self.inner["get_conds_with_caching"](*args, **kwargs)


def test_another_extensions_hooks_are_kept_and_given_back(web: WebUI, picture: Any) -> None:
    p = web.p()
    other = OtherExtension(p)
    theirs = hooks(p)
    web.run(p, reference=picture)
    assert set(other.calls) == {"key", "conds"}
    assert p.cached_c[0][-2:][0] == "other"
    assert p.cached_c[0][-1][0] == "zvl"
    assert same(p.c, web.run(web.p(), reference=picture).c)
    run.attach(p, [{"enabled": False}])
    assert hooks(p) == theirs


@pytest.mark.parametrize("settings", [{"enabled": False}, {"alpha": 0.6}], ids=["off", "another alpha"])
def test_another_extensions_hooks_around_ours(web: WebUI, picture: Any, settings: dict) -> None:
    """Both hook in `process`, this one first; then the same p is processed again with other settings."""
    p = web.p()
    run.attach(p, [{"enabled": True, "reference": picture}])
    OtherExtension(p)
    run.attach(p, [{"enabled": True, "reference": picture, **settings}])
    web.condition(p)
    expected = web.p()
    run.attach(expected, [{"enabled": True, "reference": picture, **settings}])
    assert same(p.c, web.condition(expected).c)


def test_a_nested_run_without_the_extension_does_not_disturb(web: WebUI, picture: Any) -> None:
    """A detailer makes its own p in the middle of ours, and they share the web UI's cache."""
    outer = web.run(web.p(n_iter=2), reference=picture)
    first = conds(outer)[0].clone()
    plain = web.plain(DOG)
    assert not hooks(plain)
    assert torch.equal(conds(web.condition(outer))[0], first)
    assert same(web.plain(DOG).c, plain.c)


# --- the second pass of hires


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


# --- what goes wrong stops the run with one line


REFUSED = {
    "not a picture": ({"reference": base64.b64encode(b"not a picture").decode()}, "not a picture"),
    "not base64": ({"reference": "/etc/hostname.png"}, "not base64"),
    "an address": ({"reference": "http://127.0.0.1/a.png"}, "addresses are not fetched"),
    "a number for a picture": ({"reference": 5}, "expected a picture"),
    "an unknown option": ({"alhpa": 0.3}, "did you mean alpha"),
    "a text for a number": ({"alpha": "0.3"}, "alpha must be a number from 0 to 1"),
    "out of range": ({"alpha": 1.5}, "alpha must be a number from 0 to 1"),
    "not a number": ({"alpha": float("nan")}, "alpha must be a number"),
    "an unknown choice": ({"token_mode": "words"}, "token_mode must be one of text, image"),
    "a switch that is none": ({"scale_to_text": "False"}, "scale_to_text must be true or false"),
    "a layer that is not there": ({"hidden_layer": -36}, "Hidden layer -36 does not exist"),
    "an unknown model": ({"model": "../tiny-vl"}, "There is no Qwen3-VL model '../tiny-vl'; there is tiny-vl"),
    "an unknown preset": ({"preset": "Best"}, "preset must be one of"),
}


@pytest.mark.parametrize(("named", "says"), REFUSED.values(), ids=REFUSED)
def test_bad_input_in_the_panel(web: WebUI, picture: Any, refused: Any, named: dict, says: str) -> None:
    plain = web.plain(DOG)
    p = web.p()
    with refused(says):
        web.run(p, **{"reference": picture, **named})
    assert not any(key.startswith("ZVL") for key in p.extra_generation_params)
    assert same(web.run(web.p(DOG), False).c, plain.c)


@pytest.mark.parametrize(
    ("named", "says"), [*REFUSED.values(), ({"reference": None}, "without a reference")], ids=[*REFUSED, "no reference"]
)
def test_bad_input_over_the_api_is_the_callers_error(web: WebUI, picture: Any, named: dict, says: str) -> None:
    fastapi = pytest.importorskip("fastapi")
    with pytest.raises(fastapi.HTTPException) as caught:
        web.run(web.p(api=True), **{"reference": picture, **named})
    # The web UI makes its reply of the exception's attributes.
    assert vars(caught.value)["status_code"] == 422
    assert says in vars(caught.value)["detail"] == str(caught.value)
    assert "\n" not in caught.value.detail


def test_no_reference_in_the_panel_makes_the_picture_without_and_says_so(web: WebUI) -> None:
    plain = web.plain()
    p = web.run(web.p(), *positions(reference=None))
    assert p.c is plain.c
    assert any("no reference image" in comment for comment in p.comments)
    assert not p.extra_generation_params


@pytest.mark.parametrize(
    "args",
    [
        (),
        (None,),
        ("on",),
        (1,),
        (True, 5),
        ({1: 2},),
        ({"enabled": 1},),
        (object(),),
        (True, "blend", [1]),
        ({"reference": [{}], "enabled": True},),
        (1,) * 50,
    ],
)
def test_attach_never_raises_because_the_web_ui_would_swallow_it(web: WebUI, args: tuple) -> None:
    p = web.p()
    run.attach(p, args)
    if hooks(p):
        with pytest.raises(ZvlError):
            web.condition(p)
    else:
        assert not args


def test_no_weights(web: WebUI, picture: Any, refused: Any) -> None:
    (web.weights / "tiny-vl").unlink()
    with refused("No Qwen3-VL weights were found.*qwen3_vl"):
        web.run(web.p(), reference=picture)
    with refused("No Qwen3-VL weights were found"):
        web.run(web.p(), reference=picture, model="tiny-vl")


def test_weights_that_appear_are_found_without_a_restart(
    web: WebUI, picture: Any, refused: Any, vl_folder: Path
) -> None:
    (web.weights / "tiny-vl").unlink()
    with refused("No Qwen3-VL weights"):
        web.run(web.p(), reference=picture)
    (web.weights / "later").symlink_to(vl_folder)
    p = web.run(web.p(), reference=picture)
    assert p.extra_generation_params["ZVL model"] == "later"


def test_broken_weights(web: WebUI, picture: Any, refused: Any, vl_folder: Path) -> None:
    whole = (vl_folder / "model.safetensors").read_bytes()
    (web.weights / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (web.weights / "empty.safetensors").write_bytes(b"")
    for name in ("cut.safetensors", "empty.safetensors"):
        with refused(f"^{name} is not a whole safetensors file"):
            web.run(web.p(), reference=picture, model=name)
    assert web.events.count("load") == 0
    web.run(web.p(), reference=picture, model="tiny-vl")


def test_weights_with_a_tensor_missing(web: WebUI, picture: Any, refused: Any, vl_model: Any) -> None:
    state = tiny.inner_state(vl_model)
    del state["language_model.layers.3.mlp.up_proj.weight"]
    tiny.save_single(state, web.weights / "gap.safetensors", metadata=tiny.config_metadata(vl_model.config))
    with refused("gap.safetensors: the tensor language_model.layers.3.mlp.up_proj.weight is missing"):
        web.run(web.p(), reference=picture, model="gap.safetensors")
    web.run(web.p(), reference=picture, model="tiny-vl")


def test_a_model_of_another_width(web: WebUI, make_engine: Any, picture: Any, refused: Any) -> None:
    web.use(make_engine(hidden=32))
    with refused("tiny-vl: this model is 64 wide, the image model's text encoder 32"):
        web.run(web.p(), reference=picture, **BARE)
    assert web.events.count("load") == 0, "the width is known without loading"


# --- memory


def loaded_models() -> list:
    return [
        entry.model
        for entry in mm.current_loaded_models
        if entry.model is not None and type(entry.model.model).__name__ == "Qwen3VLModel"
    ]


def test_the_web_ui_knows_of_the_model_and_can_take_it_away(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    assert len(loaded_models()) == 1
    mm.unload_all_models()
    assert not loaded_models()
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("load") == 1, "it only has to be placed again"
    assert len(loaded_models()) == 1
    assert same(web.run(web.p(), reference=picture).c, first.c)


@pytest.fixture
def placed(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models were placed by the web UI, in order, each time another one's turn came."""
    turns: list[str] = []
    place = mm.load_models_gpu

    @functools.wraps(place)
    def watched(models: list, *args: Any, **kwargs: Any) -> Any:
        for patcher in models:
            name = type(patcher.model).__name__
            if turns[-1:] != [name]:
                turns.append(name)
        return place(models, *args, **kwargs)

    monkeypatch.setattr(mm, "load_models_gpu", watched)
    return turns


TEXT, WHOLE, TOWER = "ModuleDict", "Qwen3VLModel", "Qwen3VLVisionModel"
TURNS = {
    "blend": ({}, [TEXT, WHOLE], [TEXT, WHOLE]),
    "splice": (SPLICE, [TOWER, TEXT], [TEXT]),
    "splice, positions of Qwen3-VL": (
        SPLICE | {"positions": "mrope", "normalization": "global"},
        [TOWER, TEXT],
        [TEXT],
    ),
    "splice, image rows": (SPLICE | {"token_mode": "image"}, [TOWER, TEXT], [TEXT]),
    "splice, dropout": (SPLICE | {"image_dropout": 0.5}, [TOWER, TEXT], [TEXT]),
}


@pytest.mark.parametrize(("settings", "first", "another_prompt"), TURNS.values(), ids=TURNS)
def test_each_model_is_placed_once_for_a_picture(
    web: WebUI, placed: list[str], picture: Any, settings: dict, first: list[str], another_prompt: list[str]
) -> None:
    """The vision tower alone goes before the text encoder, which splice needs after it; the whole Qwen3-VL goes
    behind."""
    web.run(web.p([CAT, DOG]), reference=picture, **settings)
    assert placed == first
    placed.clear()
    web.run(web.p([CAT, "else"]), reference=picture, **settings)
    assert placed == another_prompt
    placed.clear()
    web.run(web.p([CAT, "else"]), reference=picture, **settings | {"alpha": 0.7})
    assert placed == []


def test_a_deeper_layer_is_loaded_beside_those_that_are_there_and_the_web_ui_learns_of_the_growth(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepen, placed = language.Qwen3VL.deepen, []
    monkeypatch.setattr(
        language.Qwen3VL, "deepen", lambda model, depth: placed.append(len(loaded_models())) or deepen(model, depth)
    )
    web.run(web.p(), reference=picture, hidden_layer=-8)
    (before,) = loaded_models()
    module, known = before.model, weakref.ref(before)
    assert len(module.language_model.layers) == LAYERS - 7
    del before
    web.run(web.p(), reference=picture, hidden_layer=-2)
    gc.collect()
    (after,) = loaded_models()
    assert placed == [0, 0], "while it grows the web UI has it not"
    assert after is KEEPER.residence.patcher
    assert known() is None, "it had been told another size"
    assert after.model is module
    assert len(module.language_model.layers) == LAYERS - 1
    web.run(web.p(DOG), reference=picture, hidden_layer=-8)
    assert loaded_models() == [after]
    assert (web.events.count("load"), web.events.of("deepen")) == (1, [LAYERS - 1])


def test_a_deeper_layer_that_is_damaged_leaves_the_others_of_use(
    web: WebUI, picture: Any, vl_model: Any, refused: Any
) -> None:
    stored, _ = tiny.quantize(tiny.inner_state(vl_model), "rows")
    stored[f"language_model.layers.{LAYERS - 1}.mlp.up_proj.weight_scale"] = torch.ones(5)
    tiny.save_single(stored, web.weights / "bad.safetensors", metadata=tiny.config_metadata(vl_model.config))
    chosen = {"reference": picture, "model": "bad.safetensors"}
    first = web.run(web.p(), **chosen)
    for _ in range(2):
        with refused(
            r"bad\.safetensors: the scale of language_model\.layers\.11\.mlp\.up_proj\.weight does not fit it"
        ):
            web.run(web.p(), hidden_layer=-1, **chosen)
    web.run(web.p(DOG), **chosen)
    KEEPER.store.clear()
    assert same(web.run(web.p(), **chosen).c, first.c)


def test_dropping_it_gives_the_memory_back(web: WebUI, picture: Any) -> None:
    web.run(web.p(), reference=picture)
    module = weakref.ref(loaded_models()[0].model)
    KEEPER.residence.drop()
    gc.collect()
    assert not loaded_models()
    assert module() is None


def test_one_qwen3_vl_is_held_at_a_time(web: WebUI, picture: Any, vl_folder: Path) -> None:
    (web.weights / "second").symlink_to(vl_folder)
    web.run(web.p(), reference=picture, model="tiny-vl")
    module = weakref.ref(loaded_models()[0].model)
    web.run(web.p(), reference=picture, model="second")
    gc.collect()
    assert len(loaded_models()) == 1
    assert module() is None


@pytest.mark.parametrize(("error", "says"), [
    (mm.OOM_EXCEPTION("CUDA out of "
    "memory"), "Not enough memory for Qwen3-VL on cpu. Choose the device cpu, or a smaller reference size."),
    (MemoryError(), "Not enough memory for Qwen3-VL"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 "
    "bytes."), "Not enough main memory for Qwen3-VL"),
], ids=["card", "python", "torch"])  # fmt: skip
def test_out_of_memory_is_one_line_and_the_model_is_dropped(
    web: WebUI, picture: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    web.run(web.p(), reference=picture)
    module = weakref.ref(loaded_models()[0].model)
    place = mm.load_models_gpu

    def full(models: list, *args: Any, **kwargs: Any) -> Any:
        if any(type(patcher.model).__name__ == "Qwen3VLModel" for patcher in models):
            raise error
        return place(models, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mm, "load_models_gpu", full)
        with refused(says):
            web.run(web.p(DOG), reference=picture)
    error.__traceback__ = None  # it holds the frames, and they the model
    gc.collect()
    assert not loaded_models()
    assert module() is None
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("load") == 2


def test_a_card_that_is_too_small_means_the_cpu_and_a_note(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = web.run(web.p(), reference=picture)
    monkeypatch.setattr(mm, "text_encoder_device", lambda: torch.device("meta"))  # stands for a graphics card
    monkeypatch.setattr(mm, "get_total_memory", lambda *a: 2**20)
    extractor = ForgeExtractor(forge_files.checkpoint(""), Settings(), KEEPER.residence)
    assert extractor.device == torch.device("cpu")
    assert "it runs on the CPU, which is slower" in extractor.note
    assert ForgeExtractor(forge_files.checkpoint(""), Settings(device="cpu"), KEEPER.residence).note == ""
    monkeypatch.undo()
    assert on_cpu.comments == {}


# --- other versions of the web UI


def test_an_engine_that_returns_one_tensor_gets_one(web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = web.run(web.p(), reference=picture)
    original = type(web.engine).get_learned_conditioning
    monkeypatch.setattr(
        type(web.engine), "get_learned_conditioning", lambda self, prompt: torch.stack(original(self, prompt))
    )
    asked: list = []
    web.run(web.p(), reference=picture, alpha=0.5)  # another entry in the cache
    p = web.p()
    run.attach(p, [{"enabled": True, "reference": picture}])

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


# --- the stand-in itself


@pytest.mark.skipif(not hosts.REAL, reason="compares the stand-in with a real web UI: set ZVL_HOST")
def test_the_stand_in_agrees_with_the_real_web_ui() -> None:
    """On everything the tests above rely on: schedules, parts and weights, and the line under the picture."""
    import runpy

    standin = hosts.STANDIN / "modules"
    parser = runpy.run_path(str(standin / "prompt_parser.py"))

    class Echo:
        @staticmethod
        def get_learned_conditioning(prompts: Any) -> list[str]:
            return list(prompts)

    for prompt in (
        CAT,
        "a [red:blue:0.5] apple on a [table:cat:6]",
        "a cat AND a dog :0.5 AND a cat:-0.25",
        "",
        "a [b:c:0] [d:e:20]",
    ):
        theirs, ours = (
            [
                [(part.weight, part.schedules) for part in line]
                for line in function(Echo, prompt_parser.SdConditioning([prompt]), 8).batch
            ]
            for function in (
                prompt_parser.get_multicond_learned_conditioning,
                parser["get_multicond_learned_conditioning"],
            )
        )
        assert [[(w, [tuple(e) for e in s]) for w, s in line] for line in theirs] == [
            [(w, [tuple(e) for e in s]) for w, s in line] for line in ours
        ]
    infotext = runpy.run_path(str(standin / "infotext_utils.py"))
    from modules import infotext_utils

    for text in (
        "plain",
        "a, b",
        "a: b",
        "two\nlines",
        '"quoted"',
        "512x512",
        "=",
        "",
        "back\\slash, \\",
        "日本: 🍎",
        " blank ",
    ):
        assert infotext["quote"](text) == infotext_utils.quote(text)
        line = f"{CAT}\nSteps: 8, Sampler: Euler, CFG scale: 1, Key: {infotext_utils.quote(text)}, Version: 1"
        theirs, ours = infotext_utils.parse_generation_parameters(line), infotext["parse_generation_parameters"](line)
        assert {key: theirs.get(key) for key in ours} == ours
        assert [key for key in theirs if key.startswith("Key")] == [key for key in ours if key.startswith("Key")]


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
    run.attach(p, [{"enabled": True, "reference": picture}])

    def one_at_a_time(engine: Any, prompts: Any, *rest: Any) -> list[torch.Tensor]:
        return [engine.get_learned_conditioning([prompt]).squeeze(0) for prompt in prompts]

    with torch.inference_mode():
        made = p.get_conds_with_caching(one_at_a_time, [CAT], 8, [[None, None]], {})
    assert torch.equal(made[0], expected)
