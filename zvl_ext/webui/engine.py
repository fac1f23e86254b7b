"""What stands before the web UI's engine while a conditioning function runs: one that listens, and one that answers."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..conditioning import Conditioning
from ..engines.sources import Text, digest_of
from ..errors import ZvlError
from ..hosts import forge, forge_encoder
from ..mixing.prompts import REFERENCE_PROMPTS
from ..mixing.statistics import ReferenceStatistics, bundle_of, measure_all, of_bundle, sound
from .kept import KEEPER


def with_prompts(prompts: Any, others: Iterable[str]) -> Any:
    """The host's list of prompts (which carries size, shift and more as attributes) with other prompts in it."""
    same = copy.copy(prompts)
    same[:] = others
    return same


def joined(results: list[Any]) -> Any:
    """One batch out of batches of one, in the host's form: a list, or an object with `batch` and `shape`."""
    if isinstance(results[0], list):
        return [entry for result in results for entry in result]
    joined = copy.copy(results[0])
    joined.batch = [entry for result in results for entry in result.batch]
    joined.shape = (len(joined.batch),)
    return joined


class _Engine:
    """Stands before the host's engine while a conditioning function runs; everything but the conditioning passes
    through."""

    def __init__(self, engine: Any):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Recorder(_Engine):
    """Encodes as the engine does and remembers what it was asked: `texts`, prompt -> Text.

    Args:
        read: Whether the text encoder reads; otherwise only the form of its answers is known (`Text.read`).
    """

    def __init__(self, engine: Any, read: bool = True):
        super().__init__(engine)
        self._read = read
        self.texts: dict[str, Text] = {}
        self.stacked = False

    def get_learned_conditioning(self, prompts: Any) -> Any:
        with forge_encoder.observed(self._engine) as seen, self._as_asked():
            result = self._engine.get_learned_conditioning(prompts)
        unique = list(dict.fromkeys(prompts))  # the host encodes a repeated line once
        rows = dict(zip(prompts, result)) if isinstance(result, (list, torch.Tensor)) else {}
        read = dict(zip(unique, seen))
        if len(seen) != len(unique) or any(
            p not in rows or rows[p].ndim != 2 or len(read[p].ids) != rows[p].shape[0] for p in unique
        ):
            raise ZvlError(forge_encoder.UNKNOWN)
        self.stacked = isinstance(result, torch.Tensor)
        self.texts |= {
            p: Text(p, tuple(read[p].ids), rows[p], read[p].inputs, read[p].masked, self._read) for p in unique
        }
        return result

    def _as_asked(self) -> contextlib.AbstractContextManager[None]:
        if self._read:
            return contextlib.nullcontext()
        from ..hosts.forge_unread import unread

        return unread(self._engine)


class Player(_Engine):
    """Gives the conditioning of each prompt, in the form the engine gives it.

    Args:
        watched: Whether it is asked in sampling whose each row is.
    """

    def __init__(self, engine: Any, make: Callable[[str], Conditioning], stacked: bool, watched: bool = False):
        super().__init__(engine)
        self._make, self._stacked, self._watched = make, stacked, watched

    def get_learned_conditioning(self, prompts: Any) -> Any:
        made = [self._make(prompt) for prompt in prompts]
        if not self._watched and all(each.steady for each in made):
            rows = [each.rows for each in made]
            return torch.stack(rows) if self._stacked else rows
        from ..hosts.forge_attention import Stack, carry

        rows = [carry(each.rows, each, self._watched) for each in made]
        return Stack.of(rows) if self._stacked else rows


def told_again(engine: Any, key: tuple) -> tuple[dict[str, Text], bool] | None:
    """What a Recorder has learned from an engine that was asked for the same before: `texts` and `stacked`.

    Whatever the engine told its predictor then is told again: its shift, in some web UIs.
    """
    for known, texts, stacked, told in KEEPER.recordings(engine):
        if known == key:
            for tell in told:
                tell()
            return texts, stacked
    return None


def noted(engine: Any, prompts: Any) -> None:
    """Let an engine take note of the pictures that are to be changed, as it does with every list of prompts: this one
    is empty, and nothing is read."""
    from ..hosts.forge_unread import unread

    with unread(engine):
        engine.get_learned_conditioning(with_prompts(prompts, []))


def statistics_of(engine: Any, prompts: Any) -> ReferenceStatistics:
    """The reference statistics of an engine's text encoder, measured.

    What one prompt gives names the text encoder with all that is put on it, so that another engine with the same, after
    a restart too where the store has a disk, reads no more than that one.

    Args:
        prompts: The host's list of any prompts, for its form.
    """
    prompts = with_prompts(prompts, [])
    prompts.is_negative_prompt = True  # with the others, some engines take note of the pictures that are to be changed
    count = len(REFERENCE_PROMPTS)

    def read(number: int) -> torch.Tensor:
        forge.show_progress(f"Z-Image VL: measuring the text encoder, prompt {number + 1} of {count}")
        recorder, prompt = Recorder(engine), REFERENCE_PROMPTS[number]
        recorder.get_learned_conditioning(with_prompts(prompts, [prompt]))
        return recorder.texts[prompt].embeddings

    with forge_encoder.interruptible(engine):
        first = read(0)  # one at a time: some engines take no more, and none needs more
        key = ("statistics", digest_of(first), hashlib.sha256("\n".join(REFERENCE_PROMPTS).encode()).hexdigest())
        kept = KEEPER.store.get(key, lambda bundle: sound(bundle, first.shape[1]))
        if kept is not None:
            return of_bundle(kept)
        measured = measure_all(itertools.chain([first], map(read, range(1, count))))
    KEEPER.store.put(key, bundle_of(measured))
    return measured
