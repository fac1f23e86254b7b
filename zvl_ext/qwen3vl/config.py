"""Qwen3-VL's configuration: as config.json, a file's metadata or the shapes of its tensors tell it, and held against
the tensors."""

from __future__ import annotations

from ..errors import ZvlError, shown
from ..outside import parse_json, plain
from .kinds import Shapes
from .schema import FaultError, Section, complete

# Depths of the vision tower in published models whose DeepStack layers do not follow from evenly spaced thirds.
_DEEPSTACK = {27: (8, 16, 24)}
_VISION_HEADS = 16  # of every published Qwen3-VL; the shapes do not tell
_METADATA = 2**20  # characters of a configuration in a file's metadata at most
_LAYERS, _BLOCKS, _DEEP = "language_model.layers.", "visual.blocks.", "visual.deepstack_merger_list."
_EMBEDDING = "language_model.embed_tokens.weight"


def from_metadata(metadata: dict[str, str]) -> Section | None:
    """A `config` entry in the file's metadata (JSON of a config.json) goes before what the shapes tell."""
    text = metadata.get("config", "")
    if not text or len(text) > _METADATA:
        return None
    try:
        config = parse_json(text)
    except ValueError:
        return None
    sections = ("text_config", "vision_config")
    usable = isinstance(config, dict) and all(isinstance(config.get(section), dict) for section in sections)
    return config if usable else None


def config_from_shapes(
    shapes: Shapes, name: str = "the file", vision_more: Section | None = None, text_more: Section | None = None
) -> Section:
    """Qwen3-VL's configuration from the shapes of its tensors (names as in Qwen3VLModel).

    What shapes do not tell is what all published Qwen3-VL have in common: 16 vision heads, merge 2, rope theta 5e6 and
    interleaved MRoPE in the proportion 24 : 20 : 20. A vision tower alone gets a language model of no layers.

    Args:
        vision_more, text_more: What the file says of the two sections besides.

    Raises:
        ZvlError: a tensor that is needed is missing, or has no shape of a Qwen3-VL's.
    """

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if key not in shapes:
            raise FaultError(f"the tensor {key} is missing")
        if len(shapes[key]) != dimensions or 0 in shapes[key]:
            raise FaultError(f"the tensor {key} is {plain(list(shapes[key]))}")
        return shapes[key]

    try:
        vision_hidden, channels, temporal, patch, _ = shape("visual.patch_embed.proj.weight", 5)
        depth, deepstack = counted(shapes, _BLOCKS), counted(shapes, _DEEP)
        step = depth // (deepstack + 1)
        merged = shape("visual.merger.linear_fc1.weight", 2)[1]
        width = shape("visual.merger.linear_fc2.weight", 2)[0]
        vision = {
            "depth": depth,
            "hidden_size": vision_hidden,
            "intermediate_size": shape(_BLOCKS + "0.mlp.linear_fc1.weight", 2)[0],
            "num_heads": _VISION_HEADS,
            "in_channels": channels,
            "patch_size": patch,
            "temporal_patch_size": temporal,
            "spatial_merge_size": round((merged / vision_hidden) ** 0.5),
            "out_hidden_size": width,
            "num_position_embeddings": shape("visual.pos_embed.weight", 2)[0],
            "deepstack_visual_indexes": list(
                _DEEPSTACK.get(depth, tuple(step * (i + 1) - 1 for i in range(deepstack)))[:deepstack]
            ),
        }
        text: Section = {"hidden_size": width, "num_hidden_layers": 0}
        if has_language(shapes):
            vocabulary, hidden = shape(_EMBEDDING, 2)
            layer = _LAYERS + "0."
            (head_dim,) = shape(layer + "self_attn.q_norm.weight", 1)
            text = {
                "vocab_size": vocabulary,
                "hidden_size": hidden,
                "intermediate_size": shape(layer + "mlp.gate_proj.weight", 2)[0],
                "num_hidden_layers": counted(shapes, _LAYERS),
                "num_attention_heads": shape(layer + "self_attn.q_proj.weight", 2)[0] // head_dim,
                "num_key_value_heads": shape(layer + "self_attn.k_proj.weight", 2)[0] // head_dim,
                "head_dim": head_dim,
            }
        return complete({"text_config": text | (text_more or {}), "vision_config": vision | (vision_more or {})})
    except FaultError as error:
        raise ZvlError(f"{name}: its tensors are not those of a Qwen3-VL: {error}.") from None


