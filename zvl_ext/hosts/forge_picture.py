"""A picture that the web UI makes for an analysis alone: it is neither shown nor saved, and nobody else's scripts take
part."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_LAST = "params.txt"  # in which the web UI keeps the parameters of its last picture


class Hooks:
    """In the place of the web UI's scripts: those that are named here are called, all others do nothing.

    Args:
        named: Functions by the hooks' names.
    """

    def __init__(self, **named: Any):
        self.alwayson_scripts: list[Any] = []
        vars(self).update(named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **more: None


def make(hooks: Hooks, **asked: Any) -> None:
    """Make a picture of noise.

    Args:
        hooks: What takes part in it.
        asked: What a generation is asked for, by the web UI's own names.
    """
    from modules import processing, shared

    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, negative_prompt="", sampler_name="Euler", scheduler="Simple", batch_size=1, n_iter=1,
        do_not_save_samples=True, do_not_save_grid=True, **asked,
    )  # fmt: skip
    p.scripts = hooks
    with _last_parameters_kept(), contextlib.closing(p):
        processing.process_images(p)


def interrupt() -> None:
    """End the picture that is being made at its next step."""
    from modules import shared

    shared.state.interrupted = True


@contextlib.contextmanager
def _last_parameters_kept() -> Iterator[None]:
    """What the web UI wrote down of its last picture is there again afterwards."""
    from modules import paths

    file = os.path.join(getattr(paths, "data_path", ""), _LAST)
    before = None
    with contextlib.suppress(OSError), open(file, "rb") as there:
        before = there.read()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if before is not None:
                with open(file, "wb") as there:
                    there.write(before)
