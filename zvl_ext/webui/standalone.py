"""Pictures without a web UI, with the parameters that a web UI would write: for the demo's page and the command
line."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from ..beginning import Beginning, beginning_of
from ..budget import inserts
from ..caption import Asked, Caption, describe, part_seen
from ..conditioner import Unit, digests, plain_picture, units_of
from ..conditioning import Conditioning
from ..conditioning_file import About, Saved
from ..declaration import LEARNED
from ..effects import about_profile, plain_because, unheard
from ..errors import ZvlError, in_one_line, untitled
from ..hosts.standalone import ZImage
from ..hosts.standalone_beginning import begins
from ..options import BY_NAME, Settings
from ..profiles import Profile, read_profile
from ..projections import Projection, read_projection
from ..reference import Reference, open_reference
from . import infotext

Measures = tuple[float | None, float | None]  # shares of the prompt's and of the reference's attributes, 0 to 1
OnStep = Callable[[int, int], None]  # steps that are done, of all; raising in it stops the work


class Weights(Protocol):
    """What pictures are made with.

    Attributes:
        name: As people call it.
        sampling: `size`, `steps` and `guidance` to begin with, for `ZImage.generate`.
        prompt: What the prompt box holds in the beginning.
        about: A line of HTML.
    """

    model: ZImage
    name: str
    sampling: dict[str, Any]

    @property
    def prompt(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def question(self) -> str | None:
        """What its Qwen3-VL is asked, where it describes and knows no instructions; None where it does."""

    def reference(self) -> Reference | None:
        """A reference to begin with; None where there is none."""

    def measures(self, pictures: list[Image.Image], prompt: str, reference: Reference) -> list[Measures]:
        """Of each picture how much of the prompt's and of the reference's attributes it has; [] where nobody can
        tell."""

    def files(self, kind: str) -> dict[str, str]:
        """Files of learned numbers that come with it, of an option's kind, name -> path."""

    def file(self, kind: str, name: str) -> Any:
        """The one of that name, which is only looked up, never used as a path.

        Raises:
            ZvlError: there is none.
        """

    def examples(self) -> list[str]:
        """References to try, as files."""

    def fitted(self, settings: Settings) -> Settings:
        """Settings made for the real models as this model takes them."""

    def differences(self, settings: Settings, reference: Reference) -> tuple[list[str], dict[str, str]]:
        """What `fitted` changed: as lines for the user, and as entries of a picture's parameters."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        seeds: One picture for each.
        sampling: `size`, `steps` and `guidance`.
        whole: Whether the conditioning is wanted for a file, which also holds what has no part in the picture.
        profile, projection: Those that the settings name.
        loras: Those that act on the image model, as web UIs write them behind a prompt.
    """

    prompt: str
    settings: Settings
    seeds: list[int]
    sampling: dict[str, Any]
    negative: str = ""
    whole: bool = False
    profile: Profile | None = None
    projection: Projection | None = None
    loras: str = ""

    @property
    def learned(self) -> dict[str, Any]:
        """Its learned numbers, for `units_of`."""
        return {"profile": self.profile, "projection": self.projection}


@dataclass
class Made:
    """What came of it.

    Attributes:
        captions: What each picture is, in a few words.
        measures: What is in each picture; [] where nobody can tell.
        parameters: Each picture's, in the web UI's form.
        notes: Lines about what was done differently than asked for.
        tokens: Rows of the conditioning that the image model got.
        settings: What acted, by the infotext's keys.
        conditioning: What the first picture was conditioned on.
        about: What is told of that in a file.
    """

    pictures: list[Image.Image] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    measures: list[Measures] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokens: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    conditioning: Conditioning | None = None
    about: About = About()

    def say(self, line: str) -> None:
        if line not in self.notes:  # one line for all pictures of a batch
            self.notes.append(line)


_READ: dict[str, Callable[[str], Any]] = {"profile": read_profile, "projection": read_projection}


