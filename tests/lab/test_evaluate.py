"""The evidence: its pairs and instruments, its rules on numbers made for them, and the command from end to end on an
untrained miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zvl_ext.lab.evaluation import experiments
from zvl_ext.lab.evaluation import table as tables
from zvl_ext.lab.evaluation.experiments import QUICK, SPLICE, TEXT, Plan, Row
from zvl_ext.lab.evaluation.table import Entry, Missing, Table, bootstrap, difference, sign
from zvl_ext.lab.evaluation.verdicts import decide, findings, what_it_must_show
from zvl_ext.lab.miniature import family, world
from zvl_ext.lab.miniature.measure import as_tensor, follows, frechet_distance, unlike_any
from zvl_ext.options import Settings
from zvl_ext.presets import PRESETS

# The world


WORDS = {  # the words that name a value, and no other
    "small": {"small", "little", "tiny"},
    "large": {"large", "big", "huge"},
    "left": {"left"},
    "centre": {"centre", "middle"},
    "right": {"right"},
    "flat": {"flat"},
    "outlined": {"outlined", "outlines"},
    "striped": {"striped", "stripes"},
    "dotted": {"dotted", "dots"},
    "soft": {"soft"},
}


def named(text: str) -> dict[str, set[str]]:
    """The values that a caption's words name, by attribute."""
    words = set(text.replace(",", " ").split())
    return {
        name: {value for value in values if words & WORDS.get(value, {value})}
        for name, values in world.ATTRIBUTES.items()
    }


def test_a_caption_names_exactly_what_it_shall_mention():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene, mention = world.random_scene(rng, None), world.random_mention(rng)
        found = named(world.caption(scene, rng, mention))
        assert found == {name: {getattr(scene, name)} if name in mention else set() for name in world.ATTRIBUTES}


def test_what_captions_leave_out_varies_evenly():
    rng = np.random.default_rng(0)
    mentions = [world.random_mention(rng) for _ in range(4000)]
    partly = [mention for mention in mentions if 0 < len(mention & set(world.JUDGED)) < 4]
    shares = [sum(name in mention for mention in partly) / len(partly) for name in world.JUDGED]
    assert max(shares) - min(shares) < 0.08
    assert 0.05 < sum(not mention for mention in mentions) / len(mentions) < 0.11


def test_a_drawing_is_a_function_of_scene_and_seed():
    scene = world.Scene("star", "red", "navy", "striped")
    first = world.draw(scene, 1)
    assert first.dtype == np.uint8
    assert first.shape == (world.SIZE, world.SIZE, 3)
    assert np.array_equal(first, world.draw(scene, 1))
    assert not np.array_equal(first, world.draw(scene, 2))


def test_every_value_is_drawn_differently():
    base = world.Scene("star", "red", "navy", "flat")
    for name, values in world.ATTRIBUTES.items():
        drawn = {world.draw(replaced(base, name, value), 0).tobytes() for value in values}
        assert len(drawn) == len(values)


def replaced(scene: world.Scene, name: str, value: str) -> world.Scene:
    return world.Scene(**{each: value if each == name else getattr(scene, each) for each in world.ATTRIBUTES})


def test_the_split_is_fixed_and_near_a_tenth():
    scenes = [world.Scene(s, c, b, t) for s in world.ATTRIBUTES["shape"] for c in world.ATTRIBUTES["colour"]
              for b in world.ATTRIBUTES["background"] for t in world.ATTRIBUTES["style"]]  # fmt: skip
    held = [scene for scene in scenes if scene.held_out]
    assert len(scenes) == 1920
    assert len(held) == 187
    assert all(
        replaced(held[0], "place", place).held_out for place in world.ATTRIBUTES["place"]
    )  # size and place have no say
    for name in world.JUDGED:  # no value is only ever held out, or never
        for value in world.ATTRIBUTES[name]:
            of_value = [scene for scene in scenes if getattr(scene, name) == value]
            assert 0 < sum(scene.held_out for scene in of_value) < len(of_value) / 2


