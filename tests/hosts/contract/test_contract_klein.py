"""Flux.2 Klein: an image model that reads three layers at once, of prompts that are filled up to 512 tokens."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, close, conds, same
from klein import DOUBLE, ROWS, SINGLE, AnotherFlux2, Flux2, KleinByHand, KleinStudio, deep_vl, dynamic_args
from sampling import Studio, apart
from tokenizers import Tokenizer

from zvl_ext.attention_shares import AttentionShares
from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_attention, forge_encoder, forge_files
from zvl_ext.profiles import write_profile
from zvl_ext.webui import conditionings, run
from zvl_ext.webui.sampling import WATCHED, Watched

pytest_plugins = ["host_fixtures", "sampling"]

BLEND = {**BARE, "hidden_layer": -2, "alpha": 0.3}
SPLICE = {**BARE, "engine": "splice", "hidden_layer": -2, "alpha": 1.0}
INSERTED = {**SPLICE, "token_mode": "all", "length_match": "insert", "block_place": "front"}
SIZE = (6, 8)  # of the latents
SMALL = {"steps": 2, "size": SIZE}
BLOCK = 6 + 2  # rows of the picture with its markers


@pytest.fixture(scope="module")
def vl_model(tokenizer: Tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    return deep_vl(tokenizer)


@pytest.fixture(scope="module")
def vl_folder(vl_model: Any, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_folder(vl_model, tokenizer, tmp_path_factory.mktemp("weights") / "deep-vl")


@pytest.fixture(scope="module")
def _settled(vl_folder: Path) -> None:
    """As in `host_fixtures`, with these weights."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def klein(web: WebUI, make_engine: Callable[..., Any]) -> WebUI:
    """The web UI with Flux.2 Klein loaded."""
    web.use(make_engine(Flux2))
    return web


@pytest.fixture
def by_hand(vl_model: Any, tokenizer: Tokenizer, picture: Any) -> KleinByHand:
    return KleinByHand(vl_model, tokenizer, picture)


@pytest.fixture
def studio(klein: WebUI, picture: Any) -> KleinStudio:
    return KleinStudio(klein, picture)


# --- what is read


def test_the_web_ui_reads_as_by_hand(klein: WebUI, by_hand: KleinByHand) -> None:
    (rows,) = conds(klein.plain())
    assert rows.shape == (ROWS, 3 * 64)
    assert close(rows, by_hand.text(klein.engine, CAT))


def test_off_and_alpha_0_are_the_web_uis_own_conditioning(klein: WebUI, picture: Any) -> None:
    plain = klein.plain(cfg_scale=4.0)
    for settings in ({"enabled": False}, {"alpha": 0.0}):
        p = klein.run(klein.p(cfg_scale=4.0), reference=picture, **settings)
        assert p.c is plain.c
        assert p.uc is plain.uc


def test_blend_reads_three_layers_in_one_run(klein: WebUI, by_hand: KleinByHand, picture: Any) -> None:
    text = by_hand.text(klein.engine, CAT)
    shallower = {-1: (10, 19, 28), -2: (9, 18, 27), -3: (8, 17, 26), -7: (4, 13, 22)}
    read = {layer: by_hand.vl(CAT, layers)[0] for layer, layers in shallower.items()}
    for layer, own in read.items():
        p = klein.run(klein.p(), reference=picture, **BLEND | {"hidden_layer": layer})
        assert close(conds(p)[0], 0.3 * own + 0.7 * text), layer
    assert klein.events.of("vl") == [3 + BLOCK, ROWS - 3], "up to the image, and what is behind it: once each"
    p = klein.run(klein.p(), reference=picture, **BLEND | {"layer_mix": "-3:0.7, -2:0.3", "alpha": 1.0})
    assert close(conds(p)[0], 0.7 * read[-3] + 0.3 * read[-2])


def test_splice_reads_three_layers_of_the_text_encoder(klein: WebUI, by_hand: KleinByHand, picture: Any) -> None:
    p = klein.run(klein.p(), reference=picture, **INSERTED)
    own, block = by_hand.spliced(klein.engine, CAT)
    (rows,) = conds(p)
    assert close(rows[:ROWS], own)
    assert close(rows[ROWS:], block)


