"""Where the web UI repaints a picture, in img2img with a mask."""

from __future__ import annotations

from typing import Any

from ..regions import Frame


def frame_to_come(p: Any) -> Frame:
    """What is known before the host has prepared a generation: whether there is a mask."""
    return Frame() if getattr(p, "image_mask", None) is None else Frame.to_come()


def frame_of(p: Any) -> Frame:
    """What of the picture the host samples, and where it repaints it, once it has prepared the generation.

    The mask is the one that its sampler mixes with: inverted, blurred, rounded and cropped as was asked for. What an
    earlier run has left on the same `p` counts only where this one has a mask: with a blank one the host makes the
    whole picture and takes `mask_for_overlay` away.
    """
    drawn, mask = getattr(p, "mask_for_overlay", None), getattr(p, "nmask", None)
    if getattr(p, "image_mask", None) is None or drawn is None or mask is None:
        return Frame()
    mask = mask.detach().float().cpu().reshape(-1, *mask.shape[-2:])[0]  # every channel has the same
    if not getattr(p, "inpaint_full_res", False) or not getattr(p, "paste_to", None):
        return Frame(mask=mask)
    left, top, width, height = p.paste_to
    across, down = drawn.size
    return Frame((left / across, top / down, (left + width) / across, (top + height) / down), mask)
