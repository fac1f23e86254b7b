"""Every control, declared once.

The accordion, the infotext, the XYZ axes, the API, the command line and the documentation are derived from the fields
of `Settings`. A new control is one new field: at the END of the class and in the newest round (`added`), because that
is the order of the positional API.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from .declaration import Option, declared, numbered
from .errors import ZvlError, shown
from .presets import CUSTOM, PRESETS, START
from .weighting import CURVES

PROMPT = "{prompt}"  # in `vl_prompt` and `system_prompt`: replaced by the picture's own prompt
_START = PRESETS[START]
_LONGEST_NAME = 60  # characters of a name that is looked for among the options
UNITS = 4  # references of one picture
_Own = TypeVar("_Own", bound="Declared")


@dataclass(frozen=True)
class Declared:
    """The values of all controls but those of further references, checked."""

    enabled: bool = declared("switch", False, "Z-Image VL", "Let the picture follow a reference image.")
    engine: str = declared(
        "choice", _START["engine"], "Engine",
        "blend: Qwen3-VL reads the reference and the prompt. splice: Z-Image's own text encoder reads what "
        "Qwen3-VL's vision tower sees; fewer artifacts, and a fifth of the memory.",
        choices=("blend", "splice"), infotext="ZVL engine", axis="Engine", cost=0.6,
    )  # fmt: skip
    reference: Any = declared(
        "image", None, "Reference image",
        "The picture follows this image as well as the prompt. Transparent parts become white; of an animation the "
        "first frame counts.",
        infotext="ZVL reference", axis="Reference image", cost=0.5, unit=1,
    )  # fmt: skip
    model: str = declared(
        "model", "", "Qwen3-VL model",
        "A Hugging Face folder or one .safetensors file of Qwen3-VL-4B (Instruct or Thinking); other sizes in engine "
        "blend with a projection.",
        infotext="ZVL model",
    )  # fmt: skip
    preset: str = declared(
        "choice", START, "Preset",
        "Sets the controls below to a known combination, of every reference alike. Changing the first one's afterwards "
        "shows Custom.",
        choices=(*PRESETS, CUSTOM), axis="Preset", cost=0.6,
    )  # fmt: skip
    alpha: float = declared(
        "number", _START["alpha"], "Alpha",
        "How much of the prompt's own tokens is replaced by what Qwen3-VL made of them after seeing the reference; "
        "0 is the plain picture. With length match insert the strength is Weight, and alpha is about the prompt's "
        "own tokens; otherwise alpha is the strength, and 0.3 to 0.5 is usual in engine blend.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="ZVL alpha", axis="Alpha",
        hint="how much the prompt gives way to the reference",
    )  # fmt: skip
    hidden_layer: int = declared(
        "integer", _START["hidden_layer"], "Hidden layer",
        "Which layer of the language model is used, counted from the end. -2 is where Z-Image reads its text "
        "encoder (Flux.2 Klein reads three layers: -2 stands for these, and others move all three); -6 to -8 is "
        "cleaner in engine blend, -12 more abstract in splice; beyond -18 only the gist is left.",
        minimum=-36, maximum=-1, step=1, infotext="ZVL layer", axis="Hidden layer", cost=0.4,
    )  # fmt: skip
    token_mode: str = declared(
        "choice", _START["token_mode"], "Token mode",
        "Which of the pieces that Qwen3-VL reads (tokens: parts of words, and squares of the image) are used. text: "
        "the prompt's own after they have seen the image (fewest artifacts). image: the image's with the marks around "
        "them. image_no_markers: without these. all: the whole sequence.",
        choices=("text", "image", "image_no_markers", "all"), infotext="ZVL tokens", axis="Token mode",
    )  # fmt: skip
    scale_to_text: bool = declared(
        "switch", _START["scale_to_text"], "Scale to text",
        "Bring what Qwen3-VL made of the reference to the size of your text encoder's values before blending. Off "
        "means no normalization.",
        infotext="ZVL scale", axis="Scale to text",
    )  # fmt: skip
    normalization: str = declared(
        "choice", _START["normalization"], "Normalization",
        "global: one factor for everything, good for text tokens. per_dim: each dimension by its own mean and "
        "spread, for image tokens. hybrid: half of each. sink_aware: one factor that ignores the first token's "
        "extreme values, so that alpha means what it says.",
        choices=("none", "global", "per_dim", "hybrid", "sink_aware"), infotext="ZVL norm", axis="Normalization",
    )  # fmt: skip
    outlier_repair: str = declared(
        "choice", _START["outlier_repair"], "Outlier repair",
        "What to do with dimensions whose spread is far from the text encoder's: zero removes them, clamp brings "
        "the spread to the threshold, scale brings it to the text encoder's own.",
        choices=("none", "zero", "clamp", "scale"), infotext="ZVL outliers", advanced=True, axis="Outlier repair",
    )  # fmt: skip
    outlier_threshold: float = declared(
        "number", 10.0, "Outlier threshold",
        "A dimension is an outlier when its spread is this many times larger or smaller than the text encoder's.",
        minimum=1.0, maximum=1000.0, step=0.5, infotext="ZVL outlier threshold", advanced=True,
        axis="Outlier threshold",
    )  # fmt: skip
    length_match: str = declared(
        "choice", _START["length_match"], "Length match",
        "When there are more or fewer tokens than the prompt has. interpolate: resampled along the sequence. "
        "truncate: only the first ones, the rest of the conditioning is dropped. insert: image tokens go in beside "
        "the prompt's, for token mode all.",
        choices=("interpolate", "truncate", "insert"), infotext="ZVL length", advanced=True, axis="Length match",
    )  # fmt: skip
    blend_mode: str = declared(
        "choice", _START["blend_mode"], "Blend mode",
        "linear: weighted mean. slerp: along the arc, token by token. adain: the prompt's tokens with the mean and "
        "spread of Qwen3-VL's, per token. adain_per_dim: the same per dimension.",
        choices=("linear", "slerp", "adain", "adain_per_dim"), infotext="ZVL blend", advanced=True, axis="Blend mode",
    )  # fmt: skip
    image_dropout: float = declared(
        "number", _START["image_dropout"], "Image dropout",
        "Leaves out this share of the image's tokens at random, by the picture's seed, so that the reference is held "
        "more loosely: at 0.75 most of it still shows, at 0.95 only its general idea. Needs a token mode with image "
        "tokens.",
        minimum=0.0, maximum=0.99, step=0.01, infotext="ZVL dropout", axis="Image dropout", unit=1,
    )  # fmt: skip
    reference_tokens: int = declared(
        "integer", _START["reference_tokens"], "Reference size in tokens",
        "A larger reference is scaled down to this many tokens of 32 × 32 pixels: 64 = 256², 256 = 512², 576 = "
        "768², 1024 = 1024² pixels.",
        minimum=4, maximum=1024, step=4, infotext="ZVL size", advanced=True, axis="Reference size in tokens",
        cost=0.5,
    )  # fmt: skip
    vl_prompt: str = declared(
        "text", PROMPT, "Text for Qwen3-VL",
        "What Qwen3-VL reads after the image. {prompt} is the picture's prompt; leave it empty for nothing, or "
        "write a text of your own.",
        infotext="ZVL text", advanced=True,
    )  # fmt: skip
    system_prompt: str = declared(
        "text", "", "System text",
        "An instruction that Qwen3-VL reads before everything else. Empty: none, as Z-Image has it.",
        infotext="ZVL system", advanced=True,
    )  # fmt: skip
    device: str = declared(
        "choice", "auto", "Device",
        "auto: where the web UI puts its text encoder. cpu: in main memory, slower, no video memory needed.",
        choices=("auto", "cpu"), advanced=True,
    )  # fmt: skip
    positions: str = declared(
        "choice", _START["positions"], "Positions",
        "For splice. sequential: the text encoder counts image tokens as it counts words. mrope: by rows "
        "and columns, with what the vision tower adds to the first layers (DeepStack), as in Qwen3-VL.",
        choices=("sequential", "mrope"), infotext="ZVL positions", advanced=True, axis="Positions", cost=0.4,
    )  # fmt: skip
    storage: str = declared(
        "choice", "auto", "Weights in memory",
        "How engine blend keeps Qwen3-VL's language model. auto: as the file has it (fp8 stays fp8), else bf16. "
        "fp8: half the memory, slightly different hidden states, slow on the CPU.",
        choices=("auto", "fp8"), infotext="ZVL storage", advanced=True, axis="Weights in memory", cost=0.6,
    )  # fmt: skip

    weight: float = declared(
        "number", _START["weight"], "Weight",
        "How strongly the image model looks at the reference's tokens: its attention to them is multiplied with "
        "this. 0 is the plain picture, 1 is as the model does by itself, above 1 is more. This is the strength with "
        "length match insert.",
        minimum=0.0, maximum=2.0, step=0.01, infotext="ZVL weight", axis="Weight",
        hint="how strongly the picture looks at the reference", unit=1,
    )  # fmt: skip
    start: float = declared(
        "number", _START["start"], "Starting step",
        "From this share of the sampling steps on the reference has a part.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="ZVL start", advanced=True, axis="Starting step", unit=1,
    )  # fmt: skip
    end: float = declared(
        "number", _START["end"], "Ending step",
        "Up to this share of the sampling steps.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="ZVL end", advanced=True, axis="Ending step", unit=1,
    )  # fmt: skip
    curve: str = declared(
        "choice", _START["curve"], "Weight curve",
        "How the weight goes between these steps. ease in: it rises from 0. ease out: it falls to 0. ease in-out: "
        "rises, then falls. reversed: falls, then rises.",
        choices=tuple(CURVES), infotext="ZVL curve", advanced=True, axis="Weight curve", unit=1,
    )  # fmt: skip
    blocks: str = declared(
        "blocks", _START["blocks"], "Blocks",
        "Which of the image model's blocks (its layers, 30 in Z-Image) look at the reference: all, early, middle, "
        "late, or numbers from 0, with factors: 0-9:0.5, 20-29.",
        infotext="ZVL blocks", advanced=True, axis="Blocks", unit=1,
    )  # fmt: skip
    merge: int = declared(
        "integer", _START["merge"], "Merge",
        "Averages the reference's tokens over squares of this side: 2 leaves a quarter of them, so that sampling is "
        "faster; fine detail is lost.",
        minimum=1, maximum=3, step=1, infotext="ZVL merge", advanced=True, axis="Merge",
    )  # fmt: skip
    proportional: bool = declared(
        "switch", _START["proportional"], "Proportional attention",
        "After image dropout or merging, the tokens that are left count for those that are gone, so that the "
        "strength stays. Off: fewer tokens are also a weaker reference, as in the published presets.",
        infotext="ZVL proportional", advanced=True, axis="Proportional attention",
    )  # fmt: skip
    block_place: str = declared(
        "choice", _START["block_place"], "Reference's place",
        "Where the reference's tokens stand among the prompt's. front: before all (with Flux.2 Klein: behind all), so "
        "that a small weight comes close to the picture without a reference. behind head: where Qwen3-VL reads them.",
        choices=("front", "behind head"), infotext="ZVL place", advanced=True, axis="Reference's place",
    )  # fmt: skip

    outlier_direction: str = declared(
        "choice", "too large", "Outlier direction",
        "Which dimensions outlier repair acts on. too large: those that spread more than the text encoder's. too "
        "small: those that spread less. Image tokens lack the text's massive dimensions (by up to 617 times): "
        "bringing these up multiplies what is hardly there, so that has to be asked for.",
        choices=("too large", "too small", "both"), infotext="ZVL outlier direction", advanced=True,
        axis="Outlier direction",
    )  # fmt: skip

    combine: str = declared(
        "choice", "each alone", "Several references",
        "each alone: every reference is read by itself, and their tokens stand side by side. in turn: all in one "
        "sequence as Picture 1, Picture 2, ..., so that the prompt may speak of them; a later one has seen the earlier "
        "ones, so a small weight does not undo what the others took from it.",
        choices=("each alone", "in turn"), infotext="ZVL combine", advanced=True, axis="Several references", cost=0.4,
    )  # fmt: skip
    crop: str = declared(
        "choice", "whole", "Crop",
        "Which part of the reference is read. whole: all of it, in its own shape. centre: the largest part of the "
        "picture's shape. pad: all of it, on grey, in the picture's shape.",
        choices=("whole", "centre", "pad"), infotext="ZVL crop", advanced=True, axis="Crop", cost=0.5, unit=1,
    )  # fmt: skip
    reference_mask: Any = declared(
        "mask", None, "Reference mask",
        "White where the reference counts: the image's tokens elsewhere are left out. Transparent is black.",
        infotext="ZVL reference mask", advanced=True, unit=1,
    )  # fmt: skip
    region: str = declared(
        "region", "all", "Region",
        "Where in the picture the reference acts: all, left, right, top, bottom, centre, or left, top, right, bottom "
        "edge as shares of the picture: 0, 0, 0.5, 1. inpaint mask: where img2img repaints it.",
        infotext="ZVL region", advanced=True, axis="Region", unit=1,
    )  # fmt: skip
    region_mask: Any = declared(
        "mask", None, "Region mask",
        "White where in the picture the reference acts, stretched over the whole picture. Transparent is black.",
        infotext="ZVL region mask", advanced=True, unit=1,
    )  # fmt: skip
    negative: bool = declared(
        "switch", False, "Negative reference",
        "Less like this reference: it acts in the negative half of guidance, so it needs a CFG scale above 1 (1.5 is "
        "enough).",
        infotext="ZVL negative", advanced=True, axis="Negative reference", unit=1,
    )  # fmt: skip

    denoising_strength: float = declared(
        "number", 1.0, "Start from reference: denoising strength",
        "For txt2img: sampling begins from the reference instead of from noise alone, as img2img does, beside what the "
        "reference does to the prompt. 1 is off, less stays closer to its shapes and colours. Whole steps are counted: "
        "8 steps begin from it at 0.87 and less. Crop says how the reference is brought to the picture's shape.",
        minimum=0.05, maximum=1.0, step=0.01, infotext="ZVL denoising strength", advanced=True,
        axis="Denoising strength", added=1,
    )  # fmt: skip
    layer_mix: str = declared(
        "layers", _START["layer_mix"], "Layer mix",
        "Several hidden layers with their weights in place of one, such as -8:0.7, -2:0.3: the mean of their states. "
        "Later layers have larger values, so at equal weights they count for more. Empty: Hidden layer alone.",
        infotext="ZVL layer mix", advanced=True, axis="Layer mix", cost=0.4, added=1,
    )  # fmt: skip
    image_layers: str = declared(
        "layers", _START["image_layers"], "Image layers",
        "The same for the image's tokens alone, so that they may come from other layers than the prompt's: -6, or "
        "-8:0.7, -2:0.3. Empty: the same as the prompt's.",
        infotext="ZVL image layers", advanced=True, axis="Image layers", cost=0.4, added=1,
    )  # fmt: skip
    reference_batch: Any = declared(
        "images", None, "Batch",
        "One picture for each of these references, in the first one's place and with its settings; the batch count's "
        "pictures each, with the same seeds for all.",
        advanced=True, added=1,
    )  # fmt: skip

    conditioning: str = declared(
        "conditioning", "", "Conditioning file",
        "What an earlier picture was conditioned on, saved below: used in place of the prompt and of all references, "
        "without any Qwen3-VL. Only weights, steps, curves and blocks can still be changed.",
        infotext="ZVL conditioning", axis="Conditioning file", cost=0.3, added=1,
    )  # fmt: skip

    profile: str = declared(
        "profile", "", "Profile",
        "Learned weights by the image model's blocks and heads, which Weight multiplies: some heads carry a reference "
        "without fighting the prompt. A file for this image model in models/qwen3_vl/profiles; none: all weigh alike.",
        infotext="ZVL profile", advanced=True, axis="Profile", added=2,
    )  # fmt: skip

    measured: bool = declared(
        "switch", False, "Measured values",
        "Says in each picture's parameters, and under each picture of an X/Y/Z plot, how near it is to the first "
        "reference in colours, structure and edges (the latter two with scikit-image), and its grid energy, sharpness "
        "and saturation. Changes no picture.",
        advanced=True, added=2,
    )  # fmt: skip
    projection: str = declared(
        "projection", "", "Projection",
        "For engine blend: Qwen3-VL's hidden states brought to those of the image model's text encoder, so that a "
        "Qwen3-VL of another size can be used. A file in models/qwen3_vl/projections, from `zvl fit projection`; none: "
        "as they are.",
        infotext="ZVL projection", advanced=True, axis="Projection", cost=0.3, added=2,
    )  # fmt: skip

    @classmethod
    def from_mapping(cls: type[_Own], values: dict[str, Any]) -> _Own:
        """Settings from named values, as an API client sends them.

        A `preset` is applied first, so that a value named beside it wins. `references` may hold a list of objects, one
        for each reference, with "image" and the other names that a reference has for itself.

        Raises:
            ZvlError: an unknown name, a wrong type or a value out of range.
        """
        values = flat(values)
        for name in values:
            if name not in BY_NAME:
                typed = name[:_LONGEST_NAME] if isinstance(name, str) else ""
                close = difflib.get_close_matches(typed, BY_NAME, 1)
                hint = f"did you mean {close[0]}?" if close else "`python -m zvl_ext options` lists them."
                raise ZvlError(f"Z-Image VL: there is no option {shown(name)}; {hint}")
        return cls().changed(values)

    @classmethod
    def from_positions(cls: type[_Own], values: list[Any] | tuple[Any, ...]) -> _Own:
        """Settings from values in the order of the fields, as the panel sends them. Missing ones keep their default.

        Every control carries its own value here, so `preset` is only a label and changes nothing.
        """
        if len(values) > len(OPTIONS):
            raise ZvlError(f"Z-Image VL: {len(values)} values were given, there are {len(OPTIONS)} options.")
        named = {option.name: option.check(value) for option, value in zip(OPTIONS, values)}
        return cls().changed({name: value for name, value in named.items() if name != "preset"})

    def unit(self: _Own, number: int) -> _Own:
        """The settings as one reference has them: in the first one's places, without the others."""
        values = {option.name: getattr(self, numbered(option.name, number)) for option in UNIT_OPTIONS}
        others = {option.name: option.default for option in _OF_OTHERS}
        return dataclasses.replace(self, **others, **values)

    @property
    def units(self: _Own) -> dict[int, _Own]:
        """As `unit`, of every reference that is there, by its number."""
        every = {number: self.unit(number) for number in range(1, UNITS + 1)}
        return {number: unit for number, unit in every.items() if unit.reference is not None}

    def each(self: _Own) -> list[_Own]:
        """The settings of every reference of a batch, as if it were alone in the first one's place; without a batch
        these settings.

        Raises:
            ZvlError: there is a first reference besides.
        """
        if self.reference_batch is None:
            return [self]
        if self.reference is not None:
            raise ZvlError(
                "There is a batch of references, and a first reference besides, whose place they take. Remove one of "
                "the two."
            )
        return [dataclasses.replace(self, reference=each, reference_batch=None) for each in self.reference_batch]

    def changed(self: _Own, values: dict[str, Any]) -> _Own:
        """The same settings with other values, each checked; a `preset` among them is applied before the others."""
        checked = {name: BY_NAME[name].check(value) for name, value in values.items()}
        settings = dataclasses.replace(self, **(of_preset(checked.get("preset", "")) | checked))
        return dataclasses.replace(settings, preset=preset_of(settings))