def checked(config: Section, shapes: Shapes, name: str, source: str = "config.json") -> Section:
    """The configuration with what it leaves out, in the words of both generations of transformers, and nothing else.

    Args:
        config: As JSON gives it, of any content.
        shapes: The tensors that it is for (names as in Qwen3VLModel). A count is believed only where they have it.
        source: Where it is from, for messages.

    Raises:
        ZvlError: it is none that a model can be built from, or not that of these tensors.
    """
    try:
        whole = complete(config)
        _check_counts(whole["text_config"], whole["vision_config"], shapes)
    except FaultError as error:
        raise ZvlError(f"{name}: {source}: {error}. Take the one that these weights came with.") from None
    for tensor, wanted in _telling(whole["text_config"], whole["vision_config"]).items():
        if tensor in shapes and shapes[tensor] != wanted:
            found = plain(list(shapes[tensor]))
            raise ZvlError(f"{name}: the tensor {tensor} is {found}, it should be {list(wanted)} by {source}.")
    return whole


def has_language(shapes: Shapes) -> bool:
    """Whether the tensors (names as in Qwen3VLModel) are more than a vision tower."""
    return any(key.startswith("language_model.") for key in shapes)


def _check_counts(text: Section, vision: Section, shapes: Shapes) -> None:
    counts = {
        _BLOCKS: ("vision_config.depth", vision["depth"]),
        _DEEP: ("the number of deepstack_visual_indexes", len(vision["deepstack_visual_indexes"])),
    }
    if has_language(shapes):
        counts[_LAYERS] = ("text_config.num_hidden_layers", text["num_hidden_layers"])
        if text["attention_bias"] != (f"{_LAYERS}0.self_attn.q_proj.bias" in shapes):
            raise FaultError(
                f"text_config.attention_bias is {shown(text['attention_bias'])}, the weights say otherwise"
            )
    for prefix, (key, said) in counts.items():
        if (there := counted(shapes, prefix)) != said:
            raise FaultError(f"{key} is {said}, the weights have {there}")


def counted(shapes: Shapes, prefix: str) -> int:
    """How many numbers stand behind a prefix of tensors' names.

    They are compared as texts: no number is taken for a count, however large it is.

    Raises:
        FaultError: they do not count from 0 without a gap.
    """
    found = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    if strange := sorted(found - set(map(str, range(len(found))))):
        tensor = next(key for key in shapes if key.startswith(f"{prefix}{strange[0]}."))
        raise FaultError(
            f"the tensor {plain(tensor)} is not part of a Qwen3 or Qwen3-VL: a number before it is missing"
        )
    return len(found)


def _telling(text: Section, vision: Section) -> dict[str, tuple[int, ...]]:
    """Shapes that tensors have under a configuration: enough to tell whether the two belong together."""
    merged = vision["hidden_size"] * vision["spatial_merge_size"] ** 2
    patch, layer = vision["patch_size"], _LAYERS + "0."
    return {
        _EMBEDDING: (text["vocab_size"], text["hidden_size"]),
        layer + "self_attn.q_norm.weight": (text["head_dim"],),
        layer + "self_attn.q_proj.weight": (text["num_attention_heads"] * text["head_dim"], text["hidden_size"]),
        layer + "self_attn.k_proj.weight": (text["num_key_value_heads"] * text["head_dim"], text["hidden_size"]),
        layer + "mlp.gate_proj.weight": (text["intermediate_size"], text["hidden_size"]),
        "visual.patch_embed.proj.weight": (
            vision["hidden_size"],
            vision["in_channels"],
            vision["temporal_patch_size"],
            patch,
            patch,
        ),
        "visual.pos_embed.weight": (vision["num_position_embeddings"], vision["hidden_size"]),
        _BLOCKS + "0.mlp.linear_fc1.weight": (vision["intermediate_size"], vision["hidden_size"]),
        "visual.merger.linear_fc1.weight": (merged, merged),
        "visual.merger.linear_fc2.weight": (vision["out_hidden_size"], merged),
    }
