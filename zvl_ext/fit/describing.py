"""Captions by Qwen3-VL for pictures that have none of a person's, kept: writing takes seconds each."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ..caption import Describer, Vocabulary, Wish, describe
from ..output import written
from ..outside import read_json

if TYPE_CHECKING:
    from ..reference import Reference

_ASKED = (
    "Describe this image in a few short clauses with a comma between them, as a prompt for an image generator: the "
    "subject, the setting, the composition, the style, the colours and the light. Write only the description."
)
_FILE, _LONGEST = "captions.json", 2**24


class Captioner:
    """Describes pictures, each once.

    Args:
        describer, words: As for `caption.describe`.
        tokens: A picture's budget of image tokens.
        question: What is asked of a model that knows no instructions; None: the usual.
        folder: Where the captions are kept, by the pictures' digests.
    """

    def __init__(self, describer: Describer, words: Vocabulary, tokens: int, question: str | None, folder: str):
        self._describer, self._words, self._tokens, self._question = describer, words, tokens, question
        self._path = os.path.join(folder, _FILE)
        self._model = describer.checkpoint.name
        self._known: dict[str, str] = self._kept()
        self.written = 0

    def __call__(self, reference: Reference) -> str:
        key = f"{self._model} {self._question} {self._tokens} {reference.digest}"
        if key not in self._known:
            wish = Wish("short", instruction="" if self._question is not None else _ASKED)
            made = describe(self._describer, self._words, reference, wish, self._tokens, question=self._question)
            self._known[key] = made.text
            self.written += 1
            with written(self._path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                json.dump(self._known, file, ensure_ascii=False, indent=1)
        return self._known[key]

    def _kept(self) -> dict[str, str]:
        try:
            known = read_json(self._path, _LONGEST)
            return {key: text for key, text in known.items() if isinstance(text, str)}
        except (OSError, ValueError, AttributeError):  # not there, or damaged: they are written again
            return {}
