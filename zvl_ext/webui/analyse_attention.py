"""The attention that references get, measured in the web UI's own image model: one picture is made for it."""

from __future__ import annotations

from typing import Any

from ..analysis.wanted import Wanted
from ..attention_shares import AttentionShares
from ..errors import Stopped, line_of, untitled
from ..hosts import forge, forge_picture
from ..hosts.forge_shares import MOST
from ..options import OPTIONS, Settings
from . import run, sampling
from .kept import KEEPER

UNSEEN = "The references have no rows of their own with these settings, so there is no attention of theirs to measure."
_UNWATCHED = "The web UI's attention runs in a way that Z-Image VL can't watch"
_PART = "It was measured of {asked:,} of the picture's {there:,} rows, evenly spread."


def attention_of(settings: Settings, asked: Wanted, engine: Any) -> tuple[AttentionShares | None, str]:
    """The shares of the references' attention while a picture is made as it is asked for, and what is to be said.

    To be called in a turn at the host's models. The shares are None where they can't be measured; why is said.

    Raises:
        Stopped: it was ended.
    """
    found, last = AttentionShares(), KEEPER.last
    try:
        sampling.check(engine, [])
        _sampled(settings, asked, found)
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the rest of the analysis is not the worse for it
        forge.check_interrupted()
        return None, f"The attention was not measured. {untitled(line_of(error))}"
    finally:
        KEEPER.last = last
    forge.check_interrupted()
    if not found.whole:
        return None, f"The attention was not measured. {_UNWATCHED}."
    if not any(value for group in range(1, found.references + 1) for line in found.of(group) for value in line):
        return None, UNSEEN
    patches = (asked.shape[0] // 16) * (asked.shape[1] // 16)
    return found, _PART.format(asked=MOST, there=patches) if patches > MOST else ""


def _sampled(settings: Settings, asked: Wanted, found: AttentionShares) -> None:
    settings = settings.changed({"enabled": True, "reference_batch": None})

    def told(step: int, of: int) -> None:
        try:
            asked.on_step("making a picture, step", step, of)
        except Stopped:  # the host's own end of a picture: what is raised in its callback it would pass over
            forge_picture.interrupt()

    def process(p: Any) -> None:
        p.__dict__[sampling.WATCHED] = sampling.Watched(found, told)
        run.attach(p, [getattr(settings, option.name) for option in OPTIONS])

    def before_sampling(p: Any, **given: Any) -> None:
        if attached := run.current(p):
            attached.before_sampling()

    def after_sampling(p: Any, *given: Any, **more: Any) -> None:
        if attached := run.current(p):
            attached.after_sampling()

    hooks = forge_picture.Hooks(
        process=process, process_before_every_sampling=before_sampling, postprocess_batch=after_sampling
    )
    width, height = asked.shape
    forge_picture.make(
        hooks, prompt=asked.prompt, width=width, height=height, steps=asked.steps, cfg_scale=asked.cfg,
        distilled_cfg_scale=asked.shift, seed=asked.seed,
    )  # fmt: skip
