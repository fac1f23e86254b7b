"""Pictures over all values of some options, measured and reported: `python -m zvl_ext sweep`."""
