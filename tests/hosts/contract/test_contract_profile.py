"""Profiles in the web UI: what they do to a picture, where they do nothing, and what does not fit, in one line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from compare import hooks
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG
from infotexts import parsed
from sampling import BLOCKS, FRONT, Studio, apart

from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_files
from zvl_ext.profiles import read_profile, write_profile
from zvl_ext.webui import conditionings, run
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "sampling"]

HEADS = 2
SOFT, HARD = [[-2.0, 0.3], [0.2, -3.0], [-0.5, -1.0]], [[0.9, 0.1], [-4.0, 1.0], [0.0, 2.0]]
CAPTION = [[-1.0, 0.4]]
TOLD = {"engine": "splice", "positions": "sequential", "hidden_layer": -2, "block_place": "front", "merge": 1}
WEIGHT = {**FRONT, "weight": 0.6}


def write(name: str, main: Any = SOFT, refiner: Any = CAPTION, **told: Any) -> Path:
    folder = Path(forge_files.profile_folder())
    folder.mkdir(exist_ok=True)
    write_profile(str(folder / f"{name}.safetensors"), main, refiner, TOLD | told)
    return folder / f"{name}.safetensors"


@pytest.fixture
def files(studio: Studio) -> Studio:
    """A studio with profiles in its folder."""
    write("soft")
    write("hard", HARD)
    write("even", [[0.0] * HEADS] * BLOCKS, [[0.0] * HEADS])
    return studio


def comments(studio: Studio, **settings: Any) -> list[str]:
    return [str(line) for line in studio.condition(studio.p(), **settings).comments]


# --- what it does


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.6, 1.0])
def test_each_profile_makes_another_picture_and_leaves_nothing_behind(files: Studio, cfg: float, weight: float) -> None:
    plain = files.picture(cfg=cfg)
    made = [files.picture(cfg=cfg, **FRONT, weight=weight, profile=name) for name in ("", "soft", "hard")]
    assert all(apart(one, other) > 1e-3 for one, other in itertools.combinations([plain, *made], 2))
    assert torch.equal(files.picture(cfg=cfg), plain)
    assert hooks(files.model) == 0


def test_weight_multiplies_it_and_steps_curve_and_blocks_apply(files: Studio) -> None:
    plain, bare = files.picture(), files.picture(**WEIGHT)
    ways = [
        {},
        {"weight": 1.2},
        {"start": 0.5},
        {"curve": "ease in"},
        {"blocks": "early:0.5"},
        {"region": "left"},
        {"merge": 2, "proportional": True},
        {"curve": "reversed", "region": "right", "blocks": "0-1"},
    ]
    made = [files.picture(**WEIGHT | more, profile="soft") for more in ways]
    assert all(apart(one, other) > 1e-4 for one, other in itertools.combinations([plain, bare, *made], 2))
    for weight, most in ((1e-4, 1e-2), (1e-6, 1e-4)):
        assert apart(files.picture(**FRONT, weight=weight, profile="soft"), plain) < most * apart(bare, plain)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"start": 0.5, "end": 0.5}, {"blocks": "all:0"}], ids=str)
def test_without_a_weight_it_is_the_plain_picture(files: Studio, settings: dict) -> None:
    assert torch.equal(files.picture(**FRONT | settings, profile="soft"), files.picture())
    assert files.modifiers == []


@pytest.mark.parametrize("more", [{"weight": 0.6}, {"weight": 1.0}, {"weight": 0.6, "region": "left"}], ids=str)
def test_one_of_zeros_is_none_to_the_last_bit_and_says_so(files: Studio, more: dict) -> None:
    settings = FRONT | more
    assert torch.equal(files.picture(**settings, profile="even"), files.picture(**settings))
    p = files.condition(files.p(), **settings, profile="even")
    assert "The profile 'even' changes nothing: all its weights are 1." in str(p.comments)
    assert "ZVL profile" not in p.extra_generation_params


def test_one_whose_heads_are_alike_is_a_weight(files: Studio) -> None:
    """The rows that the prompt has after it was read go back to the plain ones with the weight alone: above 1 they are
    all alike."""
    half = torch.full((BLOCKS, HEADS), 0.75).log(), torch.full((1, HEADS), 0.75).log()
    write("less", *half)
    assert apart(files.picture(**FRONT, weight=2.0, profile="less"), files.picture(**FRONT, weight=1.5)) < 1e-5


def test_a_batch_and_two_references(files: Studio, other_picture: Any) -> None:
    two = {**WEIGHT, "reference_2": other_picture, "weight_2": 0.4, "profile": "hard"}
    both = files.picture([CAT, DOG], **two)
    for i, prompt in enumerate((CAT, DOG)):
        assert apart(both[i : i + 1], files.picture(prompt, seed=1 + i, **two)) < 1e-5
    assert apart(both, files.picture([CAT, DOG], **two | {"profile": ""})) > 1e-3


# --- what is read for it


def test_profiles_over_one_reference_read_it_once(files: Studio) -> None:
    first = files.picture(**WEIGHT, profile="soft")
    seen = len(files.web.events)
    made = [files.picture(**WEIGHT, profile=name) for name in ("hard", "", "soft", "even")]
    assert len(files.web.events) == seen, "no model runs"
    assert torch.equal(made[2], first)
    assert torch.equal(made[1], made[3])


def test_another_file_under_the_same_name_is_another_profile(files: Studio) -> None:
    soft, hard = (files.picture(**WEIGHT, profile=name) for name in ("soft", "hard"))
    write("soft", HARD)
    assert torch.equal(files.picture(**WEIGHT, profile="soft"), hard)
    write("soft")
    assert torch.equal(files.picture(**WEIGHT, profile="soft"), soft)


# --- what is said of it


def test_the_parameters_name_it_with_its_digest(files: Studio) -> None:
    p = files.condition(files.p(), **WEIGHT, profile="soft")
    digest = read_profile(str(Path(forge_files.profile_folder()) / "soft.safetensors")).digest
    assert parsed(files.web, p.extra_generation_params)["ZVL profile"] == f"soft {digest[:12]}"
    assert "ZVL profile" not in files.condition(files.p(), **WEIGHT).extra_generation_params


@pytest.mark.parametrize("length_match", ["interpolate", "truncate"])
def test_where_no_rows_are_inserted_it_changes_nothing_and_that_is_said(files: Studio, length_match: str) -> None:
    settings = {**BARE, "token_mode": "image", "length_match": length_match}
    p = files.condition(files.p(), **settings, profile="soft")
    assert "Profile changes nothing here: it acts on inserted tokens" in str(p.comments)
    assert "ZVL profile" not in p.extra_generation_params
    assert torch.equal(files.picture(**settings, profile="soft"), files.picture(**settings))


@pytest.mark.parametrize(
    ("told", "more", "said"),
    [
        ({}, {}, ""),
        ({"hidden_layer": -6}, {}, "was fitted with hidden layer -6 (here: -2), so it may act differently"),
        ({"engine": "blend", "merge": 2}, {}, "with engine blend, merge 2 (here: splice, 1)"),
        ({"positions": "mrope"}, {}, "with positions mrope (here: sequential)"),
        ({"positions": "mrope", "engine": "blend"}, {"engine": "blend"}, ""),
        ({}, {"block_place": "behind head"}, "with block place front (here: behind head)"),
    ],
)
def test_what_it_was_fitted_for_is_said_where_the_picture_differs(
    files: Studio, told: dict, more: dict, said: str
) -> None:
    write("mine", **told)
    lines = comments(files, **{**WEIGHT, "hidden_layer": -2, **more}, profile="mine")
    assert any(said in line for line in lines) if said else not any("profile" in line for line in lines), lines


# --- what does not fit


def refusal(studio: Studio, **settings: Any) -> str:
    with pytest.raises(ZvlError) as raised:
        studio.condition(studio.p(), **{**WEIGHT, **settings})
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("main", "refiner", "told", "said"),
    [
        (
            SOFT * 2,
            CAPTION,
            {},
            "with 6 blocks of 2 heads (1 for the caption), and this one has 3 blocks of 2 heads (1",
        ),
        ([[0.1, 0.2, 0.3]] * 3, [[0.0] * 3], {}, "with 3 blocks of 3 heads"),
        (SOFT, CAPTION * 2, {}, "(2 for the caption)"),
        (SOFT, CAPTION, {"width": 3840}, "whose rows are 3840 wide, and this one's are 64"),
    ],
)
def test_a_profile_of_another_image_model_is_refused(
    files: Studio, main: Any, refiner: Any, told: dict, said: str
) -> None:
    write("other", main, refiner, **told)
    assert said in refusal(files, profile="other")


def test_a_file_that_is_none_is_refused(files: Studio) -> None:
    path = write("bad")
    whole = path.read_bytes()
    assert "There is no profile 'x'" in refusal(files, profile="x")
    for name in ("../profiles/soft", str(path), "soft.safetensors", "/etc/passwd"):
        assert "There is no profile" in refusal(files, profile=name)
    for content in (b"", whole[:-3], b"PK" + whole, whole.replace(b"zvl-profile-1", b"zvl-profile-2")):
        path.write_bytes(content)
        assert "'bad'" in refusal(files, profile="bad")


def test_it_is_refused_before_a_grid_begins(files: Studio) -> None:
    write("other", SOFT * 2)
    p = files.p()
    settings = {**WEIGHT, "reference": files.reference}
    run.check(p, [settings], {"profile": "soft"})
    with pytest.raises(ZvlError, match="for an image model with 6 blocks"):
        run.check(p, [settings], {"profile": "other"})


def test_another_architecture_stays_as_it_is(files: Studio, web: WebUI, make_engine: Any) -> None:
    from host_engine import AnotherArchitecture

    web.use(make_engine(AnotherArchitecture))
    assert any("not Z-Image" in line for line in comments(files, **WEIGHT, profile="soft"))


# --- in a conditioning file


def test_a_saved_conditioning_brings_its_profile_along(files: Studio) -> None:
    wanted = files.picture(**WEIGHT, profile="soft")
    conditionings.save_last("a")
    (Path(forge_files.profile_folder()) / "soft.safetensors").unlink()
    KEEPER.store.clear()

    def again(**named: Any) -> torch.Tensor:
        p = files.p()
        run.attach(p, [{"conditioning": "a", **named}])
        made = files.sample(files.web.condition(p))
        run.current(p).after_sampling()
        comments.extend(map(str, p.comments))
        return made

    comments: list[str] = []
    assert torch.equal(again(), wanted)
    assert apart(again(weight=0.3), wanted) > 1e-3
    assert torch.equal(again(profile="hard"), wanted)
    assert any("Profile changes nothing here: the file was made with its own" in line for line in comments)
    assert json.dumps(comments).count("Profile") == 1
