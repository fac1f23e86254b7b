"""Conditioning files: what is loaded is what was saved, at every step, and anything else is refused in one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zvl_ext.conditioning import Conditioning, Part, joined
from zvl_ext.conditioning_file import About, Saved, load, save
from zvl_ext.profiles import profile_of
from zvl_ext.weighting import Weighting

HIDDEN, PLACE, TEXT = 8, 3, 12
WAYS = [step / 8 for step in range(8)]
ABOUT = About("a cat, ‘large’\nand red", "a model", "splice, Qwen3-VL", "a cat\nSteps: 8, ZVL weight: 0.5")


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


def part(seed: int, weighting: Weighting = Weighting(), own: int = TEXT, block: int = 0, **more: Any) -> Part:  # noqa: B008
    return Part(weighting, rows(own, seed) if own else None, rows(block, seed + 50) if block else None, **more)


HALF = torch.zeros(6, 4)
HALF[:, :2] = 1.0
PROFILE = profile_of([[-1.0, 0.5]] * 3, [[0.25, -2.0]], "soft", {"engine": "splice", "pictures": 600})
EASED = Weighting(0.7, 0.1, 0.8, "ease in-out", "early, late:0.3")
KINDS: dict[str, tuple[Part, ...]] = {
    "the prompt alone": (),
    "rows of the prompt's alone": (part(1, Weighting(start=0.25, end=0.6)),),
    "fewer rows than the prompt has": (part(1, own=7),),
    "a block that nothing weighs": (part(1, block=5),),
    "a block without changed rows": (part(1, Weighting(0.1 + 0.2), own=0, block=5),),
    "a weighted block": (part(1, EASED, block=5),),
    "a block whose rows count": (part(1, block=4, counts=torch.tensor([1.0, 2.5, 1.0, 4.0])),),
    "a region": (part(1, block=5, region=HALF),),
    "a block that fills up by itself": (part(1, Weighting(0.5), block=32),),
    "two references": (part(1, EASED, block=5, region=HALF), part(2, Weighting(1.5, curve="reversed"), block=40)),
    "one that acts elsewhere": (part(1, own=0), part(2, EASED, block=5)),
    "one to be led away from": (part(1, EASED, block=5, against=True), part(2)),
    "a profile": (
        part(1, dataclasses.replace(EASED, profile=PROFILE), block=5),
        part(2, Weighting(profile=PROFILE), block=3),
    ),
    "four": tuple(part(seed, Weighting(seed / 4), block=seed) for seed in range(1, 5)),
}


def made(kind: str, dtype: torch.dtype = torch.float32) -> Conditioning:
    return joined(rows(TEXT, 0).to(dtype).float(), KINDS[kind], PLACE, dtype)


def assert_same(got: Conditioning, wanted: Conditioning) -> None:
    assert (got.place, got.steady, len(got.parts)) == (wanted.place, wanted.steady, len(wanted.parts))
    for one, other in ((got.rows, wanted.rows), (got.plain, wanted.plain), (got.marks, wanted.marks)):
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    for one, other in zip(got.parts, wanted.parts):
        assert (one.weighting, one.against) == (other.weighting, other.against)
        assert (one.region is None) == (other.region is None)
        assert one.region is None or torch.equal(one.region, other.region)
    for way in WAYS:
        assert torch.equal(got.at(way), wanted.at(way))
        assert got.weights(way) == wanted.weights(way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_saved(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "red cat.safetensors"
    save(made(kind, dtype), str(path), ABOUT)
    saved = load(str(path))
    assert_same(saved.conditioning, made(kind, dtype))
    assert (saved.about, saved.name, saved.changes) == (ABOUT, "red cat", {})
    save(saved.conditioning, str(path), saved.about)
    assert load(str(path)).digest == saved.digest
    save(saved.conditioning, str(path), About("another prompt"))
    assert load(str(path)).digest != saved.digest


def test_the_rows_have_the_name_that_other_tools_read(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(made("two references"), str(path), ABOUT)
    assert torch.equal(load_file(path)["hidden_states"], made("two references").rows)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["zvl_conditioning"], metadata["hidden"], metadata["place"]) == ("1", str(HIDDEN), str(PLACE))
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize("tensor", [rows(5, 0), rows(5, 0)[None], rows(5, 0).bfloat16()])
def test_a_file_of_rows_alone_stays_readable(tensor: torch.Tensor, tmp_path: Path) -> None:
    save_file({"hidden_states": tensor}, tmp_path / "old.safetensors", {"prompt": "a cat"})
    saved = load(str(tmp_path / "old.safetensors"))
    assert_same(saved.conditioning, Conditioning(tensor.reshape(5, HIDDEN).float()))
    assert saved.about == About("a cat")


def test_texts_that_no_file_can_hold(tmp_path: Path) -> None:
    path = str(tmp_path / "c.safetensors")
    save(made("the prompt alone"), path, About("half \ud83d", "x" * 10**6))
    about = load(path).about
    assert about.prompt == "half ?"
    assert len(about.image_model) == 20_000


# --- other weights


def loaded(kind: str, tmp_path: Path) -> Saved:
    save(made(kind), str(tmp_path / "c.safetensors"), ABOUT)
    return load(str(tmp_path / "c.safetensors"))


@pytest.mark.parametrize(
    ("values", "weightings"),
    [
        ({"weight": 0.3}, (Weighting(0.3), Weighting(0.8, 0.2))),
        ({"weight_2": 0.3, "curve_2": "ease in"}, (Weighting(), Weighting(0.3, 0.2, 1.0, "ease in"))),
        ({"start": 0.5, "end": 0.6, "blocks": "0"}, (Weighting(1.0, 0.5, 0.6, "constant", "0"), Weighting(0.8, 0.2))),
    ],
)  # fmt: skip
def test_other_weights_are_as_if_made_with_them(values: dict, weightings: tuple, tmp_path: Path) -> None:
    def parts(*each: Weighting) -> tuple[Part, ...]:
        return tuple(part(number, weighting, block=5) for number, weighting in enumerate(each, 1))

    path = str(tmp_path / "c.safetensors")
    text = rows(TEXT, 0)
    save(joined(text, parts(Weighting(), Weighting(0.8, 0.2)), PLACE, torch.float32), path, ABOUT)
    changed, lines = load(path).changed(values)
    assert lines == []
    assert changed.changes == values
    assert_same(changed.conditioning, joined(text, parts(*weightings), PLACE, torch.float32))


@pytest.mark.parametrize("values", [{"weight": 0.0}, {"end": 0.0}, {"blocks": "all:0"}])
def test_a_weight_of_0_is_the_prompt_alone(values: dict, tmp_path: Path) -> None:
    changed, _ = loaded("a weighted block", tmp_path).changed(values)
    assert_same(changed.conditioning, made("the prompt alone"))


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("a weighted block", {"alpha": 0.5}, "Alpha changes nothing here: the file was made with its own."),
        ("a weighted block", {"weight_2": 0.5}, "the file has one reference in it"),
        ("the prompt alone", {"weight": 0.5}, "the file has no reference in it"),
        ("rows of the prompt's alone", {"weight": 0.5}, "it acts on inserted tokens"),
        ("fewer rows than the prompt has", {"end": 0.5}, "length match truncate"),
    ],
)
def test_what_has_no_effect_is_said(kind: str, values: dict, says: str, tmp_path: Path) -> None:
    before = loaded(kind, tmp_path)
    after, (line,) = before.changed(values)
    assert after is before
    assert says in line


# --- what is none


def rewritten(path: Path, tensors: Callable[[dict], Any] = lambda t: None, **metadata: str | None) -> str:
    """The file with something changed."""
    stored = load_file(path)
    with safe_open(path, "pt") as file:
        told = file.metadata()
    tensors(stored)
    told = {key: value for key, value in {**told, **metadata}.items() if value is not None}
    save_file({name: each.contiguous().clone() for name, each in stored.items()}, path, told)
    return str(path)


def _set(name: str, value: Any) -> Callable[[dict], None]:
    return lambda tensors: tensors.__setitem__(name, value(tensors.get(name)) if callable(value) else value)


def _parts(**changes: Any) -> str:
    one = {"weight": 0.5, "start": 0.0, "end": 1.0, "curve": "constant", "blocks": "all", "against": False} | changes
    return json.dumps([{key: value for key, value in one.items() if value is not ...}])


def _profile(main: torch.Tensor) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({"profile.main": main, "profile.refiner": torch.zeros(2, 4)})


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        (None, {"zvl_conditioning": "2"}, "of version 2"),
        (_set("hidden_states", _nan), {}, "not finite"),
        (_set("hidden_states", lambda t: t[:-1]), {}, "not what its parts make"),
        (_set("hidden_states", lambda t: t + 0.1), {}, "not what its parts make"),
        (_set("hidden_states", lambda t: t[0]), {}, "hidden_states is"),
        (lambda t: t.pop("hidden_states"), {}, "no tensor 'hidden_states'"),
        (lambda t: t.pop("text"), {}, "the prompt's rows"),
        (_set("text", lambda t: t.half()), {}, "the prompt's rows"),
        (_set("text", lambda t: t[:, :4]), {}, "text is float32 [12, 4]"),
        (_set("text", _nan), {}, "text has values that are not finite"),
        (_set("1.own", lambda t: torch.cat([t, t])), {}, "1.own has 24 rows"),
        (_set("1.own", lambda t: t.long()), {}, "1.own is int64"),
        (_set("1.block", lambda t: t[:0]), {}, "1.block is"),
        (_set("1.block", _nan), {}, "1.block has values"),
        (_set("1.block", lambda t: t[1:]), {}, "1.counts does not fit"),
        (_set("1.counts", lambda t: t[None]), {}, "1.counts is"),
        (_set("1.counts", lambda t: -t), {}, "1.counts does not fit"),
        (_set("1.region", lambda t: t * 2), {}, "1.region has nothing"),
        (_set("1.region", lambda t: t * 0), {}, "1.region has nothing"),
        (_set("2.own", rows(TEXT, 3)), {}, "'2.own', which is none"),
        (_set("x\n", rows(1, 1)), {}, "which is none"),
        (None, {"place": "13"}, "its place '13'"),
        (None, {"place": "-1"}, "its place"),
        (None, {"place": "٣"}, "its place"),
        (None, {"place": "4"}, "not what its parts make"),
        (None, {"parts": None}, "is no conditioning"),
        (None, {"parts": "[" * 5000}, "nested"),
        (None, {"parts": "[1]"}, "no list of"),
        (None, {"parts": "[{}]"}, "what it says of a part"),
        (None, {"parts": json.dumps([{}] * 5)}, "at most 4"),
        (None, {"parts": "[]"}, "none of a conditioning's"),
        (None, {"parts": _parts(weight=3)}, "weight must be"),
        (None, {"parts": _parts(weight="1")}, "weight must be"),
        (None, {"parts": _parts(curve="up")}, "curve must be"),
        (None, {"parts": _parts(blocks="first")}, "blocks must be"),
        (None, {"parts": _parts(blocks=...)}, "what it says of a part"),
        (None, {"parts": _parts(against=1)}, "what it says of a part"),
        (None, {"parts": _parts(weight=float("nan"))}, "NaN"),
        (None, {"profile": json.dumps({"name": "soft"})}, "main is no table"),
        (None, {"profile": "[]"}, "what it says of its profile"),
        (None, {"profile": '{"name": 3}'}, "what it says of its profile"),
        (_set("profile.main", rows(3, 1)), {}, "'profile.main', which is none"),
        (_profile(main=rows(3, 1)[:, :2]), {"profile": '{"name": ""}'}, "with one number of heads"),
        (_profile(main=torch.full((3, 4), torch.nan)), {"profile": '{"name": ""}'}, "main has a log-weight nan"),
        (_profile(main=torch.zeros(600, 4)), {"profile": '{"name": ""}'}, "main is no table"),
        (None, {"prompt": "x" * 2**20}, "header is too long"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: Any, metadata: dict, says: str, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "c.safetensors"
    counts = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])
    weighed = part(1, Weighting(0.5), block=5, counts=counts, region=HALF)
    save(joined(rows(TEXT, 0), (weighed,), PLACE, torch.float32), str(path), ABOUT)
    assert len(load(rewritten(path)).conditioning.parts) == 1
    rewritten(path, tensors or (lambda t: None), **metadata)
    with refused(re.escape(says)):
        load(str(path))


def test_no_file_at_all(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "c.safetensors"
    save(made("two references"), str(path), ABOUT)
    with refused("can't be read as safetensors"):
        load(str(tmp_path / "nowhere"))
    with refused("it is a folder"):
        load(str(tmp_path))
    for data in (b"", b"\x00" * 8, b"\xff" * 100, path.read_bytes()[:-1], path.read_bytes() + b"x"):
        (tmp_path / "noise").write_bytes(data)
        with refused("can't be read as safetensors"):
            load(str(tmp_path / "noise"))


def test_nothing_is_written_that_could_not_be_used(tmp_path: Path, refused: Callable) -> None:
    bad = Conditioning(torch.full((3, HIDDEN), float("nan")))
    with refused("not finite"):
        save(bad, str(tmp_path / "c.safetensors"), ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_no_other_ones_place(
    links: bool, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # as on a memory card

        def link(*args: Any) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", link)
    path = str(tmp_path / "c.safetensors")
    save(made("two references"), path, ABOUT, new=True)
    assert_same(load(path).conditioning, made("two references"))
    with refused("is there already"):
        save(made("the prompt alone"), path, ABOUT, new=True)
    assert_same(load(path).conditioning, made("two references"))
    assert [each.name for each in tmp_path.iterdir()] == ["c.safetensors"]


def test_what_it_weighs_is_known_by_the_options_names(tmp_path: Path) -> None:
    path = str(tmp_path / "c.safetensors")
    weightings = Weighting(0.7), Weighting(0.4, 0.2)
    parts = tuple(part(number, each, block=5) for number, each in enumerate(weightings, 1))
    save(joined(rows(TEXT, 0), parts, PLACE, torch.float32), path, ABOUT)
    saved = load(path)
    assert (saved.weights["weight"], saved.weights["weight_2"], saved.weights["start_2"]) == (0.7, 0.4, 0.2)
    gone, _ = saved.changed({"weight": 0.0})
    again, _ = gone.changed({"weight_2": 0.9, "weight": 0.5})
    assert (gone.idle, gone.changed({"weight_2": 0.0})[0].idle) == (False, True)
    assert (again.weights["weight"], again.weights["weight_2"]) == (0.5, 0.9)
    assert_same(again.conditioning, saved.changed({"weight": 0.5, "weight_2": 0.9})[0].conditioning)


def test_more_rows_than_a_prompt_has_are_refused(tmp_path: Path, refused: Any) -> None:
    path = str(tmp_path / "c.safetensors")
    save_file({"hidden_states": torch.zeros(8193, 4)}, path)
    with refused("8193 tokens"):
        load(path)
    with refused("8193 tokens"):
        save(Conditioning(torch.zeros(8193, 4)), path, ABOUT)
