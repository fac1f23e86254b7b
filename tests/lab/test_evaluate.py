"""The evidence's command from end to end, on an untrained miniature with an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from crews import Here

from zvl_ext.errors import ZvlError
from zvl_ext.folder import held
from zvl_ext.lab.evaluation.experiments import SPLICE, TEXT, WEIGHTED, Row
from zvl_ext.lab.miniature import family, world

# --- the adapter


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    import miniature
    from safetensors.torch import save_file

    from zvl_ext.lab.miniature import adapter, family

    folder = miniature.save_untrained(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("weights"))
    small = adapter.for_model(family.transformer())
    for value in small.values:
        torch.nn.init.normal_(value.weight, std=0.5)
    save_file(small.state_dict(), folder / adapter.FILE)
    return folder


def predict(transformer: torch.nn.Module) -> list[torch.Tensor]:
    """What the image model says about three noisy pictures."""
    random = torch.Generator().manual_seed(3)
    noisy = [torch.randn(16, 1, 10, 10, generator=random) for _ in range(3)]
    captions = [torch.randn(count, 96, generator=random) for count in (9, 40, 20)]
    with torch.no_grad():
        return transformer(noisy, torch.tensor([0.2, 0.5, 0.9]), captions, return_dict=False)[0]


def test_an_adapter_of_scale_zero_changes_no_bit(adapter_folder):
    from zvl_ext.lab.miniature import adapter, family

    model = family.load(str(adapter_folder)).pipeline.transformer
    small, tokens = adapter.load(model, str(adapter_folder)), torch.randn(2, 25, 96)
    base = predict(model)
    with small.attached(model, tokens, 0.0):
        assert all(torch.equal(a, b) for a, b in zip(base, predict(model)))
    with small.attached(model, tokens, 1.0):
        changed = predict(model)
    assert [torch.equal(a, b) for a, b in zip(base, changed)] == [False, False, True]  # the third has no reference
    with pytest.raises(KeyboardInterrupt), small.attached(model, tokens, 1.0):
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(base, predict(model)))  # and it is gone afterwards


def test_an_adapter_is_small_and_a_new_one_changes_nothing(adapter_folder):
    from zvl_ext.lab.miniature import adapter, family

    model = family.load(str(adapter_folder)).pipeline.transformer
    small = adapter.for_model(model)
    assert sum(parameter.numel() for parameter in small.parameters()) <= 120_000
    with small.attached(model, torch.randn(3, 25, 96)):
        assert all(torch.equal(a, b) for a, b in zip(predict(model), predict(model)))
        new = predict(model)
    assert all(torch.equal(a, b) for a, b in zip(predict(model), new))


# --- the command

FEW = [
    Row("pictures", "drawn", "real", {}, 2),
    Row("pictures", "drawn, through the autoencoder", "autoencoder", {}, 2),
    Row("captions", "Qwen3-VL's captions of the references", "captions", {}, 2),
    Row("statistics", "hidden states", "statistics", {}, 2),
    Row("baselines", "prompt alone", "prompt", {}, 2),
    Row("baselines", "caption behind the prompt", "caption", {"written": "sentence"}, 2),
    Row("baselines", "img2img, strength 0.75", "img2img", {"strength": 0.75}, 2),
    Row("baselines", "trained adapter, scale 1", "adapter", {"scale": 1.0}, 2),
    Row("main", "blend text, global", "settings", TEXT | {"alpha": 1.0}, 2),
    Row("main", "splice all + insert", "settings", SPLICE | {"alpha": 1.0}, 2),
    Row("weight", "splice, sequential: 0.5", "settings", WEIGHTED | {"weight": 0.5}, 2),
    Row("blocks", "splice, sequential: early", "settings", WEIGHTED | {"blocks": "early"}, 2),
    Row("recipes", "both", "img2img", {"strength": 0.9, "settings": WEIGHTED | {"weight": 0.5}}, 2),
    Row("layer", "blend text: -8", "settings", TEXT | {"hidden_layer": -8, "alpha": 0.7}, 2),
    Row(
        "vision tower",
        "tower, none",
        "tower",
        TEXT | {"token_mode": "image_no_markers", "normalization": "none", "alpha": 1.0},
        2,
    ),
    Row("half-specified", "prompt alone", "prompt", {}, 2, half=True),
    Row("reference swap", "splice image, layer -2", "swap", SPLICE | {"token_mode": "image"}, 2),
    Row("diversity", "splice all + insert", "settings", SPLICE | {"image_dropout": 0.75, "alpha": 1.0}, 1, seeds=2),
]


@pytest.fixture
def evaluate(adapter_folder, monkeypatch):
    from zvl_ext.lab.evaluation import bench
    from zvl_ext.lab.evaluation import run as evaluate

    monkeypatch.setattr(evaluate, "Process", Here)
    monkeypatch.setitem(family.SAMPLING, "steps", 1)
    monkeypatch.setattr(bench, "REAL", 20)
    monkeypatch.setattr(bench, "CAPTION_TOKENS", 3)

    def run(out: Path, rows: list[Row] = FEW, said: list[str] | None = None) -> tuple[dict[str, Any], list[str]]:
        said = [] if said is None else said
        return evaluate.run(str(adapter_folder), str(out), rows=rows, workers=1, say=said.append), said

    return run


def to_measure(said: list[str]) -> str:
    """The line that says how many rows are left."""
    return next(line for line in said if "rows to measure" in line)


def test_the_command_writes_its_results_goes_on_where_it_was_and_repeats_itself(evaluate, tmp_path):
    results, said = evaluate(tmp_path / "a")
    assert to_measure(said).startswith("18 of 18 rows")
    assert results == json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["rows"]] == [row.name for row in FEW]
    for row in results["rows"][4:]:
        if row["how"] == "swap":
            assert set(row["measured"]) == {"states", "pictures", "moved", "others", "recognized"}
            continue
        mean, low, high = row["measured"]["distance"]
        assert row["measured"]["n"] == 2
        assert low <= mean <= high
    assert "diversity" in results["rows"][-1]["measured"]
    written = (tmp_path / "a" / "evidence.md").read_text(encoding="utf-8")
    assert "is not Z-Image" in written
    for row in FEW[4:]:
        assert f"| {row.name} |" in written
    for name in ("alpha.svg", "blocks.svg", "layers.svg", "trade_off.svg", "weight.svg"):
        assert (tmp_path / "a" / name).is_file() == (f"({name})" in written)

    (tmp_path / "b").mkdir()
    lines = (tmp_path / "a" / "rows.jsonl").read_text(encoding="utf-8").strip().splitlines()
    (tmp_path / "b" / "rows.jsonl").write_text(
        "\n".join(lines[:9]) + "\n" + lines[9][:40], encoding="utf-8"
    )  # stopped while it wrote
    again, said = evaluate(tmp_path / "b")
    assert to_measure(said).startswith("9 of 18 rows")
    assert again == results
    assert (tmp_path / "b" / "evidence.md").read_text(encoding="utf-8") == written
    assert to_measure(evaluate(tmp_path / "b", FEW[:4])[1]).startswith("0 of 4 rows")


def test_other_weights_are_measured_anew(tmp_path):
    from zvl_ext.lab.evaluation import run as command

    (tmp_path / "rows.jsonl").write_text('{"weights": "a", "key": "k", "values": {"x": 1}}\n', encoding="utf-8")
    for weights, there in (("a", {"k": {"x": 1}}), ("b", {})):
        kept = command.kept_in(str(tmp_path), weights)
        with kept.opened():
            assert {key: line["values"] for key, line in kept.done.items()} == there


QUICK_ROWS = [Row("pictures", f"drawn {count}", "real", {}, count) for count in (2, 3, 4, 5)]


def test_ctrl_c_leaves_the_rows_that_are_done_and_the_evidence_as_it_was(evaluate, tmp_path, monkeypatch):
    from zvl_ext.lab.kept import Kept

    evaluate(tmp_path, QUICK_ROWS[:1])
    before, keep = (tmp_path / "evidence.md").read_bytes(), Kept.keep

    def stopping(self: Kept, line: dict[str, Any]) -> None:
        keep(self, line)
        if len(self.done) == 3:
            raise KeyboardInterrupt

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "keep", stopping)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, QUICK_ROWS, said)
    assert said[-1] == "Stopped. 3 of 4 rows are measured; the same command goes on from there."
    assert (tmp_path / "evidence.md").read_bytes() == before
    assert to_measure(evaluate(tmp_path, QUICK_ROWS)[1]).startswith("1 of 4 rows")


def test_a_row_that_can_not_be_measured_is_one_line_and_the_others_are_kept(evaluate, tmp_path, monkeypatch):
    from zvl_ext.lab.evaluation.bench import Bench

    measure = Bench.measure

    def refusing(self: Bench, row: Row) -> dict[str, Any]:
        if row.pairs == 3:
            raise ZvlError("it is too small.")
        return measure(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", refusing)
        with pytest.raises(ZvlError, match=r"1 row could not .* drawn 3: it is too small. 3 of 4 rows are measured"):
            evaluate(tmp_path, QUICK_ROWS)
    assert not (tmp_path / "evidence.md").exists()
    assert to_measure(evaluate(tmp_path, QUICK_ROWS)[1]).startswith("1 of 4 rows")


def test_plain_pictures_are_drawn_in_the_same_batches_whatever_was_measured_before():
    pytest.importorskip("diffusers")
    from zvl_ext.lab.evaluation.bench import Bench

    bench, drawn = Bench.__new__(Bench), []
    bench._plain_pictures = {}
    bench.pictures = lambda row: drawn.append(row.pairs) or [f"{number} of {row.pairs}" for number in row.numbers]
    longer, shorter, other = (Row("weight", "x", "settings", {"weight": w}, n) for w, n in ((1, 5), (1, 2), (0.5, 2)))
    assert [bench._plain(row)[1] for row in (longer, shorter, other, longer)] == ["1 of 5", *2 * ["1 of 2"], "1 of 5"]
    assert drawn == [5, 2]


def test_two_runs_do_not_work_in_one_folder(evaluate, tmp_path):
    with held(str(tmp_path / ".lock")), pytest.raises(ZvlError, match="Another run is at work"):
        evaluate(tmp_path, QUICK_ROWS)


def test_without_weights_the_command_says_so(tmp_path, capsys):
    pytest.importorskip("diffusers")
    from zvl_ext.__main__ import main

    assert main(["evaluate", "--weights", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "classifier.safetensors" in capsys.readouterr().err


def test_a_description_is_understood_as_far_as_it_is_well_formed():
    pytest.importorskip("diffusers")
    from zvl_ext.lab.evaluation.bench import understood

    scene = world.Scene("moon", "teal", "grey", "soft", "small", "left")
    assert understood(world.describe(scene)) == {name: getattr(scene, name) for name in world.ATTRIBUTES}
    assert understood("shape moon, colour plaid, , style soft soft, backgr") == {"shape": "moon"}
