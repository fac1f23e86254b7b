"""Trains the miniature family: `python -m zvl_ext.miniature.training STAGE --work FOLDER`."""
