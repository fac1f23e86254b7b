"""One call of the web UI's image model with hooks on its blocks' attention: marks beside the conditioning become a
bias."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from backend import attention as host_attention

from ..attention import Biases, Layout, filling, in_front, masked, patches_of
from ..conditioning import Part
from ..errors import ZvlError
from ..factors import factors_of
from ..profiles import Profile
from .forge_shares import Watch

_HEADS = ("n_local_heads", "n_heads", "num_heads", "heads")  # how an attention may call their number
MARKS, OWNERS = "zvl_marks", "zvl_owners"  # beside the conditioning in a call
ELSEWHERE = "Choose weight 1, or look for an update of Z-Image VL."
UNKNOWN = f"This image model's blocks are not built as Z-Image VL knows them, so no weight can be set. {ELSEWHERE}"
EXCHANGED = f"Another extension has exchanged the conditioning, so the weight can't reach the reference. {ELSEWHERE}"


@dataclass(frozen=True)
class Form:
    """How an image model's blocks are built, in the web UI's names.

    Attributes:
        main: Its lists of blocks that see the caption and the picture, the first ones first.
        mask: Under which name their attention (`attention_of`) takes a mask.
        width: Of a block, how wide the rows are that it reads.
        parted: Whether a block's attention is a module of its own.
        caption: Its list of blocks that see the caption alone, or "".
        picture: Its list of blocks that see the picture alone, or "".
        rows: Under which names attention takes what attends, one behind another, where that is not all in its first
            argument; it need not have all of these names.
        tables: Under which name attention takes rotary tables in which the rows that fill the picture up have no
            distance from the caption; "": there are no such rows.
    """

    main: tuple[str, ...]
    mask: str
    width: Callable[[Any], int]
    parted: bool
    caption: str = ""
    picture: str = ""
    rows: tuple[str, ...] = ()
    tables: str = ""

    def fits(self, model: Any) -> bool:
        """Whether an image model's blocks are built like this."""
        lists = [_blocks(model, name) for name in (*self.main, self.caption) if name]
        return all(lists) and all(self._takes(block) for blocks in lists for block in blocks)

    def width_of(self, model: Any) -> int | None:
        """How wide an image model's rows are; None where that can't be told."""
        with contextlib.suppress(AttributeError, TypeError, IndexError):  # quantized, or built in another way
            return int(self.width(getattr(model, self.main[0])[0]))
        return None

    def _takes(self, block: Any) -> bool:
        attention = attention_of(block)
        names = set(inspect.signature(attention.forward).parameters)
        return (attention is not block) == self.parted and {self.mask, *filter(None, [self.tables])} <= names


Z_IMAGES = Form(
    main=("layers",),
    mask="x_mask",
    width=lambda block: block.attention_norm1.weight.shape[0],
    parted=True,
    caption="context_refiner",
    picture="noise_refiner",
    tables="freqs_cis",
)
FLUXS = Form(
    main=("double_blocks", "single_blocks"),
    mask="attn_mask",
    width=lambda block: block.hidden_size,
    parted=False,
    rows=("txt", "img", "x"),
)
FORMS = (Z_IMAGES, FLUXS)


