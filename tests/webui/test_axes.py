"""The X/Y/Z plot's axes, in the web UI's own plot."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import hosts
import pytest
import tiny
import torch
from host_fixtures import LAYERS, WebUI
from host_runs import SPLICE, same
from modules import processing
from PIL import Image
from published import as_published

from zvl_ext.conditioning import Conditioning
from zvl_ext.conditioning_file import About, save
from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge
from zvl_ext.options import BY_NAME, OPTIONS
from zvl_ext.profiles import write_profile
from zvl_ext.projections import Affine, write_projection
from zvl_ext.webui import axes, infotext, run

pytest_plugins = ["host_fixtures"]

LABELED = {o.name: axes.PREFIX + o.axis for o in OPTIONS if o.axis and len(o.choices) != 1}


@pytest.fixture
def plot() -> Any:
    """The web UI's plot with our axes."""
    if forge.xyz_module() is None:
        hosts.load_scripts()
    axes.register()
    return forge.xyz_module()


@pytest.fixture
def references(weights: Path, picture: Any, other_picture: Any) -> Path:
    folder = weights / "references"
    folder.mkdir()
    picture.save(folder / "first.png")
    other_picture.save(folder / "second, with a comma.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (weights / "outside.png").write_bytes(tiny.encoded(picture, "PNG"))
    files = weights / "conditionings"
    files.mkdir()
    for name, seed in (("one", 1), ("a cat, twice", 2), (".hidden", 3)):
        rows = torch.randn(7, 64, generator=torch.Generator().manual_seed(seed))
        save(Conditioning(rows), str(files / f"{name}.safetensors"), About("a photo of a cat"))
    (files / "folder.safetensors").mkdir()
    profiles = weights / "profiles"
    profiles.mkdir()
    for name in ("soft", "a cat, hard", ".hidden"):
        write_profile(str(profiles / f"{name}.safetensors"), [[-1.0, 0.5]] * 3, [[0.0, -1.0]], {})
    projections = weights / "projections"
    projections.mkdir()
    maps = {-2: Affine(torch.zeros(3, 2), torch.zeros(2))}
    for name in ("wide", "a cat, narrow", ".hidden"):
        write_projection(str(projections / f"{name}.safetensors"), maps, torch.zeros(2), {})
    return folder


def axis(plot: Any, name: str) -> Any:
    (found,) = [a for a in plot.axis_options if a.label == LABELED[name]]
    return found


# --- the list


def test_every_axis_is_there_once_and_named(plot: Any) -> None:
    for _ in range(2):
        axes.register()
    labels = [a.label for a in plot.axis_options]
    ours = [label for label in labels if label.startswith(axes.PREFIX)]
    assert sorted(ours) == sorted(LABELED.values())


def test_the_axes_are_there_after_the_ui_is_reloaded() -> None:
    """The web UI loads all scripts anew and forgets what the old ones registered; packages are not imported again."""
    pytest.importorskip("gradio")
    for _ in range(2):
        hosts.load_scripts()
    assert any(a.label.startswith(axes.PREFIX) for a in forge.xyz_module().axis_options)


def test_types_and_choices(plot: Any, references: Path) -> None:
    for name in LABELED:
        option, found = BY_NAME[name], axis(plot, name)
        assert found.type is axis_type(option)
        if option.kind == "choice":
            assert found.choices() == list(option.choices)
        elif option.kind == "switch":
            assert found.choices() == ["True", "False"]
        elif option.kind == "image":
            assert found.choices() == ["first.png", "second, with a comma.png"]
        elif option.kind == "conditioning":
            assert found.choices() == ["None", "a cat, twice", "one"]
        elif option.kind == "profile":
            assert found.choices() == ["None", "a cat, hard", "soft"]
        elif option.kind == "projection":
            assert found.choices() == ["None", "a cat, narrow", "wide"]
        else:
            assert found.choices is None


def test_what_costs_a_pass_of_qwen3_vl_is_the_outer_loop(plot: Any) -> None:
    passes = (
        "engine", "preset", "reference", "hidden_layer", "layer_mix", "image_layers", "reference_tokens", "positions",
        "storage", "combine", "crop",
    )  # fmt: skip
    dear = [axis(plot, name).cost for name in LABELED if BY_NAME[name].first in passes]
    cheap = [axis(plot, name).cost for name in LABELED if BY_NAME[name].first not in passes]
    assert max(cheap) < min(dear) <= max(dear) < 1.0  # below a checkpoint's


_ODD = {
    "reference": (
        ["first.png", " second, with a comma.png "],
        [
            "third.png",
            "../outside.png",
            "..\\outside.png",
            "/etc/passwd",
            "references/first.png",
            "./first.png",
            "first.png/../first.png",
            ".hidden.png",
            "folder.png",
            "",
        ],
    ),
    "scale_to_text": (["True", "false", " TRUE"], ["yes", "1", ""]),
    "proportional": (["True", "false", " TRUE"], ["yes", "1", ""]),
    "negative": (["True", "false", " TRUE"], ["yes", "1", ""]),
    "conditioning": (
        ["one", " a cat, twice ", "None"],
        ["third", "one.safetensors", "../one", "conditionings/one", "/etc/passwd", ".hidden", "folder", ""],
    ),
    "profile": (
        ["soft", " a cat, hard ", "None"],
        ["third", "soft.safetensors", "../soft", "/etc/passwd", ".hidden", ""],
    ),
    "projection": (
        ["wide", " a cat, narrow ", "None"],
        ["third", "wide.safetensors", "../wide", "/etc/passwd", ".hidden", ""],
    ),
    "blocks": (["all", " early, 20-29:0.5 ", "0-9"], ["first", "9-0", "all:9"]),
    "layer_mix": (["-8:0.7, -2:0.3", " -6 ", ""], ["-37", "2", "-8:0", "-8, -8"]),
    "image_layers": (["-8:0.7; -2:.3", "-6"], ["-8:1, -2:-1", "early"]),
    "region": (["all", " Left ", "0, 0, 50%, 1"], ["middle", "0, 0, 1", "1, 0, 0, 1"]),
}


def good_and_bad(name: str) -> tuple[list, list]:
    """Values of an axis as the plot hands them over, and values that it must refuse."""
    option = BY_NAME[name]
    if option.first in _ODD:
        return _ODD[option.first]
    if option.choices:
        return [*option.choices, f" {option.choices[-1]} "], ["", "no such choice", option.choices[0].upper()]
    ends = [axis_type(option)(end) for end in (option.minimum, option.maximum)]
    odd = [float("nan"), float("inf")] if option.kind == "number" else []
    return ends, [ends[0] - 1, ends[1] + 1, *odd]


def axis_type(option: Any) -> type:
    return {"number": float, "integer": int}.get(option.kind, str)


@pytest.mark.parametrize("name", LABELED)
def test_good_values_are_confirmed(plot: Any, references: Path, name: str) -> None:
    axis(plot, name).confirm(None, good_and_bad(name)[0])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in LABELED for value in good_and_bad(name)[1]])
