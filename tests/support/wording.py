"""What captions of the miniature's world say, in words of their own."""

from __future__ import annotations

from zvl_ext.lab.miniature import world

WORDS = {  # the words that name a value, and no other
    "small": {"small", "little", "tiny"},
    "large": {"large", "big", "huge"},
    "left": {"left"},
    "centre": {"centre", "middle"},
    "right": {"right"},
    "flat": {"flat"},
    "outlined": {"outlined", "outlines"},
    "striped": {"striped", "stripes"},
    "dotted": {"dotted", "dots"},
    "soft": {"soft"},
}


def named(text: str) -> dict[str, set[str]]:
    """The values that a caption's words name, by attribute."""
    words = set(text.replace(",", " ").split())
    return {
        name: {value for value in values if words & WORDS.get(value, {value})}
        for name, values in world.ATTRIBUTES.items()
    }
