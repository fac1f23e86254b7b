"""A stand-in for the web UI: just what Z-Image VL uses of it, with the behaviour it relies on.

Every test that runs here also runs against a real web UI (see tests/hosts.py), so that the stand-in can't lie for long.
"""
