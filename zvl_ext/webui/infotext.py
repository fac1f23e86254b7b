"""Settings to the picture's parameters and back.

What acted is written: the main settings always, the others where they are not what they are by themselves. So a picture
can be read years later, whatever a fresh panel has by then. `ZVL` (the extension's version) stands for "enabled".
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from typing import Any

from .. import __version__
from ..declaration import FILES, LEARNED, Option, numbered
from ..effects import idle
from ..options import BY_NAME, OPTIONS, PROMPT, Settings, of_preset, preset_of
from ..presets import CUSTOM, PRESETS
from ..weighting import WEIGHTING

MARK = "ZVL"
PRESET = "ZVL preset"  # for people: what is pasted is the values
DIGEST = 12  # hexadecimal digits of the reference's digest
# Before every text: the web UI loses empty values and takes "512x512" for a size. Names of models rarely need it.
TEXT = "="
_MISREAD = re.compile(r'=|"|\d+x\d+$|.*\s$')

NOTE = "ZVL note"  # what was said about the picture, for those who can't see it under it; read by people alone
CONDITIONING = BY_NAME["conditioning"].infotext or ""  # the name and the digest of the file that was used
MEASURED = "ZVL measured"  # what was measured of the picture, likewise
KEYS = (MARK, PRESET, NOTE, MEASURED, *(option.infotext for option in OPTIONS if option.infotext))

# Written whenever they act.
_ALWAYS = (
    "engine",
    "alpha",
    "hidden_layer",
    "token_mode",
    "normalization",
    "length_match",
    "weight",
    "reference_tokens",
)
# What an option is that a picture does not name. These never change: pictures have been made with them.
_UNNAMED: dict[str, Any] = {
    **PRESETS["Research default"],
    "scale_to_text": True,
    "outlier_threshold": 10.0,
    "vl_prompt": PROMPT,
    "system_prompt": "",
    "storage": "auto",
    "proportional": True,
    "block_place": "front",
    "combine": "each alone",
    "crop": "whole",
    "region": "all",
    "negative": False,
    "denoising_strength": 1.0,
}
# Those of further references are the first one's.
_UNNAMED |= {o.name: _UNNAMED[o.first] for o in OPTIONS if o.unit > 1 and o.first in _UNNAMED}
# The same in pictures of version 0.1: all its defaults, and what its inserted rows were.
_UNNAMED_0_1 = _UNNAMED | {"proportional": False, "block_place": "behind head", "outlier_direction": "both"}


def write(settings: Settings, digests: dict[str, str], model: str) -> dict[str, str]:
    """The infotext entries of a generation whose conditioning has been made.

    Args:
        digests: Of the references, the masks and the learned numbers that had a part, by the options' names.
    """
    entries = {MARK: __version__}
    if settings.preset != CUSTOM:
        entries[PRESET] = settings.preset
    silent = idle(settings)
    for option in OPTIONS:
        value = getattr(settings, option.name)
        if option.infotext is None or option.name == "scale_to_text" or option.kind == "conditioning":
            continue
        if option.kind in LEARNED:
            if option.name in digests:
                entries[option.infotext] = _of_named(value, digests[option.name])
        elif option.kind in ("image", "mask"):
            if option.name in digests and option.name not in silent:
                entries[option.infotext] = digests[option.name][:DIGEST]
        elif option.unit and numbered("reference", option.unit) not in digests:
            continue  # a reference that is not there has no weight
        elif option.name == "normalization" and not settings.scale_to_text:
            entries[option.infotext] = "none"  # two controls for one thing: a picture names one
        elif option.kind == "model":
            entries[option.infotext] = _escaped(TEXT + model) if _MISREAD.match(model) else _escaped(model)
        elif option.name not in silent and (option.first in _ALWAYS or value != _UNNAMED[option.name]):
            entries[option.infotext] = _written(option, value)
    return entries


def of_file(name: str, digest: str, weights: dict[str, Any]) -> dict[str, str]:
    """The entries of a picture whose conditioning came from a file.

    Args:
        weights: What its references weigh, by the options' names.
    """
    written = {
        BY_NAME[each].infotext or each: _written(BY_NAME[each], value)
        for each, value in weights.items()
        if BY_NAME[each].first in _ALWAYS or value != _UNNAMED.get(each, BY_NAME[each].default)
    }
    return {MARK: __version__, CONDITIONING: _of_named(name, digest)} | written


def _of_named(name: str, digest: str) -> str:
    return _escaped(f"{name} {digest[:DIGEST]}")


def file_of(option: Option, parameters: dict[str, str]) -> tuple[str, str] | None:
    """The name and the first digits of the digest of the file that a picture was made with: a conditioning file, or a
    file of learned numbers."""
    if MARK not in parameters or option.infotext not in parameters:
        return None
    name, _, digest = _unescaped(parameters[option.infotext]).rpartition(" ")
    return name, digest


def _written(option: Option, value: Any) -> str:
    if option.kind == "text":
        return _escaped(TEXT + value)
    return repr(value).removesuffix(".0") if option.kind == "number" else str(value)


def _escaped(text: str) -> str:
    """As JSON where the web UI would not bring a text back as it is: it strips the blanks at the end of a line, and a
    browser changes what can't be printed. What looks like JSON text it reads as such by itself."""
    plain = text.replace("\n", "").isprintable() and not text[-1:].isspace()
    return text if plain else json.dumps(text)