# Instruments


def test_pictures_become_values_from_minus_one_to_one():
    pictures = [Image.new("RGB", (4, 2), "black"), Image.new("L", (4, 2), 255)]
    tensor = as_tensor(pictures)
    assert tensor.shape == (2, 3, 2, 4)
    assert torch.equal(tensor[0], -torch.ones(3, 2, 4))
    assert torch.equal(tensor[1], torch.ones(3, 2, 4))


def test_probabilities_are_read_at_the_scenes_own_values():
    probabilities = {name: torch.full((2, len(values)), 0.6 / len(values)) for name, values in world.ATTRIBUTES.items()}
    scenes = [world.Scene("moon", "blue", "beige", "dotted"), world.Scene("ring", "red", "white", "soft")]
    probabilities["shape"][0, world.ATTRIBUTES["shape"].index("moon")] = 0.9
    got = follows(probabilities, scenes)
    assert got["shape"].tolist() == pytest.approx([0.9, 0.6 / 8])
    assert unlike_any(probabilities).tolist() == [True, True]
    for name in world.JUDGED:
        probabilities[name][0, 0] = 0.95
    assert unlike_any(probabilities).tolist() == [False, True]


def test_the_frechet_distance_is_that_of_normal_distributions():
    """Closed forms: of a shift by c it is |c|², of a scaling by s about the mean (1 - s)² · trace(C)."""
    a = torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.arange(1.0, 7.0, dtype=torch.float64)
    )
    shift = torch.tensor([3.0, 0, 0, 1, 0, 0], dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + shift) == pytest.approx(10.0, rel=1e-6)
    scaled = a.mean(0) + 2 * (a - a.mean(0))
    assert frechet_distance(a, scaled) == pytest.approx(float(torch.cov(a.T).trace()), rel=1e-6)


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(3, 2, 400)
    mean, low, high = bootstrap(values, 4000)
    half = 1.96 * values.std(ddof=1) / 400**0.5
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(mean - half, abs=0.1 * half), pytest.approx(mean + half, abs=0.1 * half))
    share, low, high = bootstrap((np.arange(300) < 90).astype(float), 4000)
    half = 1.96 * (0.3 * 0.7 / 300) ** 0.5
    assert (share, high - low) == (pytest.approx(0.3), pytest.approx(2 * half, rel=0.15))


def test_an_interval_is_always_the_same():
    values = np.arange(50.0)
    assert bootstrap(values) == bootstrap(values)


# Pairs and the table of experiments


def test_pairs_contradict_each_other_and_are_held_out():
    for pair in experiments.pairs(60):
        assert pair.wanted.held_out
        assert pair.shown.held_out
        assert all(getattr(pair.wanted, name) != getattr(pair.shown, name) for name in world.JUDGED)
        full, half = named(pair.prompt), named(pair.half)
        assert full == {
            name: {getattr(pair.wanted, name)} if name in world.JUDGED else set() for name in world.ATTRIBUTES
        }
        assert half == {name: {getattr(pair.wanted, name)} if name in pair.said else set() for name in world.ATTRIBUTES}
        assert len(pair.said) == 2


def test_more_pairs_begin_with_the_same_ones():
    assert experiments.pairs(30)[:10] == experiments.pairs(10)


@pytest.mark.parametrize("plan", [Plan(), QUICK])
def test_every_row_has_settings_that_exist_and_its_own_place(plan):
    rows = experiments.experiments(plan)
    for row in rows:
        if row.how in ("settings", "tower"):
            settings = Settings.from_mapping(row.values)
            assert -8 <= settings.hidden_layer <= -1
    assert len({(row.part, row.name, row.alpha) for row in rows}) == len(rows)


def test_presets_are_measured_as_they_are_but_for_the_depth():
    for name, preset in experiments.PRESET_NAMES.items():
        curve = experiments.CURVES[name]
        assert {**curve, "hidden_layer": 0} == {**PRESETS[preset], "hidden_layer": 0}


