"""What a generation asks of the extension: its arguments, read and judged."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .. import conditioner, effects
from ..declaration import FILES
from ..errors import ZvlError, shown
from ..hosts import forge
from ..options import BY_NAME, OPTIONS, Settings
from ..reference import open_reference
from . import infotext
from .cell import cell_of
from .said import tell
from .settings import NESTED

SAVE = "save_conditioning"  # in the API's named form, beside the options: a name for a file


def named(args: tuple | list) -> bool:
    """Whether the arguments are the API's named form: an object in the first place. The host fills up the others."""
    return bool(args) and isinstance(args[0], dict)


def says_enabled(args: tuple | list) -> bool:
    """Whether the arguments say themselves if there is to be a reference."""
    return not named(args) or "enabled" in args[0]


def parse(args: tuple | list, cell: dict[str, Any]) -> Settings:
    """Settings from a script's arguments: one object in the first place (the API's named form), or all values in order.

    A named form with a reference or a conditioning file is meant to have an effect, unless it says otherwise.

    Args:
        cell: Values of the X/Y/Z plot, by name; they win.

    Raises:
        ZvlError: an unknown name, a wrong value, or a second object.
    """
    if not named(args):
        return Settings.from_positions(args).changed(cell)
    if any(isinstance(value, dict) for value in args[1:]):
        raise ZvlError("There is more than one object in args. Put all values into the first one.")
    chosen = Settings.from_mapping({name: value for name, value in args[0].items() if name != SAVE}).changed(cell)
    meant = bool(chosen.each()[0].units or chosen.conditioning)
    return chosen if says_enabled(args) else dataclasses.replace(chosen, enabled=meant)


def to_save(args: tuple | list) -> str:
    """The name under which a request wants its conditioning saved; "" where it does not.

    Raises:
        ZvlError: it is no text.
    """
    wanted = args[0].get(SAVE, "") if named(args) else ""
    if not isinstance(wanted, str):
        raise ZvlError(f"{SAVE} must be text, a name for the file, not {shown(wanted)}.")
    return wanted


def unread(args: tuple | list) -> str:
    """What of the arguments has no effect, as a line; empty where there is nothing of that kind."""
    behind = zip(OPTIONS[1:], args[1:])  # the host puts the panel's values there: references and models are its own
    if named(args) and any(v != option.default for option, v in behind if option.kind not in FILES):
        return "only the first object in args is read; name the values behind it there."
    return ""


def check_together(chosen: Settings) -> None:
    """Raise ZvlError for a conditioning file beside references."""
    if chosen.conditioning and chosen.each()[0].units:
        raise ZvlError(
            "A conditioning file has its references in it already: take the reference images out, or choose no "
            "conditioning file."
        )


def cell_in(p: Any) -> dict[str, Any]:
    """The values of the X/Y/Z plot for a generation, or for the one within which it is made."""
    outer = forge.enclosing(p)
    return cell_of(p if outer is None else outer)


def asked(p: Any, args: tuple | list) -> Settings | None:
    """The settings of a generation that is to be conditioned on a reference.

    Returns:
        None where there is nothing to do; why is said where it is not plain.

    Raises:
        ZvlError: as `parse`, and for an API request that wants a reference and has none.
    """
    outer = forge.enclosing(p)
    if outer is not None and not NESTED.value:
        return None
    cell = cell_in(p)
    chosen = parse(args, cell)
    image = forge.upscaled(p if outer is None else outer)
    if chosen.enabled and chosen.reference_batch is not None and image is not None:
        chosen = _of_picture(chosen, forge.parameters_in(image))
    if line := unread(args):
        tell(p, line)
    first = chosen.each()[0] if chosen.enabled else chosen
    if not chosen.enabled:
        if not says_enabled(args):
            tell(p, "the request has no reference, so the picture was made from the prompt alone.")
        elif cell:
            tell(p, "the extension is switched off, so its X/Y/Z axes change nothing.")
    elif chosen.conditioning:
        return chosen
    elif not first.units:
        if conditioner.plain_picture(chosen):  # the text embeddings themselves, to the last bit
            return None
        if forge.is_api(p) and "conditioning" not in cell:  # a plot may have a cell without a file
            raise ZvlError("It is enabled without a reference. Send one as base64 text, or send enabled: false.")
        tell(p, "no reference image, so the picture was made from the prompt alone.")
    elif why := effects.plain_because(first):
        tell(p, f"the picture is as without a reference, because {why}.")
    else:
        return _of_this_kind(p, chosen)
    return None


def _of_picture(chosen: Settings, parameters: str) -> Settings:
    """The settings of one picture of a batch, which is made larger: with its own reference alone.

    Raises:
        ZvlError: its parameters name none of the batch's.
    """
    named = re.findall(rf"{BY_NAME['reference'].infotext}: ([0-9a-f]{{{infotext.DIGEST}}})\b", parameters)
    for each in chosen.each() if named else ():
        if open_reference(each.reference).digest.startswith(named[-1]):
            return each
    raise ZvlError(
        "This picture's parameters name no reference of the batch. To make it larger, take the batch out and choose "
        "its reference."
    )


def _of_this_kind(p: Any, chosen: Settings) -> Settings:
    """The settings as a generation of this kind can have them."""
    if chosen.denoising_strength == 1.0 or forge.begins_from_noise(p):
        return chosen
    tell(p, "Start from reference has no part in img2img: the picture begins from img2img's own.")
    return dataclasses.replace(chosen, denoising_strength=1.0)
