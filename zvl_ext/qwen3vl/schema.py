"""What Qwen3-VL's configuration may say: a rule for each value, and what single values can't tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import shown

Section = dict[str, Any]


class FaultError(Exception):
    """What is wrong with a configuration, as a line goes on after "config.json: "."""


class _Rule(NamedTuple):
    """What a value may be, and what it is where it is not given; without a default it has to be there."""

    holds: Callable[[Any], bool]
    words: str
    default: Any = None


def _whole(low: int, high: int, default: int | None = None) -> _Rule:
    return _Rule(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}", default)


def _number(default: float | None = None) -> _Rule:
    """Positive, and finite as a float of any precision."""
    return _Rule(lambda v: type(v) in (int, float) and 0 < v < 1e30, "a number above 0", default)


def _one_of(default: Any, *more: Any) -> _Rule:
    choices = (default, *more)
    words = " or ".join(str(choice).lower() for choice in choices)
    return _Rule(lambda v: any(type(v) is type(c) and v == c for c in choices), words, default)


def _list(fits: Callable[[list[int]], bool], words: str, default: list[int] | None = None) -> _Rule:
    """Of whole numbers."""
    return _Rule(lambda v: isinstance(v, list) and all(type(n) is int for n in v) and fits(v), words, default)


_ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu")
# Only what transformers' modules are built from is taken over; whatever else a config.json says has no effect here.
# The defaults are those of transformers' Qwen3-VL and of the published models.
_TEXT = {
    "vocab_size": _whole(1, 2**22, 151936),
    "hidden_size": _whole(1, 2**16),
    "intermediate_size": _whole(1, 2**20, 22016),
    "num_hidden_layers": _whole(0, 1024),
    "num_attention_heads": _whole(1, 4096, 32),
    "num_key_value_heads": _whole(1, 4096, 8),
    "head_dim": _whole(2, 4096, 128),
    "hidden_act": _one_of(*_ACTIVATIONS),
    "rms_norm_eps": _number(1e-6),
    "attention_bias": _one_of(False, True),
    "max_position_embeddings": _whole(1, 2**31, 262144),
}
_VISION = {
    "depth": _whole(1, 1024),
    "hidden_size": _whole(1, 2**16),
    "hidden_act": _one_of("gelu_pytorch_tanh", *_ACTIVATIONS),
    "intermediate_size": _whole(1, 2**20),
    "num_heads": _whole(1, 4096),
    "in_channels": _whole(3, 3, 3),  # a picture's
    "patch_size": _whole(1, 256, 16),
    "temporal_patch_size": _whole(1, 16, 2),
    "spatial_merge_size": _whole(1, 16, 2),
    "out_hidden_size": _whole(1, 2**16),
    "num_position_embeddings": _whole(1, 2**20),
    "deepstack_visual_indexes": _list(
        lambda v: len(set(v)) == len(v) and all(0 <= layer < 1024 for layer in v), "a list of different layers"
    ),
}
_ID = _whole(0, 2**22, -1)  # -1: not given, so they are the published ones
_TOKENS = {
    "image_token_id": _ID,
    "vision_start_token_id": _ID,
    "vision_end_token_id": _ID,
}
# Whether the input embedding makes the logits as well: so in all Qwen3-VL up to 4B.
_TIED = {"tie_word_embeddings": _one_of(True, False)}
# Kinds of rotary embedding, as transformers calls them -> what each needs besides theta, and what it may have.
_ROPE_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "yarn": (("factor",), ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")),
}


def complete(config: Section) -> Section:
    """A configuration of any content as one that transformers 4 and 5 build from: whole, and nothing else in it.

    Raises:
        FaultError: a value is missing, of a wrong type or out of its range, or two do not go together.
    """
    text, vision = _section(config, "text_config"), _section(config, "vision_config")
    whole = _values(_TEXT, text, "text_config.")
    text = whole | _rotary(text, whole["head_dim"] // 2)
    vision = _values(_VISION, vision, "vision_config.")
    tokens = {key: value for key, value in _values(_TOKENS, config).items() if value >= 0}
    _check_together(text, vision, tokens)
    tied = {key: value for key, value in _values(_TIED, config).items() if config.get(key) is not None}
    return {"model_type": "qwen3_vl", **tied, **tokens, "text_config": text, "vision_config": vision}


def check_text(config: Section) -> None:
    """Raise FaultError for a Qwen3's configuration with a value of a wrong type or out of its range."""
    _values(_TEXT, config)


