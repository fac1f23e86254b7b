"""Weighted attention in the web UI's Z-Image, for one generation; nothing of the host is replaced for longer than a
call.

The way of a weight: each prompt's conditioning carries its `Conditioning` as an attribute through the host's cache. At
every step the host asks a function of ours (a conditioning modifier), which reads what the host's sampler is using at
this step and puts marks beside it; the marks go with the conditioning wherever the host repeats, joins or splits it.
Around each call of the image model, hooks on its attention turn marks into a bias.
"""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from backend import attention as host_attention
from backend.sampling.condition import ConditionCrossAttn
from modules import prompt_parser

from ..attention import OWNER, Biases, filling
from ..conditioner import Conditioning
from ..errors import ZvlError
from ..weighting import Weighting, way

CARRIED = "zvl_conditioning"  # on a tensor of the host's conditioning
MARKS = "zvl_marks"  # beside it in a call
_ELSEWHERE = "Choose weight 1, or look for an update of Z-Image VL."
_UNKNOWN = f"This image model's blocks are not built as Z-Image VL knows them, so no weight can be set. {_ELSEWHERE}"
_EXCHANGED = f"Another extension has exchanged the conditioning, so the weight can't reach the reference. {_ELSEWHERE}"
_PARTLY = f"Only a part of the image model's blocks took the weight. {_ELSEWHERE}"


