"""`sweep` from end to end against stand-ins of a web UI, whose pictures cost nothing."""

from __future__ import annotations

import base64
import csv
import errno
import itertools
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Result
from PIL import Image
from web_uis import WebUI, picture

from zvl_ext.__main__ import main
from zvl_ext.errors import ZvlError
from zvl_ext.folder import held
from zvl_ext.lab import crew
from zvl_ext.lab.sweep import command, folder
from zvl_ext.lab.sweep.targets import webui
from zvl_ext.options import Settings


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "REST", 0.005)


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    there = tmp_path / "shown"
    there.mkdir()
    for number, name in enumerate(("a cat.png", "b.png")):
        Image.new("RGB", (48, 48), (number * 200, 90, 40)).save(there / name)
    return there


@pytest.fixture
def sweep(tmp_path: Path, shown: Path, capfd: pytest.CaptureFixture) -> Callable[..., Result]:
    def run(*more: object, out: str = "out", prompt: str = "a cat") -> Result:
        arguments = ["--references", shown, "--prompt", prompt, "--out", tmp_path / out, *more]
        capfd.readouterr()
        code = main(["sweep", *map(str, arguments)])
        said = capfd.readouterr()
        return Result(code, said.out, said.err)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "cells.jsonl").read_text(encoding="utf-8").splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.out
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("zvl_ext: ")
    assert len(last) <= 300
    assert all(word in last for word in words), last


WEIGHTS = ("--axis", "weight=0.2:1:0.4")


def test_every_cell_is_a_picture_and_a_line(sweep: Callable, out: Path) -> None:
    with WebUI() as web:
        done = sweep(*WEIGHTS, "--axis", "hidden_layer=-2,-6", "--seeds", 2, "--webui", web.url)
    assert done.code == 0, done.err
    assert str(out / "report.html") in done.out
    found = lines(out)
    assert len(found) == len(web.made) == 3 * 2 * 2 * 2
    assert Counter(json.dumps(body, sort_keys=True) for body in web.made).most_common(1)[0][1] == 1
    by_request = {picture(body): body for body in web.made}
    for line in found:
        body = by_request[(out / "pictures" / f"{line['key']}.png").read_bytes()]
        assert (body["prompt"], body["seed"]) == ("a cat", line["place"]["seed"])
        assert (body["width"], body["height"], body["steps"], body["cfg_scale"]) == (1024, 1024, 8, 1.0)
        (named,) = body["alwayson_scripts"]["Z-Image VL"]["args"]
        made = Settings.from_mapping(named)
        assert (made.enabled, made.weight, made.hidden_layer) == (
            True, line["place"]["weight"], line["place"]["hidden_layer"],
        )  # fmt: skip
        name = line["place"]["reference"]
        assert base64.b64decode(named["reference"]) == (out.parent / "shown" / name).read_bytes()
        assert line["notes"] == ["Z-Image VL: a note."]
        assert {"histogram", "grid", "sharpness", "saturation", "diversity"} <= set(line["metrics"])
    order = [tuple(line["place"][name] for name in ("reference", "hidden_layer")) for line in found]
    assert sum(a != b for a, b in itertools.pairwise(order)) == 3, "a reference and a layer are read once"


