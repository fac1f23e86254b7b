"""Settings of engine splice, and where plain transformers is one reference."""

from cases import TOKENS
from published import research

from zvl_ext.options import Settings

# DeepStack adds to the states after layers 1, 2 and 3. transformers 5 records those states before the addition,
# transformers 4 after it, so for them plain transformers is two references, not one. Every deeper state has all three
# additions inside.
BEHIND_DEEPSTACK = range(-4, 0)


def spliced(**values) -> Settings:
    """The whole sequence by engine splice, nothing done to it."""
    chosen = {"engine": "splice", "hidden_layer": -2, "token_mode": "all", "reference_tokens": TOKENS}
    return research(**(chosen | {"scale_to_text": False} | values))
