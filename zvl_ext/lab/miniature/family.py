"""The miniature family's models: which real classes, in which sizes, and where their weights lie.

The folder of weights has two parts, laid out as their big counterparts are: `z-image` is a diffusers pipeline folder,
`qwen3-vl` a Hugging Face model folder. So everything that reads the big models reads these.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from ...sequence import TEMPLATE
from .world import SIZE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

    from ...hosts.standalone import ZImage

WEIGHTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights")

HIDDEN, LAYERS = 96, 8
PATCH, MERGE = 8, 2
GRID = SIZE // (PATCH * MERGE)  # image tokens along a side
VOCABULARY = 512
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_TEXT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 192,
    "max_position_embeddings": 2048,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
}

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _rope(**parameters: Any) -> dict[str, Any]:
    """A configuration's entries for RoPE.

    transformers 5 has one, transformers 4 reads `rope_theta` and `rope_scaling`.
    """
    import transformers

    if not transformers.__version__.startswith("4."):
        return {"rope_parameters": parameters}
    return {"rope_parameters": parameters, **_rope_of_transformers_4(parameters)}


def _rope_of_transformers_4(parameters: dict[str, Any]) -> dict[str, Any]:
    scaling = (
        {key: value for key, value in parameters.items() if key != "rope_theta"}
        if "mrope_section" in parameters
        else None
    )
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": scaling}


def text_encoder() -> Qwen3ForCausalLM:
    """A new text encoder; RoPE as Qwen3-4B has it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_TEXT, **_rope(rope_type="default", rope_theta=1e6)))


def qwen3_vl(special: dict[str, int]) -> Qwen3VLForConditionalGeneration:
    """A new vision-language model of the same language model, RoPE as Qwen3-VL has it.

    Args:
        special: Ids of the special tokens by their text.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = _rope(rope_type="default", rope_theta=5e6, mrope_section=[4, 4, 4], mrope_interleaved=True)
    vision = {
        "depth": 4,
        "hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 192,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [1, 2],
        "num_position_embeddings": (2 * GRID) ** 2,
    }
    config = Qwen3VLConfig(
        text_config={**_TEXT, **rope},
        vision_config=vision,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def transformer() -> ZImageTransformer2DModel:
    """A new image model."""
    import torch
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=120,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=HIDDEN,
        axes_dims=[6, 12, 12],
        axes_lens=[512, 64, 64],
    )
    # Zero in a new model, and a zero row has no direction to normalize.
    for token in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(token, std=0.02)
    return model


def vae() -> AutoencoderKL:
    """A new autoencoder: 16 latent channels, 8 pixels to a side of a latent."""
    from diffusers import AutoencoderKL

    channels = (16, 32, 32, 48)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of VOCABULARY entries with Qwen's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str) -> None:
    """With what transformers' tokenizer class needs to read it back."""
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": _CHAT_TEMPLATE,
        "model_max_length": 2048,
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The template with the prompt in it, as Z-Image's text encoder gets it."""
    return tokenizer.encode(TEMPLATE.format(prompt), add_special_tokens=False).ids


def write_rope_for_transformers_4(path: str) -> None:
    """Let a file have both: transformers 5 writes `rope_parameters`, transformers 4 reads `rope_theta` and
    `rope_scaling`."""
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    text = config.get("text_config", config)
    text |= _rope_of_transformers_4(text["rope_parameters"])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


SAMPLING = {"size": (SIZE, SIZE), "steps": 8, "guidance": 2.0}  # for ZImage.generate

# Everyday captions of this world: what the text encoder's statistics are measured on.
REFERENCE_PROMPTS = (
    "a large red circle, in the middle, on a white background, flat",
    "striped, a drawing of a small blue star, against beige",
    "a picture of a big yellow heart, on the left, soft style, in front of navy",
    "a green square",
    "dotted style, a tiny purple moon, on the right, black background",
    "against grey, bold outlines, a teal cross",
    "a huge orange triangle in the centre",
    "a pink ring, brown background, covered with stripes, at the left",
    "an image of a small object, soft",
    "in front of white, a little red moon in the middle, outlined",
)


def layer_at_same_depth(layer: int, layers: int = LAYERS, of: int = 36) -> int:
    """The hidden layer of a model of `layers` layers that lies as deep as `layer` does in one of `of`."""
    if layer == -1:
        return -1
    deep = round((of + 1 + layer) / of * layers)
    return min(max(deep, 1), layers - 1) - layers - 1


def be_quiet() -> None:
    """No hints, bars and warnings of the libraries: they are not about what is being done here."""
    # About names that older versions need; some come with the import.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # an error is raised as well, and told in a line of ours
        library.utils.logging.disable_progress_bar()


def load(folder: str = WEIGHTS, device: str = "cpu") -> ZImage:
    """The miniature Z-Image with the miniature Qwen3-VL."""
    from ...hosts.standalone import ZImage

    return ZImage(
        os.path.join(folder, "z-image"), os.path.join(folder, "qwen3-vl"), device, "float32", REFERENCE_PROMPTS
    )
