"""Texts of the user's own that are read besides the reference: limited before they are put together, and once they are
tokens."""

from __future__ import annotations

from .errors import ZvlError
from .options import BY_NAME, PROMPT
from .sequence import Encode

MOST_CHARACTERS = 20_000  # with the prompt in it
MOST_TOKENS = 2048  # four times the longest caption that Z-Image was trained with; more is minutes on a CPU


def filled(name: str, text: str, prompt: str, encode: Encode) -> str:
    """The text of an option with the picture's prompt in its places.

    Raises:
        ZvlError: it is too long. What has too many characters is neither put together nor encoded.
    """
    length = len(text) + text.count(PROMPT) * (len(prompt) - len(PROMPT))
    if length > MOST_CHARACTERS:
        raise _too_long(name, f"{length} characters with the prompt in it", MOST_CHARACTERS)
    whole = text.replace(PROMPT, prompt)
    if (tokens := len(encode(whole))) > MOST_TOKENS:
        raise _too_long(name, f"{tokens} tokens with the prompt in it", MOST_TOKENS)
    return whole


def _too_long(name: str, has: str, most: int) -> ZvlError:
    return ZvlError(f"{BY_NAME[name].label} has {has}; at most {most} are read. Shorten it.")
