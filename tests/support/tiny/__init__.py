"""Tiny random models of the real classes, a tiny tokenizer, and what plain transformers makes of them.

Nothing here imports zvl_ext: this is the independent side of every comparison.
"""

from .files import (
    FP8_KINDS,
    LAYOUTS,
    as_bytes,
    config_metadata,
    in_layout,
    inner_state,
    is_linear,
    quantize,
    save_single,
)
from .models import (
    EMBEDDINGS,
    IRREGULAR,
    REGULAR,
    is_version_4,
    make_config,
    make_model,
    make_text_encoder,
    make_tokenizer,
    make_writer,
    randomized,
    save_folder,
    token_ids,
    with_text_encoder,
)
from .pictures import encoded, picture
from .plain import plain_hidden_states, plain_ids, plain_image_tokens, plain_inputs, plain_pixels, plain_text_states
from .watch import layers, work

__all__ = [
    "EMBEDDINGS",
    "FP8_KINDS",
    "IRREGULAR",
    "LAYOUTS",
    "REGULAR",
    "as_bytes",
    "config_metadata",
    "encoded",
    "in_layout",
    "inner_state",
    "is_linear",
    "is_version_4",
    "layers",
    "make_config",
    "make_model",
    "make_text_encoder",
    "make_tokenizer",
    "make_writer",
    "picture",
    "plain_hidden_states",
    "plain_ids",
    "plain_image_tokens",
    "plain_inputs",
    "plain_pixels",
    "plain_text_states",
    "quantize",
    "randomized",
    "save_folder",
    "save_single",
    "token_ids",
    "with_text_encoder",
    "work",
]
