"""What a person is told when something can't be done: one line, whatever has been raised."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PRODUCT = "Z-Image VL"
_TITLE = f"{PRODUCT}: "
_LONGEST_LINE = 600  # characters; a path of the user's may be in it
_LONGEST_VALUE = 60


class ZvlError(ValueError):
    """Something the user can mend: one line that says what is wrong and what to do."""


ZvlError.__name__ = ZvlError.__qualname__ = PRODUCT  # web UIs show an exception's class in front of its text


class Stopped(Exception):  # noqa: N818  it is none
    """The user has ended the work. Nothing is wrong, and there is nothing to read."""


def titled(line: str) -> str:
    """A line for the user, beginning with the product's name, once."""
    return line if line.startswith(_TITLE) else _TITLE + line


def untitled(line: str) -> str:
    """A line without the product's name in front."""
    return line.removeprefix(_TITLE)


def line_of(error: BaseException) -> str:
    """What an exception of any kind says to the user: one line, without the name of its class."""
    if isinstance(error, ZvlError):
        line = untitled(" ".join(str(error).split()))
    elif isinstance(error, RecursionError):
        line = "The values are nested too deeply. Send plain ones."
    elif isinstance(error, MemoryError) or "memory" in type(error).__name__.lower() + _text_of(error).lower():
        line = "There is not enough memory for this. Choose the device cpu, or a smaller reference size."
    else:
        line = f"Something unexpected went wrong ({_text_of(error) or 'no reason given'}). The console says where."
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."


@contextlib.contextmanager
def in_one_line(stays: Callable[[BaseException], bool] = lambda error: False) -> Iterator[None]:
    """Whatever goes wrong inside leaves as a ZvlError, with its details in the log.

    Args:
        stays: Which exceptions are somebody else's, and leave as they are.
    """
    try:
        yield
    except (ZvlError, Stopped, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of tokenizers is no Exception
        if stays(error):
            raise
        details = traceback.format_exc().encode(errors="backslashreplace").decode()  # half a character is no UTF-8
        logging.getLogger(__name__).error("%sunexpected\n%s", _TITLE, details)
        raise ZvlError(line_of(error)) from error


def _text_of(error: BaseException) -> str:
    text = " ".join(str(error).split()).encode("utf-8", "replace").decode()
    return text if len(text) <= 200 else text[:197] + "..."


def shown(value: Any) -> str:
    """A value as a message shows it: short, on one line, and safe whatever it is."""
    if isinstance(value, str):
        written = repr(value[: _LONGEST_VALUE + 1])  # what can't be printed is several characters there
        return written if len(written) <= _LONGEST_VALUE + 2 else written[: _LONGEST_VALUE - 2] + "..."
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to write out a number of many digits
        return "a number of that size"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else "something else"
