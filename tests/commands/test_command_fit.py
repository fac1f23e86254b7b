"""`fit` on the command line, with the shipped miniature: little enough to be quick, so nothing need be gained."""

from __future__ import annotations

import json

import pytest
from command_line import assert_refused
from safetensors import safe_open

pytest.importorskip("diffusers")
pytest.importorskip("accelerate", reason="fitting needs accelerate, an optional package")

from zvl_ext.lab.miniature.album import write_album
from zvl_ext.profiles import read_profile

SMALL = ("--examples", "12", "--steps", "3", "--batch", "4", "--set", "reference_tokens=4")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_album(str(path), 8, seed=1)
    (path / "0003.txt").unlink()  # Qwen3-VL describes it
    (path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return path


@pytest.fixture(scope="module")
def fitted(album, tmp_path_factory):
    import contextlib
    import io

    from zvl_ext.__main__ import main

    out = tmp_path_factory.mktemp("out") / "own.safetensors"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["fit", "weights", "--pictures", str(album), "--out", str(out), "--anyway", *SMALL])
    return code, out, said.getvalue()


def test_it_writes_a_profile_that_tells_how_it_was_made(fitted):
    code, out, _ = fitted
    assert code == 0
    read_profile(str(out)).check(6, 4, 1, 120)
    with safe_open(out, "pt") as file:
        told = file.metadata()
    assert {"engine": "splice", "pictures": "8", "seed": "0"}.items() <= told.items()
    command = "zvl fit weights --set reference_tokens=4 --examples 12 --steps 3 --batch 4 --anyway"
    assert told["command"] == command, "without the names of a person's own folders"
    assert float(told["seconds"]) >= 0
    gained = json.loads(told["gained"])
    assert gained["pictures"] == 2
    assert gained["gained"][1] <= gained["gained"][2]
    assert out.stat().st_size < 4096


def test_it_says_what_it_does_before_and_after(fitted):
    _, _, said = fitted
    for words in (
        "damaged.png is left out",
        "8 pictures: 7 have captions of their own, Qwen3-VL describes 1.",
        "Calculated: ",
        "Gained over one weight: ",
        "is written",
    ):
        assert words in said


def test_its_state_lies_beside_it(fitted):
    _, out, _ = fitted
    names = {path.name for path in out.with_suffix(".fit").iterdir()}
    assert names == {"state.safetensors", "curve.csv", "seconds.txt", "captions.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pictures", "nowhere"], "can't be read as a folder"),
        (["--pictures", "{empty}"], "has no pictures"),
        (["--z-image", "x"], "go together"),
        (["--out", "nowhere/own.safetensors"], "there is no folder"),
        (["--rate", "0"], "a number above 0"),
        (["--set", "nothing=1"], "--set nothing=1"),
        (["--set", "weight=0"], "there are none"),
        (["--set", "profile=own"], "without a profile"),
        (["--set", "token_mode=text"], "there are none"),
    ],
)
def test_what_can_not_be_is_refused(cli, album, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    given = {"--pictures": str(album), "--out": str(tmp_path / "own.safetensors")}
    named = dict(zip(arguments[::2], (each.format(empty=tmp_path / "empty") for each in arguments[1::2])))
    arguments = [each for pair in (given | named).items() for each in pair]
    assert_refused(cli("fit", "weights", *arguments, *(() if "--set" in named else SMALL)), words)
    assert not list(tmp_path.glob("*.safetensors"))


def test_pictures_are_drawn_into_a_new_folder_alone(cli, tmp_path):
    made = cli("fit", "pictures", "--out", str(tmp_path / "drawn"), "--count", "2")
    assert made.code == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"0000.png", "0000.txt", "0001.png", "0001.txt"}
    assert_refused(cli("fit", "pictures", "--out", str(tmp_path / "drawn")), "has something in it")


def test_the_command_in_a_file_names_no_folders():
    import argparse

    from zvl_ext.commands.common import repeatable

    parser = argparse.ArgumentParser(prog="python -m zvl_ext fit weights")
    parser.add_argument("--pictures")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--anyway", action="store_true")
    words = ["--pictures", "/home/me/mine", "--set", "projection=/home/me/my own.safetensors", "--set", "weight=0.3"]
    args = parser.parse_args([*words, "--steps", "7", "--anyway"])
    told = repeatable(parser, args)
    assert told == "zvl fit weights --set 'projection=my own.safetensors' --set weight=0.3 --steps 7 --anyway"


@pytest.mark.parametrize(
    ("steps", "every", "patience"), [(3, 10, 5), (80, 10, 5), (200, 10, 7), (500, 25, 7), (6000, 300, 7)]
)
def test_a_long_run_is_looked_at_less_often_and_waited_for(monkeypatch, tmp_path, steps, every, patience):
    from zvl_ext.__main__ import main
    from zvl_ext.fit import profile

    wishes = []
    monkeypatch.setattr(profile, "fit_weights", lambda wish, *rest: wishes.append(wish))
    out = str(tmp_path / "own.safetensors")
    assert main(["fit", "weights", "--pictures", str(tmp_path), "--out", out, "--steps", str(steps)]) == 0
    schedule = wishes[0].schedule
    assert (schedule.every, schedule.patience) == (every, patience)
    assert 3 * every * patience >= steps
