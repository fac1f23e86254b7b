"""Trains the miniature family: `python -m zvl_ext.lab.training STAGE --work FOLDER`."""
