"""What any fit begins with: the models, the pictures, and examples as the image model learns from them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..budget import inserted_tokens
from ..sequence import TEMPLATE
from . import recipes
from .album import open_album
from .clauses import Captions
from .describing import Captioner
from .loop import Schedule
from .memory import Learned, Shape, latents_bytes, needed, tokens_of
from .state import Folder, Progress, make_folder

if TYPE_CHECKING:
    from ..hosts.standalone import ZImage
    from ..options import Settings
    from .adapters import Form
    from .album import Picture
    from .crew import Crew
    from .judge import Judge
    from .prepare import Prepared

_METHOD = "taught by the whole caption"  # what is learned is another thing where this changes
_LOOKED_AT = 120  # examples at most that are looked at again and again: to compare weights, and to decide when to stop
_LARGE = 10**9  # parameters of an image model whose activations are computed again instead of kept


@dataclass(frozen=True)
class Wish:
    """What is fitted to what, and how.

    Attributes:
        pictures: The folder of pictures.
        z_image, qwen3_vl: As for `ZImage`.
        state: The folder of the fit's state.
        settings: How references are read and mixed; their weight is the one that the result is meant for.
        schedule: How it is learned.
        examples: How many to learn from.
        size: The pictures' side in pixels, at most.
        device, dtype: As for `ZImage`.
        checkpointing: Whether activations are computed again instead of kept; None: where the image model is large.
        question: What Qwen3-VL is asked for a caption; None: the usual.
        prompts: What the text encoder's statistics are measured on; None: the usual.
        command: What a person typed, as the file tells it.
    """

    pictures: str
    z_image: str
    qwen3_vl: str
    state: str
    settings: Settings
    schedule: Schedule = field(default_factory=Schedule)
    examples: int = 600
    size: int = 512
    device: str = "auto"
    dtype: str = "auto"
    checkpointing: bool | None = None
    question: str | None = None
    prompts: tuple[str, ...] | None = None
    command: str = ""


@dataclass(frozen=True)
class Told:
    """How a person hears of it.

    Attributes:
        say: Gets lines.
        bar: Shows how far something is: gets what it goes through and what that is called.
        steps: Gets the loop's progress after each step.
    """

    say: Callable[[str], None]
    bar: Callable[[Sequence[Any], str], Iterable[Any]]
    steps: Callable[[Progress], None]


SILENT = Told(lambda line: None, lambda things, name: things, lambda progress: None)


@dataclass(frozen=True)
class Material:
    """What is learned from.

    Attributes:
        model: With its image model on its device, and nothing else there.
        learned, deciding, saying: To learn from, to decide when to stop, and to say what was gained.
        pictures: How many pictures there are in all.
        folder: Of the fit's state.
        seconds: How long it took to have all this.
    """

    model: ZImage
    learned: Prepared
    deciding: Prepared
    saying: Prepared
    pictures: int
    folder: Folder
    seconds: float

    @functools.cached_property
    def compared_on(self) -> Prepared:
        """The examples that single weights are compared on: few of those that are learned from."""
        return self.learned.first(_LOOKED_AT)

    @property
    def shift(self) -> float:
        """Of the noise levels, as sampling has it."""
        return float(self.model.pipeline.scheduler.config.shift)


def gather(wish: Wish, crew: Crew, told: Told, form: Form | None = None) -> Material:
    """Open the models and the pictures, and read every example.

    Args:
        form: Of the LoRA that is learned, if one is.

    Raises:
        ZvlError: something can't be read or does not fit; what is in the state's folder is of another fit.
    """
    from ..hosts.standalone import ZImage
    from .prepare import prepare, side_of

    began = time.monotonic()
    make_folder(wish.state)
    known = {} if wish.prompts is None else {"reference_prompts": wish.prompts}
    dtype = "bfloat16" if crew.bf16 and wish.dtype == "auto" else wish.dtype
    model = ZImage(wish.z_image, wish.qwen3_vl, crew.device, dtype, **known)
    transformer = model.pipeline.transformer.requires_grad_(False).to("cpu")  # the card has no room for everything
    tokens = wish.settings.reference_tokens
    describe = Captioner(model.extractor, model.encode, tokens, wish.question, wish.state)
    pictures = open_album(wish.pictures, describe, told.say)
    own = sum(picture.own for picture in pictures)
    told.say(f"{len(pictures)} pictures: {own} have captions of their own, Qwen3-VL describes {len(pictures) - own}.")
    side = side_of(pictures, wish.size)
    recompute = _parameters(transformer) > _LARGE if wish.checkpointing is None else wish.checkpointing
    folder = Folder(wish.state, _key(wish, pictures, model, side, form))
    folder.load()  # refused before the work where it is another fit's
    every = list(_examples(wish, pictures))
    told.say(_need(wish, model, pictures, every, side, recompute, form))
    learned, deciding, saying = (
        prepare(model, pictures, examples, wish.settings, side, told.bar) for examples in every
    )
    model.unload()
    model.unload_text_encoder()
    model.pipeline.vae.to("cpu")
    transformer.to(model.device)
    if recompute:
        transformer.enable_gradient_checkpointing()
    return Material(model, learned, deciding, saying, len(pictures), folder, time.monotonic() - began)


def begin(wish: Wish, told: Told, form: Form | None = None) -> tuple[Crew, Told, Material, Judge]:
    """This process among those that learn, how a person hears of it (of the first alone), the material as `gather`
    gives it, and who sees how the image model does."""
    from .crew import Crew
    from .judge import Judge

    crew = Crew(cpu=wish.device == "cpu")
    told = told if crew.first else SILENT
    material, schedule = gather(wish, crew, told, form), wish.schedule
    transformer = material.model.pipeline.transformer
    return crew, told, material, Judge(transformer, schedule.at_once, schedule.seed, material.shift, crew)


def _examples(wish: Wish, pictures: list[Picture]) -> Iterator[list[recipes.Example]]:
    captions, seed = Captions([picture.caption for picture in pictures]), wish.schedule.seed
    learned, deciding, saying = recipes.parts(len(pictures), seed)
    every, each = len(recipes.KINDS), wish.examples // 6
    yield recipes.examples(captions, learned, wish.examples, seed)
    yield recipes.examples(captions, deciding, min(_LOOKED_AT, max(every * len(deciding), each)), seed)
    yield recipes.examples(captions, saying, max(every * len(saying), each), seed)


def _need(
    wish: Wish,
    model: ZImage,
    pictures: list[Picture],
    parts: list[list[recipes.Example]],
    side: int,
    recompute: bool,
    form: Form | None,
) -> str:
    """What it will take: calculated for the longest prompt."""
    from .judge import LOOKS

    transformer, config = model.pipeline.transformer, model.pipeline.transformer.config
    refiners = len(transformer.noise_refiner) + len(transformer.context_refiner)
    shape = Shape(_parameters(transformer), len(transformer.layers) + refiners, config.n_heads, config.dim)
    prompts = [example.prompt for part in parts for example in part]
    longest = len(model.encode(TEMPLATE.format(max(prompts, key=len))))
    grids = [model.extractor.checkpoint.grid(each.reference, wish.settings.reference_tokens) for each in pictures]
    rows = longest + inserted_tokens(wish.settings, max(math.prod(grid) for grid in grids))
    size = model.dtype.itemsize
    learned = Learned() if form is None else form.learned(transformer, shape.blocks)
    tokens, row = tokens_of(side, rows), rows * model.hidden * size
    kept_out = sum(map(len, parts[1:])) * LOOKS * latents_bytes(config.in_channels, side)
    need = needed(shape, size, tokens, wish.schedule.at_once, recompute, len(prompts), row, learned, kept_out)
    return need.line(wish.schedule.batch, str(model.device))


def _parameters(model: Any) -> int:
    return sum(each.numel() for each in model.parameters())


def _key(wish: Wish, pictures: list[Picture], model: ZImage, side: int, form: Form | None) -> str:
    """Identifies a fit: what is fitted, on what and how. Whatever may differ without another result is not in it."""
    how = {name: value for name, value in asdict(wish.schedule).items() if name != "at_once"}
    seen = [[picture.reference.digest, picture.caption] for picture in pictures]
    config = {name: value for name, value in model.pipeline.transformer.config.items() if not name.startswith("_")}
    settings = {name: value for name, value in asdict(wish.settings).items() if value is not None}
    models = [os.path.abspath(path) for path in (wish.z_image, wish.qwen3_vl)]
    key: list[Any] = [_METHOD, how, seen, config, settings, wish.examples, side, models, str(model.dtype)]
    key += [] if form is None else [asdict(form)]
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
