"""What a configuration may say: every value of a wrong type or out of its range is named, none reaches transformers."""

import copy
import json

import pytest
import torch

from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
from zvl_ext.qwen3vl.schema import FaultError, complete


@pytest.fixture
def config(folder) -> dict:
    """The tiny model's config.json."""
    return json.loads((folder / "config.json").read_text())


def changed(config: dict, place: str, value: object) -> dict:
    """The configuration with a value at a place such as `text_config.head_dim`."""
    made = copy.deepcopy(config)
    *sections, key = place.split(".")
    part = made
    for section in sections:
        part = part.setdefault(section, {})
    part[key] = value
    return made


NUMBERS = (
    "text_config.vocab_size",
    "text_config.hidden_size",
    "text_config.intermediate_size",
    "text_config.num_attention_heads",
    "text_config.num_key_value_heads",
    "text_config.head_dim",
    "text_config.rms_norm_eps",
    "text_config.max_position_embeddings",
    "vision_config.depth",
    "vision_config.hidden_size",
    "vision_config.intermediate_size",
    "vision_config.num_heads",
    "vision_config.in_channels",
    "vision_config.patch_size",
    "vision_config.temporal_patch_size",
    "vision_config.spatial_merge_size",
    "vision_config.out_hidden_size",
    "vision_config.num_position_embeddings",
)


@pytest.mark.parametrize("value", ["8", 0, -1, True, [], {}, [8], float("inf"), 10**60], ids=range(9))
@pytest.mark.parametrize("place", NUMBERS)
def test_a_number_of_a_wrong_type_or_size_is_named(place, value, config):
    with pytest.raises(FaultError, match=place):
        complete(changed(config, place, value))


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("text_config.hidden_act", "swiglu", "hidden_act is 'swiglu', it has to be silu"),
        ("text_config.hidden_act", ["silu"], "hidden_act"),
        ("vision_config.hidden_act", 5, "hidden_act"),
        ("text_config.attention_bias", 1, "attention_bias"),
        ("text_config.num_hidden_layers", 10**9, "num_hidden_layers"),
        ("text_config.num_hidden_layers", "36", "num_hidden_layers"),
        ("text_config.rope_parameters", {"rope_type": "yarn"}, "factor is missing"),
        ("text_config.rope_parameters", {"rope_type": "linear", "factor": "2"}, "factor is '2'"),
        ("text_config.rope_parameters", {"rope_type": "longrope"}, "rope_type is 'longrope'"),
        ("text_config.rope_parameters", {"rope_type": ["default"]}, "rope_type"),
        ("text_config.rope_parameters", [1], "rope_scaling"),
        ("text_config.rope_parameters", {"rope_theta": 0.5, "mrope_section": [6, 5]}, "mrope_section"),
        ("text_config.rope_parameters", {"mrope_section": [24, 20, 20]}, "mrope_section .*half of head_dim"),
        ("text_config.rope_parameters", {"mrope_section": [16, 0, 0]}, "mrope_section"),
        ("text_config.rope_parameters", {"mrope_section": 64}, "mrope_section"),
        ("text_config.rope_parameters", {"mrope_interleaved": False}, "mrope_interleaved"),
        ("text_config.rope_parameters", {"rope_theta": -1}, "rope_theta"),
        ("text_config.rope_parameters", {"rope_theta": "5e6"}, "rope_theta"),
        ("text_config.num_key_value_heads", 3, "no multiple of num_key_value_heads"),
        ("text_config.head_dim", 31, "mrope_section|head_dim is odd"),
        ("vision_config.num_heads", 3, "no multiple of 4"),
        ("vision_config.num_heads", 32, "no multiple of 4"),
        ("vision_config.num_position_embeddings", 35, "square"),
        ("vision_config.out_hidden_size", 32, "out_hidden_size"),
        ("vision_config.deepstack_visual_indexes", [0, 1, 4], "beyond depth"),
        ("vision_config.deepstack_visual_indexes", [0, 1, 1], "different layers"),
        ("vision_config.deepstack_visual_indexes", "012", "deepstack_visual_indexes"),
        ("vision_config.deepstack_visual_indexes", [-1], "deepstack_visual_indexes"),
        ("image_token_id", 512, "a token's id is 512, vocab_size is 512"),
        ("vision_start_token_id", -1, "vision_start_token_id"),
        ("vision_end_token_id", "151653", "vision_end_token_id"),
        ("text_config", None, "it has no usable text_config"),
        ("vision_config", [], "it has no usable vision_config"),
    ],
)
def test_values_that_no_model_can_be_built_from_are_refused(place, value, says, config):
    with pytest.raises(FaultError, match=says):
        complete(changed(config, place, value))


def test_two_vision_tokens_are_not_the_same(config):
    with pytest.raises(FaultError, match="the same"):
        complete(changed(config, "image_token_id", config["vision_start_token_id"]))


