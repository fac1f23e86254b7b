"""What the evidence claims: its instruments, and its rules on numbers that are made for them."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from zvl_ext.intervals import LEVEL, bootstrap, sign
from zvl_ext.lab.evaluation import experiments, plots
from zvl_ext.lab.evaluation import table as tables
from zvl_ext.lab.evaluation.experiments import SPLICE, TEXT, Plan, Row
from zvl_ext.lab.evaluation.table import Entry, Missing, Table, difference
from zvl_ext.lab.evaluation.verdicts import decide, findings, what_it_must_show
from zvl_ext.lab.miniature import world
from zvl_ext.lab.miniature.measure import as_tensor, follows, frechet_distance, unlike_any

# --- instruments


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


# --- rules


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
        "moved": [moved_by(row)] * count,
        "frechet": 1.0,
    }
    if row.how == "swap":
        return Entry(row, swapped(row))
    if diversity is not None:
        values["diversity"] = list(diversity + noise[: row.pairs])
    return Entry(row, values)


def moved_by(row: Row) -> float:
    """A pixel distance in proportion to the weight."""
    return 80.0 * row.values.get("weight", 1.0)


def swapped(row: Row) -> dict[str, Any]:
    """Exchanged references that text positions hardly tell apart."""
    far = 5.0 if row.values["token_mode"] == "text" else 60.0
    return {
        **{name: [far] * row.pairs for name in ("states", "pictures", "moved")},
        "others": [80.0] * row.pairs,
        "recognized": "1" * row.pairs,
    }


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


def test_the_figures_show_what_was_measured_and_are_the_same_again(tmp_path):
    table = synthetic()
    drawn = plots.draw(table, str(tmp_path))
    assert drawn == [f"{name}.svg" for name in ("weight", "blocks", "roles", "trade_off", "alpha", "layers")]
    files = {name: (tmp_path / name).read_text(encoding="utf-8") for name in drawn}
    texts = {name: [e.text for e in ElementTree.fromstring(file).iter() if e.text] for name, file in files.items()}  # noqa: S314 - its own
    for name in experiments.CURVES:
        assert name in texts["trade_off.svg"]
        assert name in texts["alpha.svg"]
    points = re.findall(r"<title>(.*?)</title>", files["weight.svg"])
    entry = table.named("baselines", "img2img, strength 0.4")
    said = ", ".join(f"{entry.interval(measure)[0]:.2f}" for measure in ("similarity", "adherence"))
    assert f"img2img, strength 0.4: {said}" in points
    assert texts["roles.svg"].count("image rows of layer -2:0.5, -4:0.5") == 2
    assert "nan" not in "".join(files.values()).lower()
    assert plots.draw(table, str(tmp_path)) == drawn
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in drawn} == files
    assert plots.draw(Table([]), str(tmp_path)) == []


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


@pytest.mark.parametrize(
    ("follow", "similar", "verdict_"),
    [
        (0.75, 0.5, "shown"),
        (0.75, 0.475, "not shown"),  # more of the one at the other's expense
        (0.5, 0.5, "not shown"),
        (0.525, 0.5, "not shown"),  # within the noise: at most one more in forty
        (0.5, 0.75, "shown"),
    ],
)
def test_a_setting_does_better_than_a_caption_where_it_keeps_both_and_has_more_of_one(follow, similar, verdict_):
    chosen = experiments.CHOSEN_BLOCKS[1]

    def of(mine: float, others: float):
        return lambda row: others if row.how == "caption" or row.values.get("blocks") != chosen else mine

    def table(count: int) -> Table:
        rows = experiments.beside_caption(count)
        return Table([made(row, of(follow, 0.5)(row), of(similar, 0.5)(row)) for row in rows])

    (claim,) = [each for each in what_it_must_show(table(40)) if each[0].startswith("A setting does better")]
    assert decide([claim])[0].verdict == verdict_


def of_weight(row: Row) -> float:
    return min(0.9, 0.1 + 0.4 * row.values["weight"]) if row.part == "weight" else row.alpha


def test_a_weight_is_a_dial_where_similarity_never_clearly_falls():
    claim = "Weight dials the reference"
    assert verdict(synthetic(similar=of_weight), claim) == "shown"
    assert verdict(synthetic(similar=lambda row: 0.5), claim) == "not shown"
    falls_at_the_end = lambda row: 0.3 if row.values.get("weight") == 2.0 else of_weight(row)  # noqa: E731
    assert verdict(synthetic(similar=falls_at_the_end), claim) == "not shown"


def test_a_weight_tends_to_the_plain_picture_or_has_a_jump_at_its_end():
    claim = "A weight towards 0"
    table = synthetic()
    assert verdict(table, claim) == "shown"
    for entry in table.part("weight"):
        if entry.row.values["weight"] < 0.001:
            entry.values["moved"] = [1.0] * entry.row.pairs
    assert verdict(table, claim) == "not shown"


def test_the_fresh_panels_preset_is_balanced_at_its_two_shares():
    claim = "The fresh panel's preset"
    assert verdict(synthetic(follow=lambda row: 0.55, similar=lambda row: 0.3), claim) == "shown"
    assert verdict(synthetic(follow=lambda row: 0.45, similar=lambda row: 0.3), claim) == "not shown"
    assert verdict(synthetic(follow=lambda row: 0.55, similar=lambda row: 0.2), claim) == "not shown"


def test_merged_rows_keep_nine_tenths_or_not():
    claim = "Merged rows keep"
    assert verdict(synthetic(similar=lambda row: 0.4), claim) == "holds"
    weaker = lambda row: 0.3 if row.values.get("merge") == 2 else 0.4  # noqa: E731
    assert verdict(synthetic(similar=weaker), claim) == "does not hold"


def test_rows_that_count_keep_the_strength_that_others_lose():
    claim = "Rows that count"

    def by_dropout(row: Row) -> float:
        counted = row.values.get("proportional")
        return 0.6 if counted else 0.6 - 0.5 * row.values.get("image_dropout", 0)

    assert verdict(synthetic(similar=by_dropout), claim) == "holds"
    assert verdict(synthetic(similar=lambda row: 0.4), claim) == "does not hold"


def test_text_positions_that_move_as_far_as_others_know_the_reference():
    claim = "Text positions hardly tell"
    table = synthetic()
    assert verdict(table, claim) == "holds"
    for entry in table.part("reference swap"):
        entry.values["pictures"] = [60.0] * entry.row.pairs
    assert verdict(table, claim) == "does not hold"


def test_blocks_divide_only_where_each_leads_in_something():
    claim = "Blocks divide"
    table = synthetic(similar=lambda row: 0.3)
    assert verdict(table, claim) == "does not hold"
    lead = {"early": "style", "late": "background"}
    for entry in table.part("blocks"):
        if name := lead.get(entry.row.values["blocks"]):
            entry.values["reference"] = entry.values["reference"] | {name: "1" * entry.row.pairs}
    assert verdict(table, claim) == "holds"


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


def test_levels_and_thresholds_are_what_the_report_says():
    assert (LEVEL, tables.SHOWN) == (0.95, 0.5)