_DECLARED = tuple(Option(name=f.name, default=f.default, **f.metadata) for f in dataclasses.fields(Declared))
# The controls that each reference has for itself, as the first one's are declared.
UNIT_OPTIONS = tuple(option for option in _DECLARED if option.unit)
# The same of the further references.
_OF_OTHERS = tuple(option.of_unit(number) for number in range(2, UNITS + 1) for option in UNIT_OPTIONS)
# In the order of the positional API.
OPTIONS: tuple[Option, ...] = tuple(sorted((*_DECLARED, *_OF_OTHERS), key=lambda option: option.added))

if TYPE_CHECKING:

    class Settings(Declared):
        """The values of all controls for one generation, checked. Those of further references have their number behind
        their name: weight_2."""

else:
    _METHODS = {
        name: each
        for name, each in vars(Declared).items()
        if isinstance(each, (FunctionType, classmethod, property)) and not name.startswith("__")
    }
    # No subclass of Declared: its fields would stand before all others.
    Settings = dataclasses.make_dataclass(
        "Settings",
        [(o.name, Any, dataclasses.field(default=o.default)) for o in OPTIONS],
        frozen=True,
        namespace={
            **_METHODS,
            "__doc__": "The values of all controls for one generation, checked.",
            "__module__": __name__,
        },
    )

BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Named values with those of a list of references under their own names."""
    if "references" not in values:
        return values
    given = values["references"]
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ZvlError(f"Z-Image VL: references must be a list of objects, not {shown(given)}.")
    if len(given) > UNITS:
        raise ZvlError(f"Z-Image VL: {len(given)} references were given, a picture has {UNITS} at most.")
    flat = {name: value for name, value in values.items() if name != "references"}
    names = {"image": "reference"} | {o.name: o.name for o in UNIT_OPTIONS if o.name != "reference"}
    for number, each in enumerate(given, 1):
        for name, value in each.items():
            if name not in names:
                known = ", ".join(names)
                raise ZvlError(f"Z-Image VL: a reference has no {shown(name)}; it may have {known}.")
            if (full := numbered(names[name], number)) in flat:
                raise ZvlError(f"Z-Image VL: {full} is given twice, by its name and in references.")
            flat[full] = value
    return flat


def of_preset(name: str) -> dict[str, Any]:
    """What a preset sets, by the options' names: what a reference has for itself it sets for each of them. Nothing,
    where there is no such preset."""
    own = {option.name for option in UNIT_OPTIONS}
    return {
        numbered(key, number): value
        for key, value in PRESETS.get(name, {}).items()
        for number in range(1, UNITS + 1 if key in own else 2)
    }


def preset_of(settings: Declared) -> str:
    """The preset whose values the settings have, or "Custom"."""
    for name, values in PRESETS.items():
        if all(getattr(settings, key) == value for key, value in values.items()):
            return name
    return CUSTOM
