"""What a sweep's report says: means, the frontier and the rules on planted numbers; and a page that nothing escapes."""

from __future__ import annotations

import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from zvl_ext.intervals import bootstrap
from zvl_ext.lab.sweep import report
from zvl_ext.lab.sweep.axes import Axis, parse
from zvl_ext.lab.sweep.cells import Sweep, opened
from zvl_ext.lab.sweep.report.svg import Chart, Point, Series, figure
from zvl_ext.lab.sweep.report.tables import Results, named
from zvl_ext.measures import ADHERENCE, ARTIFACT, SIMILARITY, Metric

METRICS = [
    Metric("follows", "Adherence", "It follows.", len, 1, ADHERENCE),
    Metric("near", "Similarity", "It is near.", len, 1, SIMILARITY),
    Metric("grid", "Grid energy", "It has a grid.", len, -1, ARTIFACT),
]
# (weight, layer): adherence, similarity, grid energy.
PLANTED = {
    (0.0, -2): (0.90, 0.10, 1.0), (0.5, -2): (0.85, 0.30, 1.0), (1.0, -2): (0.40, 0.80, 9.0),
    (0.0, -6): (0.80, 0.05, 1.0), (0.5, -6): (0.70, 0.50, 2.0), (1.0, -6): (0.30, 0.60, 0.5),
}  # fmt: skip


def planted(prompts: int = 2, references: int = 3, seeds: int = 2) -> list[dict[str, Any]]:
    """Cells around these means: what pairs add is nothing in sum."""
    lines = []
    for (weight, layer), means in PLANTED.items():
        for prompt in range(prompts):
            for reference in range(references):
                for seed in range(seeds):
                    off = 0.01 * (reference - 1) + 0.001 * (2 * seed - 1)
                    values = dict(zip(("follows", "near", "grid"), (mean + off for mean in means)))
                    place = {"weight": weight, "hidden_layer": layer, "prompt": f"p{prompt}",
                             "reference": f"r{reference}", "seed": seed}  # fmt: skip
                    lines.append({"key": f"k{len(lines)}", "place": place, "metrics": values, "notes": []})
    return lines


def results(lines: list[dict] | None = None, metrics: list[Metric] = METRICS) -> Results:
    return Results(planted() if lines is None else lines, ["weight", "hidden_layer"], metrics)


def setting(weight: float, layer: int) -> tuple:
    return ("weight", weight), ("hidden_layer", layer)


def test_means_are_over_pairs_with_the_evaluations_intervals() -> None:
    found = results().means
    assert {key: tuple(round(found[setting(*key)][m.name][0], 6) for m in METRICS) for key in PLANTED} == PLANTED
    pairs = [0.9 + 0.01 * (reference - 1) for _ in range(2) for reference in range(3)]
    assert found[setting(0.0, -2)]["follows"] == pytest.approx(bootstrap(np.array(pairs)))


def test_the_frontier_is_what_nothing_is_better_than_at_both() -> None:
    assert results().frontier == [setting(0.0, -2), setting(0.5, -2), setting(0.5, -6), setting(1.0, -2)]


def test_the_rules_choose_what_they_say() -> None:
    best = dict(results().best)
    assert best == {
        "Most similarity among the settings that keep 90% of the best adherence": setting(0.5, -2),
        "Most adherence among the settings that reach 50% of the best similarity": setting(0.5, -6),
        "Best balance: the highest harmonic mean of adherence and similarity": setting(0.5, -6),
        "Least grid energy among the settings that reach 50% of the best similarity": setting(1.0, -6),
        "Most similarity": setting(1.0, -2),
    }
    assert named(setting(0.5, -6)) == "Weight 0.5, Hidden layer -6"


def test_without_a_measure_of_the_prompts_side_there_is_no_frontier() -> None:
    found = results(metrics=METRICS[1:])
    assert (found.sides, found.frontier) == (None, [])
    assert [rule for rule, _ in found.best] == [
        "Least grid energy among the settings that reach 50% of the best similarity",
        "Most similarity",
    ]


def test_cells_that_lack_a_measure_are_no_zeros() -> None:
    lines = planted()
    for line in lines[::2]:
        del line["metrics"]["near"]
    assert results(lines).means[setting(1.0, -2)]["near"][0] == pytest.approx(0.801)
    assert results([{**line, "metrics": {}} for line in lines]).best == []


# --- the page