def test_bad_values_are_refused_before_the_grid_begins(
    plot: Any, references: Path, refused: Any, name: str, value: Any
) -> None:
    says = {
        "reference": "There is no reference image",
        "conditioning": "There is no conditioning file",
        "profile": "There is no profile",
        "projection": "There is no projection",
    }
    with refused(says.get(BY_NAME[name].first, name)):
        axis(plot, name).confirm(None, [good_and_bad(name)[0][0], value])


def test_a_reference_that_is_no_picture_is_refused_before_the_grid_begins(
    plot: Any, references: Path, refused: Any
) -> None:
    (references / "text.png").write_text("no picture")
    with refused("not a picture"):
        axis(plot, "reference").confirm(None, ["text.png"])


def test_a_link_out_of_the_folder_is_the_users_own(references: Path, weights: Path, picture: Any) -> None:
    (references / "link.png").symlink_to(weights / "outside.png")
    assert axes.open_named("link.png").image.tobytes() == picture.tobytes()


# --- a grid


class Grid:
    """Runs the web UI's plot; in place of sampling, every cell's conditioning is kept."""

    def __init__(self, plot: Any, web: WebUI, monkeypatch: pytest.MonkeyPatch):
        self.plot, self.web, self.cells = plot, web, []
        monkeypatch.setattr(plot, "process_images", self._cell)

    def _cell(self, p: Any) -> Any:
        run.attach(p, p.script_args)
        p.all_seeds = p.all_subseeds = [1]
        self.web.condition(p)
        self.cells.append((p.c, infotext_of(p)))
        return processing.Processed(p, [Image.new("RGB", (8, 8))], 1, "")

    def run(self, p: Any, *chosen: tuple[str, Any]) -> list:
        script = self.plot.Script()
        script.current_axis_options = self.plot.axis_options
        arguments: list = []
        for label, values in [*chosen, *[("Nothing", "")] * (3 - len(chosen))]:
            index = [a.label for a in self.plot.axis_options].index(LABELED.get(label, label))
            listed = self.plot.axis_options[index].choices is not None
            arguments += [index, "" if listed else ", ".join(map(str, values)), values if listed else []]
        rest = list(inspect.signature(script.run).parameters)[10:]  # web UIs differ in them
        script.run(p, *arguments, *(name == "no_fixed_seeds" for name in rest if name != "rest"))
        return self.cells


