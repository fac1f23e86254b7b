"""The panel's line about the text encoder, where nothing of it is needed."""

from __future__ import annotations

from typing import Any

from ..declaration import numbered
from ..errors import ZvlError
from ..options import UNITS, Settings
from .host import Host

# What decides whether Qwen3-VL alone makes the picture.
OPTIONS = (
    "engine",
    "alpha",
    "scale_to_text",
    "normalization",
    "outlier_repair",
    "blend_mode",
    "token_mode",
    "length_match",
    "vl_prompt",
    *(
        numbered(name, number)
        for number in range(1, UNITS + 1)
        for name in ("reference", "weight", "start", "end", "curve", "negative")
    ),
)


def line(host: Host, *values: Any) -> str:
    """What these settings spare, as a line of HTML; "" where they need the text encoder."""
    try:
        settings = Settings.from_mapping(dict(zip(OPTIONS, values)))
    except ZvlError:  # a number is being typed
        return ""
    if settings.engine != "blend" or settings.alpha != 1.0:  # before what brings torch along
        return ""
    from ..alone import makes_alone

    if not makes_alone(unit for unit in settings.units.values() or [settings] if not unit.negative):
        return ""
    size = host.text_encoder_bytes()
    stays = f": its {size / 2**30:.1f} GiB stay free" if size else ""
    return (
        "<p class='zvl-help'>Qwen3-VL alone makes this picture. The text encoder is neither loaded nor run for the "
        f"prompt{stays}; at a CFG scale above 1 it reads the negative prompt.</p>"
    )