def carry(rows: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """Rows that bring their conditioning along. A steady one needs none."""
    if not conditioning.steady:
        setattr(rows, CARRIED, conditioning)
    return rows


class Stack(torch.Tensor):
    """Several rows as one tensor [prompts, rows, hidden], for hosts that ask for it; what is taken out carries its
    own."""

    @classmethod
    def of(cls, rows: list[torch.Tensor]) -> torch.Tensor:
        stack = torch.stack(rows).as_subclass(cls)
        stack.parts = rows
        return stack

    def __getitem__(self, place: Any) -> torch.Tensor:
        return self.parts[place] if isinstance(place, int) else self.as_subclass(torch.Tensor)[place]

    def squeeze(self, *dim: Any) -> torch.Tensor:
        return self.parts[0] if len(self.parts) == 1 else self.as_subclass(torch.Tensor).squeeze(*dim)


def check(engine: Any) -> None:
    """Raise ZvlError where a loaded engine's image model can't be given a weight: before the sampling begins."""
    unet = engine.forge_objects.unet
    model = getattr(unet.model, "diffusion_model", None)
    if not hasattr(unet, "add_conditioning_modifier") or not hasattr(unet, "clone") or model is None:
        raise ZvlError(_UNKNOWN)
    with uncompiled(unet.model) as plain:
        _blocks(plain)
    if _masks(getattr(host_attention, "attention_pytorch", None)) is False:
        raise ZvlError(f"The web UI's attention ignores a mask, so no weight can be set. {_ELSEWHERE}")


class Weights:
    """The weights of one generation.

    Args:
        p: The generation.
        weighting: Of its reference.
        refuse: Makes what ends the generation of a line for the user.

    Attributes:
        used: Whether a call of the image model has taken them.
    """

    def __init__(self, p: Any, weighting: Weighting, refuse: Callable[[str], Exception]):
        self.p = p
        self.weighting = weighting
        self._refuse = refuse
        self.used = False
        itself = weakref.ref(self)

        # A plain function: the host copies its models' options deeply, and everything else in them with its state.
        def modifier(*args: Any) -> tuple:
            alive = itself()
            if alive is None:
                return args
            with alive._refusing():
                return alive._modified(*args)

        self._modifier = modifier

    def install(self, engine: Any) -> None:
        """Have the modifier asked in the sampling that comes. The host drops it before the next one."""
        unet = engine.forge_objects.unet.clone()
        unet.add_conditioning_modifier(self._modifier)
        engine.forge_objects.unet = unet

    def keep(self, engine: Any) -> None:
        """Have it asked by a model, too, that came in the middle of a sampling."""
        if self._modifier not in engine.forge_objects.unet.model_options.get("conditioning_modifiers", []):
            self.install(engine)

    def _modified(
        self,
        model: Any,
        x: Any,
        timestep: Any,
        uncond: Any,
        cond: list,
        cond_scale: float,
        options: dict,
        seed: Any,
    ) -> tuple:
        """The host's hook, once for each step: what it is about to condition on, with the weights of this step."""
        denoiser, conditioning = self.p.sampler.model_wrap_cfg, self.p.sampler.sampler_extra_args["cond"]
        done = way(denoiser.step, denoiser.total_steps)
        part = min(1.0, self.weighting.at(done))
        order, marked, lost = _at_step(conditioning, denoiser.step, part)
        if len(order[0]) != len(cond):
            raise ZvlError(_EXCHANGED)
        cond = [self._marked(each, [row[i][0] for row in order], marked, lost) for i, each in enumerate(cond)]
        if uncond is not None:
            uncond = [self._marked(each, None, marked, None) for each in uncond]
        inner = options.get("model_function_wrapper")

        def wrapper(apply: Callable, args: dict) -> Any:
            with self._refusing(), self._hooked(model, self.weighting.at(done)):
                return inner(apply, args) if inner else apply(args["input"], args["timestep"], **args["c"])

        return model, x, timestep, uncond, cond, cond_scale, {**options, "model_function_wrapper": wrapper}, seed

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except ZvlError as error:
            raise self._refuse(str(error)) from None

    @staticmethod
    def _marked(entry: dict, places: list[int] | None, marked: torch.Tensor, lost: torch.Tensor | None) -> dict:
        """One entry of the host's conditioning with marks beside it, and with less of the reference in the prompt's
        rows."""
        conds = dict(entry["model_conds"])
        rows = conds["c_crossattn"].cond
        marks = rows.new_zeros(*rows.shape[:2], 2) if places is None else marked[places].to(rows.device)
        if marks.shape[:2] != rows.shape[:2]:
            raise ZvlError(_EXCHANGED)
        if lost is not None:
            rows = rows - lost[places].to(rows)
            conds["c_crossattn"] = conds["c_crossattn"]._copy_with(rows)
        conds[MARKS] = ConditionCrossAttn(marks)
        return {**entry, "cross_attn": rows if lost is not None else entry.get("cross_attn"), "model_conds": conds}

    @contextlib.contextmanager
    def _hooked(self, model: Any, weight: float) -> Iterator[None]:
        """Hooks on the image model for the time of one call of it."""
        with uncompiled(model) as plain, contextlib.ExitStack() as hooks:
            call = _Call(plain, self.weighting, weight)
            hooks.callback(call.remove)
            call.install()
            with _routed(call.blocks):
                yield
            if not self.used and call.calls and not call.whole:
                raise ZvlError(_PARTLY)
            self.used = self.used or call.whole


def _at_step(conditioning: Any, step: int, part: float) -> tuple[list, torch.Tensor, torch.Tensor | None]:
    """What the host's sampler conditions on at a step, put together by the host's own function.

    Returns:
        For each picture its sub-prompts as (place, weight); the marks at these places, [places, rows, 2]; and what the
        prompts' rows lose against those with the reference at its full part, [places, rows, hidden], or None.
    """
    carried = [
        getattr(entry.cond, CARRIED, None)
        for parts in conditioning.batch
        for each in parts
        for entry in each.schedules
        if isinstance(entry.cond, torch.Tensor)
    ]
    if not any(carried):
        raise ZvlError(_EXCHANGED)

    def rebuilt(column: Callable[[torch.Tensor, Conditioning | None], torch.Tensor]) -> tuple[list, torch.Tensor]:
        def line(each: Any) -> Any:
            schedules = [
                SimpleNamespace(end_at_step=e.end_at_step, cond=column(e.cond, getattr(e.cond, CARRIED, None)))
                for e in each.schedules
            ]
            return SimpleNamespace(schedules=schedules, weight=each.weight)

        batch = [[line(each) for each in parts] for parts in conditioning.batch]
        return prompt_parser.reconstruct_multicond_batch(SimpleNamespace(batch=batch), step)

    def marks_of(rows: torch.Tensor, own: Conditioning | None) -> torch.Tensor:
        return rows.new_zeros(len(rows), 2) if own is None or own.marks is None else own.marks.to(rows)

    def lost_of(rows: torch.Tensor, own: Conditioning | None) -> torch.Tensor:
        if own is None or own.plain is None:
            return torch.zeros_like(rows)
        return (1.0 - part) * (own.rows - own.plain).to(rows)

    order, marked = rebuilt(marks_of)
    changes = part < 1.0 and any(own is not None and own.plain is not None for own in carried)
    return order, marked, rebuilt(lost_of)[1] if changes else None


class _Call:
    """One call of the image model with hooks on it.

    Attributes:
        calls: How often the model ran.
        whole: Whether all blocks took their part in every run.
    """

    def __init__(self, model: Any, weighting: Weighting, weight: float):
        self._model = model
        self._weight = weight
        self._handles: list[Any] = []
        self._asked = 0
        self.calls = 0
        self.whole = False
        refiner, main = _blocks(model)
        factors = weighting.factors(len(main))
        # The refiner that reads the caption serves all blocks: it has the largest of their factors.
        self.blocks = [*((block, max(factors)) for block in refiner), *zip(main, factors)]
        self._in_caption = set(map(id, refiner))

    def install(self) -> None:
        self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(self._end))
        for block in self._model.noise_refiner if hasattr(self._model, "noise_refiner") else ():
            self._handles.append(block.attention.register_forward_pre_hook(self._of_picture, with_kwargs=True))
        for block, factor in self.blocks:
            self._watch(block.attention, torch.tensor(factor), id(block) in self._in_caption)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self._asked = 0
        self.calls += 1
        kwargs = dict(kwargs)
        marked, caption = kwargs.pop(MARKS, None), kwargs.get("context", args[2] if len(args) > 2 else None)
        if marked is None or caption is None:
            raise ZvlError(_EXCHANGED)
        if marked.shape[0] != caption.shape[0] and caption.shape[0] % marked.shape[0] == 0:
            marked = marked.repeat(caption.shape[0] // marked.shape[0], 1, 1)  # tiles of one picture
        if marked.shape[:2] != caption.shape[:2]:
            raise ZvlError(_EXCHANGED)
        marked = marked.to(caption.device, torch.float32)
        weights = torch.full((len(marked),), self._weight, device=caption.device)
        self._biases = Biases(marked, weights)
        # Rows at the end of the picture that the model fills it up with, and how far the block moves the picture on.
        height, width = args[0].shape[-2:]
        patch = getattr(module, "patch_size", 2)
        patches = -(-height // patch) * -(-width // patch)
        multiple = getattr(module, "pad_tokens_multiple", None)
        self._filled = filling(patches) if multiple else 0
        front = (marked[..., OWNER] != 0).long().cumprod(1).sum(1)
        self._moved = [int(rows) for rows in front]
        return args, kwargs

    def _end(self, module: Any, args: tuple, output: Any) -> None:
        self.whole = self._asked == len(self.blocks)

    def _watch(self, attention: Any, factor: torch.Tensor, in_caption: bool) -> None:
        place = _place(attention, "x_mask")

        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            self._asked += 1
            if not in_caption:
                args, kwargs = self._of_picture(module, args, kwargs)
            rows = args[0] if args else kwargs["x"]
            added = self._biases.of(factor, 0, rows.shape[1], rows.dtype)
            if added is None:
                return args, kwargs
            there = args[place] if len(args) > place else kwargs.get("x_mask")
            return _with(args, kwargs, place, "x_mask", added if there is None else added + there.to(added))

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


def _blocks(model: Any) -> tuple[list, list]:
    """The blocks that refine the caption, and the main blocks.

    Raises:
        ZvlError: they are not there, or their attention takes no mask.
    """
    refiner, main = (list(getattr(model, name, ())) for name in ("context_refiner", "layers"))
    if not refiner or not main:
        raise ZvlError(_UNKNOWN)
    for block in (*refiner, *main):
        attention = getattr(block, "attention", None)
        if attention is None or not {"x_mask", "freqs_cis"} <= set(inspect.signature(attention.forward).parameters):
            raise ZvlError(_UNKNOWN)
    return refiner, main


@contextlib.contextmanager
def _routed(blocks: list) -> Iterator[None]:
    """Let the blocks' attention go through the host's function for PyTorch, which takes a bias.

    Sage attention ignores one without a word, flash attention writes an error for every block.
    """
    spaces = {}
    for block, _ in blocks:
        space = getattr(inspect.unwrap(type(block.attention).forward), "__globals__", {})
        if "attention_function" in space:
            spaces[id(space)] = space
    before = [(space, space["attention_function"]) for space in spaces.values()]
    plain = getattr(host_attention, "attention_pytorch", None)
    try:
        for space, _ in before:
            if plain is not None:
                space["attention_function"] = plain
        yield
    finally:
        for space, function in before:
            space["attention_function"] = function


def _masks(function: Any) -> bool | None:
    """Whether an attention function of the host's takes a bias: tried out. None where it can't be told."""
    if function is None:
        return None
    q, k, v = torch.randn(3, 1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(1, 1, 1, 4)
    hidden[..., 2:] = -1e4
    with torch.inference_mode():
        got = function(q, k, v, 2, hidden, skip_reshape=True).float()
        want = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :2], v[:, :, :2])
    return bool(torch.allclose(got, want.transpose(1, 2).reshape(1, 4, 16), atol=1e-3))


@contextlib.contextmanager
def uncompiled(model: Any) -> Iterator[Any]:
    """The image model of the host's model as it was before torch.compile, which ignores hooks that come later.

    What was compiled is in its place again afterwards.
    """
    restore: list[Callable[[], None]] = []

    def exchange(owner: Any, name: str, module: Any) -> Any:
        original = getattr(module, "_orig_mod", None)
        if original is not None:
            owner._modules[name] = original
            restore.append(lambda: owner._modules.__setitem__(name, module))
            module = original
        if getattr(module, "_compiled_call_impl", None) is not None:
            compiled, module._compiled_call_impl = module._compiled_call_impl, None
            restore.append(lambda: setattr(module, "_compiled_call_impl", compiled))
        return module

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
