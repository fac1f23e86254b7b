"""The configuration: from the shapes of the tensors, from a file's metadata, in the words of both transformers."""

import json
import math

import pytest
import tiny
import torch

from zvl_ext.qwen3vl.config import config_from_shapes
from zvl_ext.qwen3vl.files import open_checkpoint


def published(
    hidden, layers, mlp, heads, kv_heads, vision_depth, vision_hidden, vision_mlp
) -> dict[str, tuple[int, ...]]:
    """The tensors of a published Qwen3-VL: names and shapes, written down from the architecture."""
    shapes = {"language_model.embed_tokens.weight": (151936, hidden), "language_model.norm.weight": (hidden,)}
    for i in range(layers):
        layer = f"language_model.layers.{i}."
        shapes |= {
            layer + "self_attn.q_proj.weight": (heads * 128, hidden),
            layer + "self_attn.k_proj.weight": (kv_heads * 128, hidden),
            layer + "self_attn.v_proj.weight": (kv_heads * 128, hidden),
            layer + "self_attn.o_proj.weight": (hidden, heads * 128),
            layer + "self_attn.q_norm.weight": (128,),
            layer + "self_attn.k_norm.weight": (128,),
            layer + "mlp.gate_proj.weight": (mlp, hidden),
            layer + "mlp.up_proj.weight": (mlp, hidden),
            layer + "mlp.down_proj.weight": (hidden, mlp),
            layer + "input_layernorm.weight": (hidden,),
            layer + "post_attention_layernorm.weight": (hidden,),
        }

    def with_bias(name: str, *shape: int) -> None:
        shapes[name + ".weight"], shapes[name + ".bias"] = shape, shape[:1]

    with_bias("visual.patch_embed.proj", vision_hidden, 3, 2, 16, 16)
    shapes["visual.pos_embed.weight"] = (2304, vision_hidden)
    for i in range(vision_depth):
        block = f"visual.blocks.{i}."
        with_bias(block + "norm1", vision_hidden)
        with_bias(block + "norm2", vision_hidden)
        with_bias(block + "attn.qkv", 3 * vision_hidden, vision_hidden)
        with_bias(block + "attn.proj", vision_hidden, vision_hidden)
        with_bias(block + "mlp.linear_fc1", vision_mlp, vision_hidden)
        with_bias(block + "mlp.linear_fc2", vision_hidden, vision_mlp)
    merged = 4 * vision_hidden
    for merger, normed in (("merger", vision_hidden), *((f"deepstack_merger_list.{i}", merged) for i in range(3))):
        with_bias(f"visual.{merger}.norm", normed)
        with_bias(f"visual.{merger}.linear_fc1", merged, merged)
        with_bias(f"visual.{merger}.linear_fc2", hidden, merged)
    return shapes


PUBLISHED = {
    "2B": ((2048, 28, 6144, 16, 8, 24, 1024, 4096), [5, 11, 17]),
    "4B": ((2560, 36, 9728, 32, 8, 24, 1024, 4096), [5, 11, 17]),
    "8B": ((4096, 36, 12288, 32, 8, 27, 1152, 4304), [8, 16, 24]),
}


def test_the_4b_has_713_tensors_and_4437815808_parameters():
    shapes = published(*PUBLISHED["4B"][0])
    assert len(shapes) == 713
    assert sum(math.prod(shape) for shape in shapes.values()) == 4_437_815_808


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_configuration_from_shapes_is_the_published_one(size):
    numbers, deepstack = PUBLISHED[size]
    hidden, layers, mlp, heads, kv_heads, depth, vision_hidden, vision_mlp = numbers
    config = config_from_shapes(published(*numbers))
    assert config["model_type"] == "qwen3_vl"
    text, vision = config["text_config"], config["vision_config"]
    wanted_text = {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000,
        "max_position_embeddings": 262144,
    }
    assert {key: text[key] for key in wanted_text} == wanted_text
    assert text["rope_scaling"] == {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    wanted_vision = {
        "depth": depth,
        "hidden_size": vision_hidden,
        "intermediate_size": vision_mlp,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": hidden,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": deepstack,
    }
    assert {key: vision[key] for key in wanted_vision} == wanted_vision


@pytest.mark.parametrize("size", PUBLISHED)
def test_transformers_builds_from_that_configuration_exactly_these_tensors(size):
    """The lists above are not only ours: the real class, built without memory, has the same names and shapes."""
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    shapes = published(*PUBLISHED[size][0])
    config = config_from_shapes(shapes)
    with torch.device("meta"):
        built = Qwen3VLModel(Qwen3VLConfig(text_config=config["text_config"], vision_config=config["vision_config"]))
    assert {name: tuple(p.shape) for name, p in built.named_parameters()} == shapes


def test_the_tiny_models_configuration_follows_from_its_shapes(model, state):
    config = config_from_shapes({name: tuple(value.shape) for name, value in state.items()})
    for part in ("text_config", "vision_config"):
        true = model.config.to_dict()[part]
        for key, value in config[part].items():
            if key not in ("rope_theta", "rope_scaling", "max_position_embeddings"):
                assert true[key] == value, key
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [6, 5, 5]


def test_a_config_in_the_files_metadata_goes_before_the_shapes(irregular, tmp_path):
    path = tiny.save_single(
        tiny.inner_state(irregular), tmp_path / "one.safetensors", metadata=tiny.config_metadata(irregular.config)
    )
    opened = open_checkpoint(str(path))
    assert opened.config["vision_config"]["num_heads"] == 4
    assert opened.config["text_config"]["rope_theta"] == 1e4
    assert opened.config["text_config"]["rope_scaling"]["mrope_section"] == [4, 2, 2]
    assert opened.vision_tokens.image == irregular.config.image_token_id


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"text_config": 5}', '{"text_config": {}, "vision_config": []}']
)
def test_metadata_without_a_usable_config_is_passed_over(text, state, tmp_path):
    opened = open_checkpoint(str(tiny.save_single(state, tmp_path / "one.safetensors", metadata={"config": text})))
    assert opened.config["vision_config"]["num_heads"] == 16


@pytest.mark.parametrize("words", ["rope_parameters", "rope_theta and rope_scaling"])
def test_the_rotary_settings_are_found_in_the_words_of_both_generations_of_transformers(words, copied):
    config = json.loads((copied / "config.json").read_text())
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]}
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        config["text_config"].pop(key, None)
    config["text_config"] |= (
        {"rope_parameters": rope | {"rope_theta": 12345.0}}
        if words == "rope_parameters"
        else {"rope_theta": 12345.0, "rope_scaling": rope}
    )
    (copied / "config.json").write_text(json.dumps(config))
    text = open_checkpoint(str(copied)).config["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 12345.0
    assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"] == [6, 5, 5]