# Rules


def made(row: Row, follow: float, similar: float, distance: float = 1.0, diversity: float | None = None) -> Entry:
    """An entry whose shares are given: the first pairs show the prompt's values, the last ones the reference's."""
    count = row.pairs * row.seeds
    ones = lambda share: "".join("1" if i < round(share * count) else "0" for i in range(count))  # noqa: E731
    noise = np.random.default_rng(int(row.key, 16)).normal(0, 0.05, count)
    values: dict[str, Any] = {
        "prompt": dict.fromkeys(world.JUDGED, ones(follow)),
        "reference": dict.fromkeys(world.JUDGED, ones(similar)[::-1]),
        "unlike": ones(0),
        "cosine": [0.0] * count,
        "distance": list(distance + noise),
        "frechet": 1.0,
    }
    if diversity is not None:
        values["diversity"] = list(diversity + noise[: row.pairs])
    return Entry(row, values)


STATISTICS = {
    "share": {
        "image positions": {"global": 0.8, "sink_aware": 0.3},
        "text positions": {"global": 0.3, "sink_aware": 0.3},
    },
    "compared": {
        f"{where}, layer -2": {
            "with position 0": {
                "correlation": correlation,
                "worst_ratio": worst,
                "worst_dimensions": [[4, worst]],
                "outliers": 1,
            },
            "without position 0": {
                "correlation": 0.99,
                "worst_ratio": 2.0,
                "worst_dimensions": [[4, 2.0]],
                "outliers": 0,
            },
        }
        for where, correlation, worst in (("text positions", 0.999, 2.0), ("image positions", 0.7, 600.0))
    },
}


def synthetic(
    follow=lambda row: 1 - row.alpha, similar=lambda row: row.alpha, distance=lambda row: 1.0, diversity=lambda row: 1.0
) -> Table:
    """The plan's whole table with numbers by rule."""
    entries = []
    for row in experiments.experiments(Plan(40, 40, 40)):
        if row.how == "statistics":
            entries.append(Entry(row, STATISTICS))
        elif row.how == "captions":
            entries.append(Entry(row, {"right": dict.fromkeys(world.ATTRIBUTES, "1" * row.pairs)}))
        else:
            entries.append(
                made(row, follow(row), similar(row), distance(row), diversity(row) if row.seeds > 1 else None)
            )
    return Table(entries)


def verdict(table: Table, claim: str) -> str:
    (asked,) = [each for each in [*what_it_must_show(table), *findings(table)] if each[0].startswith(claim)]
    return decide([asked])[0].verdict


def test_every_claim_is_decided_where_everything_was_measured():
    table = synthetic()
    decided = decide([*what_it_must_show(table), *findings(table)])
    assert [v.claim for v in decided if v.verdict == "not measured"] == []
    assert all(v.numbers and v.rule for v in decided)


def test_where_nothing_was_measured_nothing_is_claimed():
    table = Table([])
    assert {v.verdict for v in decide([*what_it_must_show(table), *findings(table)])} == {"not measured"}


def test_a_trade_off_needs_both_a_rise_and_a_fall():
    assert verdict(synthetic(), "There is a real trade-off") == "shown"
    assert verdict(synthetic(follow=lambda row: 0.9), "There is a real trade-off") == "not shown"
    assert verdict(synthetic(similar=lambda row: 0.1), "There is a real trade-off") == "not shown"


def test_a_difference_within_the_noise_is_no_difference():
    rows = [Row("main", "a", "settings", TEXT | {"alpha": alpha}, 30) for alpha in (0.3, 0.7)]
    a, b = made(rows[0], 0.50, 0.2), made(rows[1], 0.53, 0.2)
    assert sign(difference(a, b, "adherence")) == 0
    assert sign(difference(a, made(rows[1], 0.9, 0.1), "adherence")) == -1


