"""What is reused of the web UI's own work: a prompt is encoded again where its embeddings may have changed, and only
there."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import memory_management as mm
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, SPLICE, conds, put_on_a_lora, restarted, same
from modules import shared

from zvl_ext.hosts import forge_encoder
from zvl_ext.webui.kept import KEEPER, RECORDINGS

pytest_plugins = ["host_fixtures"]

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
    ahead = forge_encoder.ForgeTextEncoder(web.engine).goes_on  # reads what stands before all prompts by itself
    assert encoded == 2 + {"splice": 2 + ahead, "splice, image rows": 1}.get(
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
    web.plain()
    if not web.engine.shifts:
        pytest.skip("this web UI tells it elsewhere")
    restarted(web)
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
        put_on_a_lora(web)
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
    put_on_a_lora(web)
    changed = conds(web.run(web.p(CAT), **settings | {"alpha": 0.9}))[0]
    assert not torch.allclose(first[3:11], changed[3:11], rtol=0.01), "with insert, image rows do not depend on alpha"
    restarted(web)
    assert torch.equal(changed, conds(web.run(web.p(CAT), **settings | {"alpha": 0.9}))[0])


def test_the_text_encoder_is_measured_anew_with_another_lora(web: WebUI, make_engine: Any, picture: Any) -> None:
    """Otherwise a picture would depend on the LoRA of an earlier one."""
    settings = {"token_mode": "image", "normalization": "per_dim", "alpha": 0.5}
    put_on_a_lora(web)
    web.run(web.p(), reference=picture, **settings)
    put_on_a_lora(web)  # another one, that leaves the weights as they were
    web.engine.text_encoder.model.layers[0].mlp.down_proj.weight.div_(1.5 * 1.5)
    after = web.run(web.p(DOG), reference=picture, **settings)
    restarted(web)
    shared.sd_model = make_engine()  # the same weights, and nothing remembered of them
    alone = web.run(web.p(DOG), reference=picture, **settings)
    assert torch.allclose(conds(after)[0], conds(alone)[0], rtol=1e-5, atol=1e-5)


def test_a_web_ui_that_does_not_count_its_loras_encodes_every_time(web: WebUI, picture: Any) -> None:
    patcher = web.engine.forge_objects.clip.patcher
    if hasattr(patcher, "lora_patches"):
        pytest.skip("this web UI tells them")
    patcher.patches_uuid = None
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
    mm.unload_all_models()  # as with every change of the checkpoint: some web UIs hold what is loaded
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


READ = {"sequential": {}, "mrope": {"positions": "mrope"}, "a system text": {"system_prompt": "Look."}}


@pytest.mark.parametrize("how", READ)
def test_splice_reads_a_new_prompt_behind_what_it_has_read(web: WebUI, picture: Any, how: str) -> None:
    """Where the text encoder hands out keys and values: the reference's part is read once for all prompts, at any
    layer, and each picture is the one made alone."""
    settings = {**SPLICE, **BARE, **READ[how]}
    if not forge_encoder.ForgeTextEncoder(web.engine).goes_on:
        pytest.skip("this web UI's text encoder hands out no keys and values")
    read: list[int] = []
    layer = web.engine.text_encoder.model.layers[0]

    def watch(module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if kwargs.get("past_key_value") is not None:
            read.append(kwargs["x"].shape[1])

    handle = layer.register_forward_hook(watch, with_kwargs=True)
    made = {}
    for prompt, depth in ((CAT, -2), (DOG, -2), (CAT, -1), ("", -1)):
        made[prompt, depth] = web.run(web.p(prompt), reference=picture, **settings | {"hidden_layer": depth}).c
    handle.remove()
    assert len(read) == 1 + 3, "the reference once, and each prompt; what is deeper goes on"
    for prompt, depth in made:
        restarted(web)
        alone = web.run(web.p(prompt), reference=picture, **settings | {"hidden_layer": depth}).c
        assert same(alone, made[prompt, depth]), (prompt, depth)
