"""Projections in the web UI: a Qwen3-VL of another width serves engine blend through one, and what does not fit is
refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from by_hand import ByHand
from host_fixtures import LAYERS, WebUI
from host_runs import BARE, CAT, SPLICE, close, conds
from infotexts import parsed

from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_files
from zvl_ext.projections import Affine, Projection, write_projection
from zvl_ext.qwen3vl import kinds
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.webui import run

pytest_plugins = ["host_fixtures"]

WIDE, HIDDEN, LAYER = 96, 64, -8
SHAPE = {"text": {**tiny.REGULAR["text"], "hidden_size": WIDE}, "vision": tiny.REGULAR["vision"]}
INSERT = {"length_match": "insert", "token_mode": "all", "alpha": 0.5, **BARE}


@pytest.fixture(scope="session")
def wide_model(tokenizer: Any) -> Any:
    """A Qwen3-VL that is wider than the image model's text encoder, as Qwen3-VL-8B is."""
    config = tiny.make_config(tokenizer, SHAPE)
    config.text_config.num_hidden_layers = LAYERS
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * LAYERS
    return tiny.make_model(config, seed=7)


@pytest.fixture(scope="session")
def wide_folder(wide_model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_folder(wide_model, tokenizer, tmp_path_factory.mktemp("wide") / "tiny-wide")


def write(name: str, seed: int = 0, hidden: int = WIDE, width: int = HIDDEN, **told: str) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    folder = Path(forge_files.projection_folder())
    folder.mkdir(exist_ok=True)
    maps = {
        layer: Affine(torch.randn(hidden, width, generator=generator) / 8, torch.randn(width, generator=generator))
        for layer in (LAYER, -2)
    }
    first = 10 * torch.randn(width, generator=generator)
    return write_projection(str(folder / f"{name}.safetensors"), maps, first, told)


@pytest.fixture
def wide(web: WebUI, wide_folder: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    """A web UI that also has the wide model, whose width is that of a published size other than 4B."""
    monkeypatch.setitem(kinds._SIZES["Qwen3-VL"], WIDE, "8B")
    (web.weights / "tiny-wide").symlink_to(wide_folder)
    return web


def ran(web: WebUI, picture: Any, **settings: Any) -> Any:
    return web.run(web.p(CAT), reference=picture, **{"model": "tiny-wide", **settings})


def refusal(web: WebUI, picture: Any, **settings: Any) -> str:
    with pytest.raises(ZvlError) as raised:
        ran(web, picture, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_another_width_serves_blend_through_it(wide: WebUI, wide_model: Any, tokenizer: Any, picture: Any) -> None:
    assert "is 96 wide, the image model's text encoder 64" in refusal(wide, picture)
    made = write("mine")
    (got,) = conds(ran(wide, picture, projection="mine", alpha=0.4, hidden_layer=LAYER, **BARE))
    by_hand = ByHand(wide_model, tokenizer, picture)
    weight, bias = (part.double().numpy() for part in made.maps[LAYER])
    states = by_hand.hidden(CAT, LAYER) @ weight + bias
    states[0] = made.first.numpy()
    assert close(got, 0.4 * states + 0.6 * by_hand.text(wide.engine, CAT))


def test_image_tokens_go_through_it_as_well(wide: WebUI, wide_model: Any, tokenizer: Any, picture: Any) -> None:
    made = write("mine")
    settings = {**INSERT, "alpha": 1.0, "hidden_layer": -2, "block_place": "front"}
    (got,) = conds(ran(wide, picture, projection="mine", **settings))
    weight, bias = (part.double().numpy() for part in made.maps[-2])
    images = ByHand(wide_model, tokenizer, picture).hidden(CAT, -2, "image") @ weight + bias
    assert close(got[: len(images)], images)


def test_mixed_layers_go_through_each_ones_own(wide: WebUI, wide_model: Any, tokenizer: Any, picture: Any) -> None:
    made = write("mine")
    (got,) = conds(ran(wide, picture, projection="mine", alpha=1.0, layer_mix="-8:0.25, -2:0.75", **BARE))
    by_hand, wanted = ByHand(wide_model, tokenizer, picture), 0
    for layer, share in ((LAYER, 0.25), (-2, 0.75)):
        weight, bias = (part.double().numpy() for part in made.maps[layer])
        wanted = wanted + share * (by_hand.hidden(CAT, layer) @ weight + bias)
    wanted[0] = made.first.numpy()
    assert close(got, wanted)


def test_one_of_the_same_width_that_changes_nothing_is_none(web: WebUI, picture: Any) -> None:
    folder = Path(forge_files.projection_folder())
    folder.mkdir()
    same = {-8: Affine(torch.eye(HIDDEN), torch.zeros(HIDDEN))}
    write_projection(str(folder / "same.safetensors"), same, torch.zeros(HIDDEN), {})
    settings = {"normalization": "none", "alpha": 1.0}
    (got,) = conds(web.run(web.p(CAT), reference=picture, projection="same", **settings))
    (without,) = conds(web.run(web.p(CAT), reference=picture, **settings))
    assert torch.equal(got[1:], without[1:])
    assert not torch.equal(got[0], without[0])


def test_projections_over_one_reference_read_it_once_and_another_file_is_another_one(wide: WebUI, picture: Any) -> None:
    write("a"), write("b", 1)
    first = conds(ran(wide, picture, projection="a"))[0]
    wide.events.clear()
    second = conds(ran(wide, picture, projection="b"))[0]
    assert wide.events.count("vl") == 0
    assert not torch.equal(first, second)
    write("a", 1)
    assert torch.equal(conds(ran(wide, picture, projection="a"))[0], second)


def test_the_parameters_name_it_with_its_digest(wide: WebUI, picture: Any) -> None:
    made = write("mine, as it is")
    entries = parsed(wide, ran(wide, picture, projection="mine, as it is").extra_generation_params)
    assert entries["ZVL projection"] == f"mine, as it is {made.digest[:12]}"


def test_engine_splice_needs_none_and_says_so(web: WebUI, picture: Any) -> None:
    write("mine", hidden=HIDDEN)
    with_it, without = (
        web.run(web.p(CAT), reference=picture, **{**SPLICE, **BARE, **more}) for more in ({"projection": "mine"}, {})
    )
    assert torch.equal(conds(with_it)[0], conds(without)[0])
    assert "Projection changes nothing here: it is for engine blend" in str(with_it.comments)
    assert "ZVL projection" not in with_it.extra_generation_params


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {**INSERT, "weight": 0.0}], ids=str)
def test_without_a_reference_s_part_it_is_the_plain_picture(wide: WebUI, picture: Any, settings: dict) -> None:
    write("mine")
    (plain,) = conds(wide.plain(CAT))
    assert torch.equal(conds(ran(wide, picture, projection="mine", **settings))[0], plain)


def test_what_does_not_fit_is_refused_before_anything_is_read(wide: WebUI, picture: Any, wide_folder: Path) -> None:
    own = open_checkpoint(str(wide_folder), any_size=True).fingerprint
    write("mine", fingerprint=own), write("others", 1, fingerprint="0" * 16, model="Qwen3-VL-2B")
    write("narrow", hidden=32), write("small", width=32)
    ran(wide, picture, projection="mine")
    wide.events.clear()
    assert "whose states are 32 wide, and those of tiny-wide are 96" in refusal(wide, picture, projection="narrow")
    assert "was fitted for Qwen3-VL-2B, and the weights of tiny-wide are" in refusal(wide, picture, projection="others")
    assert "has hidden layer -8, -2, not -7" in refusal(wide, picture, projection="mine", hidden_layer=-7)
    assert "makes rows 32 wide, and the image model takes 64" in refusal(wide, picture, projection="small")
    assert "whose states are 96 wide, and those of tiny-vl" in refusal(
        wide, picture, projection="mine", model="tiny-vl"
    )
    assert "There is no projection '../x'" in refusal(wide, picture, projection="../x")
    assert not {"load", "vl"} & set(wide.events.kinds())


def test_it_is_refused_before_a_grid_begins(wide: WebUI, picture: Any) -> None:
    write("mine"), write("narrow", hidden=32)
    settings = {"enabled": True, "preset": "Research default", "reference": picture, "model": "tiny-wide"}
    run.check(wide.p(), [settings], {"projection": "mine"})
    with pytest.raises(ZvlError, match="whose states are 32 wide"):
        run.check(wide.p(), [settings], {"projection": "narrow"})


def test_other_sizes_are_offered_where_there_are_projections(weights: Path) -> None:
    """Qwen3-VL-8B by its config.json: without a projection it can't be used, and it is never the first."""
    import json

    for name, width in (("8B", 4096), ("Z-4B", 2560)):
        folder = weights / f"Qwen3-VL-{name}"
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps({"model_type": "qwen3_vl", "text_config": {"hidden_size": width}})
        )
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert list(forge_files.models()) == ["Qwen3-VL-Z-4B"]
    write("mine")
    assert list(forge_files.models()) == ["Qwen3-VL-Z-4B", "Qwen3-VL-8B"]
