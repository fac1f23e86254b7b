"""A reference described by the Qwen3-VL that the web UI holds."""

from __future__ import annotations

from ..caption import Asked, Caption, describe, part_seen
from ..errors import Stopped, in_one_line
from ..hosts import forge, forge_files
from ..hosts.forge_extractor import ForgeExtractor
from ..options import Settings
from .kept import KEEPER


def described(settings: Settings, asked: Asked, number: int = 1) -> Caption:
    """Describe a reference when no picture is being made; until then it waits. Interrupt and Skip end it, too.

    Args:
        settings: Of which the reference, its crop and mask, its size, the model, the storage and the device matter.

    Raises:
        ZvlError: with one line for the user.
    """
    with in_one_line():
        checkpoint = forge_files.checkpoint(settings.model)
        checkpoint.require_words()  # and all else that can be refused without waiting
        reference, words = part_seen(settings, number, asked.shape), forge_files.words(checkpoint)
        whole = settings.changed({"engine": "blend", "hidden_layer": -1})

        def check() -> None:
            forge.check_interrupted()
            if asked.stopped():
                raise Stopped

        with forge.job("Z-Image VL"):
            describer = ForgeExtractor(checkpoint, whole, KEEPER.residence, check, writes=True)
            return describe(
                describer, words, reference, asked.wish, settings.reference_tokens, asked.on_text, asked.stopped
            )