def test_dominance_at_a_third():
    assert verdict(synthetic(follow=lambda row: 0.1, similar=lambda row: 0.8), "At alpha 0.3") == "holds"
    assert (
        verdict(
            synthetic(follow=lambda row: 0.9 if row.how == "prompt" else 0.6, similar=lambda row: 0.2), "At alpha 0.3"
        )
        == "holds in part"
    )
    assert verdict(synthetic(follow=lambda row: 0.9, similar=lambda row: 0.05), "At alpha 0.3") == "does not hold"


def test_the_sink_explains_dominance_only_where_sink_aware_helps():
    def follow(row: Row) -> float:
        return 0.9 if row.values.get("normalization") == "sink_aware" else 0.2

    claim = findings(synthetic(follow=follow))[1]
    assert decide([claim])[0].verdict == "explained by the sink"
    assert decide([findings(synthetic(follow=lambda row: 0.2))[1]])[0].verdict == "the sizes are, the pictures are not"


def test_the_reference_reaches_the_picture_only_above_chance_and_above_the_prompt_alone():
    assert verdict(synthetic(), "The reference's colour") == "shown"
    assert verdict(synthetic(similar=lambda row: 0.1), "The reference's colour") == "not shown"
    assert verdict(synthetic(similar=lambda row: 0.5), "The reference's colour") == "not shown"


def test_the_caption_is_beaten_or_beats():
    def against(follow: float) -> str:
        def caption(row: Row) -> float:
            return follow if row.how == "caption" else 1 - row.alpha

        table = synthetic(follow=caption, similar=lambda row: 0.5 if row.how == "caption" else row.alpha)
        return verdict(table, "The best setting against a caption")

    assert against(0.1) == "better than the caption"
    assert against(0.9) == "worse than the caption"
    assert against(0.5) == "no clear difference"


def test_dropout_makes_seeds_differ_or_not():
    assert verdict(synthetic(diversity=lambda row: 1 + row.values.get("image_dropout", 0)), "Image dropout") == "holds"
    assert verdict(synthetic(), "Image dropout") == "does not hold"


def test_half_specified_prompts_are_judged_by_what_they_say_and_by_what_they_leave_open():
    row = Row("half-specified", "x", "settings", SPLICE | {"alpha": 1.0}, 50, half=True)
    said = [pair.said for pair in experiments.pairs(50)]
    bits = {name: "".join("1" if name in each else "0" for each in said) for name in world.JUDGED}
    opposite = {name: "".join("0" if name in each else "1" for each in said) for name in world.JUDGED}
    entry = Entry(row, {"prompt": bits, "reference": opposite})
    assert np.allclose(entry.metric("adherence"), 1)
    assert np.allclose(entry.metric("similarity"), 1)
    assert np.allclose(Entry(row, {"prompt": opposite, "reference": bits}).metric("similarity"), 0)


def test_an_unmeasured_row_is_missing():
    with pytest.raises(Missing):
        Table([]).named("main", "blend text, global", 0.3)


# The adapter and the command


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_an_adapter_of_scale_zero_changes_no_bit(weights_folder):
    from zvl_ext.lab.miniature import adapter, family

    model = family.load(str(weights_folder)).pipeline.transformer
    small, tokens = adapter.load(model, str(weights_folder)), torch.randn(2, 25, 96)
    base = predict(model)
    with small.attached(model, tokens, 0.0):
        assert all(torch.equal(a, b) for a, b in zip(base, predict(model)))
    with small.attached(model, tokens, 1.0):
        changed = predict(model)
    assert [torch.equal(a, b) for a, b in zip(base, changed)] == [False, False, True]  # the third has no reference
    with pytest.raises(KeyboardInterrupt), small.attached(model, tokens, 1.0):
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(base, predict(model)))  # and it is gone afterwards


