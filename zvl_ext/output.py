"""Files that are whole under their name, or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from .errors import ZvlError


@contextlib.contextmanager
def written(path: str) -> Iterator[str]:
    """A file beside the target to write into; it takes the target's name once the context ends well.

    Raises:
        ZvlError: it can't be written. Nothing is left behind then.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".tmp")
        os.close(handle)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ZvlError(f"{path} can't be written ({error.strerror or error}).") from error
