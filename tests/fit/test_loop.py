"""The loop: it learns, it stops, and it goes on where it was."""

import math
from pathlib import Path

import pytest
import torch
from learning import Alone, Quadratic

from zvl_ext.fit.loop import Schedule, run
from zvl_ext.fit.state import Folder, Progress

SCHEDULE = Schedule(steps=60, batch=4, at_once=4, rate=0.1, every=5, patience=30)


def fitted(learner, path, schedule=SCHEDULE, key="k", on_step=lambda progress: None):
    return run(learner, schedule, Folder(str(path), key), Alone(), on_step)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_gives_the_best(tmp_path):
    progress, best = fitted(Quadratic(), tmp_path)
    assert progress.step == 60
    assert progress.over
    assert best["main"].mean() == pytest.approx(1, abs=0.05)
    assert (best["refiner"] == -1.5).all(), "bounded"
    assert progress.seen[progress.best] == min(progress.seen.values())
    assert list(progress.seen) == list(range(0, 61, 5))
    assert len(progress.losses) == 60


def test_it_stops_when_the_held_out_part_gets_no_better(tmp_path):
    schedule, kept = Schedule(60, 4, 4, 0.1, 5, 3), {}
    learner = Quadratic(overfits_after=12)

    def keep(progress):
        kept[progress.step] = {name: each.detach().clone() for name, each in learner.parameters.items()}

    progress, best = fitted(learner, tmp_path, schedule, on_step=keep)
    assert (progress.best, progress.step) == (10, 25), "three looks later"
    assert same(best, kept[10])


def test_accumulated_gradients_are_the_whole_batchs(tmp_path):
    _, whole = fitted(Quadratic(), tmp_path / "whole")
    _, parts = fitted(Quadratic(), tmp_path / "parts", Schedule(60, 4, 1, 0.1, 5, 30))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])


class Half(Alone):
    """One process of two: what the other one has is the same again."""

    count = 2

    def own(self, count):
        return range(0, count, 2)

    def summed(self, tensor):
        return 2 * tensor


def test_gradients_are_summed_over_processes(tmp_path):
    learner = Quadratic()
    learner.losses = {}
    calls = []
    learn = learner.learn
    learner.learn = lambda step, members: calls.append(members) or learn(step, members)
    progress, _ = run(learner, Schedule(3, 4, 1, 0.1, 5, 3), Folder(str(tmp_path), "k"), Half(), lambda p: None)
    assert calls[:2] == [range(1), range(2, 3)], "every other part of the batch"
    assert progress.losses[0] == pytest.approx(5, rel=0.2), "both halves"


@pytest.mark.parametrize("killed_at", [1, 7, 10, 33])
def test_killed_and_resumed_it_gives_the_same_numbers(tmp_path, killed_at):
    whole = fitted(Quadratic(), tmp_path / "whole")
    learner = Quadratic()
    learner.stop_at = killed_at
    with pytest.raises(KeyboardInterrupt):
        fitted(learner, tmp_path / "cut")
    seen = []
    progress, best = fitted(Quadratic(), tmp_path / "cut", on_step=lambda progress: seen.append(progress.step))
    assert seen[0] == killed_at // 5 * 5, "from the last look"
    assert same(best, whole[1])
    assert progress == whole[0]
    states = [(tmp_path / name / "state.safetensors").read_bytes() for name in ("whole", "cut")]
    assert states[0] == states[1]


def test_what_is_over_is_not_done_again(tmp_path):
    whole = fitted(Quadratic(), tmp_path)
    learner = Quadratic()
    learner.stop_at = 0
    again = fitted(learner, tmp_path)
    assert again[0] == whole[0]
    assert same(again[1], whole[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it_and_the_last_good_state_stays(tmp_path, refused, bad):
    learner = Quadratic()
    learner.losses = {12: bad}
    with refused("step 13 is not a number"):
        fitted(learner, tmp_path)
    progress, tensors = Folder(str(tmp_path), "k").load()
    assert progress.step == 12
    assert not progress.over
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert fitted(Quadratic(), tmp_path)[0].over, "without it, it goes on"


def test_a_held_out_loss_that_is_no_number_ends_it(tmp_path, refused):
    learner = Quadratic()
    learner.held_out = lambda: math.nan
    with refused("not a number"):
        fitted(learner, tmp_path)


def test_the_state_of_another_fit_is_refused(tmp_path, refused):
    fitted(Quadratic(), tmp_path)
    with refused("another fit"):
        fitted(Quadratic(), tmp_path, key="other")


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"{}"])
def test_a_damaged_state_is_refused(tmp_path, refused, damage):
    fitted(Quadratic(), tmp_path)
    (tmp_path / "state.safetensors").write_bytes(damage)
    with refused("state.safetensors"):
        fitted(Quadratic(), tmp_path)


def test_a_full_disk_is_one_line_and_the_last_good_state_stays(tmp_path, refused, monkeypatch):
    from zvl_ext.fit import state

    saved, real = [], state.save

    def save(tensors, path, metadata):
        saved.append(path)
        if len(saved) == 3:
            from zvl_ext.errors import ZvlError

            raise ZvlError(f"{path} can't be written (No space left on device).")
        real(tensors, path, metadata)

    monkeypatch.setattr(state, "save", save)
    with refused("No space left"):
        fitted(Quadratic(), tmp_path)
    assert Folder(str(tmp_path), "k").load()[0].step == 5
    assert not list(tmp_path.glob("*.tmp"))


def test_the_curve_is_written_beside_it(tmp_path):
    progress, _ = fitted(Quadratic(), tmp_path)
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,loss,held out"
    assert len(lines) == 62
    assert lines[1] == f"0,,{progress.seen[0]:.6f}"
    assert lines[2] == f"1,{progress.losses[0]:.6f},"
    assert lines[6] == f"5,{progress.losses[4]:.6f},{progress.seen[5]:.6f}"


def test_a_state_that_can_be_no_folder_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("")
    with refused("can't be a folder"):
        Folder(str(tmp_path / "file"), "k")


def test_waited_counts_looks_since_the_best():
    assert Progress(20, [], {0: 3.0, 5: 1.0, 10: 2.0, 15: 1.5}, 5).waited == 2


def test_nothing_is_pickled(tmp_path):
    fitted(Quadratic(), tmp_path)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"state.safetensors", "curve.csv", "seconds.txt"}
