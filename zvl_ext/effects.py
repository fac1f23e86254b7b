"""Which controls change nothing beside the others, and why. One list of rules for the panel, the infotext and the
replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .budget import inserts, lengths_agree
from .declaration import numbered
from .engines import ENGINES
from .errors import shown
from .options import BY_NAME, OPTIONS, PROMPT, UNIT_OPTIONS, UNITS, Settings
from .presets import PRESETS
from .profiles import FITTED_FOR, Profile
from .sequence import TOKEN_MODES
from .weighting import ALL, WEIGHTING, Weighting, block_ranges


@dataclass(frozen=True)
class Rule:
    """When some options have no part in the picture.

    Attributes:
        names: The options.
        holds: Whether they have none under these settings.
        reason: Why, as half a sentence behind the option's label.
    """

    names: tuple[str, ...]
    holds: Callable[[Settings], bool]
    reason: str


def _has_image_rows(settings: Settings) -> bool:
    return TOKEN_MODES[settings.token_mode].image


def _mixes(settings: Settings) -> bool:
    """Whether rows of Qwen3-VL are mixed with the prompt's own."""
    return not inserts(settings) or TOKEN_MODES[settings.token_mode].text


def _acts_by_itself(settings: Settings) -> bool:
    """Whether there are references, and none that has another one beside it in its half of guidance."""
    units = settings.units.values()
    if len(units) < 2:
        return len(units) == 1
    halves = [unit.negative for unit in units if not _plain_because(unit)]
    return max(halves.count(False), halves.count(True)) < 2


# Of a picture that is made from a conditioning file, what is about reading references. There, what they weigh acts
# whatever they were read with.
FILE = Rule(
    tuple(
        option.name
        for option in OPTIONS
        if option.unit < 2
        and option.name not in {"enabled", "reference", "preset", "conditioning", "measured", *WEIGHTING}
    ),
    lambda s: bool(s.conditioning),
    "is about reading references, and the conditioning file was made with its own",
)
RULES = (
    FILE,
    Rule(("hidden_layer",), lambda s: bool(s.layer_mix), "gives way to Layer mix"),
    Rule(
        ("hidden_layer", "layer_mix"),
        lambda s: bool(s.image_layers) and not TOKEN_MODES[s.token_mode].text,
        "gives way to Image layers: this token mode has no other tokens",
    ),
    Rule(
        ("weight", "profile", "blocks", "merge", "proportional", "block_place"),
        lambda s: not inserts(s),
        "acts on inserted tokens: it needs length match insert and a token mode with image tokens",
    ),
    Rule(
        ("region", "region_mask"),
        lambda s: not inserts(s),
        "acts on inserted tokens: it needs length match insert and a token mode with image tokens",
    ),
    Rule(
        ("image_dropout", "reference_mask", "image_layers"),
        lambda s: not _has_image_rows(s),
        "needs a token mode with image tokens",
    ),
    Rule(
        ("denoising_strength",),
        lambda s: bool(s.units) and all(unit.negative for unit in s.units.values()),
        "begins from a reference that is not negative, and there is none",
    ),
    Rule(("combine",), lambda s: _acts_by_itself(s), "needs a second reference that acts beside the first"),
    Rule(
        ("start", "end", "curve"),
        lambda s: s.length_match == "truncate" and not lengths_agree(s),
        "does not act with length match truncate; choose interpolate or insert",
    ),
    Rule(
        ("curve",),
        lambda s: Weighting(start=s.start, end=s.end).idle,
        "has no steps to act on: the starting step is not before the ending step",
    ),
    Rule(
        ("proportional",),
        lambda s: s.merge == 1 and s.image_dropout == 0.0,
        "counts tokens that are merged or dropped, and none are",
    ),
    Rule(
        ("blend_mode",),
        lambda s: not _mixes(s),
        "has nothing to mix: with this token mode and length match the prompt's own tokens stay as they are",
    ),
    Rule(
        ("length_match",),
        lengths_agree,
        "has nothing to match: token mode text has as many tokens as the prompt",
    ),
    Rule(("positions",), lambda s: ENGINES[s.engine].language_model, "is for engine splice"),
    Rule(
        ("storage", "projection"),
        lambda s: not ENGINES[s.engine].language_model,
        "is for engine blend: splice needs no language model of Qwen3-VL's",
    ),
    Rule(
        ("outlier_threshold", "outlier_direction"),
        lambda s: s.outlier_repair == "none",
        "is for outlier repair, which is none",
    ),
    Rule(("normalization",), lambda s: not s.scale_to_text, "is switched off by Scale to text"),
    Rule(
        ("vl_prompt",),
        lambda s: not TOKEN_MODES[s.token_mode].text,
        "is read after the image, so it has no part in the image's tokens",
    ),
)


