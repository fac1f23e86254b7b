"""What safetensors headers say of a Qwen3-VL: tensors by transformers' names, their forms, their scales."""

from __future__ import annotations

import dataclasses
import os

from ..errors import ZvlError
from . import notes
from .checkpoint import Stored
from .forms import FORMS
from .gguf_files import read_gguf
from .names import has_place, inner_names
from .notes import Note
from .pieces import Pieces
from .safetensors_header import Entry, read_header
from .scales import block_of
from .wanted import WANTED

_SCALES = (".weight_scale_inv", ".weight_scale", ".scale_weight")
_SCALE_FORMS = ("F32", "BF16", "F16")
_FORMS = {name: form for name, form in FORMS.items() if form.numbers == 1}  # the others are GGUF's
_OF_INPUTS = (".input_scale", ".scale_input")  # of what comes in, where that is brought to eight bits, too
_NOTE = ".comfy_quant"
_LONGEST_KEY = 160  # letters; in all-in-one files they have up to 100
# Parts of the names of what else stands beside a weight and changes what it means: nvfp4's second scale, zero points, …
_CHANGING = ("scale", "quant", "zero", "absmax", "codebook", "_idx", "packed")


def read_headers(files: list[str], name: str) -> tuple[dict[str, Stored], dict[str, Stored], dict[str, str]]:
    """What the headers of one model's files, safetensors or GGUF, say: tensors and scales by their inner names, and the
    metadata.

    What can't be read is told by `Stored.problem`: a file whose language model can't be read serves engine splice.

    Raises:
        ZvlError: a file is not whole, or there is no vision tower that can be read.
    """
    if all(file.lower().endswith(".gguf") for file in files):
        tensors, metadata = read_gguf(files, name)
        scales: dict[str, Stored] = {}
    else:
        tensors, scales, metadata = _read_safetensors(files, name)
    tower = [stored for own, stored in tensors.items() if own.startswith("visual.")]
    if not tower:
        raise ZvlError(f"{name} is not a Qwen3-VL: it has no vision tower. {WANTED}.")
    if problem := next((stored.problem for stored in tower if stored.problem), ""):
        raise ZvlError(f"{name}: {problem}. {WANTED}.")
    return tensors, scales, metadata


def _read_safetensors(files: list[str], name: str) -> tuple[dict[str, Stored], dict[str, Stored], dict[str, str]]:
    found: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    said: dict[str, Note] = {}
    for file in files:
        with Pieces(file, name) as pieces:
            try:
                more, entries = read_header(pieces)
            except ValueError as error:
                if isinstance(error, ZvlError):
                    raise
                base = os.path.basename(file)
                whole = base if name.endswith(base) else f"{name}: {base}"
                raise ZvlError(f"{whole} is not a whole safetensors file ({error}). Download it again.") from error
            metadata |= more
            for key, entry in entries.items():
                if key.isprintable() and len(key) <= _LONGEST_KEY:
                    found[key] = Stored(file, key, entry.shape, entry.dtype, entry.start, pieces.version)
                    if key.endswith(_NOTE):
                        said[key.removesuffix(_NOTE)] = _note(pieces, entry)
    inner = inner_names(found)
    named = {own: stored for key, stored in found.items() if (own := inner(key)) is not None}
    said = notes.in_metadata(metadata) | said
    told = {own: note for key, note in said.items() if (own := inner(key)) is not None}
    scales = {
        own.removesuffix(ending) + ".weight": stored
        for ending in _SCALES
        for own, stored in named.items()
        if own.endswith(ending)
    }
    companions = {own for own in named if own.endswith((*_SCALES, *_OF_INPUTS, _NOTE))}
    weights = {own: stored for own, stored in named.items() if own not in companions}
    changing = _changing(weights)
    tensors = {
        own: _judged(own, stored, scales.get(own), told.get(own.removesuffix(".weight")), changing.get(own, ""))
        for own, stored in weights.items()
        if has_place(own)
    }
    return tensors, scales, metadata


def _note(pieces: Pieces, entry: Entry) -> Note:
    if entry.size > notes.LONGEST or entry.dtype not in ("U8", "I8"):
        return Note(problem="something")
    return notes.parse(pieces.read(entry.start, entry.size))


def _changing(tensors: dict[str, Stored]) -> dict[str, str]:
    """Weights beside which something stands that changes what they mean, and the name of that."""
    found = {}
    for own in tensors:
        stem, _, leaf = own.rpartition(".")
        weight = f"{stem}.weight"
        if leaf not in ("weight", "bias") and weight in tensors and any(part in leaf for part in _CHANGING):
            found[weight] = own
    return found


def _judged(own: str, stored: Stored, scale: Stored | None, note: Note | None, beside: str) -> Stored:
    """A tensor with what is known of its form: how it is read, or why it can't be."""
    form, note = _FORMS.get(stored.dtype), note or Note()
    problem, block = "", None
    if note.problem or not notes.fits(note.format, stored.dtype):
        problem = (
            f"{own.removesuffix('.weight')}{_NOTE} says {note.problem or repr(note.format)}, a quantization that can't "
            "be read"
        )
    elif form is None:
        problem = f"the tensor {own} is stored as {stored.dtype}, which can't be read"
    elif beside:
        problem = f"the tensor {own} has {beside.rpartition('.')[2]} beside it, a quantization that can't be read"
    elif form.packed and scale is not None:
        block = block_of(stored.shape, scale.shape, note.group)
        if scale.dtype not in _SCALE_FORMS:
            problem = f"the scale of {own} is stored as {scale.dtype}, which can't be read"
        elif block is None:
            problem = (
                f"the scale of {own} does not fit it, or is of a kind that can't be read: {list(scale.shape)} for "
                f"{list(stored.shape)}"
            )
    elif form.scaled:
        problem = f"the tensor {own} is stored as {stored.dtype} without a scale"
    if note.rotation and not problem and (len(stored.shape) != 2 or stored.shape[1] % note.rotation):
        problem = f"the tensor {own} is {list(stored.shape)}, and rotated by groups of {note.rotation}"
    return dataclasses.replace(stored, block=block, rotation=note.rotation, problem=problem)
