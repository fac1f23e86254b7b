"""Settings to the picture's parameters and back.

Only what differs from the default is written, so a picture says no more than needed; a fresh panel plus the pasted keys
is the panel that made it. `ZVL` (the extension's version) stands for "enabled".
"""

from __future__ import annotations

import re
from typing import Any

from .. import __version__
from ..declaration import Option
from ..options import OPTIONS, Settings, preset_of
from ..reference import Reference

MARK = "ZVL"
DIGEST = 12  # hexadecimal digits of the reference's digest
# Before every text: the web UI loses empty values and takes "512x512" for a size. Names of models rarely need it.
TEXT = "="
_MISREAD = re.compile(r'=|"|\d+x\d+$')

KEYS = (MARK, *(option.infotext for option in OPTIONS if option.infotext))


def write(settings: Settings, reference: Reference, model: str) -> dict[str, str]:
    """The infotext entries of a generation whose conditioning has been made."""
    entries = {MARK: __version__}
    for option in OPTIONS:
        value = getattr(settings, option.name)
        if option.kind == "image":
            entries[option.infotext] = reference.digest[:DIGEST]
        elif option.kind == "model":
            entries[option.infotext] = TEXT + model if _MISREAD.match(model) else model
        elif option.infotext and value != option.default:
            entries[option.infotext] = _written(option, value)
    return entries


def _written(option: Option, value: Any) -> str:
    if option.kind == "text":
        return TEXT + value
    return repr(value).removesuffix(".0") if option.kind == "number" else str(value)


def clear(parameters: dict[str, Any]) -> None:
    """Take all own entries out: the dict is shared by the cells of a grid and by the runs of a loop."""
    for key in KEYS:
        parameters.pop(key, None)


def read(option: Option, parameters: dict[str, str]) -> Any:
    """The value of one option in pasted parameters; its default where they do not name it.

    Returns:
        None where the parameters are not ours, or hold something that is not a value of this option.
    """
    if MARK not in parameters:
        return None
    text = parameters.get(option.infotext)
    if text is None:
        return option.default
    try:
        if option.kind in ("text", "model"):
            return text.removeprefix(TEXT)
        if option.kind == "switch":
            return {"True": True, "False": False}.get(text)
        return option.check(float(text) if option.kind in ("number", "integer") else text)
    except ValueError:
        return None


def preset(parameters: dict[str, str]) -> str | None:
    """The preset that pasted parameters amount to."""
    if MARK not in parameters:
        return None
    values = {o.name: read(o, parameters) for o in OPTIONS if o.infotext and o.kind not in ("image", "model")}
    return preset_of(Settings(**{name: value for name, value in values.items() if value is not None}))
