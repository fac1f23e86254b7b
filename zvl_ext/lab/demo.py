"""`python -m zvl_ext demo`: one reference and one prompt over all values of alpha, as a contact sheet.

The same sheet is made with the miniature family, which comes with the project, and with the real weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import __version__
from ..errors import ZvlError, shown
from ..options import Settings
from ..reference import Reference, open_reference
from .miniature import family, learned, world

if TYPE_CHECKING:
    import torch

    from ..hosts.standalone import ZImage
    from .miniature.classifier import Classifier

# A combination that nobody has shown the models.
REFERENCE = world.Scene("star", "green", "navy", "dotted")
PROMPT = "a large cross"  # it names a shape and leaves the rest to the reference

# References to begin with: of each pair of looks one, none of which the miniature has been trained on.
_EXAMPLES = (REFERENCE, *(world.Scene(*words) for words in (
    ("moon", "blue", "navy", "striped"), ("heart", "yellow", "black", "dotted"), ("cross", "purple", "white", "flat"),
    ("star", "green", "white", "outlined"))))  # fmt: skip

REAL_SIZE, REAL_STEPS, REAL_GUIDANCE = 1024, 8, 0.0  # as Z-Image-Turbo is used
REAL_LAYERS = 36


@dataclass
class Weights:
    """What a demo runs on: the miniature or the real weights.

    Attributes:
        name: As people call it.
        sampling: `size`, `steps` and `guidance` to begin with.
        classifier: Of the miniature's world; None with the real weights.
    """

    model: ZImage
    name: str
    sampling: dict[str, Any]
    classifier: Classifier | None = None

    @property
    def miniature(self) -> bool:
        return self.classifier is not None

    def fitted(self, settings: Settings) -> Settings:
        """Settings made for the real models as this model takes them.

        The hidden layer lies at the same depth of the network, and the reference is no larger than the model has been
        trained on.
        """
        if not self.miniature:
            return settings
        layer = family.layer_at_same_depth(settings.hidden_layer, self.model.text_layers, REAL_LAYERS)
        return dataclasses.replace(
            settings, hidden_layer=layer, reference_tokens=min(settings.reference_tokens, family.GRID**2)
        )

    @property
    def prompt(self) -> str:
        """What the page's prompt box holds in the beginning."""
        return PROMPT if self.miniature else ""

    @property
    def question(self) -> str | None:
        """What its Qwen3-VL is asked: the miniature's has learned to describe what it sees, and no instructions."""
        return "" if self.miniature else None

    @property
    def about(self) -> str:
        """A line of HTML about what the page runs on."""
        if not self.miniature:
            return html.escape(f"Version {__version__}, over {self.name}.")
        judged = {name: ", ".join(world.ATTRIBUTES[name]) for name in world.JUDGED}
        known = "; ".join(f"<b>{name}</b> {values}" for name, values in judged.items())
        return (
            f"Version {__version__}, over the miniature: a small trained model of the real classes, which knows "
            f"drawings of one object. Its words: {known}; small, large; left, centre, right."
        )

    def files(self, kind: str) -> dict[str, str]:
        """The miniature's own of a kind of learned numbers, name -> path."""
        return learned.files(kind) if self.miniature else {}

    def file(self, kind: str, name: str) -> Any:
        """The one of that name, which is only looked up.

        Raises:
            ZvlError: there is none, or it can't be used.
        """
        there = self.files(kind)
        if name not in there:
            raise ZvlError(f"There is no {kind} {shown(name)} here (there is {', '.join(there) or 'none'}).")
        return learned.READERS[kind](there[name])

    def reference(self) -> Reference | None:
        """A reference to begin with; None with the real weights."""
        return open_reference(Image.fromarray(world.draw(REFERENCE, 0))) if self.miniature else None

    def measures(
        self, pictures: list[Image.Image], prompt: str, reference: Reference
    ) -> list[tuple[float | None, float | None]]:
        """Of each picture the shares of the prompt's and of the reference's attributes; [] with the real weights."""
        if self.classifier is None:
            return []
        known = self.reference()
        scene = REFERENCE if known is not None and known.digest == reference.digest else None
        judge = Judge(self.classifier, prompt, reference, scene)
        return [judge.measure(picture) for picture in pictures]

    def examples(self) -> list[str]:
        """References to try, as files, which is what gradio takes; none with the real weights."""
        if not self.miniature:
            return []
        folder, paths = tempfile.mkdtemp(prefix="zvl-"), []
        for scene in _EXAMPLES:
            name = f"{scene.style} {scene.colour} {scene.shape} on {scene.background}.png"
            paths.append(os.path.join(folder, name))
            Image.fromarray(world.draw(scene, 0)).save(paths[-1])
        return paths

    def differences(self, settings: Settings, reference: Reference) -> tuple[list[str], dict[str, str]]:
        """What `fitted` changed: as lines for the user, and as entries of a picture's parameters."""
        if not self.miniature:
            return [], {}
        fitted, checkpoint = self.fitted(settings), self.model.extractor.checkpoint
        layers = self.model.text_layers
        lines = [f"The miniature has {layers} layers: read at hidden {self.depth(settings)}."]
        entries = {"ZVL miniature layer": str(fitted.hidden_layer)}
        grids = (checkpoint.grid(reference, s.reference_tokens) for s in (settings, fitted))
        wanted, used = (rows * columns for rows, columns in grids)
        if used < wanted:
            lines.append(
                f"The miniature knows pictures of {world.SIZE} × {world.SIZE}: "
                f"the reference was reduced from {wanted} to {used} tokens."
            )
            entries["ZVL miniature size"] = str(fitted.reference_tokens)
        return lines, entries

    def depth(self, settings: Settings) -> str:
        """What `fitted` did to the layer, in words; empty with the real weights."""
        if not self.miniature:
            return ""
        layer, layers = self.fitted(settings).hidden_layer, self.model.text_layers
        return f"layer {layer} of {layers} (as deep as {settings.hidden_layer} of {REAL_LAYERS})"


