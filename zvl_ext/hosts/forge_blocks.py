"""One call of the web UI's Z-Image with hooks on its blocks' attention: marks beside the conditioning become a bias."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from backend import attention as host_attention

from ..attention import Biases, Layout, filling, in_front, masked, patches_of
from ..conditioning import Part
from ..errors import ZvlError
from ..factors import factors_of
from ..profiles import Profile

_HEADS = ("n_local_heads", "n_heads", "heads")  # how an attention may call their number
MARKS = "zvl_marks"  # beside the conditioning in a call
ELSEWHERE = "Choose weight 1, or look for an update of Z-Image VL."
UNKNOWN = f"This image model's blocks are not built as Z-Image VL knows them, so no weight can be set. {ELSEWHERE}"
EXCHANGED = f"Another extension has exchanged the conditioning, so the weight can't reach the reference. {ELSEWHERE}"


class Call:
    """One call of the image model with hooks on it.

    Attributes:
        calls: How often the model ran.
        whole: Whether all blocks took their part in every run.
    """

    def __init__(self, model: Any, parts: tuple[Part, ...], weights: list[float]):
        self._model = model
        self._parts = parts
        self._weights = torch.tensor(weights)
        self._handles: list[Any] = []
        self._asked = 0
        self.calls = 0
        self.whole = False
        refiner, main = blocks_of(model)
        factors = factors_of([[part.weighting for part in parts]], len(main), len(refiner))
        self.blocks = [*zip(refiner, factors.refiner), *zip(main, factors.main)]
        self._in_caption = set(map(id, refiner))

    def install(self) -> None:
        self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(self._end))
        for block in self._model.noise_refiner if hasattr(self._model, "noise_refiner") else ():
            self._handles.append(block.attention.register_forward_pre_hook(self._of_picture, with_kwargs=True))
        for block, factor in self.blocks:
            self._watch(block.attention, factor, id(block) in self._in_caption)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self._asked = 0
        self.calls += 1
        kwargs = dict(kwargs)
        marked, caption = kwargs.pop(MARKS, None), kwargs.get("context", args[2] if len(args) > 2 else None)
        if marked is None or caption is None:
            raise ZvlError(EXCHANGED)
        if marked.shape[0] != caption.shape[0] and caption.shape[0] % marked.shape[0] == 0:
            marked = marked.repeat(caption.shape[0] // marked.shape[0], 1, 1)  # tiles of one picture
        if marked.shape[:2] != caption.shape[:2]:
            raise ZvlError(EXCHANGED)
        marked = marked.to(caption.device, torch.float32)
        # Rows at the end of the picture that the model fills it up with, and how far the block moves the picture on.
        height, width = args[0].shape[-2:]
        patch = getattr(module, "patch_size", 2)
        rows, columns = -(-height // patch), -(-width // patch)
        patches = rows * columns
        weights = self._weights.to(caption.device).expand(len(marked), -1)
        self._biases = Biases(marked, weights, *self._regions(rows, columns))
        multiple = getattr(module, "pad_tokens_multiple", None)
        self._filled = filling(patches) if multiple else 0
        self._caption = marked.shape[1] + (filling(marked.shape[1]) if multiple else 0)
        self._moved = in_front(marked)
        return args, kwargs

    def _regions(self, rows: int, columns: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The references' regions on a picture's patches, for `Biases`."""
        if all(part.region is None for part in self._parts):
            return None, None
        everywhere = torch.ones(rows * columns)
        regions = [everywhere if p.region is None else patches_of(p.region, rows, columns) for p in self._parts]
        return torch.stack(regions, -1)[None], torch.tensor([[p.region is not None for p in self._parts]])

    def _end(self, module: Any, args: tuple, output: Any) -> None:
        self.whole = self._asked == len(self.blocks)

    def _watch(self, attention: Any, factor: torch.Tensor, in_caption: bool) -> None:
        place = _place(attention, "x_mask")

        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            self._asked += 1
            if not in_caption:
                args, kwargs = self._of_picture(module, args, kwargs)
            rows = args[0] if args else kwargs["x"]
            layout = Layout(rows.shape[1], 0, None if in_caption else self._caption)
            added = self._biases.of(factor, layout, rows.dtype)
            if added is None:
                return args, kwargs
            there = args[place] if len(args) > place else kwargs.get("x_mask")
            return _with(args, kwargs, place, "x_mask", masked(added, there))

        self._handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def _of_picture(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The rotary tables with the rows that fill the picture up at their usual distance.

        The host gives these rows position 0, whatever the caption is. A block in front of the prompt moves the prompt
        and the picture on by its length, so these rows go along, or a weight towards 0 would not tend to the plain
        picture.
        """
        place = _place(module, "freqs_cis")
        tables = args[place] if len(args) > place else kwargs.get("freqs_cis")
        if not self._filled or not any(self._moved) or not isinstance(tables, torch.Tensor):
            return args, kwargs
        positions = torch.zeros(max(len(tables), 1), 1, 3, device=tables.device)
        positions[:, 0, 0] = torch.tensor(self._moved[: len(positions)], device=tables.device)
        there = self._model.rope_embedder(positions).movedim(1, 2).to(tables)
        moved = positions[:, 0, 0] > 0
        tables = tables.clone()
        tables[moved, -self._filled :] = there[moved]
        return _with(args, kwargs, place, "freqs_cis", tables)


def _with(args: tuple, kwargs: dict, place: int, name: str, value: Any) -> tuple[tuple, dict]:
    """The arguments with another value at a place, or under its name."""
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _place(attention: Any, name: str) -> int:
    return list(inspect.signature(attention.forward).parameters).index(name)


def blocks_of(model: Any) -> tuple[list, list]:
    """The blocks that refine the caption, and the main blocks.

    Raises:
        ZvlError: they are not there, or their attention takes no mask.
    """
    refiner, main = (list(getattr(model, name, ())) for name in ("context_refiner", "layers"))
    if not refiner or not main:
        raise ZvlError(UNKNOWN)
    for block in (*refiner, *main):
        attention = getattr(block, "attention", None)
        if attention is None or not {"x_mask", "freqs_cis"} <= set(inspect.signature(attention.forward).parameters):
            raise ZvlError(UNKNOWN)
    return refiner, main


def check_profile(profile: Profile, refiner: list, main: list) -> None:
    """Raise ZvlError where a profile is not about an image model with these blocks, or their heads are not known."""
    attention = main[0].attention
    heads = next((n for name in _HEADS if isinstance(n := getattr(attention, name, None), int)), None)
    if heads is None:
        raise ZvlError(UNKNOWN)
    profile.check(len(main), heads, len(refiner), _width(main[0]))


def _width(block: Any) -> int | None:
    """Of the rows that a block reads; None where it can't be told."""
    shape = getattr(getattr(getattr(block, "attention_norm1", None), "weight", None), "shape", ())
    return shape[0] if len(shape) == 1 else None


@contextlib.contextmanager
def routed(blocks: list) -> Iterator[None]:
    """Let the blocks' attention go through the host's function for PyTorch, which takes a bias, where there is one.

    Sage attention ignores one without a word, flash attention writes an error for every block.
    """
    plain = getattr(host_attention, "attention_pytorch", None)
    spaces = {}
    for block, _ in blocks:
        space = getattr(inspect.unwrap(type(block.attention).forward), "__globals__", {})
        if "attention_function" in space and plain is not None:
            spaces[id(space)] = space
    before = [(space, space["attention_function"]) for space in spaces.values()]
    try:
        for space, function in before:
            space["attention_function"] = _chosen(function, plain)
        yield
    finally:
        for space, function in before:
            space["attention_function"] = function


def _chosen(function: Callable, with_mask: Callable) -> Callable:
    def attention(q: Any, k: Any, v: Any, heads: int, mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        return (function if mask is None else with_mask)(q, k, v, heads, mask, *args, **kwargs)

    return attention


@contextlib.contextmanager
def uncompiled(model: Any) -> Iterator[Any]:
    """The image model of the host's model as it was before torch.compile, which ignores hooks that come later.

    What was compiled is in its place again afterwards.
    """
    restore: list[Callable[[], None]] = []

    def exchange(owner: Any, name: str, module: Any) -> Any:
        original = getattr(module, "_orig_mod", module)
        if original is not module:
            owner._modules[name] = original
            restore.append(lambda: owner._modules.__setitem__(name, module))
        if (compiled := getattr(original, "_compiled_call_impl", None)) is not None:
            original._compiled_call_impl = None
            restore.append(lambda: setattr(original, "_compiled_call_impl", compiled))
        return original

    try:
        plain = exchange(model, "diffusion_model", model.diffusion_model)
        for part in list(plain.modules()):
            for name, child in list(part._modules.items()):
                if child is not None:
                    exchange(part, name, child)
        yield plain
    finally:
        for undo in reversed(restore):
            undo()
