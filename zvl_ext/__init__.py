"""Z-Image VL: a reference image conditions Z-Image through Qwen3-VL, without training.

Importing this package loads neither torch nor transformers: a web UI imports it at every start.
"""

__version__ = "0.2.0"
