"""`fit projection` on the command line, with the shipped miniature and its Qwen3-VL in other widths."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import assert_refused
from PIL import Image

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.conditioner import Unit
from zvl_ext.fit import projection as fit
from zvl_ext.hosts.standalone import ZImage
from zvl_ext.lab.miniature import family, world
from zvl_ext.lab.miniature.album import write_album
from zvl_ext.options import Settings
from zvl_ext.projections import Projection, read_projection
from zvl_ext.qwen3vl import kinds
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.reference import Reference, open_reference

pytest_plugins = ["resized_miniature"]

PROMPT = "a large cross, red"


@pytest.fixture(scope="module", autouse=True)
def published() -> Iterator[None]:
    """The wider models count as a published size other than 4B."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds._SIZES["Qwen3-VL"], 128, "8B")
        yield


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_album(str(folder), 16, seed=1)
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "0003.txt").unlink()  # Qwen3-VL describes it
    return folder


@pytest.fixture(scope="module")
def shown() -> Reference:
    return open_reference(Image.fromarray(world.draw(world.Scene("star", "green", "navy", "dotted"), 0)))


@pytest.fixture(scope="module")
def written(album: Path, resized: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Projection]:
    """What is said, and what is written."""
    out, said = tmp_path_factory.mktemp("out") / "own.safetensors", io.StringIO()
    words = ["fit", "projection", "--pictures", str(album), "--qwen3-vl", resized[128], "--out", str(out)]
    with contextlib.redirect_stderr(said):
        assert main(words) == 0
    return said.getvalue(), read_projection(str(out))


def test_it_tells_the_command_without_a_persons_own_folders(written: tuple[str, Projection]) -> None:
    _, made = written
    assert made.told("command") == "zvl fit projection"
    assert float(made.told("seconds")) >= 0


def test_it_writes_a_projection_and_says_how_good_it_is(
    written: tuple[str, Projection], resized: dict[int, str]
) -> None:
    said, made = written
    for words in (
        "damaged.png is left out",
        "16 pictures and 0 texts, 2 hidden layers from 128 to 96 wide. Calculated: ",
        "hidden layer -2: explains 0.",
        "is written",
    ):
        assert words in said
    assert (made.hidden, made.width, list(made.maps)) == (128, 96, [-3, -2])
    assert (made.told("model"), made.told("pictures"), made.told("method")) == ("vl128", "16", "ridge")
    assert made.told("fingerprint") == open_checkpoint(resized[128], any_size=True).fingerprint


def test_through_it_another_width_serves_blend(
    written: tuple[str, Projection], resized: dict[int, str], shown: Reference, refused: Any
) -> None:
    """Wider, nothing but the width differs: so what is fitted for it does what is fitted for the miniature's own."""
    settings = Settings.from_mapping({"enabled": True, "preset": "Balanced", "engine": "blend", "reference_tokens": 24})
    model = ZImage(os.path.join(family.WEIGHTS, "z-image"), resized[128], "cpu", "float32", family.REFERENCE_PROMPTS)

    def rows(projection: Projection | None, **values: Any) -> torch.Tensor:
        units = [Unit(settings.changed(values), shown, projection=projection)]
        return model.condition_units(units, PROMPT).rows

    with refused("is 128 wide, the image model's text encoder 96.*or in engine blend a projection"):
        rows(None)
    made = written[1]
    assert rows(made).shape[1] == 96
    with refused("has hidden layer -3, -2, not -4"):
        rows(made, hidden_layer=-4)
    model = ZImage(os.path.join(family.WEIGHTS, "z-image"), resized[80], "cpu", "float32", family.REFERENCE_PROMPTS)
    with refused("whose states are 128 wide, and those of vl80 are 80"):
        rows(made)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Name what to learn from: --pictures FOLDER, --texts FILE, or both."),
        (("--texts", "/nowhere.txt"), "--texts /nowhere.txt can't be read as UTF-8 text"),
        (("--pictures", "/nowhere"), "--pictures /nowhere can't be read as a folder"),
        (("--texts", "{few}"), "There are 3 texts to learn from; 8 are needed at least"),
        (("--texts", "{few}", "--layers=-2,-40"), "Hidden layer -40 does not exist"),
        (("--texts", "{few}", "--layers=2"), "layers from the end such as --layers=-8,-2 are needed"),
        (("--texts", "{few}", "--layers=" + ",".join(str(-i) for i in range(1, 19))), "16 are possible"),
        (("--texts", "{few}", "--qwen3-vl", "/nowhere"), "/nowhere"),
    ],
)
def test_what_can_not_be_done_is_one_line(tmp_path: Path, cli: Any, words: tuple[str, ...], said: str) -> None:
    few = tmp_path / "few.txt"
    few.write_text("a star\na  star\n\na moon\na cross\n", encoding="utf-8")
    result = cli("fit", "projection", "--out", tmp_path / "x.safetensors", *(word.format(few=few) for word in words))
    assert_refused(result, said) if "reading" not in result.err else pytest.fail(result.err)
    assert not (tmp_path / "x.safetensors").exists()


def test_where_nothing_is_gained_nothing_is_written_unless_asked(tmp_path: Path, cli: Any, monkeypatch: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"a {colour} star" for colour in world.ATTRIBUTES["colour"]), encoding="utf-8")
    out = tmp_path / "x.safetensors"
    words = ("fit", "projection", "--texts", texts, "--layers=-2", "--method", "procrustes", "--out", out)
    monkeypatch.setattr(fit.Found, "gains", False)
    result = cli(*words)
    assert result.code == 2
    assert "more texts or pictures would make it better" in result.err
    assert "Nothing was gained, so nothing is written" in result.err
    assert not out.exists()
    assert cli(*words, "--anyway").code == 0
    assert read_projection(str(out)).told("pictures") == "0"


def test_what_is_asked_for_again_is_the_same(album: Path, tmp_path: Path, cli: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"a {shape}, {i}" for i, shape in enumerate(world.ATTRIBUTES["shape"][:4] * 2)))
    digests = set()
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        assert cli("fit", "projection", "--texts", texts, "--layers=-2", "--anyway", "--out", out).code == 0
        digests.add(read_projection(str(out)).digest)
    assert len(digests) == 1


def test_a_stop_writes_nothing(album: Path, tmp_path: Path, cli: Any, monkeypatch: Any) -> None:
    def stopped(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        cli("fit", "projection", "--pictures", album, "--out", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