def _unescaped(text: str) -> str:
    """A text as the web UI gives it: it may have quoted the JSON text once more."""
    if text.startswith('"'):
        with contextlib.suppress(ValueError):
            read = json.loads(text)
            return read if isinstance(read, str) else text
    return text


def clear(parameters: dict[str, Any]) -> None:
    """Take all own entries out: the dict is shared by the cells of a grid and by the runs of a loop."""
    for key in KEYS:
        parameters.pop(key, None)


def read(option: Option, parameters: dict[str, str]) -> Any:
    """The value of one option in pasted parameters; where they do not name it, what that stands for.

    Returns:
        None where the parameters are not ours, or hold something that is not a value of this option.
    """
    if MARK not in parameters:
        return None
    if option.kind == "conditioning":
        return (file_of(option, parameters) or ("",))[0]
    if CONDITIONING in parameters and option.first not in WEIGHTING:
        return None  # nothing is known of what the file was made with
    if option.kind in LEARNED:
        return (file_of(option, parameters) or ("",))[0]
    if _text(option, parameters) is None and option.kind not in FILES:
        return getattr(_made(parameters), option.name)
    return _value(option, parameters)


def _text(option: Option, parameters: dict[str, str]) -> str | None:
    """What the parameters say of an option."""
    if option.name == "scale_to_text":
        return None  # off is normalization none
    if option.name == "normalization" and parameters.get(BY_NAME["scale_to_text"].infotext or "") == "False":
        return "none"  # as version 0.1 wrote it
    return parameters.get(option.infotext or "")


def _reference_of(option: Option) -> str:
    """The key of the reference that an option is about."""
    return BY_NAME[numbered("reference", option.unit)].infotext or ""


def _value(option: Option, parameters: dict[str, str]) -> Any:
    """The value of one option by itself, as `read`."""
    text = _text(option, parameters)
    if text is None and option.unit > 1 and _reference_of(option) not in parameters:
        # Nothing is known of a reference that was not there: another one begins as the preset has it.
        return of_preset(parameters.get(PRESET, "")).get(option.name, option.default)
    if text is None:
        unnamed = _UNNAMED_0_1 if parameters[MARK].startswith("0.1.") else _UNNAMED
        return unnamed.get(option.name, option.default)
    try:
        if option.kind in ("text", "model"):
            return _unescaped(text).removeprefix(TEXT)
        if option.kind == "switch":
            return {"True": True, "False": False}.get(text)
        return option.check(float(text) if option.kind in ("number", "integer") else text)
    except ValueError:
        return None


def preset(parameters: dict[str, str]) -> str | None:
    """The preset that pasted parameters amount to."""
    return preset_of(_made(parameters)) if MARK in parameters and CONDITIONING not in parameters else None


def _made(parameters: dict[str, str]) -> Settings:
    """The settings of a picture."""
    values = {o.name: _value(o, parameters) for o in OPTIONS if o.infotext and o.kind not in FILES}
    made = Settings(**{name: value for name, value in values.items() if value is not None})
    # What has no part in a picture is not in its parameters: there it is as the preset has it, which was chosen.
    silent, chosen = idle(made), PRESETS.get(parameters.get(PRESET, ""), {})
    agrees = all(getattr(made, name) == value for name, value in chosen.items() if name not in silent)
    return dataclasses.replace(made, **chosen) if agrees else made