def idle(settings: Settings) -> dict[str, str]:
    """The options that have no part in the picture under these settings, each with the reason."""
    found = _idle(settings)
    for number in range(2, UNITS + 1):
        own = _idle(settings.unit(number))
        found |= {numbered(name, number): own[name] for name in _OF_A_UNIT if name in own}
    return found


def _idle(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = {}
    for rule in [FILE] if FILE.holds(settings) else RULES:
        for name in rule.names:
            if name not in found and rule.holds(settings):
                found[name] = rule.reason
    return found


_OF_A_UNIT = tuple(option.name for option in UNIT_OPTIONS)


def unheard(settings: Settings) -> list[str]:
    """A line for each option that asks for something and yet has no part in the picture.

    What a preset brings along asks for nothing, and neither does what is about a reference that is not there.
    """
    brought = PRESETS.get(settings.preset, {})
    lines = []
    for name, reason in idle(settings).items():
        option = BY_NAME[name]
        first = option.first
        value = getattr(settings, name)
        asks = first in _ASKING and value not in (_ASKING[first], brought.get(first))
        if asks and (option.unit < 2 or option.unit in settings.units):
            lines.append(f"Z-Image VL: {option.label} changes nothing here: it {reason}.")
    return lines


def about_profile(settings: Settings, profile: Profile | None) -> list[str]:
    """What is to be said of the profile that the settings name: that it changes nothing, or that it was fitted for
    something else."""
    if profile is None or not inserts(settings):
        return []
    if profile.idle:
        return [f"The profile {shown(profile.name)} changes nothing: all its weights are 1."]
    chosen = {name: getattr(settings, name) for name in FITTED_FOR}
    if settings.layer_mix:
        chosen["hidden_layer"] = settings.layer_mix
    if ENGINES[settings.engine].language_model:  # which has positions of its own
        del chosen["positions"]
    return profile.differences(chosen)


# Options by which one asks for something, and the value that asks for nothing.
_ASKING = {
    "weight": 1.0,
    "profile": "",
    "projection": "",
    "blocks": ALL,
    "merge": 1,
    "image_dropout": 0.0,
    "start": 0.0,
    "end": 1.0,
    "curve": "constant",
    "positions": "sequential",
    "layer_mix": "",
    "image_layers": "",
    "storage": "auto",
    "vl_prompt": PROMPT,
    "combine": BY_NAME["combine"].default,
    "region": BY_NAME["region"].default,
    "region_mask": None,
    "reference_mask": None,
    "denoising_strength": 1.0,
}


def plain_because(settings: Settings) -> str:
    """Why the picture is made as without a reference; "" where it is not, because one of the references acts."""
    if settings.conditioning:
        return ""
    reasons = [_plain_because(unit) for unit in settings.units.values()] or [_plain_because(settings)]
    return reasons[0] if all(reasons) else ""


def _plain_because(settings: Settings) -> str:
    if settings.alpha == 0.0:
        return "alpha is 0"
    if inserts(settings) and settings.weight == 0.0:
        return "the weight is 0"
    if "start" not in idle(settings) and settings.start >= settings.end:
        return "the starting step is not before the ending step"
    if inserts(settings) and all(each.factor == 0.0 for each in block_ranges(settings.blocks)):
        return "no block looks at the reference"
    return ""