def test_splice_counts_positions_as_qwen3_vl_does_where_it_is_told(klein: WebUI, picture: Any) -> None:
    one, other = (
        conds(klein.run(klein.p(), reference=picture, **INSERTED, positions=how))[0] for how in ("mrope", "sequential")
    )
    assert one.shape == other.shape == (ROWS + BLOCK, 3 * 64)
    assert apart(one, other) > 1e-3


@pytest.mark.parametrize("engine", ["blend", "splice"])
def test_prompts_of_any_kind_keep_their_rows(klein: WebUI, picture: Any, engine: str) -> None:
    for prompt in ("a (big:1.3) cat", "cat " * 520, "a <|endoftext|> b"):
        (plain,) = conds(klein.plain(prompt))
        (rows,) = conds(klein.run(klein.p(prompt), reference=picture, **INSERTED | {"engine": engine}))
        assert rows.shape[0] == len(plain) + BLOCK
        assert rows.isfinite().all()
        assert apart(rows[: len(plain)], plain) > 0.01


WAYS = (
    ({"token_mode": "image"}, ROWS),
    ({"token_mode": "all"}, ROWS),
    ({"token_mode": "image", "length_match": "truncate"}, BLOCK),
    ({"token_mode": "image_no_markers", "length_match": "truncate"}, BLOCK - 2),
    ({"token_mode": "all", "length_match": "truncate"}, ROWS),
    ({"token_mode": "image", "length_match": "insert"}, ROWS + BLOCK),
    ({"token_mode": "text", "vl_prompt": "in oil"}, ROWS),
)


def test_every_way_to_match_lengths(klein: WebUI, picture: Any) -> None:
    for settings, rows in WAYS:
        p = klein.run(klein.p(), reference=picture, **BLEND | settings)
        assert conds(p)[0].shape == (rows, 3 * 64), settings
        assert conds(p)[0].isfinite().all()


def test_a_block_stands_behind_the_prompt_whose_rows_stay_where_they_are(klein: WebUI, picture: Any) -> None:
    (plain,) = conds(klein.plain())
    image_only = {**BLEND, "token_mode": "image", "length_match": "insert"}
    (rows,) = conds(klein.run(klein.p(), reference=picture, **image_only, block_place="front"))
    assert torch.equal(rows[:ROWS], plain)
    (rows,) = conds(klein.run(klein.p(), reference=picture, **image_only, block_place="behind head"))
    assert torch.equal(rows[:3], plain[:3])
    assert torch.equal(rows[3 + BLOCK :], plain[3:])


def test_a_text_of_its_own_is_filled_up_as_the_prompt_is(klein: WebUI, by_hand: KleinByHand, picture: Any) -> None:
    p = klein.run(klein.p(DOG), reference=picture, **BLEND | {"vl_prompt": CAT, "alpha": 1.0})
    assert close(conds(p)[0], by_hand.vl(CAT)[0])


def test_alone_the_text_encoder_is_not_run(klein: WebUI, by_hand: KleinByHand, picture: Any) -> None:
    ran: list = []
    first = forge_encoder.language_model(klein.engine).layers[0]
    first.register_forward_hook(lambda *args: ran.append(args))
    p = klein.run(klein.p(), reference=picture, **BLEND | {"alpha": 1.0})
    assert close(conds(p)[0], by_hand.vl(CAT)[0])
    assert not ran


# --- what is refused


def test_a_layer_that_is_not_there_is_refused_in_one_line(klein: WebUI, picture: Any) -> None:
    for settings, owner in ((BLEND, "tiny-vl has layers -1 to -10"), (SPLICE, "the text encoder has layers -1 to -10")):
        with pytest.raises(ZvlError, match=f"Hidden layer -20 does not exist: {owner} with Flux.2 Klein"):
            klein.run(klein.p(), reference=picture, **settings | {"hidden_layer": -20})
    assert klein.events.count("load") == 0


