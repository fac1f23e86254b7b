"""What comes from outside: files that may be none, and JSON that may be anything."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any, BinaryIO

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # an escape of half a character; with its other half it is a whole one
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def no_file(path: str) -> str:
    """Why a path can't be opened as a file, as the end of "it is …"; empty for a regular file or a link to one.

    Nothing is opened: opening a pipe would wait for a writer, and a device can do anything.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if os.path.islink(path) else "not there"
    except (OSError, ValueError) as error:  # a loop of links, no permission; a NUL in the name
        return f"not to be reached ({reason(error)})"
    return next((kind for test, kind in _KINDS if test(mode)), "" if stat.S_ISREG(mode) else "no file")


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading in bytes.

    Raises:
        OSError: it can't be read, or it is no regular file; the message says what it is.
    """
    if kind := no_file(path):
        raise OSError(f"it is {kind}")
    # Should it have become a pipe since: opened so, it does not wait.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is no file")
    return os.fdopen(handle, "rb")


def read_regular(path: str, limit: int) -> bytes:
    """All of a file of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is longer.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is longer than {limit / 2**20:.0f} MiB")
    return data


def parse_json(data: bytes | str) -> Any:
    """JSON from outside: whatever is wrong with it is a ValueError that says so in a few words.

    NaN and Infinity, which JSON does not have, half characters, and numbers or nesting beyond what Python takes are
    wrong, too. The caller bounds the length.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_refuse)
        if isinstance(data, str) or _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeError:
        raise ValueError("it is not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(reason(error)) from None
    return value


def read_json(path: str, limit: int) -> Any:
    """The JSON of a file of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`.
        ValueError: as `read_regular` and `parse_json`.
    """
    return parse_json(read_regular(path, limit))


def _refuse(constant: str) -> None:
    raise ValueError(f"it contains {constant}")


def reason(error: BaseException) -> str:
    """An error's text as a few words for the middle of a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return plain(text or "no reason is given", length=120)


def plain(value: object, length: int = 60) -> str:
    """A name or a text from outside as part of a line, without quotes: short, on one line, without half characters."""
    text = " ".join(str(value).encode("utf-8", "replace").decode().split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
