"""The panel's controls for references and masks: they take files as they are, and leave opening them to `reference`."""

from __future__ import annotations

import contextlib
import os
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ListFiles

from ..errors import ZvlError, titled
from ..outside import open_regular
from ..reference import Reference, Upload

# How the pictures begin that every browser shows.
_SHOWN = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")


class _WithoutStub(type(gr.Image)):  # gradio's components all have one type
    """gradio writes a file with types beside the module of every new component; here it is to leave none."""

    def __new__(cls, name: str, bases: tuple, attributes: dict) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


def _refuse_address(path: Any) -> None:
    """gradio would fetch an address that a request names."""
    if "://" in str(path):
        raise gr.Error("Z-Image VL: addresses are not fetched.")


class Dropped(gr.Image, metaclass=_WithoutStub):
    """`gr.Image` whose value is an `Upload`, the file that was dropped, chosen or pasted.

    gradio's own opens the file with whatever decoder fits, for every picture that is made, whether the extension is
    switched on or not; what that raises reaches the user as it is.
    """

    is_template = True  # for the browser it is an ordinary image

    def preprocess(self, payload: FileData | None) -> Upload | None:
        return None if payload is None else Upload(payload.path, payload.orig_name or "")

    def postprocess(self, value: Any) -> FileData | None:
        if isinstance(value, Upload):  # from another tab's control
            return FileData(path=value.path, orig_name=value.name or None)
        return super().postprocess(value)

    async def async_move_resource_to_block_cache(self, path: Any) -> str | None:
        _refuse_address(path)
        return await super().async_move_resource_to_block_cache(path)


class DroppedSeveral(gr.File, metaclass=_WithoutStub):
    """`gr.File` whose value is a list of uploads; None where there is none."""

    is_template = True

    def preprocess(self, payload: ListFiles | None) -> list[Upload] | None:
        return [Upload(each.path, each.orig_name or "") for each in payload or ()] or None

    def postprocess(self, value: Any) -> ListFiles | None:
        """Only another tab's control sets it."""
        if not value:
            return None
        return ListFiles(
            root=[FileData(path=e.path, orig_name=e.name or None, size=os.path.getsize(e.path)) for e in value]
        )

    async def async_move_resource_to_block_cache(self, path: Any) -> str | None:
        _refuse_address(path)
        return await super().async_move_resource_to_block_cache(path)


def control(height: int = 300, **shown: Any) -> Dropped:
    """The control; gradio's own arguments. PNG keeps every pixel of what is pasted."""
    return Dropped(
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        height=height,
        elem_classes=["zvl-drop"],  # the page's script hands it what the page itself would refuse
        **shown,
    )


def several(**shown: Any) -> DroppedSeveral:
    """The control for a batch; gradio's own arguments."""
    return DroppedSeveral(file_count="multiple", height=200, **shown)


def preview(ensure_temp_folder: Callable[[], None], opened: Callable[[Any], Reference], value: Upload | None) -> Any:
    """What to put into the control for a file that was just dropped and that a browser can't show: the same as PNG.

    One that can't be opened is said at once, and stays. It is refused when a picture is to be made with it.

    Args:
        opened: What opens it.
    """
    if value is None or _is_shown(value.path):
        return gr.skip()
    try:
        image = opened(value).image
        ensure_temp_folder()
        return gr.update(value=image)
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        return gr.skip()


def _is_shown(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError), open_regular(path) as file:
        start = file.read(16)
        return start.startswith(_SHOWN) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
    return False