def _section(config: Section, key: str) -> Section:
    part = config.get(key)
    if not isinstance(part, dict):
        raise FaultError(f"it has no usable {key}")
    return part


def _values(rules: dict[str, _Rule], given: Section, prefix: str = "") -> Section:
    """The values that there are rules for. A null is a value that is not given, as in transformers."""
    values = {}
    for key, rule in rules.items():
        value = given.get(key)
        if value is None and rule.default is None:
            raise FaultError(f"{prefix}{key} is missing")
        if value is not None and not rule.holds(value):
            raise FaultError(f"{prefix}{key} is {shown(value)}, it has to be {rule.words}")
        values[key] = rule.default if value is None else value
    return values


def _rotary(text: Section, half: int) -> Section:
    """The rotary settings of heads of 2 · half dimensions.

    transformers 5 writes `rope_parameters`, which version 4 ignores; version 4 writes `rope_theta` and `rope_scaling`.
    """
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise FaultError(f"text_config.rope_scaling is {shown(given)}, it has to be a group of values")
    theta = {"rope_theta": given.get("rope_theta") or text.get("rope_theta")}
    theta = _values({"rope_theta": _number(5e6)}, theta, "text_config.")
    kind = given.get("rope_type") or given.get("type") or "default"
    kind = "default" if kind == "mrope" else kind  # an older word for the same
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise FaultError(f"rope_type is {shown(kind)}, it has to be {' or '.join(_ROPE_KINDS)}")
    needed, more = _ROPE_KINDS[kind]
    side = half * 20 // 64  # 24 : 20 : 20, as all published models have it
    rules = {
        "mrope_interleaved": _one_of(True),
        "mrope_section": _list(
            lambda v: len(v) == 3 and min(v) > 0 and sum(v) == half,
            f"three whole numbers, together half of head_dim ({half})",
            [half - 2 * side, side, side],
        ),
        **{key: _number() for key in (*needed, *(key for key in more if given.get(key) is not None))},
    }
    rope = {"rope_type": kind, **_values(rules, given, "rope_scaling.")}
    return {**theta, "rope_scaling": rope, "rope_parameters": {**rope, **theta}}


def _check_together(text: Section, vision: Section, tokens: Section) -> None:
    heads, pairs = vision["num_heads"], text["num_key_value_heads"]
    positions, largest = vision["num_position_embeddings"], max(tokens.values(), default=0)
    for holds, words in (
        (text["num_attention_heads"] % pairs == 0, "num_attention_heads is no multiple of num_key_value_heads"),
        (text["head_dim"] % 2 == 0, "text_config.head_dim is odd"),
        # Rotary positions are of two axes, in pairs of dimensions.
        (vision["hidden_size"] % (4 * heads) == 0, "vision_config.hidden_size is no multiple of 4 · num_heads"),
        (math.isqrt(positions) ** 2 == positions, "num_position_embeddings is not the square of a whole number"),
        (
            all(layer < vision["depth"] for layer in vision["deepstack_visual_indexes"]),
            "deepstack_visual_indexes names layers beyond depth",
        ),
        (vision["out_hidden_size"] == text["hidden_size"], "out_hidden_size is not text_config.hidden_size"),
        (largest < text["vocab_size"], f"a token's id is {largest}, vocab_size is {text['vocab_size']}"),
        (len(set(tokens.values())) == len(tokens), "two of its three vision tokens are the same"),
    ):
        if not holds:
            raise FaultError(words)