def open_weights(args: argparse.Namespace) -> Weights:
    """The weights that the command line names; the miniature where it names none."""
    folder = args.weights or family.WEIGHTS
    if not args.z_image:
        check_miniature(folder)
    family.be_quiet()
    from safetensors import SafetensorError

    from ..hosts.standalone import ZImage

    try:
        if args.z_image:
            size = (args.size or REAL_SIZE,) * 2
            weights = Weights(
                ZImage(args.z_image, args.qwen3_vl or "", args.device),
                os.path.basename(os.path.normpath(args.z_image)),
                {"size": size, "steps": REAL_STEPS, "guidance": REAL_GUIDANCE},
            )
        else:
            from .miniature.measure import load_classifier

            weights = Weights(
                family.load(folder, args.device), "Z-Image miniature", dict(family.SAMPLING), load_classifier(folder)
            )
    except ZvlError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ZvlError(f"{args.z_image or folder} can't be loaded ({' '.join(str(error).split())[:200]}).") from error
    weights.sampling |= {name: value for name in ("steps", "guidance") if (value := getattr(args, name)) is not None}
    return weights


def check_miniature(folder: str) -> None:
    """Raise ZvlError unless a folder holds the miniature's weights."""
    if not os.path.isfile(os.path.join(folder, "classifier.safetensors")):
        raise ZvlError(
            f"{folder} does not hold the miniature's weights. Get the whole project again, or name another folder with "
            "--weights."
        )


def check(args: argparse.Namespace) -> None:
    """Raise ZvlError for arguments that do not go together."""
    reads = not getattr(args, "conditioning", None)  # a conditioning from a file needs no Qwen3-VL
    if bool(args.z_image) != bool(args.qwen3_vl) and (reads or args.qwen3_vl):
        raise ZvlError(
            "The real weights are two things: name Z-Image's diffusers folder with --z-image and Qwen3-VL with "
            "--qwen3-vl."
        )
    if args.z_image and not args.ui and not (args.prompt and args.reference):
        raise ZvlError(
            'With the real weights name a prompt and a picture of your own: --prompt "..." --reference FILE.'
        )
    if args.size and not args.z_image:
        raise ZvlError(f"--size is for the real weights; the miniature's pictures are {world.SIZE} × {world.SIZE}.")
    if args.size and args.size % 16:
        raise ZvlError(f"--size must be a multiple of 16, not {args.size}.")


class Judge:
    """What the classifier says about pictures of one prompt and one reference.

    Attributes:
        shown: What the reference shows, in words.
    """

    def __init__(self, classifier: Classifier, prompt: str, reference: Reference, scene: world.Scene | None):
        self.classifier = classifier
        self.of_prompt = named_in(prompt)
        if scene is None:  # a picture of the user's own: what the classifier takes it for
            seen = self._read(reference.image.resize((world.SIZE, world.SIZE), Image.Resampling.BICUBIC))
            scene = world.Scene(**{name: values[int(seen[name].argmax())] for name, values in world.ATTRIBUTES.items()})
            said = "the classifier takes it for: {}"
        else:
            said = "{}"
        self.of_reference = {name: getattr(scene, name) for name in world.JUDGED}
        self.shown = said.format(f"{scene.colour} {scene.shape}, {scene.style}, on {scene.background}")

    def measure(self, picture: Image.Image) -> tuple[float | None, float]:
        """Mean probabilities of the prompt's and of the reference's judged attributes.

        None for a prompt that names none.
        """
        seen = self._read(picture)
        return _mean(seen, self.of_prompt), _mean(seen, self.of_reference)

    def _read(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        from .miniature.measure import read

        return {name: probabilities[0] for name, probabilities in read(self.classifier, [picture])[0].items()}


def _mean(seen: dict[str, torch.Tensor], wanted: dict[str, str]) -> float | None:
    if not wanted:
        return None
    return sum(float(seen[name][world.ATTRIBUTES[name].index(value)]) for name, value in wanted.items()) / len(wanted)


def named_in(prompt: str) -> dict[str, str]:
    """The judged attributes whose value a prompt names, the first one of each.

    >>> named_in("a star, striped, against navy")
    {'shape': 'star', 'background': 'navy', 'style': 'striped'}
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    stems = {"stripes": "striped", "dots": "dotted", "outlines": "outlined", "blurred": "soft", "plain": "flat"}
    values = [stems.get(word, word) for word in words]
    found = {}
    for name in world.JUDGED:
        value = next((value for value in values if value in world.ATTRIBUTES[name]), None)
        if value:
            found[name] = value
    return found