class Read(html.parser.HTMLParser):
    """What a browser makes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data: dict[str, Any] = {}
        self.text: list[str] = []
        self._in: tuple[str, dict] | None = None

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = (tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in and self._in[0] == "script" and self._in[1].get("type") == "application/json":
            self.data[self._in[1]["id"]] = json.loads(data)
        elif not (self._in and self._in[0] in ("script", "style")):
            self.text.append(data)


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&lt; <!-- ]]>"


def written(tmp_path: Path, prompts: tuple[str, ...], weights: str = "weight=0,1", references: int = 2) -> Read:
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    paths = []
    for number in range(references):
        paths.append(str(tmp_path / f"<b>{number} & 'x'.png"))
        Image.new("RGB", (40, 20), (number * 10 % 255, 60, 0)).save(paths[-1])
    axes = (parse(weights), Axis("reference", tuple(paths)), Axis("prompt", prompts), Axis("seed", (0,)))
    sweep = Sweep(axes, {}, {"negative_prompt": EVIL, "size": 80}, opened(axes, {}), "made <i>here")
    lines = []
    for cell in sweep:
        Image.new("RGB", (40, 40), (int(cell.place["weight"] * 100), 0, 0)).save(
            tmp_path / "out" / "pictures" / f"{cell.key}.png"
        )
        values = {"follows": 0.5, "near": cell.place["weight"], "grid": 1.0}
        lines.append({"key": cell.key, "place": cell.place, "metrics": values, "notes": [EVIL]})
    path = report.write(str(tmp_path / "out"), sweep, lines, METRICS, "<u>maker", len(lines))
    read = Read()
    read.text_of_page = Path(path).read_text(encoding="utf-8")
    read.feed(read.text_of_page)
    read.lines = lines
    return read


def test_whatever_a_user_wrote_is_text_in_the_page(tmp_path: Path) -> None:
    page = written(tmp_path, (EVIL, "a\u2028b"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3
    assert {"img", "b", "i", "u"}.isdisjoint(tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text_of_page.count("<script") == 3
    (prompt,) = [axis for axis in page.data["cells"]["axes"] if axis["label"] == "Prompt"]
    assert prompt["values"] == [EVIL, "a\u2028b"]
    said = "".join(page.text)
    assert EVIL in said
    assert "made <i>here" in said


def test_the_page_lets_nothing_be_loaded_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    page = written(tmp_path, ("a",))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]+'$", policy)
    assert not [a for _, a in page.tags if "src" in a or "href" in a]
    assert not re.search(r"\.innerHTML|document\.write|insertAdjacent|eval\(", page.text_of_page)


def test_every_cell_is_in_the_page_with_its_picture(tmp_path: Path) -> None:
    page = written(tmp_path, ("a", "b"))
    cells, axes = page.data["cells"]["cells"], page.data["cells"]["axes"]
    assert len(cells) == len(page.lines) == 8
    for cell, line in zip(cells, page.lines):
        assert cell["key"] == line["key"]
        assert [axes[n]["values"][at] for n, at in enumerate(cell["at"])] == [
            f"{v:g}" if isinstance(v, float) else str(v) for v in line["place"].values()
        ]
        assert cell["values"] == list(line["metrics"].values())
    assert set(page.data["thumbs"]) == {cell["key"] for cell in cells}
    assert all(axis["pictures"][0] for axis in axes if axis["label"] == "Reference image")


def test_small_pictures_are_no_larger_than_they_are_shown(tmp_path: Path) -> None:
    from zvl_ext.lab.sweep.run import thumbnail

    Image.new("RGB", (400, 300)).save(tmp_path / "x.png")
    with Image.open(io.BytesIO(thumbnail(str(tmp_path / "x.png"), 128))) as small:
        assert (small.format, small.size) == ("JPEG", (128, 96))


def test_the_settings_are_all_there(tmp_path: Path) -> None:
    said = " ".join(written(tmp_path, ("a",), "weight=0:1:0.1").text)
    assert "22 cells: Weight (11) × Reference image (2) × Prompt (1) × Seed (1)" in said
    assert "0; 0.1; 0.2" in said
    assert "negative_prompt" in said


def test_a_chart_draws_each_point_within_it() -> None:
    points = [Point(x, (y, y - 0.1, y + 0.1), title=f"<{x}>") for x, y in ((0, 0.2), (1, 0.9), (5, 0.4))]
    svg = Chart("A <title>", [Series(points, "one")], "x & y").svg()
    assert "A &lt;title&gt;" in svg
    assert svg.count("<circle") == 3
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert places == sorted(places)
    assert all(0 < x < 330 and 0 < y < 230 for x, y in places)


def test_a_figure_is_a_file_with_its_charts_and_a_key_of_what_has_a_name() -> None:
    both = Series([Point(0.5, (0.5, 0.4, 0.6), text="here")], "<both>", dashes="2 3")
    line = Series([Point(0, (1, 1, 1)), Point(1, (0, 0, 0))], marked=False)
    one, other = (Chart(title, [both, line], along=(0, 1), up=(0, 1), width=200) for title in "AB")
    end = Series([Point(0.98, (0.5, 0.5, 0.5), text="end")], "tilted")
    root = ElementTree.fromstring(figure([[one, other], [Chart("C", [end], names=["a long name", "b"], tilted=True)]]))  # noqa: S314
    texts = [each.text for each in root.iter() if each.text]
    assert texts.count("<both>") == 1
    assert {"A", "B", "C", "a long name", "tilted"} <= set(texts)
    assert float(root.get("width")) == 2 * 212
    assert float(root.get("height")) > 2 * 230
    assert sum(each.tag.endswith("circle") for each in root.iter()) == 3 + 2, "points, and two in the key"


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e9, -3.0])
def test_a_chart_of_one_value_is_one(value: float) -> None:
    assert "nan" not in Chart("t", [Series([Point(value, (value, value, value))])]).svg().lower()
