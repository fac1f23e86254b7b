"""A small trained family of the real model classes, over a drawn world: to try the product, to test it, to measure
it."""
