"""Encoded pictures: which formats can be read here, what their headers promise, and what colours they mean."""
