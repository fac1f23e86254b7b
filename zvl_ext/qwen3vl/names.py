"""Tensors' names as files have them, and as transformers' Qwen3VLModel has them (`visual.…`, `language_model.…`);
`lm_head.weight` stands beside it.

Files differ in what stands in front: `model.language_model.`, `model.`, nothing, or the place in a file that holds the
image model as well (`text_encoders.qwen3vl_4b.transformer.model.`). So the parts are found by their endings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_VISION = re.compile(r"^((?:.*\.)?visual\.)(?:blocks\.\d+|merger|deepstack_merger_list\.\d+|patch_embed|pos_embed)\.")
_LANGUAGE = re.compile(
    r"^((?:.*\.)?)(?:embed_tokens\.weight$|layers\.\d+\."
    r"(?:self_attn\.(?:[qkvo]_proj|[qk]_norm)|mlp\.(?:gate|up|down)_proj|input_layernorm|post_attention_layernorm)\.)"
)
_HEAD = re.compile(r"^((?:.*\.)?)lm_head\.weight$")
# Every tensor that transformers' Qwen3VLModel has, and the logits' layer of those that do not use the embedding for it.
_PLACES = re.compile(
    r"lm_head\.weight|"
    r"visual\.(?:patch_embed\.proj|pos_embed|(?:merger|deepstack_merger_list\.\d+)\.(?:norm|linear_fc[12])|"
    r"blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.linear_fc[12]))\.(?:weight|bias)|"
    r"language_model\.(?:embed_tokens|norm|layers\.\d+\.(?:input_layernorm|post_attention_layernorm|"
    r"self_attn\.(?:[qkvo]_proj|[qk]_norm)|mlp\.(?:gate|up|down)_proj))\.(?:weight|bias)"
)


def has_place(inner: str) -> bool:
    """Whether the model has a tensor of that inner name, as far as it has that many layers."""
    return _PLACES.fullmatch(inner) is not None


def inner_names(keys: Iterable[str]) -> Callable[[str], str | None]:
    """What gives the name in Qwen3VLModel of a name in these files; None for what belongs to something else.

    Of several language models, it is the one that stands nearest to the vision tower, and of several vision towers the
    one with DeepStack, which other models of the family do not have.
    """
    keys = list(keys)
    towers = Counter(match[1] for key in keys if (match := _VISION.match(key)))
    models = Counter(match[1] for key in keys if (match := _LANGUAGE.match(key)) and not match[1].endswith("visual."))
    deep = {match[1] for key in keys if (match := _VISION.match(key)) and "deepstack" in key}
    tower = max(towers, key=lambda root: (root in deep, towers[root]), default=None)
    normed = {match[1] for key in keys if (match := _LANGUAGE.match(key)) and "self_attn.q_norm." in key}
    model = max(
        models, key=lambda root: (_shared(root, tower or ""), root in normed, models[root], -len(root)), default=None
    )
    # The logits' layer stands beside the language model or outside of it, never within another part.
    heads = [match[1] for key in keys if (match := _HEAD.match(key)) and (model or "").startswith(match[1])]
    head = max(heads, key=len, default=None)

    def inner(key: str) -> str | None:
        if tower is not None and key.startswith(tower):
            return "visual." + key[len(tower) :]
        if head is not None and key.startswith(head + "lm_head."):
            return key[len(head) :]
        if model is not None and key.startswith(model):
            return "language_model." + key[len(model) :]
        return None

    return inner


def _shared(one: str, other: str) -> int:
    """How many parts two places have in common, from the front."""
    pairs = zip(one.split("."), other.split("."))
    return next((number for number, (a, b) in enumerate(pairs) if a != b), 0)