def learned(weights: Weights, settings: Settings, paths: bool = False) -> tuple[Settings, dict[str, Any]]:
    """Settings with the files of learned numbers that they name, these by the kinds of their options, for `Request`.

    Args:
        paths: Whether a name that does not come with the weights is that of a file: only where nobody else asks.

    Raises:
        ZvlError: there is no such file, or it can't be used.
    """
    named = {kind: name for kind in LEARNED if (name := getattr(settings, kind))}
    files = {
        kind: _READ[kind](os.path.expanduser(name))
        if paths and name not in weights.files(kind)
        else weights.file(kind, name)
        for kind, name in named.items()
    }
    return dataclasses.replace(settings, **{kind: file.name for kind, file in files.items()}), files


def make(weights: Weights, request: Request, on_step: OnStep | None = None, saved: Saved | None = None) -> Made:
    """Make pictures.

    Args:
        saved: What takes the place of the prompt and of all references; then no Qwen3-VL is needed.

    Raises:
        ZvlError: with one line for the user.
    """
    settings, model, made = request.settings, weights.model, Made()
    guided = request.sampling["guidance"] > 0
    fitted = weights.fitted(settings)
    units = units_of(fitted, request.sampling["size"], **request.learned) if settings.enabled else []
    if settings.enabled and not settings.units:
        made.say("No reference image, so the picture was made from the prompt alone.")
    elif settings.enabled and not units:
        made.say(f"The picture is as without a reference, because {plain_because(settings)}.")
    if not guided and any(unit.settings.negative for unit in units):
        raise ZvlError(
            "A negative reference acts by guidance, and at guidance 0 there is none. Set guidance to 0.5 or more, or "
            "switch Negative reference off."
        )
    for profile in {unit.weighting.profile for unit in units} - {None}:
        model.check_profile(profile)
    if saved is not None:
        model.check_file(saved)
        conditionings = [saved.conditioning] * len(request.seeds)
        made.settings = infotext.of_file(saved.name, saved.digest, saved.weights)
        for line in saved.told_model(weights.name):
            made.say(line)
    elif not units:
        conditionings = [Conditioning(model.text(request.prompt).embeddings)] * len(request.seeds)
    else:
        conditionings = [
            model.condition_units(units, request.prompt, seed, made.say, whole=request.whole) for seed in request.seeds
        ]
        if not conditionings[0].text_read and not model.text_encoder_loaded and not guided:
            made.say(f"Qwen3-VL alone made this: the text encoder ({_size(model.text_encoder_bytes)}) was not loaded.")
        made.settings = infotext.write(settings, digests(units), model.extractor.checkpoint.name)
        lines, more = weights.differences(settings, units[0].reference)
        made.settings |= more
        for line in (*lines, *map(untitled, unheard(settings)), *about_profile(fitted, request.profile)):
            made.say(line)
    against = [
        model.condition_units(units, request.negative, seed, made.say, negative=True)
        for seed in (request.seeds if guided else ())
    ]
    beginning = _beginning(request, units, made)
    made.tokens = len(conditionings[0])
    made.pictures = model.generate(
        conditionings,
        request.seeds,
        **request.sampling,
        negative=against,
        on_step=on_step,
        beginning=beginning,
    )
    if request.negative and not guided:
        made.say("The negative prompt has no effect at guidance 0.")
    made.parameters = [_parameters(weights, request, seed, made.settings) for seed in request.seeds]
    made.conditioning = conditionings[0]
    if saved is None:
        reader = f"{settings.engine}, {model.extractor.checkpoint.name}" if units else ""
        made.about = About(request.prompt, weights.name, reader, made.parameters[0])
    else:
        made.about = dataclasses.replace(saved.about, infotext=made.parameters[0])
    return made


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"


