"""Weighted attention in diffusers' Z-Image: hooks on its modules for the time of one batch of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..attention import Biases, Layout, filling, in_front, masked, patches_of
from ..conditioning import Conditioning
from ..errors import ZvlError
from ..factors import factors_of
from ..profiles import Profile
from ..weighting import way

Arguments = tuple[Any, ...]  # of a module that is called
Keywords = dict[str, Any]


class _Rows(NamedTuple):
    """Which rows a block reads; the picture's stand before the caption's."""

    picture: bool
    caption: bool


PICTURE, CAPTION, BOTH = _Rows(True, False), _Rows(False, True), _Rows(True, True)


@contextlib.contextmanager
def weighted(transformer: torch.nn.Module, conditionings: list[Conditioning], steps: int) -> Iterator[None]:
    """Let the image model look at references as their conditionings say, while the context is open.

    Where all of them are steady, nothing is touched.

    Args:
        transformer: diffusers' ZImageTransformer2DModel. It is called once for each step.
        conditionings: Of the first captions of its batch; those behind them, such as the unconditional half of
            guidance, stay as they are.

    Raises:
        ZvlError: the image model is not built or not run as expected.
    """
    if all(each.steady for each in conditionings):
        yield
        return
    run = Run(transformer, conditionings, steps)
    run.install()
    try:
        yield
    finally:
        run.remove()


def check_profile(transformer: Any, profile: Profile) -> None:
    """Raise ZvlError where a profile is about another image model than diffusers' one."""
    heads, width = transformer.config.n_heads, transformer.config.dim
    profile.check(len(transformer.layers), heads, len(transformer.context_refiner), width)


class Run:
    """One batch: its hooks, and what they know of the step that is being made."""

    def __init__(self, transformer: Any, conditionings: list[Conditioning], steps: int):
        if hasattr(transformer, "_orig_mod"):
            raise ZvlError("The image model is compiled: it would not take a weight. Load it without torch.compile.")
        self._transformer = transformer
        self._conditionings = conditionings
        self._steps = steps
        self._step = 0
        self._handles: list[Any] = []
        self._asked = 0  # how many blocks have taken their part in this step
        weightings = [[part.weighting for part in each.parts] for each in conditionings]
        for profile in {each.profile for of_one in weightings for each in of_one if each.profile is not None}:
            check_profile(transformer, profile)
        self._factors = factors_of(weightings, len(transformer.layers), len(transformer.context_refiner))
        self._references = max(map(len, weightings))
        # How far the block in front of each prompt moves it on.
        self._moved = [0 if c.marks is None else in_front(c.marks[None])[0] for c in conditionings]
        self._pictures = 0  # rows of the picture, which stand before the caption

    def install(self) -> None:
        model = self._transformer
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        if all(each.marks is None for each in self._conditionings):
            return
        for block in model.noise_refiner:
            self._watch(block.attention, PICTURE)
        for block, factors in zip(model.context_refiner, self._factors.refiner):
            self._watch(block.attention, CAPTION, factors)
        for block, factors in zip(model.layers, self._factors.main):
            self._watch(block.attention, BOTH, factors)
        self._handles.append(model.register_forward_hook(self._end))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, attention: torch.nn.Module, sequence: _Rows, factors: torch.Tensor | None = None) -> None:
        """Give one block's attention what is its own: rotary tables, and where there are factors, weights."""

        def hook(module: torch.nn.Module, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
            if sequence.picture and self._pictures > self._patches:
                kwargs = {**kwargs, "freqs_cis": self._turned(kwargs["freqs_cis"])}
            if factors is not None:
                self._asked += 1
                hidden = args[0] if args else kwargs["hidden_states"]
                before = self._pictures if sequence.picture else 0
                others = factors.new_ones(len(hidden) - len(factors), *factors.shape[1:])
                each = torch.cat([factors, others])
                layout = Layout(hidden.shape[1], before, 0 if sequence.picture else None)
                added = self._biases.of(each, layout, hidden.dtype)
                if added is not None:
                    kwargs = {**kwargs, "attention_mask": masked(added, kwargs.get("attention_mask"))}
            return args, kwargs

        self._handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def _begin(self, module: torch.nn.Module, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        """A step begins: the prompts' rows as they are in it, and the marks of what is in the captions."""
        latents, time, captions, *rest = args
        done = self._done()
        self._asked = 0
        rows = [each.at(own).to(caption) for each, own, caption in zip(self._conditionings, done, captions)]
        captions = [*rows, *captions[len(rows) :]]
        longest = max(map(len, captions))
        longest += filling(longest)
        marked = torch.zeros(len(captions), longest, 2, device=captions[0].device)
        for own, each in zip(marked, self._conditionings):
            if each.marks is not None:
                own[: len(each.marks)] = each.marks.to(own)
        references = self._references
        weights = torch.ones(len(captions), references, device=captions[0].device)
        for i, (each, own) in enumerate(zip(self._conditionings, done)):
            weights[i, : len(each.parts)] = torch.tensor(each.weights(own))
        frames, height, width = latents[0].shape[-3:]
        self._biases = Biases(marked, weights, *self._regions(len(captions), height // 2, width // 2))
        self._patches = frames * (height // 2) * (width // 2)
        self._pictures = self._patches + filling(self._patches)
        return (latents, time, captions, *rest), kwargs

    def _done(self) -> list[float]:
        """A step begins: the share of the steps that are done, of each conditioning."""
        done = way(self._step, self._steps)
        self._step += 1
        return [done] * len(self._conditionings)

    def _regions(self, captions: int, rows: int, columns: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The references' regions on a picture's patches, for `Biases`."""
        if not any(part.region is not None for each in self._conditionings for part in each.parts):
            return None, None
        references = self._references
        regions = torch.ones(captions, rows * columns, references)
        limited = torch.zeros(captions, references, dtype=torch.bool)
        for i, each in enumerate(self._conditionings):
            for j, part in enumerate(each.parts):
                if part.region is not None:
                    regions[i, :, j], limited[i, j] = patches_of(part.region, rows, columns), True
        return regions, limited

    def _turned(self, tables: torch.Tensor) -> torch.Tensor:
        """The rotary tables [batch, keys, ...] with the rows that fill the picture up at their usual distance.

        diffusers gives these rows position 0, whatever the caption is. A block in front of the prompt moves the prompt
        and the picture on by its length, so these rows have to go along, or a weight towards 0 would not tend to the
        plain picture.
        """
        tables = tables.clone()
        for i, moved in enumerate(self._moved):
            if moved:
                place = torch.tensor([[moved, 0, 0]], dtype=torch.int32, device=tables.device)
                tables[i, self._patches : self._pictures] = self._transformer.rope_embedder(place)[0].to(tables)
        return tables

    def _end(self, module: torch.nn.Module, args: Arguments, output: Any) -> None:
        expected = len(self._transformer.context_refiner) + len(self._transformer.layers)
        if self._asked != expected:
            raise ZvlError(
                f"Only {self._asked} of the image model's {expected} blocks took the weight: it is run in a way "
                "Z-Image VL does not know. Choose weight 1."
            )
