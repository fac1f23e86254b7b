"""Weighted attention in the web UI's image model, for one generation; nothing of the host is replaced for longer than a
call.

The way of a weight: each prompt's conditioning carries its `Conditioning` as an attribute through the host's cache. At
every step the host asks a function of ours (a conditioning modifier), which reads what the host's sampler is using at
this step and puts marks beside it; the marks go with the conditioning wherever the host repeats, joins or splits it.
Around each call of the image model, hooks on its attention turn marks into a bias.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from backend import attention as host_attention
from backend.sampling.condition import ConditionCrossAttn

from ..attention_shares import AttentionShares
from ..conditioning import Conditioning, Part
from ..errors import ZvlError
from ..profiles import Profile
from ..weighting import ALL, check_blocks, way
from .forge_blocks import (
    ELSEWHERE,
    EXCHANGED,
    MARKS,
    OWNERS,
    UNKNOWN,
    Call,
    blocks_of,
    check_profile,
    routed,
    uncompiled,
)
from .forge_shares import Watch
from .forge_step import CARRIED, Half, conditional, unconditional

_PARTLY = f"Only a part of the image model's blocks took the weight. {ELSEWHERE}"


def carry(rows: torch.Tensor, conditioning: Conditioning, always: bool = False) -> torch.Tensor:
    """Rows that bring their conditioning along. A steady one needs none, unless somebody asks whose its rows are."""
    if always or not conditioning.steady:
        setattr(rows, CARRIED, conditioning)
    return rows


class Stack(torch.Tensor):
    """Several rows as one tensor [prompts, rows, hidden], for hosts that ask for it; what is taken out carries its
    own."""

    parts: list[torch.Tensor]
    __torch_function__ = torch._C._disabled_torch_function_impl  # what is computed from it is a plain tensor

    @classmethod
    def of(cls, rows: list[torch.Tensor]) -> Stack:
        stack = torch.stack(rows).as_subclass(cls)
        stack.parts = rows
        return stack

    def __getitem__(self, place: Any) -> torch.Tensor:
        return self.parts[place] if isinstance(place, int) else super().__getitem__(place)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.parts)

    def squeeze(self, *dim: Any) -> torch.Tensor:
        return self.parts[0] if len(self.parts) == 1 and dim in ((), (0,)) else super().squeeze(*dim)


def check(engine: Any, blocks: str = ALL, profile: Profile | None = None) -> None:
    """Raise ZvlError where a loaded engine's image model can't be given a weight, has none of some blocks that are
    named, or is not the profile's: before the sampling begins."""
    unet = engine.forge_objects.unet
    model = getattr(unet.model, "diffusion_model", None)
    if not hasattr(unet, "add_conditioning_modifier") or not hasattr(unet, "clone") or model is None:
        raise ZvlError(UNKNOWN)
    with uncompiled(unet.model) as plain:
        _, _, main = blocks_of(plain)
        check_blocks(blocks, len(main))
        if profile is not None:
            check_profile(profile, plain)
    if _masks(getattr(host_attention, "attention_pytorch", None)) is False:
        raise ZvlError(f"The web UI's attention ignores a mask, so no weight can be set. {ELSEWHERE}")


class Weights:
    """The weights of one generation.

    Args:
        p: The generation.
        parts: Its references, with their weights and regions.
        refuse: Makes what ends the generation of a line for the user.
        found: Gets the attention that the references get, where somebody wants to know it.

    Attributes:
        used: Whether a call of the image model has taken them.
    """

    def __init__(
        self,
        p: Any,
        parts: tuple[Part, ...],
        refuse: Callable[[str], Exception],
        found: AttentionShares | None = None,
    ):
        self.p = p
        self.parts = parts
        self.found = found
        if found is not None:
            found.references = max(1, len(parts))
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
        denoiser, given = self.p.sampler.model_wrap_cfg, self.p.sampler.sampler_extra_args
        done = way(denoiser.step, denoiser.total_steps)
        half = conditional(given["cond"], denoiser.step, done, owners=self.found is not None)
        other = unconditional(given.get("uncond"), denoiser.step, done)
        if half is None and (other is None or uncond is None):
            raise ZvlError(EXCHANGED)
        if half is not None:
            if half.order is None or len(half.order[0]) != len(cond):
                raise ZvlError(EXCHANGED)
            places = [[picture[i][0] for picture in half.order] for i in range(len(cond))]
            cond = [self._marked(each, half, place) for each, place in zip(cond, places)]
        else:
            cond = [self._marked(each) for each in cond]
        if uncond is not None:
            uncond = [self._marked(each, other) for each in uncond]
        inner = options.get("model_function_wrapper")

        def wrapper(apply: Callable, args: dict) -> Any:
            watch = None if self.found is None else Watch(self.found, denoiser.step, args["cond_or_uncond"])
            with self._refusing(), self._hooked(model, [part.weighting.at(done) for part in self.parts], watch):
                return inner(apply, args) if inner else apply(args["input"], args["timestep"], **args["c"])

        return model, x, timestep, uncond, cond, cond_scale, {**options, "model_function_wrapper": wrapper}, seed

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except ZvlError as error:
            raise self._refuse(str(error)) from None

    def _marked(self, entry: dict, half: Half | None = None, places: list[int] | None = None) -> dict:
        """One entry of the host's conditioning with marks beside it, and with less of the reference in the prompt's
        rows.

        Args:
            half: What it is of; None where nothing of it is ours.
            places: Which of the half's rows are the entry's; None: all of them.
        """
        conds = dict(entry["model_conds"])
        rows = conds["c_crossattn"].cond

        def beside(of_half: torch.Tensor | None, columns: int) -> Any:
            if of_half is None:
                return ConditionCrossAttn(rows.new_zeros(*rows.shape[:2], columns))
            own = of_half if places is None else of_half[places]
            if own.shape[:2] != rows.shape[:2]:
                raise ZvlError(EXCHANGED)
            return ConditionCrossAttn(own.to(rows.device))

        conds[MARKS] = beside(half and half.marks, 2)
        if self.found is not None:  # on every entry, or the host would not make one batch of them as it does
            conds[OWNERS] = beside(half and half.owners, 1)
        if half is None or half.lost is None:
            return {**entry, "model_conds": conds}
        lost = half.lost if places is None else half.lost[places]
        rows = rows - lost.to(rows)
        conds["c_crossattn"] = conds["c_crossattn"]._copy_with(rows)
        return {**entry, "cross_attn": rows, "model_conds": conds}

    @contextlib.contextmanager
    def _hooked(self, model: Any, weights: list[float], watch: Watch | None = None) -> Iterator[None]:
        """Hooks on the image model for the time of one call of it."""
        with uncompiled(model) as plain, contextlib.ExitStack() as hooks:
            call = Call(plain, self.parts, weights, watch)
            hooks.callback(call.remove)
            call.install()
            with routed(call.blocks, watch and watch.seen):
                yield
            if not self.used and call.calls and not call.whole:
                raise ZvlError(_PARTLY)
            self.used = self.used or call.whole


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
