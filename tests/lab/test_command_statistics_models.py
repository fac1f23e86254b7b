"""`statistics` of the miniature: a reference and a prompt, the attention that the reference gets, and files of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import assert_refused, strict
from PIL import Image
from safetensors.torch import load_file

from zvl_ext.__main__ import main
from zvl_ext.lab.miniature import family, world

SHOWN = ("std_against_std", "ratios_sorted", "row_norms_by_position", "layer_by_measure", "attention_by_block_and_step")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "reference.png"
    Image.fromarray(world.draw(world.Scene("star", "green", "navy", "dotted"), 0)).save(path)
    return path


@pytest.fixture
def statistics(capfd: Any) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        return (main(["statistics", *map(str, arguments)]), *capfd.readouterr())

    return run


def test_a_reference_and_a_prompt_are_analysed_and_written(statistics, picture, tmp_path) -> None:
    out = tmp_path / "new" / "folder"
    code, told, _ = statistics("--reference", picture, "--prompt", "a large cross", "--steps", "2", "--out", out)
    assert code == 0
    for words in ("Qwen3-VL against the text encoder", "Worst dimensions", "too small", "Row norms by position",
                  "Effective share of each side", "By layer", "Attention that reference 1 gets"):  # fmt: skip
        assert words in told
    data = strict((out / "statistics.json").read_text())
    blocks = data["attention"]["reference 1"]
    assert [len(line) for line in blocks] == [2] * len(family.transformer().layers)
    assert all(0 < share < 1 for line in blocks for share in line)
    page = (out / "statistics.html").read_text()
    assert "http" not in page.replace("<!doctype html>", "")
    plots = {path.stem for path in out.glob("*.png")}
    assert plots in (set(SHOWN), set()), "with matplotlib all of them"
    for path in out.glob("*.png"):
        assert Image.open(path).size[0] > 300
    assert page.count("<img") == len(plots)


def test_without_matplotlib_there_are_tables_alone(statistics, picture, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    code, told, _ = statistics("--reference", picture, "--no-attention", "--out", tmp_path / "out")
    assert code == 0
    assert "install matplotlib" in told
    assert not list((tmp_path / "out").glob("*.png"))
    page = (tmp_path / "out" / "statistics.html").read_text()
    assert "<img" not in page
    assert "background: rgba" in page, "layers as a heat map"
    assert strict((tmp_path / "out" / "statistics.json").read_text())["attention"] is None


def test_rows_that_are_only_mixed_have_no_attention_of_their_own(statistics, picture) -> None:
    code, told, _ = statistics("--reference", picture, "--set", "preset=Research default", "--steps", "1", "--json")
    assert code == 0
    data = json.loads(told)
    assert data["attention"] is None
    assert "no rows of their own" in data["note"]


def test_a_text_encoder_alone_by_layer_and_its_statistics_for_blend(statistics, tmp_path) -> None:
    out = tmp_path / "reference.safetensors"
    code, told, _ = statistics("--text-encoder", f"{family.WEIGHTS}/z-image", "--json", "--reference-out", out)
    assert code == 0
    layers = json.loads(told)["layers"]
    assert [each["layer"] for each in layers] == list(range(-len(layers), 0))
    stored = load_file(out)
    assert float(stored["global_std"]) == pytest.approx(layers[-2]["std"])
    assert stored["per_dim_std"].shape == torch.Size([family.HIDDEN])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--reference"),
        (("--vl", "x"), "--text"),
        (("--text", "x"), "--vl"),
        (("--reference", "x", "--text", "y", "--vl", "z"), "Name one of"),
        (("--text-encoder", "x", "--prompt", "y"), "--prompt does not go"),
        (("--text", "x", "--vl", "y", "--no-attention"), "--no-attention does not go"),
        (("--reference", "nowhere.png"), "nowhere.png"),
        (("--reference", "x", "--reference-out", "y"), "--reference-out does not go"),
        (("--text-encoder", "nowhere"), "nowhere"),
        (("--reference", "PICTURE", "--out", "PICTURE"), "no folder can be made"),
        (("--reference", "PICTURE", "--set", "hidden_layer=-36", "--set", "layer_mix=-30"), "does not exist"),
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_asked_is_a_line(statistics, picture, arguments, says) -> None:
    code, told, said = statistics(*(picture if each == "PICTURE" else each for each in arguments))
    assert_refused(type("Result", (), {"code": code, "out": told, "err": said})())
    assert says in said
