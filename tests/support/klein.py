"""Flux.2 Klein in the web UI: its own engine and image model at a small size, and what is to come out, by hand.

Test modules that import it are skipped where the web UI has no such engine.
"""

from __future__ import annotations

import functools
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import numpy as np
import pytest
import tiny
import torch
import transformers
from host_engine import furnish, make_text_encoder
from PIL import Image
from sampling import CHANNELS, HIDDEN, Studio
from tokenizers import Tokenizer

flux2 = pytest.importorskip("backend.diffusion_engine.flux2", reason="this web UI has no engine for Flux.2 Klein")
from backend.args import dynamic_args  # noqa: E402, F401
from backend.nn import flux  # noqa: E402
from backend.text_processing.klein_engine import KleinTextProcessingEngine  # noqa: E402

LAYERS, ROWS = (9, 18, 27), 512  # as the web UI's engine has them
TEXT_LAYERS, VL_LAYERS = 28, 29  # enough of them, and one count is not mistaken for the other
DOUBLE, SINGLE = 1, 2
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Flux2(flux2.Flux2):
    """The web UI's own engine with a tiny text encoder and nothing else."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 0, filename: str = "klein.safetensors", hidden: int = HIDDEN):
        encoders = make_text_encoder(seed, hidden, TEXT_LAYERS)
        furnish(self, KleinTextProcessingEngine, encoders, tokenizer, filename)
        self.text_processing_engine_gemma.id_pad = tokenizer.token_to_id("<|endoftext|>")
        self.ini_latent, self.ref_latents = None, []


class AnotherFlux2(Flux2):
    """One of the same class with another text encoder, which has another template."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.text_processing_engine_gemma.llama_template = "[INST]{}[/INST]"


AnotherFlux2.__name__ = "Flux2"


class KleinStudio(Studio):
    """A web UI that makes pictures with a small Flux.2 Klein."""

    @staticmethod
    def make_model() -> torch.nn.Module:
        return flux.IntegratedFluxTransformer2DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            vec_in_dim=None,
            context_in_dim=len(LAYERS) * HIDDEN,
            hidden_size=64,
            mlp_ratio=3.0,
            num_heads=2,
            depth=DOUBLE,
            depth_single_blocks=SINGLE,
            axes_dim=[8, 8, 8, 8],
            theta=2000,
            patch_size=1,
            qkv_bias=False,
            guidance_embed=False,
            txt_ids_dims=[3],
            global_modulation=True,
            mlp_silu_act=True,
            ops_bias=False,
            default_ref_method="index",
            ref_index_scale=10.0,
        )


class KleinByHand:
    """A prompt's rows from plain transformers, whose attention mask hides what fills it up."""

    def __init__(
        self, vl_model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, image: Image.Image
    ):
        self.vl_model, self.tokenizer, self.image = vl_model, tokenizer, image
        self.filler = tokenizer.token_to_id("<|endoftext|>")

    def ids(self, prompt: str) -> tuple[list[int], int]:
        """A prompt's tokens with those that fill it up, and how many are its own."""
        ids = self.tokenizer.encode(TEMPLATE.format(prompt), add_special_tokens=False).ids
        return ids + [self.filler] * (ROWS - len(ids)), len(ids)

    def _states(self, model: torch.nn.Module, **inputs: Any) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return model(**inputs, use_cache=False, output_hidden_states=True).hidden_states

    def _mask(self, tokens: int, own: int) -> torch.Tensor:
        return (torch.arange(tokens) < own).long()[None]

    def text(self, engine: Flux2, prompt: str) -> np.ndarray:
        ids, own = self.ids(prompt)
        mask = self._mask(len(ids), own)
        return _beside(self._states(engine.plain, input_ids=torch.tensor([ids]), attention_mask=mask))

    def _sequence(self, prompt: str, images: int) -> tuple[list[int], torch.Tensor, int]:
        """All tokens, which of them are the image's, and how many there are without those that fill up."""
        ids, own = self.ids(prompt)
        special = tiny.token_ids(self.tokenizer)
        image = [special["image_token_id"]] * images
        block = [special["vision_start_token_id"], *image, special["vision_end_token_id"]]
        place = torch.arange(len(ids) + len(block))
        return [*ids[:3], *block, *ids[3:]], (place >= 3) & (place < 3 + len(block)), own + len(block)

    def vl(self, prompt: str, layers: tuple[int, ...] = LAYERS) -> tuple[np.ndarray, np.ndarray]:
        """What Qwen3-VL reads: the prompt's rows and the vision block's."""
        states, image = self._read(prompt)
        rows = _beside(states, layers)
        return rows[~image], rows[image]

    @functools.cache  # noqa: B019  of one test
    def _read(self, prompt: str) -> tuple[tuple[torch.Tensor, ...], np.ndarray]:
        pixels = tiny.plain_pixels(self.image, 256)
        ids, image, own = self._sequence(prompt, int(pixels["image_grid_thw"].prod()) // 4)
        inputs = tiny.plain_inputs(self.vl_model, ids, pixels)
        self.vl_model.model.rope_deltas = None  # kept between calls
        # What fills up is counted on, as the web UI's text encoder does; by itself transformers would count it as 1.
        own_inputs = {"attention_mask": self._mask(len(ids), own), "position_ids": self._places(len(ids))}
        return self._states(self.vl_model.model, **inputs | own_inputs), image.numpy()

    def _places(self, tokens: int) -> torch.Tensor:
        """Time, line and column of a sequence with one picture behind the template's head and the marker."""
        columns, lines = self.image.width // 32, self.image.height // 32
        picture = [(4, 4 + i // columns, 4 + i % columns) for i in range(lines * columns)]
        behind = 4 + max(lines, columns)
        rest = range(behind, behind + tokens - 4 - len(picture))
        return torch.tensor([*((i, i, i) for i in range(4)), *picture, *((i, i, i) for i in rest)]).T[:, None]

    def spliced(self, engine: Flux2, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """The same through the text encoder, with the vision tower's output in place of the image's embeddings."""
        tokens = tiny.plain_image_tokens(self.vl_model, tiny.plain_pixels(self.image, 256))[0]
        ids, image, own = self._sequence(prompt, len(tokens))
        embeds = engine.plain.embed_tokens.weight[ids].clone()
        embeds[4 : 4 + len(tokens)] = tokens
        mask = self._mask(len(ids), own)
        rows = _beside(self._states(engine.plain, inputs_embeds=embeds[None], attention_mask=mask))
        return rows[~image.numpy()], rows[image.numpy()]


def _beside(states: tuple[torch.Tensor, ...], layers: tuple[int, ...] = LAYERS) -> np.ndarray:
    """The states after some layers, side by side."""
    return torch.cat([states[layer][0] for layer in layers], dim=-1).double().numpy()


def deep_vl(tokenizer: Tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    """A tiny Qwen3-VL that has the layers at which Klein reads."""
    config = tiny.make_config(tokenizer)
    config.text_config.num_hidden_layers = VL_LAYERS
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * VL_LAYERS
    return tiny.make_model(config, seed=3)