def _beginning(request: Request, units: list[Unit], made: Made) -> Beginning | None:
    """What sampling begins from besides noise; what is to be said of it is said."""
    size, steps = request.sampling["size"], request.sampling["steps"]
    beginning = beginning_of(request.settings, units)
    if beginning is None:
        return None
    if not begins(beginning, steps):
        made.say(beginning.too_late(steps))
        made.settings.pop(BY_NAME["denoising_strength"].infotext or "", None)
        return None
    if line := beginning.stretched(size):
        made.say(line)
    return beginning


def describe_with(weights: Weights, settings: Settings, asked: Asked, number: int = 1) -> Caption:
    """Have a reference described.

    Raises:
        ZvlError: with one line for the user.
    """
    with in_one_line():
        fitted = weights.fitted(settings)
        reference = part_seen(fitted, number, asked.shape)
        describer = weights.model.extractor_for(fitted)
        return describe(
            describer, weights.model.encode, reference, asked.wish, fitted.reference_tokens, asked.on_text,
            asked.stopped, weights.question,
        )  # fmt: skip


SWEPT = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)  # weights of a sweep; of alpha, those up to 1


def make_beside_plain(weights: Weights, request: Request, on_step: OnStep | None = None) -> Made:
    """Pictures, and in front of them the first one's without the reference, where that is another."""
    settings = request.settings
    if not settings.enabled or not settings.units or plain_because(settings):
        made = make(weights, request, on_step)
        made.captions = ["without the reference"] * len(made.pictures)
        return _measured(weights, request, made)
    plain = dataclasses.replace(request, settings=dataclasses.replace(settings, enabled=False), seeds=request.seeds[:1])
    parts = [(plain, "without the reference"), (request, _strength(settings))]
    return _measured(weights, request, _joined(weights, parts, on_step))


def make_sweep(weights: Weights, request: Request, on_step: OnStep | None = None) -> Made:
    """One picture for each of several weights, or of alphas where no rows are inserted."""
    name = "weight" if inserts(request.settings) else "alpha"
    top = BY_NAME[name].maximum or 1.0
    parts = []
    for value in SWEPT:
        if value <= top:
            settings = dataclasses.replace(request.settings, **{name: value})
            if plain_picture(settings):  # as meant: nothing to explain
                settings = dataclasses.replace(settings, enabled=False)
            parts.append((dataclasses.replace(request, settings=settings), f"{name} {value:g}"))
    return _measured(weights, request, _joined(weights, parts, on_step))


def _strength(settings: Settings) -> str:
    return f"weight {settings.weight:g}" if inserts(settings) else f"alpha {settings.alpha:g}"


def _joined(weights: Weights, parts: list[tuple[Request, str]], on_step: OnStep | None) -> Made:
    """Several requests as one; the steps are counted over all of them."""
    whole, pictures = Made(), sum(len(request.seeds) for request, _ in parts)

    def counted(done: int, of: int) -> None:
        if on_step is not None:
            steps = request.sampling["steps"]
            on_step(len(whole.pictures) * steps + done, pictures * steps)

    for request, caption in parts:
        made = make(weights, request, counted)
        whole.pictures += made.pictures
        whole.captions += [caption] * len(made.pictures)
        whole.parameters += made.parameters
        whole.tokens, whole.settings = made.tokens, made.settings
        for line in made.notes:
            whole.say(line)
    return whole


def _measured(weights: Weights, request: Request, made: Made) -> Made:
    if request.settings.enabled and request.settings.units:
        shown = open_reference(next(iter(request.settings.units.values())).reference)
        made.measures = weights.measures(made.pictures, request.prompt, shown)
    return made


def _parameters(weights: Weights, request: Request, seed: int, entries: dict[str, str]) -> str:
    """A picture's parameters, in the web UI's form."""
    width, height = request.sampling["size"]
    pairs = {
        "Steps": request.sampling["steps"],
        "CFG scale": f"{request.sampling['guidance']:g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": weights.name,
    } | entries
    line = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items())
    negative = [f"Negative prompt: {request.negative}"] if request.negative else []
    return "\n".join([request.prompt + request.loras, *negative, line])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:"\n') else text
