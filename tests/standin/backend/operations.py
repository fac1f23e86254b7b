import contextlib


@contextlib.contextmanager
def using_forge_operations(**options):
    """Models built inside get the web UI's own layers, which cast and offload. Here they keep torch's."""
    yield
