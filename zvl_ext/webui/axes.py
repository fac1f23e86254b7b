"""XYZ-plot axes, derived from the options that name one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..declaration import Option
from ..errors import PRODUCT, ZvlError, line_of, shown
from ..hosts import forge, forge_files
from ..options import OPTIONS
from .cell import VALUES, cell_of
from .named_files import NAMED_FILES

PREFIX = "[Z-Image VL] "
_TYPES = {"number": float, "integer": int}
NONE = "None"  # on an axis of files, for no file
_SWITCH = {"true": True, "false": False}


def register() -> None:
    """Add the axes to the X/Y/Z plot; the web UI calls this before it builds its panels, again after a reload of
    them."""
    module = forge.xyz_module()
    if module is None or not forge.has_zimage():
        return
    present = {axis.label for axis in module.axis_options}
    for option in OPTIONS:
        if option.axis and PREFIX + option.axis not in present:
            module.axis_options.append(
                module.AxisOption(
                    PREFIX + option.axis,
                    _TYPES.get(option.kind, str),
                    _apply(option),
                    confirm=_confirm(option),
                    cost=option.cost,
                    choices=_choices(option),
                )
            )


def value_of(option: Option, x: Any) -> Any:
    """An axis value in the option's own type.

    Raises:
        ZvlError: it is not a value of this option.
    """
    if option.kind == "switch":
        if str(x).strip().lower() not in _SWITCH:
            raise option.refuse(x, "True or False")
        return _SWITCH[str(x).strip().lower()]
    if option.kind == "image":
        return open_named(str(x).strip())
    if option.kind in NAMED_FILES:
        return named_file(option.kind, str(x).strip())
    return option.check(x.strip() if isinstance(x, str) else x)


def open_named(name: str) -> Any:
    """A reference image by file name in the reference folder. The name is looked up in a listing, never used as a
    path."""
    path = forge_files.reference_paths().get(name)
    if path is None:
        files = forge_files.reference_files()
        there = ", ".join(files[:8]) if files else "nothing yet"
        raise ZvlError(
            f"There is no reference image {shown(name)} in {forge_files.reference_folder()} (there is {there})."
        )
    from ..reference import open_file

    return open_file(path)


def named_file(kind: str, name: str) -> str:
    """The name of a file that is there, of an option's kind, or "" for none."""
    there = NAMED_FILES[kind].paths()
    if name.lower() == NONE.lower() and name not in there:
        return ""
    if name not in there:
        raise ZvlError(NAMED_FILES[kind].no_such(name))
    return name


def _apply(option: Option) -> Callable:
    def apply(p: Any, x: Any, xs: list) -> None:
        # A new dict for every cell: cells are shallow copies of one p, and the script's argument list is shared by all.
        setattr(p, VALUES, {**cell_of(p), option.name: value_of(option, x)})

    return apply


def _confirm(option: Option) -> Callable:
    def confirm(p: Any, xs: list) -> None:
        """Refuse what no cell can be made with, before the first one is made."""
        try:
            values = [value_of(option, x) for x in xs]
            if p is not None:
                from . import run  # what meets the host's models: late

                args = forge.script_args(p, PRODUCT)
                for value in values:
                    run.check(p, args, {**cell_of(p), option.name: value})
        except ZvlError as error:
            raise forge.refusal(line_of(error), forge.is_api(p)) from None

    return confirm


def _choices(option: Option) -> Callable[[], list[str]] | None:
    if option.kind == "switch":
        return lambda: ["True", "False"]
    if option.kind == "image":
        return forge_files.reference_files
    if option.kind in NAMED_FILES:
        return lambda: [NONE, *NAMED_FILES[option.kind].paths()]
    return (lambda: list(option.choices)) if option.choices else None
