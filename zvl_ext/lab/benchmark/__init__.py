"""`python -m zvl_ext benchmark`: what a reference image costs in time and memory, beside the naive way."""
