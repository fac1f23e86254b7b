"""What a picture was conditioned on as one safetensors file: used again without reading anything.

Kept is what the references were joined from: the prompt's plain rows, and each reference's own rows, block, counts,
region and weighting. So a loaded conditioning is the same at every step, and its weights can still be changed. The
rows that come of it are kept beside that, under the name that other tools read, and checked against it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from .conditioning import Conditioning, Part, joined, reweighted
from .declaration import numbered
from .errors import ZvlError, shown
from .options import BY_NAME, UNITS
from .outside import parse_json, plain
from .profiles import MAIN, REFINER, Profile, profile_of
from .tensor_files import LIMIT, TENSOR, read, rows_of
from .tensor_files import save as save_tensors
from .weighting import WEIGHTING, Weighting, check_blocks

VERSION = "1"  # of the form of the file
_MARK = "zvl_conditioning"  # in the metadata: the file's version
_TEXT = "text"  # the tensor of the prompt's plain rows
_TENSORS = ("own", "block", "counts", "region")  # of a part, behind its number: "1.own"
_PROFILE = "profile"  # in the metadata: what is told of it; and before its tensors: "profile.main"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LONGEST = 20_000  # characters of a text in the metadata; a prompt of more is none
_MOST = 8192  # rows; the image model was trained with 512


@dataclass(frozen=True)
class About:
    """What is told of a conditioning, for people. Texts; "" where something is not known.

    Attributes:
        prompt: Whose rows it has.
        image_model: What its rows were made for.
        reader: What read the references: the engine and the model.
        infotext: The settings, as in a picture's parameters.
    """

    prompt: str = ""
    image_model: str = ""
    reader: str = ""
    infotext: str = ""


@dataclass(frozen=True)
class Saved:
    """A conditioning from a file.

    Attributes:
        name: The file's.
        digest: SHA-256 of all that is in the file, in whatever order, hexadecimal.
        changes: What was changed of it since it was read, by the options' names.
        original: The conditioning as it is in the file, where it was changed.
    """

    conditioning: Conditioning
    about: About
    name: str
    digest: str
    changes: dict[str, Any] = field(default_factory=dict)
    original: Conditioning | None = None

    @property
    def _parts(self) -> tuple[Part, ...]:
        """Its references as they are in the file."""
        return (self.original or self.conditioning).parts

    @property
    def weights(self) -> dict[str, Any]:
        """What each of its references weighs, as far as that acts, by the options' names."""
        own = {
            numbered(name, number): getattr(part.weighting, name)
            for number, part in enumerate(self._parts, 1)
            for name in WEIGHTING
            if not self._unheard(name, number)
        }
        return own | self.changes

    @property
    def idle(self) -> bool:
        """Whether it has references, and none with a part in the picture."""
        return bool(self._parts) and all(part.weighting.idle for part in self.conditioning.parts)

    def told_prompt(self, prompts: Iterable[str]) -> list[str]:
        """A line where it was made with another prompt than any of these."""
        kept = self.about.prompt
        if all(prompt == kept for prompt in prompts):
            return []
        whose = f": {shown(kept)}" if kept else ""
        return [f"The prompt has no part in the picture: the conditioning has the rows of its own{whose}."]

    def told_model(self, model: str) -> list[str]:
        """A line where it was made for another image model than this one."""
        made_for = self.about.image_model
        if made_for in ("", model):
            return []
        return [f"The conditioning was made for {plain(made_for)}; with {plain(model)} the picture may differ."]

    def check(self, hidden: int | None, blocks: int | None = None) -> None:
        """Raise ZvlError where an image model can't take it; None is what is not known of one.

        Args:
            hidden: The width of the rows that the image model takes.
            blocks: How many it has.
        """
        if hidden is not None and (width := self.conditioning.rows.shape[-1]) != hidden:
            raise ZvlError(
                f"{plain(self.name)} is {width} wide, the image model takes {hidden}: it was made for another one."
            )
        for part in self.conditioning.parts if blocks is not None else ():
            check_blocks(part.weighting.blocks, blocks or 0)

    def changed(self, values: dict[str, Any]) -> tuple[Saved, list[str]]:
        """The same with other weights.

        Args:
            values: By the options' names, checked; those of the second reference have a 2 behind their name.

        Returns:
            The changed one, and a line for each value that has no effect on a conditioning from a file.
        """
        changes, lines = {}, []
        for name, value in values.items():
            option = BY_NAME[name]
            if why := self._unheard(option.first, option.unit):
                lines.append(f"{option.label} changes nothing here: {why}.")
            else:
                changes[name] = value
        if not changes:
            return self, lines
        changes = self.changes | changes
        weightings = [part.weighting for part in self._parts]
        for name, value in changes.items():
            option, number = BY_NAME[name], BY_NAME[name].unit - 1
            weightings[number] = dataclasses.replace(weightings[number], **{option.first: value})
        original = self.original or self.conditioning
        made = reweighted(original, weightings)
        return dataclasses.replace(self, conditioning=made, changes=changes, original=original), lines

    def _unheard(self, name: str, number: int) -> str:
        """Why a value of a reference has no effect; "" where it has one."""
        parts = self._parts
        if name not in WEIGHTING:
            return "the file was made with its own"
        if number > len(parts):
            there = {0: "no reference", 1: "one reference"}.get(len(parts), f"{len(parts)} references")
            return f"the file has {there} in it"
        part = parts[number - 1]
        if name in ("weight", "blocks") and part.block is None:
            return "it acts on inserted tokens, and the file has none of this reference"
        if (
            part.block is None
            and part.own is not None
            and len(part.own) != len((self.original or self.conditioning).text)
        ):
            return "the file was made with length match truncate"
        return ""


