"""What a sweep runs over, from texts, and which cells come of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zvl_ext.errors import ZvlError
from zvl_ext.lab.sweep.axes import Axis, parse
from zvl_ext.lab.sweep.cells import Sweep, opened
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.presets import PRESETS

GOOD = {
    "weight=0:1:0.2": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "weight=0.1:0.31:0.1": (0.1, 0.2, 0.3),
    "weight=1:0:-0.5": (1.0, 0.5, 0.0),
    "weight=0.5:0.5:1": (0.5,),
    "weight_2=0, 0.5:1:0.25": (0.0, 0.5, 0.75, 1.0),
    "hidden_layer=-2,-6,-8": (-2, -6, -8),
    "hidden-layer=-8:-2:2": (-8, -6, -4, -2),
    "steps=4:6": (4, 5, 6),
    "seed=3:1": (3, 2, 1),
    "cfg=1,1.5": (1.0, 1.5),
    "merge=1,1,2": (1, 2),
    "scale_to_text=true, False": (True, False),
    "negative=*": (True, False),
    'preset="Research, all tokens",Balanced': ("Research, all tokens", "Balanced"),
    "preset=*": tuple(PRESETS),
    "engine=*": ("blend", "splice"),
    'blocks=all,"early, 20-29:0.5"': ("all", "early, 20-29:0.5"),
    'region="0, 0, 0.5, 1",left': ("0, 0, 0.5, 1", "left"),
    "vl_prompt={prompt}, a photo": ("{prompt}", "a photo"),
    'prompt="a cat, asleep",a dog': ("a cat, asleep", "a dog"),
}


@pytest.mark.parametrize("text", GOOD)
def test_values_are_read(text: str) -> None:
    assert parse(text).values == GOOD[text]


BAD = {
    "weight": "NAME=VALUES is needed",
    "wieght=1": "did you mean weight?",
    "=1": "NAME=VALUES is needed",
    "weight=": "there are no values",
    "weight= ": "there are no values",
    "weight=1:0:0.2": "the range 1:0:0.2 is empty",
    "weight=0:1:-0.2": "is empty",
    "weight=0:1:0": "is empty",
    "weight=0:1": "a range FIRST:LAST:STEP",
    "weight=0:1:0.1:2": "a range FIRST:LAST:STEP",
    "weight=0:x:0.1": "a range FIRST:LAST:STEP",
    "weight=0:nan:0.1": "a range FIRST:LAST:STEP",
    "weight=0:1:1e-30": "more than 10000 values",
    "weight=0:1:0.00001": "more than 10000 values",
    "weight=0:5:1": "weight must be a number from 0 to 2",
    "weight=0.5,5": "weight must be a number from 0 to 2",
    "weight=0,,1": "numbers, or a range",
    "weight=half": "numbers, or a range",
    "weight=true": "weight must be",
    "weight=*": "has none",
    "weight_9=1": "did you mean weight",
    "hidden_layer=0:-40:-10": "hidden_layer must be a whole number",
    "hidden_layer=-2:-4:-0.5": "whole number",
    "engine=splice,blend2": "engine must be one of",
    "preset=Research, all tokens": "double quotes",
    'preset="Research': "quotes do not match",
    "scale_to_text=1": "true or false",
    "blocks=first": "blocks",
    "reference_batch=a.png": "--references FOLDER",
    "seed=-1": "seed must be",
    "steps=0": "steps must be",
    "layer_mix=-8:0": "layer_mix",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_one_line(text: str) -> None:
    with pytest.raises(ZvlError, match=r"^--axis [^\n]*$") as caught:
        parse(text)
    assert BAD[text] in str(caught.value)
    assert len(str(caught.value)) < 300


# --- cells


@pytest.fixture
def shown(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(3):
        Image.new("RGB", (16, 16), (number * 90, 0, 0)).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    return paths


def grid(shown: list[str], *axes: str, **more: Any) -> Sweep:
    every = (*map(parse, axes), Axis("reference", tuple(shown)), Axis("prompt", ("a", "b")), Axis("seed", (1, 2)))
    fixed = more.pop("fixed", {})
    asked = {"negative_prompt": "", "size": 80, "steps": 8, "cfg": 1.0}
    return Sweep(every, fixed, asked, opened(every, fixed), **more)


def test_a_grid_has_every_combination_once(shown: list[str]) -> None:
    sweep = grid(shown, "weight=0:1:0.25", "hidden_layer=-2,-6")
    cells = list(sweep)
    assert len(cells) == len(sweep) == 5 * 2 * 3 * 2 * 2
    assert len({tuple(cell.place.items()) for cell in cells}) == len({cell.key for cell in cells}) == len(cells)
    assert list(cells[0].place) == ["weight", "hidden_layer", "reference", "prompt", "seed"]


def test_references_and_then_layers_are_gone_through_once(shown: list[str]) -> None:
    cells = list(grid(shown, "weight=0:1:0.25", "hidden_layer=-2,-6"))
    for name, changes in (("reference", 3), ("hidden_layer", 3 * 2), ("prompt", 3 * 2 * 2)):
        values = [cell.place[name] for cell in cells]
        assert 1 + sum(a != b for a, b in itertools.pairwise(values)) == changes


def test_a_cell_is_what_its_values_say(shown: list[str]) -> None:
    sweep = grid(shown, 'preset="Fill in"', "weight=0.7,0.9", "steps=4", fixed={"crop": "centre"})
    cell = sweep.cell(0)
    made = Settings.from_mapping({"enabled": True, **cell.settings})
    wanted = Settings.from_mapping({"enabled": True, "preset": "Fill in", "weight": 0.7, "crop": "centre"})
    assert made == wanted
    assert cell.asked == {"negative_prompt": "", "size": 80, "cfg": 1.0, "steps": 4, "prompt": "a", "seed": 1}
    assert cell.pictures["reference"].label == "0.png"
    assert set(cell.settings) <= set(BY_NAME)


def test_the_key_is_of_all_that_makes_the_picture(shown: list[str], tmp_path: Path) -> None:
    def keys(*axes: str, **more: Any) -> set[str]:
        return {cell.key for cell in grid(shown, *axes, **more)}

    base = keys("weight=0.5")
    assert keys("weight=0.5") == base
    assert keys("weight=0.5,0.6") > base  # more values keep what is there
    weight = PRESETS["Balanced"]["weight"]
    assert keys("preset=Balanced") == keys(f"weight={weight}")  # by another name
    for other in ({"identity": "other weights"}, {"fixed": {"merge": 3}}):
        assert keys("weight=0.5", **other).isdisjoint(base)
    assert keys("weight=0.5", "steps=9").isdisjoint(base)
    copied = tmp_path / "copy.png"
    copied.write_bytes(Path(shown[0]).read_bytes())
    assert {cell.key for cell in grid([str(copied)], "weight=0.5")} < base  # the same picture under another name
    Image.new("RGB", (16, 16), (1, 2, 3)).save(shown[0])
    assert not keys("weight=0.5") <= base


def test_a_sample_is_of_the_grid_and_the_same_for_a_seed(shown: list[str]) -> None:
    whole = {cell.key for cell in grid(shown, "weight=0:1:0.1")}
    one, same, other = (
        [cell.key for cell in grid(shown, "weight=0:1:0.1", sample=20, sample_seed=seed)] for seed in (1, 1, 2)
    )
    assert one == same != other
    assert len(set(one)) == 20
    assert set(one) < whole
    with pytest.raises(ZvlError, match="A sample of 1,000 was asked for, and there are 132 cells"):
        grid(shown, "weight=0:1:0.1", sample=1000)


def test_a_grid_of_a_million_million_is_no_work_before_it_is_made(shown: list[str]) -> None:
    axes = [f"{name}=0:1:0.001" for name in ("weight", "start", "end", "weight_2")]
    sweep = grid(shown, *axes, sample=5)
    assert sweep.whole == 1001**4 * 12
    assert len(list(sweep)) == 5


def test_two_places_of_one_picture_are_one_cell(shown: list[str]) -> None:
    assert len(list(grid(shown, "preset=Balanced", "weight=0.5"))) == 12
    Image.open(shown[0]).copy().save(shown[1])
    assert len(list(grid(shown, "weight=0.5"))) == 8


def test_what_is_given_twice_is_refused(shown: list[str]) -> None:
    for axes, fixed in ((("weight=0.5", "weight=0.7"), {}), (("weight=0.5",), {"weight": 0.2}), (("seed=4",), {})):
        with pytest.raises(ZvlError, match="is given twice"):
            grid(shown, *axes, fixed=fixed)


def test_a_grid_without_references_has_the_prompts_alone() -> None:
    sweep = Sweep((Axis("prompt", ("a", "b")), parse("steps=4,8")))
    assert [(cell.settings, cell.pictures) for cell in sweep] == [({}, {})] * 4
