"""A small trained family of the real model classes, over a drawn world: to try, to test and to measure the product."""