def save(conditioning: Conditioning, path: str, about: About, new: bool = False) -> None:
    """Write a conditioning, whole or not at all.

    Args:
        new: Never take the place of a file that is there.

    Raises:
        ZvlError: it can't be written, is larger than what `load` reads, or the prompt's own rows are not known.
    """
    if not conditioning.text_read:
        raise ZvlError(
            "A conditioning file holds the prompt's own rows, too, and this picture was made by Qwen3-VL alone. Set "
            "alpha to 0.99 and make it again."
        )
    tensors = {TENSOR: conditioning.rows, _TEXT: conditioning.text}
    parts = []
    for number, part in enumerate(conditioning.parts, 1):
        for name in _TENSORS:
            if (tensor := getattr(part, name)) is not None:
                tensors[f"{number}.{name}"] = tensor
        parts.append({name: getattr(part.weighting, name) for name in WEIGHTING} | {"against": part.against})
    profile = next((p.weighting.profile for p in conditioning.parts if p.weighting.profile is not None), None)
    if profile is not None:
        tensors |= {f"{_PROFILE}.{name}": each for name, each in profile.tensors().items()}
    metadata = {
        _MARK: VERSION,
        "hidden": str(conditioning.rows.shape[-1]),
        "place": str(conditioning.place[0]),
        "parts": json.dumps(parts),
        "prompt_sha256": _digest(about.prompt),
        **({} if profile is None else {_PROFILE: json.dumps({"name": profile.name, **dict(profile.about)})}),
        **{name: _whole(text)[:_LONGEST] for name, text in dataclasses.asdict(about).items()},
    }
    if len(conditioning) > _MOST or sum(each.nbytes for each in tensors.values()) > LIMIT - 2**20:
        raise ZvlError(f"A conditioning of {len(conditioning)} tokens is too large for a file. Shorten the prompt.")
    # Each in memory of its own, as the format needs them.
    save_tensors(
        {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}, path, metadata, new
    )


def load(path: str) -> Saved:
    """Read a conditioning. A file that holds the one tensor `hidden_states`, as `blend` writes it, is rows alone.

    Raises:
        ZvlError: it can't be read, is of another version, or its parts do not fit each other.
    """
    tensors, metadata = read(path)
    rows = rows_of(tensors, path)
    if len(rows) > _MOST:
        raise ZvlError(f"{plain(path, 120)} has {len(rows)} tokens, a conditioning has {_MOST} at most.")
    if _MARK not in metadata:
        made, about = Conditioning(rows.float()), About(prompt=_text(metadata, "prompt"))
    elif metadata[_MARK] != VERSION:
        raise ZvlError(
            f"{plain(path, 120)} is a conditioning of version {plain(metadata[_MARK], 20)}, this is Z-Image VL for "
            f"version {VERSION}. Update Z-Image VL, or save it again."
        )
    else:
        try:
            made = _conditioning(tensors, metadata, rows)
        except ValueError as error:
            raise ZvlError(f"{plain(path, 120)} is no conditioning that can be used: {error}.") from None
        about = About(**{each.name: _text(metadata, each.name) for each in dataclasses.fields(About)})
    name = os.path.basename(path)
    return Saved(made, about, name.removesuffix(".safetensors"), _digest_of(tensors, metadata))


