"""A small picture with pixels of its own, and what the vision tower is shown of one."""

import base64

import numpy as np
import tiny

from zvl_ext.reference import open_reference

PICTURE = tiny.picture(40, 24)
PIXELS = np.asarray(PICTURE)
PNG = tiny.encoded(PICTURE, "PNG")
BASE64 = base64.b64encode(PNG).decode()


def pixels(source) -> np.ndarray:
    """What the vision tower will be shown."""
    opened = open_reference(source).image
    assert opened.mode == "RGB"
    return np.asarray(opened)