def test_weights_with_too_few_layers_are_refused_in_one_line(
    klein: WebUI, picture: Any, tokenizer: Tokenizer, weights: Path
) -> None:
    (weights / "tiny-vl").unlink()
    tiny.save_folder(tiny.make_model(tiny.make_config(tokenizer)), tokenizer, weights / "tiny-vl")
    with pytest.raises(ZvlError, match=r"Flux\.2 Klein reads its text encoder after layer 27, and tiny-vl has 5"):
        klein.run(klein.p(), reference=picture, **BLEND)


def test_an_engine_that_reads_at_other_layers_is_refused(klein: WebUI, picture: Any) -> None:
    klein.engine.text_processing_engine_gemma.intermediate_output = [10, 20, 27]
    with pytest.raises(ZvlError, match="encodes the image model's prompt in a way"):
        klein.run(klein.p(), reference=picture, **BLEND)


def test_another_model_of_the_same_class_stays_as_it_is_and_the_picture_says_so(
    klein: WebUI, make_engine: Any, picture: Any
) -> None:
    klein.use(make_engine(AnotherFlux2))
    plain = klein.plain()
    p = klein.run(klein.p(), reference=picture, **BLEND)
    assert p.c is plain.c
    assert list(p.comments) == [
        "Z-Image VL: this checkpoint is not Z-Image or Flux.2 Klein, so the reference has no part in the picture."
    ]


# --- pictures that the web UI itself is to change


def test_pictures_to_change_are_noted_as_without_a_reference(klein: WebUI, picture: Any) -> None:
    """Measured statistics, another alpha and Qwen3-VL alone: each time the prompt is read once, as the engine takes
    it."""
    measured = {"scale_to_text": True, "normalization": "per_dim"}
    for settings in (measured, measured | {"alpha": 0.2}, {"alpha": 1.0}):
        klein.engine.ini_latent, klein.engine.ref_latents[:] = "first", ["second"]
        dynamic_args["ref_latents"] = ["an earlier picture's"]
        klein.run(klein.p(), reference=picture, **BLEND | settings)
        assert dynamic_args["ref_latents"] == ["first", "second"], settings
        assert klein.engine.ini_latent is None
    dynamic_args["ref_latents"] = []


# --- the picture


def test_weight_0_is_plain_and_each_weight_is_farther_from_it(studio: KleinStudio) -> None:
    plain = studio.picture(cfg=4.0, **SMALL)
    assert torch.equal(studio.picture(cfg=4.0, **SMALL, **INSERTED, weight=0.0), plain)
    assert torch.equal(studio.picture(**SMALL, **INSERTED, weight=0.0), studio.picture(**SMALL))
    assert studio.modifiers == []
    near = [apart(studio.picture(cfg=4.0, **SMALL, **INSERTED, weight=w), plain) for w in (1e-6, 0.1, 0.5, 2.0)]
    assert near[0] < 1e-4 * near[2], "the block stands where it moves nothing"
    assert near == sorted(near)
    behind_head = INSERTED | {"block_place": "behind head", "weight": 1e-6}
    assert apart(studio.picture(cfg=4.0, **SMALL, **behind_head), plain) > 1e-3


def test_every_block_takes_the_weight_and_a_block_of_its_own_can_have_one(studio: KleinStudio) -> None:
    blocks, half = DOUBLE + SINGLE, {**SMALL, **INSERTED, "weight": 0.5}
    every = studio.picture(**half)
    assert torch.equal(studio.picture(**half, blocks=f"0-{blocks - 1}"), every)
    for number in range(blocks):
        assert apart(studio.picture(**half, blocks=f"{number}"), every) > 1e-4, number
    with pytest.raises(ZvlError, match="block"):
        forge_attention.check(studio.web.engine, f"{blocks}")


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_attention_of_every_block_is_measured_and_the_picture_stays(studio: KleinStudio, weight: float) -> None:
    settings = {**INSERTED, "weight": weight}
    without, found = studio.picture(cfg=4.0, **SMALL, **settings), AttentionShares()
    p = studio.p(cfg=4.0)
    p.__dict__[WATCHED] = Watched(found)
    assert torch.equal(studio.sample(studio.condition(p, **settings), **SMALL), without)
    assert (found.blocks, found.whole) == (DOUBLE + SINGLE, True)
    for of in (0, 1):
        assert all(0 < share < 1 for line in found.of(of) for share in line)