def infotext_of(p: Any) -> dict:
    return {key: value for key, value in p.extra_generation_params.items() if key in infotext.KEYS}


@pytest.fixture
def grid(plot: Any, web: WebUI, references: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    return Grid(plot, web, monkeypatch)


def test_a_grids_cells_are_the_same_settings_made_one_by_one(grid: Grid, picture: Any) -> None:
    web, p = grid.web, grid.web.p()
    p.script_args = [as_published({"enabled": True, "reference": picture, "alpha": 0.9})]
    cells = grid.run(p, ("alpha", [0.0, 0.3, 0.6]), ("hidden_layer", [-2, -8]), ("scale_to_text", ["True", "False"]))
    assert len(cells) == 12
    made = {}
    for layer in (-2, -8):
        for scale in (True, False):
            for alpha in (0.0, 0.3, 0.6):
                single = web.run(web.p(), reference=picture, alpha=alpha, hidden_layer=layer, scale_to_text=scale)
                made[layer, scale, alpha] = single.c, infotext_of(single)
    for c, parameters in made.values():
        assert any(same(c, cell) and parameters == there for cell, there in cells)
    for cell, there in cells:
        assert any(same(c, cell) and parameters == there for c, parameters in made.values())
    assert not any(name in p.__dict__ for name in ("cached_params", "get_conds_with_caching", axes.VALUES)), (
        "the grid's own p was touched"
    )
    assert p.script_args == [as_published({"enabled": True, "reference": picture, "alpha": 0.9})]


def test_an_axis_of_references_by_name(grid: Grid, picture: Any, other_picture: Any) -> None:
    p = grid.web.p()
    p.script_args = [as_published({"enabled": True})]
    cells = grid.run(p, ("reference", ["first.png", "second, with a comma.png"]))
    for (c, parameters), image in zip(cells, (picture, other_picture)):
        single = grid.web.run(grid.web.p(), reference=image)
        assert same(c, single.c)
        assert parameters == infotext_of(single)


def test_an_axis_of_second_references_by_name(grid: Grid, picture: Any, other_picture: Any) -> None:
    p = grid.web.p()
    p.script_args = [as_published({"enabled": True, "reference": picture})]
    cells = grid.run(p, ("reference_2", ["first.png", "second, with a comma.png"]))
    for (c, parameters), image in zip(cells, (picture, other_picture)):
        single = grid.web.run(grid.web.p(), reference=picture, reference_2=image)
        assert same(c, single.c)
        assert parameters == infotext_of(single)
        assert parameters["ZVL reference 2"]


def with_args(grid: Grid, named: dict[str, Any]) -> Any:
    p = grid.web.p()
    p.script_args = [named]
    return p


def test_an_axis_of_conditioning_files_by_name(grid: Grid, weights: Path) -> None:
    cells = grid.run(with_args(grid, {}), ("conditioning", ["one", "None", "a cat, twice"]), ("Seed", [1]))
    assert len(cells) == 3
    for (cond, parameters), name in zip(cells, ("one", "", "a cat, twice")):
        made = grid.web.p()
        run.attach(made, [{"conditioning": name}])
        grid.web.condition(made)
        assert same(cond, made.c)
        assert parameters.get(infotext.CONDITIONING, "").startswith(name)
        assert (infotext.CONDITIONING in parameters) == bool(name)
    assert not {"vl", "vision"} & set(grid.web.events.kinds())


def test_a_conditioning_file_that_does_not_fit_is_refused_before_the_grid(
    grid: Grid, plot: Any, weights: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights / "conditionings" / "one.safetensors").write_bytes(b"no file")
    p = with_args(grid, {"enabled": True})
    with refused("'one' can't be read as safetensors"):
        axis(plot, "conditioning").confirm(p, ["a cat, twice", "one"])
    monkeypatch.setattr(forge, "caption_width", lambda engine: 2560)
    with refused("64 wide, the image model takes 2560"):
        axis(plot, "conditioning").confirm(p, ["a cat, twice"])
    assert grid.cells == []


def test_a_grid_of_conditioning_files_beside_a_reference_is_refused(
    grid: Grid, plot: Any, picture: Any, refused: Any
) -> None:
    p = with_args(grid, {"enabled": True, "reference": picture})
    with refused("take the reference images out"):
        axis(plot, "conditioning").confirm(p, ["one"])


def test_a_grid_pays_for_every_layer_once(grid: Grid, picture: Any) -> None:
    p = grid.web.p()
    p.script_args = [as_published({"enabled": True, "reference": picture})]
    with tiny.work() as done:
        grid.run(p, ("alpha", [0.1, 0.3, 0.6]), ("token_mode", ["text", "all"]), ("hidden_layer", [-8, -2, -4]))
    assert len(grid.cells) == 18
    assert done.looks == 1
    tokens = 3 + 6 + 2 + 10  # the template's head, the picture and its markers, the prompt behind them
    assert [sum(n for at, n in done.read if at == layer) for layer in range(LAYERS - 1)] == [tokens] * (LAYERS - 1)


def test_the_cells_preset_is_custom_where_an_axis_leaves_it(web: WebUI, plot: Any, picture: Any) -> None:
    p = web.p()
    axis(plot, "alpha").apply(p, 0.5, [0.5])
    assert run.parse([{"enabled": True, "preset": "Research default"}], getattr(p, axes.VALUES)).preset == "Custom"


def test_a_grid_with_the_extension_off_says_so(grid: Grid) -> None:
    p = grid.web.p()
    p.script_args = [{"enabled": False}]
    plain = grid.web.plain()
    cells = grid.run(p, ("alpha", [0.1, 0.3]))
    assert all(same(c, plain.c) and not parameters for c, parameters in cells)
    assert any("switched off, so its X/Y/Z axes change nothing" in comment for comment in p.comments)


UNFIT = {  # this Qwen3-VL and the text encoder have twelve layers each
    "blend": ("hidden_layer", [-8, -20], {}, "Hidden layer -20 does not exist: tiny-vl"),
    "splice": ("hidden_layer", [-2, -13], SPLICE, "Hidden layer -13 does not exist: the text encoder"),
}


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
@pytest.mark.parametrize(("name", "values", "settings", "says"), UNFIT.values(), ids=UNFIT)
def test_values_that_the_chosen_model_can_not_take_are_refused_before_the_grid(
    grid: Grid, picture: Any, api: bool, name: str, values: list, settings: dict, says: str
) -> None:
    p = grid.web.p(api=api)
    p.script_args = [as_published({"enabled": True, "reference": picture, **settings})]
    with pytest.raises(pytest.importorskip("fastapi").HTTPException if api else ZvlError) as caught:
        grid.run(p, (name, values))
    told = str(caught.value) if api else f"{type(caught.value).__name__}: {caught.value}"  # as the web UI shows it
    assert told.startswith(f"Z-Image VL: {says}")
    assert not grid.cells
    assert grid.web.events.count("load") == 0


@pytest.mark.parametrize("args", [{"enabled": False}, {"alpha": 0.0}, {}], ids=["off", "plain", "no reference"])
def test_a_grid_that_changes_nothing_is_not_refused(grid: Grid, picture: Any, args: dict) -> None:
    p = grid.web.p()
    p.script_args = [as_published({"reference": picture, **args} if args else {"enabled": True})]
    assert len(grid.run(p, ("hidden_layer", [-8, -20]))) == 2


def test_one_failing_cell_leaves_the_others(grid: Grid, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p = grid.web.p()
    p.script_args = [as_published({"enabled": True, "reference": picture})]
    made = run.conditioner.condition_units

    def fails(units: Any, *args: Any) -> Any:
        if units[0].settings.hidden_layer == -4:
            raise ZvlError("This one fails.")
        return made(units, *args)

    monkeypatch.setattr(run.conditioner, "condition_units", fails)
    cells = grid.run(p, ("hidden_layer", [-8, -4, -2]))
    assert len(cells) == 2
    for (c, _), layer in zip(cells, (-8, -2)):
        assert same(c, grid.web.run(grid.web.p(), reference=picture, hidden_layer=layer).c)