def test_an_adapter_is_small_and_a_new_one_changes_nothing(weights_folder):
    from zvl_ext.lab.miniature import adapter, family

    model = family.load(str(weights_folder)).pipeline.transformer
    small = adapter.for_model(model)
    assert sum(parameter.numel() for parameter in small.parameters()) <= 120_000
    with small.attached(model, torch.randn(3, 25, 96)):
        assert all(torch.equal(a, b) for a, b in zip(predict(model), predict(model)))
        new = predict(model)
    assert all(torch.equal(a, b) for a, b in zip(predict(model), new))


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
    Row("layer", "blend text: -8", "settings", TEXT | {"hidden_layer": -8, "alpha": 0.7}, 2),
    Row(
        "vision tower",
        "tower, none",
        "tower",
        TEXT | {"token_mode": "image_no_markers", "normalization": "none", "alpha": 1.0},
        2,
    ),
    Row("half-specified", "prompt alone", "prompt", {}, 2, half=True),
    Row("diversity", "splice all + insert", "settings", SPLICE | {"image_dropout": 0.75, "alpha": 1.0}, 1, seeds=2),
]


@pytest.fixture
def evaluate(weights_folder, monkeypatch):
    from zvl_ext.lab.evaluation import bench
    from zvl_ext.lab.evaluation import run as evaluate

    monkeypatch.setitem(family.SAMPLING, "steps", 1)
    monkeypatch.setattr(bench, "REAL", 20)
    monkeypatch.setattr(bench, "CAPTION_TOKENS", 3)
    said: list[str] = []

    def run(out: Path, rows: list[Row] = FEW) -> tuple[dict[str, Any], list[str]]:
        said.clear()
        return evaluate.run(str(weights_folder), str(out), rows=rows, workers=1, say=said.append), said

    return run


def test_the_command_writes_its_results_goes_on_where_it_was_and_repeats_itself(evaluate, tmp_path):
    results, said = evaluate(tmp_path / "a")
    assert said[0].startswith("14 of 14 rows")
    assert results == json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["rows"]] == [row.name for row in FEW]
    for row in results["rows"][4:]:
        mean, low, high = row["measured"]["distance"]
        assert row["measured"]["n"] == 2
        assert low <= mean <= high
    assert "diversity" in results["rows"][-1]["measured"]
    written = (tmp_path / "a" / "evidence.md").read_text(encoding="utf-8")
    assert "is not Z-Image" in written
    for row in FEW[4:]:
        assert f"| {row.name} |" in written
    for name in ("alpha.png", "layers.png", "trade_off.png"):
        assert (tmp_path / "a" / name).is_file() == (f"({name})" in written)

    (tmp_path / "b").mkdir()
    lines = (tmp_path / "a" / "rows.jsonl").read_text(encoding="utf-8").strip().splitlines()
    (tmp_path / "b" / "rows.jsonl").write_text(
        "\n".join(lines[:9]) + "\n" + lines[9][:40], encoding="utf-8"
    )  # stopped while it wrote
    again, said = evaluate(tmp_path / "b")
    assert said[0].startswith("5 of 14 rows")
    assert again == results
    assert (tmp_path / "b" / "evidence.md").read_text(encoding="utf-8") == written
    assert evaluate(tmp_path / "b", FEW[:4])[1][0].startswith("0 of 4 rows")


def test_other_weights_are_measured_anew(tmp_path):
    from zvl_ext.lab.evaluation import run as command

    path = tmp_path / "rows.jsonl"
    path.write_text('{"weights": "a", "key": "k", "values": {"x": 1}}\n', encoding="utf-8")
    assert command.finished(str(path), "a") == {"k": {"x": 1}}
    assert command.finished(str(path), "b") == {}


def test_without_matplotlib_there_are_tables_and_a_line(evaluate, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, said = evaluate(tmp_path, FEW[:1])
    assert any("matplotlib" in line for line in said)
    assert (tmp_path / "evidence.md").is_file()
    assert not list(tmp_path.glob("*.png"))


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


def test_levels_and_thresholds_are_what_the_report_says():
    assert (tables.LEVEL, tables.SHOWN) == (0.95, 0.5)
