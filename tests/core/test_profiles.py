"""Profiles: log-weights by block and head, in a file that is not trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zvl_ext.errors import ZvlError
from zvl_ext.profiles import ABOUT, FORMAT, Profile, profile_of, read_profile, write_profile

MAIN, REFINER = torch.linspace(-4, 1, 20).reshape(5, 4), torch.linspace(-1, 1, 8).reshape(2, 4)
TOLD = {
    "image_model": "Z-Image", "width": "64", "engine": "splice", "positions": "sequential", "hidden_layer": "-8",
    "block_place": "front", "merge": "1", "weight": "1", "curve": "constant",
    "pictures": 600, "steps": 200, "seed": 0, "gained": {"kept": [0.8, 0.7, 0.9]},
    "seconds": "38", "command": "zvl fit weights --seed 2",
}  # fmt: skip


def written(folder: Path, main: Any = MAIN, refiner: Any = REFINER, name: str = "mine", **told: Any) -> str:
    path = str(folder / f"{name}.safetensors")
    write_profile(path, main, refiner, {**TOLD, **told})
    return path


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.safetensors")
    wrote = write_profile(path, MAIN, REFINER.tolist(), TOLD)
    got = read_profile(path)
    assert got == wrote
    assert hash(got) == hash(wrote)
    assert torch.equal(torch.tensor(got.main), MAIN)
    assert torch.equal(torch.tensor(got.refiner), REFINER)
    assert got.name == "mine"
    assert os.path.getsize(path) < 4096
    assert [name for name, _ in got.about] == list(ABOUT)
    assert (got.told("pictures"), got.told("gained")) == ("600", '{"kept": [0.8, 0.7, 0.9]}')


def test_its_digest_is_of_what_acts(tmp_path: Path) -> None:
    digest = read_profile(written(tmp_path)).digest
    assert read_profile(written(tmp_path, name="other", pictures=3)).digest == digest
    changed = MAIN.clone()
    changed[3, 2] += 0.01
    others = [profile_of(changed, REFINER), profile_of(MAIN[:, [1, 0, 2, 3]], REFINER), profile_of(REFINER, MAIN)]
    assert len({digest, *(each.digest for each in others)}) == 4
    assert profile_of([[-0.0]], [[0.0]]).digest == profile_of([[0.0]], [[0.0]]).digest


def test_one_of_zeros_changes_nothing() -> None:
    assert profile_of(torch.zeros(5, 4), torch.zeros(2, 4)).idle
    assert not profile_of(torch.zeros(5, 4), [[0.0, 0.0, 0.0, 0.1]]).idle


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((30, 30, 2), "5 blocks of 4 heads (2 for the caption), and this one has 30 blocks of 30 heads (2 for"),
        ((1, 8, 2), "this one has 1 block of 8 heads"),
        ((5, 4, 1), "(1 for the caption)"),
        ((5, 4, 2, 128), "rows are 64 wide, and this one's are 128"),
    ],
)
def test_another_image_model_is_refused(shape: tuple[int, ...], said: str) -> None:
    profile = profile_of(MAIN, REFINER, "mine", TOLD)
    profile.check(5, 4, 2)
    profile.check(5, 4, 2, 64)
    with pytest.raises(ZvlError) as raised:
        profile.check(*shape)
    assert said in str(raised.value)
    assert str(raised.value).startswith("The profile 'mine' is for an image model")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, ""),
        ({"engine": "blend", "merge": 2}, "was fitted with engine splice, merge 1 (here: blend, 2)"),
        ({"hidden_layer": -6}, "with hidden layer -8 (here: -6)"),
        ({"block_place": "behind head"}, "with block place front (here: behind head)"),
    ],
)
def test_what_it_was_fitted_for_is_told_where_a_picture_differs(other: dict[str, Any], said: str) -> None:
    chosen = {"engine": "splice", "positions": "sequential", "hidden_layer": -8, "block_place": "front", "merge": 1}
    lines = profile_of(MAIN, REFINER, "mine", TOLD).differences(chosen | other)
    assert (said in lines[0] and len(lines) == 1) if said else lines == []
    assert profile_of(MAIN, REFINER).differences(chosen | other) == []  # of which nothing is told


def stored(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    save_file(tensors, str(path), {"format": FORMAT} if metadata is None else metadata)


GOOD = {"main": MAIN, "refiner": REFINER}
WRONG = {
    "foreign": (GOOD, {"format": "pt"}, "is no profile. One is written by `zvl fit weights`"),
    "nothing told": (GOOD, {}, "is no profile."),
    "newer": (GOOD, {"format": "zvl-profile-2"}, "of another version (zvl-profile-2). Update Z-Image VL"),
    "one tensor": ({"main": MAIN}, None, "it has no tensor refiner"),
    "another tensor": (GOOD | {"lora": MAIN.clone()}, None, "it has a tensor 'lora'"),
    "half": (GOOD | {"main": MAIN.half()}, None, "main is float16 [5, 4]; float32 [blocks, heads] is needed"),
    "flat": (GOOD | {"main": MAIN[0].clone()}, None, "main is float32 [4]"),
    "no blocks": (GOOD | {"main": torch.zeros(0, 4)}, None, "not [blocks, heads] with one number of heads"),
    "no heads": ({"main": torch.zeros(3, 0), "refiner": torch.zeros(1, 0)}, None, "with one number of heads"),
    "other heads": (GOOD | {"refiner": torch.zeros(2, 3)}, None, "with one number of heads"),
    "many blocks": (GOOD | {"main": torch.zeros(600, 4)}, None, "main is float32 [600, 4]"),
    "NaN": (GOOD | {"main": torch.full((5, 4), torch.nan)}, None, "main has a log-weight nan; -30 to 3 are possible"),
    "endless": (GOOD | {"refiner": torch.full((2, 4), -torch.inf)}, None, "refiner has a log-weight -inf"),
    "loud": (GOOD | {"main": torch.full((5, 4), 3.5)}, None, "main has a log-weight 3.5"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    tensors, metadata, said = WRONG[case]
    stored(tmp_path / "file.safetensors", tensors, metadata)
    refused(tmp_path / "file.safetensors", said)


def refused(path: Path, said: str) -> None:
    with pytest.raises(ZvlError) as raised:
        read_profile(str(path))
    line = str(raised.value)
    assert said in line
    assert "\n" not in line
    assert len(line) < 300 + len(str(path))


def test_what_is_no_safetensors_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no tensors at all")
    refused(tmp_path / "text", "can't be read as safetensors")
    refused(tmp_path / "none", "it is not there")
    refused(tmp_path, "it is a folder")
    with open(tmp_path / "long", "wb") as file:
        file.truncate(2**20 + 1)
    refused(tmp_path / "long", "it is longer than 1 MiB")


def test_what_is_told_is_bounded_and_one_line(tmp_path: Path) -> None:
    got = read_profile(written(tmp_path, image_model="Z\nImage\x07\u202e" + "x" * 5000, strange="told by nobody"))
    assert got.told("image_model").startswith("Z Image??x")
    assert len(got.told("image_model")) <= 2000
    assert got.told("strange") == ""


@pytest.mark.parametrize("main", [MAIN * torch.nan, MAIN + 10, [["a"]], [[1.0], [1.0, 2.0]], [], 3, [[10**400]]])
def test_nothing_wrong_is_written(main: Any, tmp_path: Path) -> None:
    with pytest.raises(ZvlError, match="is not written"):
        written(tmp_path, main)
    assert not os.listdir(tmp_path)


def test_a_model_without_blocks_for_the_caption_has_an_empty_table(tmp_path: Path) -> None:
    got = read_profile(written(tmp_path, MAIN, []))
    assert got.refiner == ()
    got.check(5, 4, 0)


def test_no_file_is_replaced_unless_asked(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(ZvlError, match="is there already"):
        write_profile(path, MAIN, REFINER, {}, new=True)
    assert isinstance(read_profile(written(tmp_path, MAIN - 1)), Profile)
    assert read_profile(path).main[0][0] == pytest.approx(-5)
