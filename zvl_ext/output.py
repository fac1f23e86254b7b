"""Files that are whole under their name, or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

from .errors import ZvlError

# What a folder's file system says where files can't have two names.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def written(path: str, new: bool = False) -> Iterator[str]:
    """A file beside the target to write into; it takes the target's name once the context ends well.

    Args:
        new: Never take the place of a file that is there.

    Raises:
        ZvlError: it can't be written, or is there already. Nothing is left behind then.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".tmp")
        os.close(handle)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            (_named if new else os.replace)(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except FileExistsError as error:
        raise ZvlError(f"{path} is there already. Choose another name.") from error
    except OSError as error:
        raise ZvlError(f"{path} can't be written ({error.strerror or error}).") from error


def _named(temporary: str, path: str) -> None:
    """Give a file a name that no other one has, in one step wherever the system can.

    Raises:
        FileExistsError: another one has it.
    """
    if os.name == "nt":
        os.rename(temporary, path)  # there it takes no other file's place
        return
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(path) from error
        os.replace(temporary, path)
    else:
        os.unlink(temporary)
