"""The benchmark: what its rows say, and that it counts and compares rightly. With tiny models."""

import contextlib
import io
import json
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from published import research
from tiny_benchmark import TINY, quiet
from transformers.models.qwen3_vl import modeling_qwen3_vl

from zvl_ext import budget, conditioner, store
from zvl_ext.__main__ import main
from zvl_ext.engines import blend as blend_engine
from zvl_ext.lab.benchmark import rows as rows_of
from zvl_ext.lab.benchmark import run as run_of
from zvl_ext.lab.benchmark import sampling, sides, weights
from zvl_ext.lab.benchmark import size as sizes
from zvl_ext.lab.benchmark.rows import Bench, Row
from zvl_ext.presets import PRESETS

DEPTH = 6  # layers that run for layer -3 of 8


@pytest.fixture(scope="module")
def printed():
    """One whole run from the command line: code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sizes, "SMALL", TINY)
        code = main(["benchmark", "--json", "--repetitions", "1"])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="module")
def report(printed) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(printed.out, parse_constant=refuse)


@pytest.fixture
def row(report):
    """By its name."""
    return {each["name"]: each for each in report["rows"]}.__getitem__


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("work"))


@pytest.fixture
def checkpoint(work):
    with weights.random_checkpoint(TINY, work, quiet) as opened:
        yield opened


@pytest.fixture
def bench(checkpoint) -> Bench:
    return Bench(TINY, checkpoint, 1, quiet)


# --- what comes out


def test_the_report_is_json_and_the_progress_goes_elsewhere(printed, report):
    assert printed.code == 0
    assert "warm-up naive" in printed.err
    assert report.keys() == {"machine", "model", "repetitions", "rows"}
    assert report["repetitions"] == 1
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert report["model"]["size"] == "tiny"
    for each in report["rows"]:
        assert each.keys() == {"name", "unit", "naive", "ours", "target", "absolute", "note", "ratio", "met"}
        assert each["ratio"] == (each["ours"] / each["naive"] if each["naive"] else None)
        value = each["ours"] if each["absolute"] else each["ratio"]
        assert each["met"] == (None if each["target"] is None else value <= each["target"])


def test_every_promise_has_its_row_and_its_target(report):
    targets = {each["name"]: each["target"] for each in report["rows"]}
    limit = targets.pop("kept in memory, the most at any time")
    assert limit > 0
    assert targets == {
        "first extraction, layer -3, 128²": 0.75,
        "new prompt, same reference, 128²": 0.15,
        "new prompt, same reference, 256²": 0.05,
        "new prompt, token mode image": 0,
        "new prompt, token mode image_no_markers": 0,
        "grid over 3 hidden layers, falling": None,
        "grid over 3 hidden layers, falling: runs of a layer for each token": 1,
        "grid over 3 hidden layers, rising": None,
        "grid over 3 hidden layers, rising: runs of a layer for each token": 1,
        "120 settings of alpha, normalization, length match, blend mode; token mode text": 1,
        "120 settings of alpha, normalization, length match, blend mode; token mode all": 1,
        "… and each of them again, token mode text": 10,
        "… and each of them again, token mode all": 10,
        "weights read and held, layer -3": 0.84,
        "weights read and held, splice": 0.10,
        "a caption of 24 tokens": None,
        "kept for one 128² reference with a prompt": None,
        "storage fp8: weights held": None,
        "storage fp8: first extraction": None,
        "sampling step, presets of engine blend": 1.0,
        "sampling step, Balanced": 1.05,
        "sampling step, Fill in": None,
        "sampling step, Close variation": None,
        "sampling step, Splice: faithful": None,
        "sampling step, Splice: variation": 1.05,
        "sampling step, Splice: creative": 1.05,
        "sampling step, Splice: gist": 1.05,
        "attention of a block, a weight": None,
        "attention of a block, a weight and a region": None,
    }


def test_a_caption_begins_with_transformers_own_words(row):
    assert re.search(r"the first ([1-9]\d*) are the same", row("a caption of 24 tokens")["note"])


def test_what_is_counted_is_what_was_promised(row):
    for mode in ("image", "image_no_markers"):
        layers = row(f"new prompt, token mode {mode}")
        assert (layers["naive"], layers["ours"], layers["met"]) == (8, 0, True)
    for order in ("falling", "rising"):
        runs = row(f"grid over 3 hidden layers, {order}: runs of a layer for each token")
        assert (runs["naive"], runs["ours"], runs["met"]) == (3, 1, True)
    for mode in ("text", "all"):
        extractions = row(f"120 settings of alpha, normalization, length match, blend mode; token mode {mode}")
        assert (extractions["naive"], extractions["ours"], extractions["met"]) == (120, 1, True)
    blend = row("sampling step, presets of engine blend")
    assert (blend["naive"], blend["ours"], blend["met"]) == (46, 46, True)


def test_weights_are_the_bytes_that_the_files_have_for_them(row, checkpoint):
    whole = checkpoint.parameters * 2 / 2**20
    for name, settings in {"layer -3": research(hidden_layer=-3), "splice": research(engine="splice")}.items():
        held = row(f"weights read and held, {name}")
        assert held["naive"] == pytest.approx(whole, rel=1e-3)  # and the rotary frequencies
        assert held["ours"] == pytest.approx(budget.weight_bytes(checkpoint, settings) / 2**20, rel=1e-3)
    fp8 = row("storage fp8: weights held")
    assert fp8["ours"] == pytest.approx(
        budget.weight_bytes(checkpoint, research(hidden_layer=-3, storage="fp8")) / 2**20, rel=1e-3
    )


def test_the_memory_is_filled_and_never_over_its_limit(row, bench):
    most = row("kept in memory, the most at any time")
    assert most["target"] / 2 < most["ours"] <= most["target"]
    one = row("kept for one 128² reference with a prompt")["ours"] * 2**20
    tokens, states, keys_and_values = 16 + 2 + 46, (DEPTH + 1) * 64, 2 * DEPTH * 2 * 32
    assert one == tokens * (states + keys_and_values) * 2


def test_a_memory_over_its_limit_is_told(bench, monkeypatch):
    monkeypatch.setattr(store.Store, "_shrink", lambda self: None)
    assert rows_of.memory(bench)[0].met is False


def test_the_table_has_a_line_for_each_row(report):
    lines = run_of.table(report).splitlines()
    assert lines[0].startswith("tiny: ")
    assert [line.split("  ")[0] for line in lines[5:]] == [each["name"] for each in report["rows"]]
    for line, each in zip(lines[5:], report["rows"]):
        assert f"  {({True: 'yes', False: 'no', None: ''})[each['met']]}  " in line


def test_a_target_that_is_missed_is_told_plainly_and_is_no_failure():
    missed = Row("x", "s", 2.0, 1.9, 0.75)
    assert (missed.ratio, missed.met) == (0.95, False)
    report = {
        "machine": {},
        "model": {"title": "t", "parameters": 1, "dtype": "d"},
        "repetitions": 1,
        "rows": [missed.as_dict()],
    }
    assert run_of.table(report).splitlines()[-1].split() == ["x", "2", "s", "1.9", "s", "0.950", "0.75", "no"]


# --- how it measures


def test_repetitions_are_interleaved_and_the_medians_are_told(monkeypatch):
    clock, order, seen = [0.0], [], []
    lasting = {"naive": [50, 4, 1, 2], "ours": [90, 7, 9, 8]}  # seconds of the warm-up and of three repetitions

    def job(name: str, number: int) -> str:
        clock[0] += lasting[name][number]
        order.append((name, number))
        return f"{name} {number}"

    def check(number: int, results: dict) -> None:
        clock[0] += 1000  # not measured
        seen.append((number, results))

    monkeypatch.setattr(sides.time, "perf_counter", lambda: clock[0])
    jobs = {name: lambda n, name=name: job(name, n) for name in lasting}
    assert sides.interleaved(jobs, 3, quiet, check) == {"naive": 2, "ours": 8}
    assert order == [(name, number) for number in range(4) for name in lasting]
    assert seen == [(number, {name: f"{name} {number}" for name in lasting}) for number in range(4)]


@pytest.mark.parametrize(("values", "middle"), [([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([8.0, 1.0, 2.0, 4.0], 3.0)])
def test_a_median_is_a_median(values, middle):
    assert sides.median(values) == middle


def test_layers_are_counted_as_they_run(bench, monkeypatch):
    forward, read = modeling_qwen3_vl.Qwen3VLTextDecoderLayer.forward, Counter()

    def watched(self, hidden_states, *args, **more):
        read[self.self_attn.layer_idx] += hidden_states.shape[1]
        return forward(self, hidden_states, *args, **more)

    monkeypatch.setattr(modeling_qwen3_vl.Qwen3VLTextDecoderLayer, "forward", watched)
    reference = rows_of.reference_of(16)
    with sides.counted() as counted:
        conditioner.extract(bench.settings(16), reference, bench.text(0), bench.sources())
    assert counted == read == dict.fromkeys(range(DEPTH), 64)
    with sides.counted() as counted:
        naive = sides.Naive(bench.checkpoint)
        naive(naive.inputs(bench.sequence(bench.text(0), reference), reference))
    assert counted == dict.fromkeys(range(8), 64)


def test_the_naive_side_is_transformers_own_with_all_layers_and_all_logits(bench, monkeypatch):
    naive, logits = sides.Naive(bench.checkpoint), []
    naive.module.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    reference = rows_of.reference_of(16)
    sequence = bench.sequence(bench.text(0), reference)
    states = naive(naive.inputs(sequence, reference))
    assert {type(part).__module__.partition(".")[0] for part in naive.module.modules()} == {"torch", "transformers"}
    assert len(sequence.ids) == 16 + 2 + 46
    assert [tuple(each.shape) for each in states] == [(1, 64, 64)] * 9
    assert [tuple(each.shape) for each in logits] == [(1, 64, 700)]
    assert states[0].dtype == logits[0].dtype == torch.bfloat16
    assert torch.isfinite(logits[0]).all()


@pytest.mark.parametrize("wrong", ["another layer", "another prompt", "noise"])
def test_no_time_is_told_for_wrong_hidden_states(wrong, bench, monkeypatch, refused):
    right = blend_engine.whole_states

    def whole_states(prefix, tail, layer, checkpoint):
        states = right(prefix, tail, layer - 1 if wrong == "another layer" else layer, checkpoint)
        return (
            states.roll(1, 0)
            if wrong == "another prompt"
            else states + 0.1 * states.std() * torch.randn_like(states)
            if wrong == "noise"
            else states
        )

    monkeypatch.setattr(blend_engine, "whole_states", whole_states)
    with refused("not what transformers computes"):
        rows_of.reading(bench)


def test_a_layer_that_runs_again_is_told(bench, monkeypatch):
    """With a store that keeps nothing, every layer of the grid is a pass of its own."""
    monkeypatch.setattr(store.Store, "get", lambda self, *key: None)
    monkeypatch.setattr(rows_of, "GRID", rows_of.GRID[:5])
    found = {row.name: row for row in rows_of.reading(bench)}
    assert found["new prompt, token mode image"].ours == DEPTH
    assert found["new prompt, token mode image"].met is False
    runs = found["grid over 3 hidden layers, rising: runs of a layer for each token"]
    assert (runs.ours, runs.met) == (3, False)
    extractions = next(row for name, row in found.items() if name.startswith("5 settings"))
    assert (extractions.naive, extractions.ours, extractions.met) == (5, 10, False)  # with the warm-up


def test_a_difference_within_rounding_passes_and_nothing_else(refused):
    states = torch.randn(10, 64)
    assert sides.difference(states, states, "x") == 0.0
    assert sides.difference(states.bfloat16(), states, "x") == pytest.approx(0.0017, rel=0.3)
    for other in (states * 1.1, states * float("nan"), states[:9]):
        with refused("hidden states of x"):
            sides.difference(other, states, "x")


def test_the_sampling_step_gets_the_tokens_that_the_presets_add():
    assert {
        name: sampling.added_tokens(name, 46) for name, preset in PRESETS.items() if preset["engine"] == "splice"
    } == {
        "Balanced": 146,
        "Fill in": 258,
        "Close variation": 578,
        "Splice: faithful": 578,
        "Splice: variation": 146,
        "Splice: creative": 89,
        "Splice: gist": 31,
    }


def test_without_diffusers_the_sampling_steps_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    rows = sampling.sampling(TINY, 1, quiet)
    assert len(rows) == 7
    assert all(row.ours is row.met is row.ratio is None and "needs diffusers" in row.note for row in rows)