class Call:
    """One call of the image model with hooks on it.

    Args:
        watch: Measures the attention of its main blocks.

    Attributes:
        calls: How often the model ran.
        whole: Whether all blocks took their part in every run.
        blocks: Those that take the weights, each with its factors.
    """

    def __init__(self, model: Any, parts: tuple[Part, ...], weights: list[float], watch: Watch | None = None):
        self._model = model
        self._attending = watch
        self._parts = parts
        self._weights = torch.tensor(weights)
        self._handles: list[Any] = []
        self._asked = 0
        self.calls = 0
        self.whole = False
        self._form, refiner, main = blocks_of(model)
        factors = factors_of([[part.weighting for part in parts]], len(main), len(refiner))
        self.blocks = [*zip(refiner, factors.refiner), *zip(main, factors.main)]
        self._in_caption, self._main = set(map(id, refiner)), main

    def install(self) -> None:
        self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(self._end))
        for block in _blocks(self._model, self._form.picture):
            self._handles.append(attention_of(block).register_forward_pre_hook(self._of_picture, with_kwargs=True))
        for block, factor in self.blocks:
            self._weigh(attention_of(block), factor, id(block) in self._in_caption)
        if self._attending is not None:
            self._handles += self._attending.hooks([attention_of(block) for block in self._main])

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self._asked = 0
        self.calls += 1
        kwargs = dict(kwargs)
        marked, owners = kwargs.pop(MARKS, None), kwargs.pop(OWNERS, None)
        caption = kwargs.get("context", args[2] if len(args) > 2 else None)
        if marked is None or caption is None:
            raise ZvlError(EXCHANGED)
        if marked.shape[0] != caption.shape[0] and caption.shape[0] % marked.shape[0] == 0:
            tiles = caption.shape[0] // marked.shape[0]  # of one picture
            marked, owners = marked.repeat(tiles, 1, 1), None if owners is None else owners.repeat(tiles, 1, 1)
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
        if self._attending is not None and owners is not None:
            self._attending.begin(owners, self._caption, patches)
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

    def _weigh(self, attention: Any, factor: torch.Tensor, in_caption: bool) -> None:
        mask, names = self._form.mask, list(inspect.signature(attention.forward).parameters)
        place = names.index(mask)

        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            self._asked += 1
            if not in_caption:
                args, kwargs = self._of_picture(module, args, kwargs)
            given = dict(zip(names, args)) | kwargs
            rows = [given[name] for name in self._form.rows if name in given] or [given[names[0]]]
            layout = Layout(sum(part.shape[1] for part in rows), 0, None if in_caption else self._caption)
            added = self._biases.of(factor, layout, rows[0].dtype)
            if added is None:
                return args, kwargs
            return _with(args, kwargs, place, mask, masked(added, given.get(mask)))

        self._handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def _of_picture(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The rotary tables with the rows that fill the picture up at their usual distance.

        The host gives these rows position 0, whatever the caption is. A block in front of the prompt moves the prompt
        and the picture on by its length, so these rows go along, or a weight towards 0 would not tend to the plain
        picture.
        """
        if not self._form.tables or not self._filled or not any(self._moved):
            return args, kwargs
        place = list(inspect.signature(module.forward).parameters).index(self._form.tables)
        tables = args[place] if len(args) > place else kwargs.get(self._form.tables)
        if not isinstance(tables, torch.Tensor):
            return args, kwargs
        positions = torch.zeros(max(len(tables), 1), 1, 3, device=tables.device)
        positions[:, 0, 0] = torch.tensor(self._moved[: len(positions)], device=tables.device)
        there = self._model.rope_embedder(positions).movedim(1, 2).to(tables)
        moved = positions[:, 0, 0] > 0
        tables = tables.clone()
        tables[moved, -self._filled :] = there[moved]
        return _with(args, kwargs, place, self._form.tables, tables)


def _with(args: tuple, kwargs: dict, place: int, name: str, value: Any) -> tuple[tuple, dict]:
    """The arguments with another value at a place, or under its name."""
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _blocks(model: Any, name: str) -> list:
    """A list of blocks by its name; [] where there is none."""
    return list(getattr(model, name, ())) if name else []


def attention_of(block: Any) -> Any:
    """What in a block takes a mask: its attention, or the block itself where that is no module of its own."""
    return getattr(block, "attention", block)


def blocks_of(model: Any) -> tuple[Form, list, list]:
    """How an image model's blocks are built, those that refine the caption, and the main ones.

    Raises:
        ZvlError: they are built in no way that is known, or their attention takes no mask.
    """
    form = next((form for form in FORMS if form.fits(model)), None)
    if form is None:
        raise ZvlError(UNKNOWN)
    return form, _blocks(model, form.caption), [block for name in form.main for block in _blocks(model, name)]


def check_profile(profile: Profile, model: Any) -> None:
    """Raise ZvlError where a profile is not about an image model like this, or the heads of its blocks are not
    known."""
    form, refiner, main = blocks_of(model)
    attention = attention_of(main[0])
    heads = next((n for name in _HEADS if isinstance(n := getattr(attention, name, None), int)), None)
    if heads is None:
        raise ZvlError(UNKNOWN)
    profile.check(len(main), heads, len(refiner), form.width_of(model))


@contextlib.contextmanager
def routed(blocks: list, seen: Callable | None = None) -> Iterator[None]:
    """Let the blocks' attention go through the host's function for PyTorch, which takes a bias, where there is one.

    Sage attention ignores one without a word, flash attention writes an error for every block.

    Args:
        seen: Given what each of them attends with, before it does.
    """
    plain = getattr(host_attention, "attention_pytorch", None)
    spaces = {}
    for block, _ in blocks:
        space = getattr(inspect.unwrap(type(attention_of(block)).forward), "__globals__", {})
        if "attention_function" in space and plain is not None:
            spaces[id(space)] = space
    before = [(space, space["attention_function"]) for space in spaces.values()]
    try:
        for space, function in before:
            space["attention_function"] = _chosen(function, plain, seen)
        yield
    finally:
        for space, function in before:
            space["attention_function"] = function


def _chosen(function: Callable, with_mask: Callable, seen: Callable | None) -> Callable:
    def attention(q: Any, k: Any, v: Any, heads: int, mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        if seen is not None:
            seen(q, k, heads, mask, kwargs)
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