def test_a_profile_is_for_all_blocks_one_behind_another(studio: KleinStudio) -> None:
    """Those with two streams first; there are none for the caption alone."""
    folder = Path(forge_files.profile_folder())
    folder.mkdir(exist_ok=True)
    twice = [[math.log(2.0)] * 2] * (DOUBLE + SINGLE)
    write_profile(str(folder / "twice.safetensors"), twice, [], {})
    write_profile(str(folder / "first.safetensors"), [twice[0], *[[0.0] * 2] * (DOUBLE + SINGLE - 1)], [], {})
    write_profile(str(folder / "other.safetensors"), twice, [[0.0, 0.0]], {})
    half = {**SMALL, **INSERTED, "token_mode": "image", "weight": 0.5}  # the prompt's rows have no part in it
    assert (
        apart(studio.picture(**half | {"weight": 0.75}, profile="twice"), studio.picture(**half | {"weight": 1.5}))
        < 1e-6
    )
    assert apart(studio.picture(**half, profile="first"), studio.picture(**half, blocks="0:2, 1-2")) < 1e-6
    assert apart(studio.picture(**half, profile="first"), studio.picture(**half)) > 1e-4
    with pytest.raises(ZvlError, match=r"this one has 3 blocks of 2 heads \(0 for the caption\)"):
        studio.picture(**half, profile="other")


def test_a_region_is_the_only_part_of_the_picture_that_sees_the_reference(studio: KleinStudio) -> None:
    """In one block: behind it, the picture's parts see each other."""
    seen = []
    block = studio.model.double_blocks[0]
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    studio.picture(steps=1, size=SIZE)
    studio.picture(steps=1, size=SIZE, **INSERTED | {"token_mode": "image", "region": "left"})
    handle.remove()
    moved = (seen[1] - seen[0]).abs().sum(-1).unflatten(1, SIZE)[0]
    left, right = moved[:, : SIZE[1] // 2], moved[:, SIZE[1] // 2 :]
    assert left.min() > 1e3 * right.max()


def test_a_conditioning_file_makes_the_picture_again_and_is_for_this_image_model(
    studio: KleinStudio, make_engine: Any
) -> None:
    half = {**INSERTED, "weight": 0.5, "region": "left"}
    wanted = studio.picture(**SMALL, **half)
    assert conditionings.save_last("a") == "a"

    def again(studio: Studio) -> torch.Tensor:
        p = studio.p()
        run.attach(p, [{"conditioning": "a"}])
        return studio.sample(studio.web.condition(p), **SMALL)

    assert torch.equal(again(studio), wanted)
    studio.web.use(make_engine())
    with pytest.raises(ZvlError, match=r"is 192 wide, the image model takes 64: it was made for another one\."):
        again(Studio(studio.web, studio.reference))


def test_each_picture_of_a_batch_is_as_alone(studio: KleinStudio) -> None:
    half = {**INSERTED, "size": SIZE, "steps": 1, "weight": 0.5, "cfg": 4.0}
    both = studio.picture(["a cat", "a big old dog"], **half)
    assert apart(both[1:], studio.picture("a big old dog", seed=2, **half)) < 1e-4


def test_z_image_and_klein_in_turn_each_get_their_own(
    klein: WebUI, make_engine: Any, picture: Any, by_hand: KleinByHand
) -> None:
    engine = klein.engine
    first = klein.run(klein.p(), reference=picture, **BLEND)
    klein.use(make_engine())
    assert conds(klein.run(klein.p(), reference=picture, **BLEND))[0].shape[1] == 64
    klein.use(engine)
    assert same(klein.run(klein.p(), reference=picture, **BLEND).c, first.c)
