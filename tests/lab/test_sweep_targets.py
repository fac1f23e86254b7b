"""What makes a sweep's pictures without a web UI: processes of this machine, and a Dask cluster."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.errors import ZvlError
from zvl_ext.lab.crew import Unfit
from zvl_ext.lab.sweep.targets import Job, Made, pipeline
from zvl_ext.reference import Reference

JOB = {"negative_prompt": "", "size": 80, "steps": 1, "cfg": 3.0, "prompt": "a large cross", "seed": 3}


def job(drawn: Reference, **settings: Any) -> Job:
    file = io.BytesIO()
    drawn.image.save(file, "PNG")
    return Job({"enabled": True, **settings}, JOB, {"reference": file.getvalue()}, "x")


def test_a_cell_is_what_the_pipeline_makes_when_it_is_called_directly(weights_folder: Path, drawn: Reference) -> None:
    from zvl_ext.lab import demo
    from zvl_ext.lab.threads import one_thread
    from zvl_ext.options import Settings
    from zvl_ext.webui.standalone import Request, make

    with one_thread():
        made = pipeline.prepare(pipeline.Spec(weights=str(weights_folder), device="cpu", threads=1))(
            job(drawn, weight=0.7)
        )
        none = dict.fromkeys(("z_image", "qwen3_vl", "size", "steps", "guidance"))
        weights = demo.open_weights(argparse.Namespace(**none, weights=str(weights_folder), device="cpu"))
        settings = Settings.from_mapping({"enabled": True, "weight": 0.7, "reference": drawn})
        sampling = {"size": (80, 80), "steps": 1, "guidance": 2.0}
        direct = make(weights, Request("a large cross", settings, [3], sampling))
    picture = Image.open(io.BytesIO(made.picture))
    assert picture.tobytes() == direct.pictures[0].tobytes()
    assert picture.info["parameters"] == direct.parameters[0]
    assert made.notes == tuple(direct.notes)


def test_a_sweep_over_processes_of_which_one_is_killed(
    weights_folder: Path, drawn: Reference, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: Any
) -> None:
    drawn.image.save(tmp_path / "r.png")
    arguments = ["sweep", "--weights", weights_folder, "--device", "cpu", "--axis", "weight=0.2:1:0.2", "--prompt",
                 "a cross", "--reference", tmp_path / "r.png", "--steps", 1, "--workers", 1]  # fmt: skip
    targets: list[pipeline.Processes] = []
    kept = pipeline.Processes

    def remembered(*args: Any) -> pipeline.Processes:
        targets.append(kept(*args))
        return targets[-1]

    monkeypatch.setattr(pipeline, "Processes", remembered)

    def kill() -> None:
        while len(list(tmp_path.glob("out/pictures/*.png"))) < 2:
            time.sleep(0.02)
        os.kill(next(member.pid for member in targets[0].members if member.pid), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "cells.jsonl").read_text().splitlines()]
    assert [line["place"]["weight"] for line in lines] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert {"adherence", "similarity", "ruled_similarity", "grid"} <= set(lines[0]["metrics"])
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 5
    assert not [line for line in capfd.readouterr().err.splitlines() if "left out" not in line]


def test_weights_that_are_not_there_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture, drawn: Reference
) -> None:
    drawn.image.save(tmp_path / "r.png")
    code = main(["sweep", "--weights", str(tmp_path), "--prompt", "a", "--reference", str(tmp_path / "r.png"),
                 "--axis", "weight=0,1", "--out", str(tmp_path / "out"), "--workers", "1"])  # fmt: skip
    said = capfd.readouterr().err
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "does not hold the miniature's weights" in said


# --- Dask. Its workers are threads of this process here; with processes that are killed: support/sweeping.py


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins clusters; workers by name, with their resources."""
    distributed = pytest.importorskip("distributed")
    from zvl_ext.lab.sweep.targets import cluster as module

    monkeypatch.setattr(module, "identity", lambda spec: "miniature x")
    monkeypatch.setattr(module, "prepare", lambda spec: make)
    module._models.clear()
    began: list[Any] = []

    def begin(**workers: dict[str, Any]) -> Any:
        spec = {
            name: {"cls": distributed.Worker, "options": {"nthreads": 1, "resources": resources, "host": "127.0.0.1"}}
            for name, resources in workers.items()
        }
        scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
        began.append(distributed.SpecCluster(spec, scheduler, silence_logs=50))
        target = module.Cluster(began[-1].scheduler_address, pipeline.Spec())
        began.append(target)
        return target

    yield begin
    for each in reversed(began):
        each.close()


def make(job: Job) -> Made:
    from distributed import get_worker

    what = job.settings.get("what")
    if what == "refuse":
        raise ZvlError("This can't be.")
    if what == "wrong":
        raise KeyError("x")
    time.sleep(0.01)
    return Made(get_worker().name.encode())


def made(target: Any, *whats: str) -> list[Any]:
    futures = [target.submit(Job({"what": what}, {}, {})) for what in whats]
    return [future.exception(20) or future.result() for future in futures]


def test_all_workers_of_a_cluster_get_pictures(cluster: Any) -> None:
    target = cluster(a={}, b={})
    assert target.identity == "miniature x"
    assert target.hands == 2
    assert target.width > 2
    counts = Counter(each.picture for each in made(target, *["x"] * 30))
    assert set(counts) == {b"a", b"b"}
    assert sum(counts.values()) == 30


def test_pictures_go_where_a_gpu_is(cluster: Any) -> None:
    target = cluster(plain={}, gpu={"GPU": 1})
    assert target.hands == 1
    assert {each.picture for each in made(target, *["x"] * 12)} == {b"gpu"}


def test_what_fails_on_a_worker_is_the_cells_own_line(cluster: Any) -> None:
    refused, wrong, fine = made(cluster(a={}), "refuse", "wrong", "x")
    assert (type(refused), str(refused)) == (ZvlError, "This can't be.")
    assert isinstance(wrong, ZvlError)
    assert "unexpected" in str(wrong)
    assert fine.picture == b"a"


def test_a_picture_that_is_not_handed_over_is_the_cells_own_line(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext.lab.sweep.targets import cluster as module

    monkeypatch.setattr(module, "_FETCH", 0.0)
    (lost,) = made(cluster(a={}), "x")
    assert isinstance(lost, ZvlError)
    assert "does not hand it over" in str(lost)


def test_a_cluster_without_workers_is_given_up(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext.lab.sweep.targets import cluster as module

    target = cluster(a={})
    monkeypatch.setattr(module, "_ALONE", 0.0)
    monkeypatch.setattr(target, "_workers", list)
    asked = target.submit(Job({"what": "x"}, {}, {}))
    asked = [asked, *(target.submit(Job({"what": "x"}, {}, {})) for _ in range(30))]
    assert target.hands == 1
    assert isinstance(asked[-1].exception(5), Unfit)


def test_no_dask_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from zvl_ext.lab.sweep.targets import cluster as module

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ZvlError, match="python -m pip install dask distributed"):
        module.Cluster("tcp://127.0.0.1:1", pipeline.Spec())


def test_a_mask_is_opened_as_one(drawn: Reference) -> None:
    """Where it is transparent nothing is painted."""
    clear, file = Image.new("RGBA", (16, 16), (255, 255, 255, 0)), io.BytesIO()
    clear.save(file, "PNG")
    asked = job(drawn)
    request = pipeline.request(Job(asked.settings, JOB, {**asked.pictures, "reference_mask": file.getvalue()}), None)
    assert request.settings.reference.digest == drawn.digest
    assert request.settings.reference_mask.image.getextrema() == ((0, 0),) * 3