@pytest.mark.parametrize("place", ["text_config.rope_parameters", "text_config.rope_theta", "text_config.hidden_act"])
def test_what_is_not_given_is_as_published(place, config):
    config = changed(changed(config, "text_config.rope_scaling", None), place, None)
    made = complete(config)["text_config"]
    assert made["rope_scaling"]["mrope_section"] == [6, 5, 5]
    assert made["hidden_act"] == "silu"
    assert made["rope_theta"] == 5e6


@pytest.mark.parametrize(
    "more",
    [
        {"torch_dtype": "no such dtype", "architectures": 5, "id2label": [1], "transformers_version": 1e400},
        {"quantization_config": {"quant_method": "unknown"}, "auto_map": {"AutoModel": "evil.Model"}},
        {"_attn_implementation": "flash", "use_cache": "x", "is_decoder": []},
    ],
    ids=range(3),
)
def test_whatever_else_it_says_has_no_effect(more, config, checkpoint):
    text = config["text_config"] | more | {"layer_types": ["unknown"], "pad_token_id": 10**9, "attention_dropout": "x"}
    said = {**config, **more, "text_config": text, "vision_config": config["vision_config"] | more}
    assert complete(said) == checkpoint.config


@pytest.mark.parametrize("rope", [{"rope_type": "yarn", "factor": 2.0}, {"rope_type": "linear", "factor": 3}])
def test_the_kinds_of_rotary_embedding_that_are_let_through_build(rope, copied, config):
    config["text_config"].pop("rope_scaling", None)
    config["text_config"]["rope_parameters"] = rope | {"mrope_section": [6, 5, 5], "rope_theta": 5e6}
    (copied / "config.json").write_text(json.dumps(config))
    load(open_checkpoint(str(copied)), torch.float32)


# --- beside the tensors


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("text_config.num_hidden_layers", 4, "num_hidden_layers is 4, the weights have 5"),
        ("text_config.num_hidden_layers", 1000, "num_hidden_layers is 1000, the weights have 5"),
        ("vision_config.depth", 5, "depth is 5, the weights have 4"),
        ("vision_config.deepstack_visual_indexes", [0, 1], "deepstack_visual_indexes is 2, the weights have 3"),
        ("text_config.vocab_size", 513, "embed_tokens.weight is .512, 64., it should be .513, 64. by config.json"),
        ("vision_config.intermediate_size", 49, "linear_fc1.weight is .*it should be .49, 64. by config.json"),
        ("vision_config.num_position_embeddings", 25, "pos_embed.weight is .36, 64."),
        ("vision_config.patch_size", 14, "patch_embed.proj.weight"),
        ("vision_config.spatial_merge_size", 1, "merger.linear_fc1.weight"),
    ],
)
def test_a_configuration_of_other_weights_is_refused_when_they_are_opened(place, value, says, copied, config, refused):
    (copied / "config.json").write_text(json.dumps(changed(config, place, value)))
    with refused("copied: .*" + says):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    "text",
    [
        b'{"model_type": "qwen3_vl", "text_config": {"hidden_size": Infinity}}',
        b'{"model_type": "qwen3_vl", "x": ' + b"1" * 5000 + b"}",
        b'{"model_type": "qwen3_vl", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model_type": "qwen3_vl\\ud800"}',
        b" " * (2**20 + 1),
    ],
    ids=["Infinity", "digits", "deep", "half a character", "long"],
)
def test_json_that_is_none_is_refused_in_one_line(text, copied, refused):
    (copied / "config.json").write_bytes(text)
    with refused(r"copied: config\.json can't be read \("):
        open_checkpoint(str(copied))
    (copied / "config.json").unlink()
    (copied / "model.safetensors.index.json").write_bytes(text * (20 if text[:1] == b" " else 1))
    (copied / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with refused(r"copied: model\.safetensors\.index\.json can't be read \("):
        open_checkpoint(str(copied))


# --- identity


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("text_config.rope_parameters", {"rope_theta": 1e6, "mrope_section": [6, 5, 5]}),
        ("vision_config.deepstack_visual_indexes", [0, 1, 3]),
        ("text_config.rms_norm_eps", 1e-5),
    ],
)
def test_the_identity_changes_with_the_configuration(place, value, copied, config):
    before = open_checkpoint(str(copied)).identity
    (copied / "config.json").write_text(json.dumps(changed(config, place, value)))
    assert open_checkpoint(str(copied)).identity != before
    (copied / "config.json").write_text(json.dumps(config | {"transformers_version": "another"}))
    assert open_checkpoint(str(copied)).identity == before, "what has no effect is no other model"


def test_the_identity_is_that_of_the_weights_as_they_were_opened(copied):
    opened = open_checkpoint(str(copied))
    before = opened.identity
    (copied / "model.safetensors").unlink()
    assert opened.identity == before


def test_the_identity_stays_when_a_model_is_built(copied):
    """transformers 5 writes into what it builds a configuration of."""
    opened = open_checkpoint(str(copied))
    before, config = opened.identity, copy.deepcopy(opened.config)
    load(opened, torch.float32)
    assert opened.identity == before
    assert opened.config == config