def test_the_table_is_also_there_for_other_programs(sweep: Callable, out: Path) -> None:
    with WebUI() as web:
        sweep(*WEIGHTS, "--webui", web.url, prompt='a "cat", <b>&\u00e4')
    found = lines(out)
    with open(out / "cells.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [line["key"] for line in found]
    assert {row["prompt"] for row in rows} == {'a "cat", <b>&\u00e4'}
    assert [float(row["weight"]) for row in rows] == [line["place"]["weight"] for line in found]
    assert [float(row["grid"]) for row in rows] == [line["metrics"]["grid"] for line in found]
    assert all((out / row["picture"]).is_file() for row in rows)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(out / "cells.parquet").to_pylist()
    assert [(row["key"], row["weight"], row["grid"]) for row in table] == [
        (line["key"], line["place"]["weight"], line["metrics"]["grid"]) for line in found
    ]


# --- going on


def test_run_again_nothing_is_made_twice_and_nothing_changes(sweep: Callable, out: Path) -> None:
    with WebUI() as web:
        sweep(*WEIGHTS, "--webui", web.url)
        before, asked = files(out), len(web.asked)
        again = sweep(*WEIGHTS, "--webui", web.url)
        assert len(web.asked) == asked
        assert files(out) == before
        assert "6 of 6 cells are done already" in again.err
        sweep("--axis", "weight=0.2:1:0.2", "--webui", web.url)  # a finer grid into the same folder
        assert len(web.asked) == asked + 4
        sweep(*WEIGHTS, "--webui", web.url)
        assert len(web.asked) == asked + 4
        assert len(lines(out)) == 10, "what another sweep made stays"
        assert (out / "report.html").read_bytes() == before["report.html"]


def damaged(out: Path, how: str) -> None:
    keys = [line["key"] for line in lines(out)]
    pictures = [out / "pictures" / f"{key}.png" for key in keys]
    text = (out / "cells.jsonl").read_bytes()
    if how == "tail":
        (out / "cells.jsonl").write_bytes(text[:-40])
    elif how == "no tail":
        (out / "cells.jsonl").write_bytes(text.rstrip(b"\n"))
    elif how == "middle":
        (out / "cells.jsonl").write_bytes(text.replace(keys[2].encode(), b"\xff\x00{", 1))
    elif how == "lines":
        (out / "cells.jsonl").write_text('[]\n{"key": 3}\n"x"\n{"key": "../../x", "sha256": "0"}\n')
    elif how == "gone":
        pictures[1].unlink()
    elif how == "cut":
        pictures[1].write_bytes(pictures[1].read_bytes()[:50])
    elif how == "flipped":
        data = bytearray(pictures[1].read_bytes())
        data[len(data) // 2] ^= 1
        pictures[1].write_bytes(data)
    elif how == "temporary":
        (out / "pictures" / "abc.tmp").write_bytes(b"half")
        (out / "tmpx.tmp").write_bytes(b"half")


@pytest.mark.parametrize(
    ("how", "again"),
    [
        ("tail", 1),
        ("no tail", 0),
        ("middle", 1),
        ("lines", 6),
        ("gone", 1),
        ("cut", 1),
        ("flipped", 1),
        ("temporary", 0),
    ],
)
def test_what_is_damaged_is_made_again_and_nothing_else(sweep: Callable, out: Path, how: str, again: int) -> None:
    with WebUI() as web:
        sweep(*WEIGHTS, "--webui", web.url)
        before, asked = files(out), len(web.asked)
        damaged(out, how)
        assert sweep(*WEIGHTS, "--webui", web.url).code == 0
    assert len(web.asked) == asked + again
    assert files(out) == before


def test_ctrl_c_leaves_what_is_done_and_says_how_to_go_on(
    sweep: Callable, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, done = folder.Folder.add, []

    def stopping(self: Any, *args: Any) -> None:
        add(self, *args)
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt

    with WebUI() as web:
        monkeypatch.setattr(folder.Folder, "add", stopping)
        with pytest.raises(KeyboardInterrupt):  # this process' own Ctrl-C; a command's is exit code 130
            sweep(*WEIGHTS, "--webui", web.url)
        monkeypatch.setattr(folder.Folder, "add", add)
        assert len(lines(out)) == 2
        assert "2 of 6 cells" in (out / "report.html").read_text(encoding="utf-8")
        assert sweep(*WEIGHTS, "--webui", web.url).code == 0
    assert len(lines(out)) == 6


def test_a_full_disk_is_one_line_and_what_is_done_stays(
    sweep: Callable, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, []

    def full(source: str, target: str) -> None:
        if target.endswith(".png"):
            done.append(target)
            if len(done) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with WebUI() as web:
        monkeypatch.setattr(os, "replace", full)
        refused(sweep(*WEIGHTS, "--webui", web.url), "No space left on device", "2 of 6 cells are done")
        monkeypatch.setattr(os, "replace", replace)
        assert not list(out.rglob("*.tmp"))
        assert sweep(*WEIGHTS, "--webui", web.url).code == 0
    assert len(lines(out)) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
def test_two_runs_do_not_work_in_one_folder(sweep: Callable, out: Path) -> None:
    out.mkdir()
    with WebUI() as web, held(str(out / ".lock")) as mine:
        assert mine
        refused(sweep(*WEIGHTS, "--webui", web.url), "Another run is at work")


def test_new_measures_are_taken_of_what_is_there(sweep: Callable, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext import measures

    few = {name: measures.METRICS[name] for name in ("grid", "diversity")}
    with WebUI() as web:
        with monkeypatch.context() as patch:
            patch.setattr(measures, "METRICS", few)
            sweep(*WEIGHTS, "--webui", web.url)
        assert all(set(line["metrics"]) == {"grid"} for line in lines(out))
        asked = len(web.asked)
        sweep(*WEIGHTS, "--webui", web.url)
        assert len(web.asked) == asked
        sweep(*WEIGHTS, "--webui", web.url, out="other")
    assert files(out) == files(out.parent / "other")


# --- web UIs


def test_two_web_uis_share_the_cells_and_one_that_dies_loses_none(sweep: Callable, out: Path) -> None:
    with WebUI(seconds=0.02) as one, WebUI(seconds=0.02) as other:

        def dies() -> None:
            while len(other.made) < 4:
                pass
            other.die()

        threading.Thread(target=dies).start()
        axes = ("--axis", "weight=0.1:1:0.1")
        done = sweep(*axes, "--webui", one.url, "--webui", other.url)
    assert done.code == 0, done.err
    assert len(lines(out)) == 20
    made = Counter(json.dumps(body, sort_keys=True) for body in one.made + other.made)
    assert len(made) == 20
    assert set(made.values()) == {1}
    assert f"The web UI 127.0.0.1:{other.port} does not work at the moment" in done.err
    assert 4 <= len(other.made) < 20


def test_what_a_web_ui_can_not_do_now_is_tried_again(sweep: Callable, out: Path) -> None:
    said: Counter = Counter()

    def busy(body: dict) -> tuple[int, Any] | None:
        key = json.dumps(body)
        said[key] += 1
        return (503, {"detail": "busy"}) if said[key] < 2 else None

    with WebUI() as web:
        web.answer = busy
        assert sweep(*WEIGHTS, "--webui", web.url).code == 0
    assert len(lines(out)) == 6
    assert set(said.values()) == {2}


ANSWERS = {
    "refused": (422, {"detail": "Z-Image VL: It is <b>so</b>."}, "refused this (422: Z-Image VL: It is <b>so</b>.)"),
    "broken": (500, {"error": "RuntimeError", "detail": "", "errors": "CUDA\nerror"}, "answered 500: CUDA error"),
    "no picture": (200, {"images": []}, "answered without a picture"),
    "odd": (200, {"images": [3]}, "answered without a picture"),
    "nothing": (200, b"", "answered without a picture"),
    "no JSON": (200, b"\xff{", "answered without a picture"),
    "no image": (200, {"images": [base64.b64encode(b"text").decode()]}, "something that is no picture"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_cell_that_can_not_be_made_is_said_and_the_others_are_made(sweep: Callable, out: Path, name: str) -> None:
    status, answer, says = ANSWERS[name]
    with WebUI() as web:
        web.answer = lambda body: (
            (status, answer) if body["alwayson_scripts"]["Z-Image VL"]["args"][0].get("weight") == 1.0 else None
        )
        done = sweep(*WEIGHTS, "--webui", web.url)
    assert done.code == 1
    assert len(lines(out)) == 4
    assert "2 of 6 cells could not be made: " in done.err
    assert says in done.err


def test_where_every_cell_fails_the_sweep_ends_with_the_reason(sweep: Callable) -> None:
    with WebUI() as web:
        web.answer = lambda body: (422, {"detail": "There is no Z-Image."})
        refused(
            sweep("--axis", "weight=0:1:0.02", "--webui", web.url), "There is no Z-Image.", "0 of 102 cells are done"
        )
        assert len(web.asked) < 40


def test_an_unreachable_web_ui_is_one_line(sweep: Callable) -> None:
    with WebUI() as web:
        pass
    refused(sweep(*WEIGHTS, "--webui", web.url), f"127.0.0.1:{web.port} can't be reached", "--api")


def test_one_of_two_that_is_unreachable_is_said_and_the_other_makes_all(sweep: Callable, out: Path) -> None:
    with WebUI() as gone:
        pass
    with WebUI() as web:
        done = sweep(*WEIGHTS, "--webui", gone.url, "--webui", web.url)
    assert done.code == 0
    assert f"{gone.port} can't be reached" in done.err
    assert len(web.made) == len(lines(out)) == 6


def test_what_is_no_web_ui_is_one_line(sweep: Callable) -> None:
    with WebUI() as web:
        web.answer = lambda body: (404, {"detail": "Not Found"})
        refused(sweep(*WEIGHTS, "--webui", web.url), "has no /sdapi/v1/txt2img. Start it with --api.")
    for url in ("ftp://x", "http://", "http://a b", "file:///etc/passwd", "http://h:99999", "http://h\u00e4"):
        refused(sweep(*WEIGHTS, "--webui", url), "an address such as http://127.0.0.1:7860 is needed")


def test_web_uis_with_other_checkpoints_are_refused(sweep: Callable) -> None:
    with WebUI("one") as a, WebUI("two") as b, WebUI(None) as c:
        refused(sweep(*WEIGHTS, "--webui", a.url, "--webui", b.url), "one loaded", "two: load the same")
        assert sweep(*WEIGHTS, "--webui", a.url, "--webui", c.url).code == 0
        refused(sweep(*WEIGHTS, "--webui", a.url, "--webui", a.url + "/"), "twice")


def test_another_checkpoints_pictures_are_others(sweep: Callable, out: Path) -> None:
    for checkpoint in ("one", "two"):
        with WebUI(checkpoint) as web:
            sweep(*WEIGHTS, "--webui", web.url)
            assert len(web.made) == 6
    assert len(lines(out)) == 12


def test_a_name_and_a_password_go_along_and_are_not_shown(sweep: Callable, out: Path) -> None:
    with WebUI() as web:
        done = sweep(*WEIGHTS, "--webui", f"http://me:se%20cret@127.0.0.1:{web.port}")
    assert {head["Authorization"] for head in web.heads} == {"Basic " + base64.b64encode(b"me:se cret").decode()}
    assert not any(b"cret" in data for data in files(out).values())
    assert "cret" not in done.out + done.err


def test_pictures_that_are_no_png_become_one(sweep: Callable, out: Path) -> None:
    with WebUI(kind="JPEG") as web:
        sweep(*WEIGHTS, "--webui", web.url)
    for path in (out / "pictures").iterdir():
        assert Image.open(path).format == "PNG"


def test_the_address_is_not_asked_by_way_of_a_proxy(sweep: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with WebUI() as web:
        assert sweep(*WEIGHTS, "--webui", web.url).code == 0


def test_a_job_without_a_reference_sends_no_script(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with WebUI() as web:
        arguments = ["--axis", "steps=4,6", "--prompt", "a", "--webui", web.url, "--out", tmp_path / "out"]
        assert main(["sweep", *map(str, arguments)]) == 0
    assert [body["steps"] for body in web.made] == [4, 6]
    assert all("alwayson_scripts" not in body for body in web.made)
    assert webui.TXT2IMG == "/sdapi/v1/txt2img"


# --- very many, and what does not go together


def test_very_many_cells_are_asked_about_with_how_long_they_take(sweep: Callable, out: Path) -> None:
    with WebUI(seconds=0.03) as web:
        many = ("--axis", "weight=0:1:0.001", "--axis", "start=0:1:0.002", "--webui", web.url)
        said = sweep(*many)
        refused(said, "1,003,002 cells take about", "hours", "--yes", "--sample 500")
        assert len(web.made) == 3
        hours = float(re.search(r"about ([\d.]+) hours", said.err).group(1))
        assert 1_003_002 * 0.03 / 3600 < hours < 1_003_002 * 0.3 / 3600
        assert sweep(*many, "--sample", 4).code == 0
        assert len(web.made) <= 3 + 4
    refused(sweep("--axis", "weight=0:1:0.0002", "--axis", "start=0:1:0.0002", "--webui", "h"), "--sample 1000")


REFUSED = {
    "no prompt": (["--axis", "weight=1"], "A sweep needs prompts"),
    "no values": (["--prompt", "a", "--axis", "weight="], "there are no values"),
    "empty range": (["--prompt", "a", "--axis", "weight=1:0:0.1"], "is empty"),
    "no such axis": (["--prompt", "a", "--axis", "wight=1"], "did you mean weight?"),
    "no reference": (["--prompt", "a", "--axis", "weight=0,1"], "weight says how a reference acts, and there is none"),
    "no reference to set": (["--prompt", "a", "--set", "weight=1"], "weight says how a reference acts"),
    "prompts": (["--prompts", "nowhere.txt"], "--prompts nowhere.txt can't be read"),
    "no prompts": (["--prompts", os.devnull], "can't be read (it is a device)"),
    "references": (["--prompt", "a", "--references", "nowhere"], "--references nowhere can't be read"),
    "reference": (["--prompt", "a", "--reference", "nowhere.png"], "nowhere.png can't be read"),
    "both": (["--prompt", "a", "--webui", "h", "--dask", "h"], "two ways to make the pictures"),
    "weights": (["--prompt", "a", "--webui", "h", "--z-image", "f", "--qwen3-vl", "g"], "leave out --z-image"),
    "half": (["--prompt", "a", "--z-image", "f"], "--qwen3-vl"),
    "size": (["--prompt", "a", "--size", "512"], "--size is for real weights and web UIs"),
    "odd size": (["--prompt", "a", "--size", "500", "--webui", "h"], "multiple of 16"),
    "size axis": (["--prompt", "a", "--axis", "size=512"], "the miniature's pictures have one size"),
    "steps": (["--prompt", "a", "--steps", "x"], "--steps must be"),
    "cfg": (["--prompt", "a", "--cfg", "0"], "--cfg must be a number from 1 to 31"),
    "twice": (["--prompt", "a", "--axis", "steps=1,2", "--steps", "3"], "steps is given twice"),
    "seed twice": (["--prompt", "a", "--axis", "seed=1,2", "--seeds", "3"], "seed is given twice"),
    "model": (["--prompt", "a", "--axis", "model=a,b"], "says how a reference acts"),
    "conditioning": (["--prompt", "a", "--axis", "conditioning=a,b"], "is for web UIs"),
    "encoder": (["--prompt", "a", "--encoder", "nowhere"], "--encoder nowhere is no folder"),
    "dask": (["--prompt", "a", "--dask", "tcp://127.0.0.1:1"], "ask"),
    "seeds": (["--prompt", "a", "--seed", str(2**32 - 1), "--seeds", "2"], "would be over"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture, name: str) -> None:
    arguments, says = REFUSED[name]
    if name == "dask":
        pytest.importorskip("distributed")
        from zvl_ext.lab.sweep.targets import cluster

        cluster._CONNECT = 0.2
    code = main(["sweep", "--out", str(tmp_path / "out"), *arguments])
    said = capfd.readouterr()
    refused(Result(code, said.out, said.err), says)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_one_is_one_line(sweep: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with WebUI() as web:
        refused(sweep(*WEIGHTS, "--webui", web.url, out="file"), "can't be written")


def test_a_reference_that_changes_meanwhile_is_said(
    sweep: Callable, shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = command.opened

    def changing(*args: Any) -> Any:
        found = opened(*args)
        Image.new("RGB", (48, 48), "white").save(shown / "b.png")
        return found

    monkeypatch.setattr(command, "opened", changing)
    with WebUI() as web:
        refused(sweep(*WEIGHTS, "--webui", web.url), "has changed since the sweep began", "of 6 cells are done")


def test_help_has_an_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    said = capsys.readouterr().out
    assert "--axis weight=0:1:0.2 --axis hidden_layer=-2,-6,-8" in said
    assert isinstance(ZvlError("x"), ValueError)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (200, "3.3 min"), (200000, "2.3 days"), (1e9, "31.7 years")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert command.duration(seconds) == words