def _digest_of(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """The library writes metadata in another order each time."""
    made = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        made.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(_whole(text).encode()).hexdigest()


def _whole(text: str) -> str:
    """A text without half characters, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode()


def _text(metadata: dict[str, str], name: str) -> str:
    """A text for people, as it may be shown."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in metadata.get(name, ""))[:_LONGEST]


def _conditioning(tensors: dict[str, torch.Tensor], metadata: dict[str, str], rows: torch.Tensor) -> Conditioning:
    """What the tensors of a file make.

    Raises:
        ValueError: they do not fit each other; why, in a few words.
    """
    weightings = _weightings(metadata.get("parts", ""))
    names = {TENSOR, _TEXT} | {f"{n}.{name}" for n in range(1, len(weightings) + 1) for name in _TENSORS}
    if (profile := _profile(tensors, metadata)) is not None:
        names |= {f"{_PROFILE}.{name}" for name in (MAIN, REFINER)}
        weightings = [(dataclasses.replace(each, profile=profile), against) for each, against in weightings]
    if strange := sorted(set(tensors) - names):
        raise ValueError(f"it has a tensor {shown(strange[0])}, which is none of a conditioning's")
    text = _checked(tensors, _TEXT, rows.shape[1])
    if text is None or tensors[_TEXT].dtype != rows.dtype or rows.dtype not in _DTYPES:
        raise ValueError(f"the prompt's rows ({_TEXT}) are not there in the dtype of {TENSOR}")
    parts = tuple(
        _part(tensors, number, weighting, against, text) for number, (weighting, against) in enumerate(weightings, 1)
    )
    place = metadata.get("place", "")
    shortest = min([len(text), *(len(part.own) for part in parts if part.own is not None)])
    if not (place.isascii() and place.isdecimal() and len(place) < 10 and int(place) <= shortest):
        raise ValueError(f"its place {shown(place)} is not one of its {shortest} rows")
    made = joined(text.float(), parts, int(place), rows.dtype)
    # The same sums on any machine, to the last bits of the dtype: any other difference is another file's.
    near = torch.finfo(rows.dtype).eps * 8 * float(made.rows.float().abs().max())
    if made.rows.shape != rows.shape or not float((made.rows.float() - rows.float()).abs().max()) <= near:
        raise ValueError(f"{TENSOR} is not what its parts make. Save it again, or change neither")
    return made


def _weightings(text: str) -> list[tuple[Weighting, bool]]:
    """Of each part its weighting, and whether the prompt is led away from it."""
    parts = parse_json(text)
    if not isinstance(parts, list) or len(parts) > UNITS or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"its parts are no list of at most {UNITS} objects")
    made = []
    for part in parts:
        if set(part) != {*WEIGHTING, "against"} or not isinstance(part["against"], bool):
            raise ValueError("what it says of a part is not what a conditioning says")
        try:
            made.append((Weighting(**{name: BY_NAME[name].check(part[name]) for name in WEIGHTING}), part["against"]))
        except ZvlError as error:
            raise ValueError(str(error).removeprefix("Z-Image VL: ").rstrip(".")) from None
    return made


def _profile(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Profile | None:
    """What the weights of all references are multiplied with; None where there is none."""
    if _PROFILE not in metadata:
        return None
    told = parse_json(metadata[_PROFILE])
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        raise ValueError("what it says of its profile is not what a conditioning says")
    main, refiner = (tensors.get(f"{_PROFILE}.{name}") for name in (MAIN, REFINER))
    return profile_of(main, refiner, plain(told["name"], 200), told)


def _part(
    tensors: dict[str, torch.Tensor], number: int, weighting: Weighting, against: bool, text: torch.Tensor
) -> Part:
    hidden = text.shape[1]
    own, block = (_checked(tensors, f"{number}.{name}", hidden) for name in ("own", "block"))
    counts, region = _checked(tensors, f"{number}.counts", None, 1), _checked(tensors, f"{number}.region", None)
    if own is not None and len(own) > len(text):
        raise ValueError(f"{number}.own has {len(own)} rows, the prompt {len(text)}")
    if counts is not None and (block is None or len(counts) != len(block) or not bool((counts > 0).all())):
        raise ValueError(f"{number}.counts does not fit the block's rows")
    if region is not None and not (float(region.min()) >= 0.0 and 0.0 < float(region.max()) <= 1.0):
        raise ValueError(f"{number}.region has nothing of the picture in it, or values outside 0 to 1")
    return Part(weighting, own, block, counts, region, against)


def _checked(tensors: dict[str, torch.Tensor], name: str, width: int | None, ndim: int = 2) -> torch.Tensor | None:
    """A tensor of a file, None where there is none."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    fits = tensor.ndim == ndim and 0 not in tensor.shape and (width is None or tensor.shape[-1] == width)
    if not fits or tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} has values that are not finite")
    return tensor
