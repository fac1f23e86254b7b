"""Measures every way of conditioning on the miniature family: `python -m zvl_ext evaluate`."""
