"""The independent side of the contract tests: a picture's conditioning from plain transformers and NumPy."""

from __future__ import annotations

import numpy as np
import tiny
import transformers
from host_engine import ZImage
from PIL import Image
from tokenizers import Tokenizer

from zvl_ext.engines.sources import ImageTokens
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.mixing.statistics import REFERENCE_PROMPTS
from zvl_ext.sequence import Block, Sequence

TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def checkpoint_rope(model: transformers.Qwen3VLForConditionalGeneration) -> dict:
    """transformers 4 calls it rope_scaling, transformers 5 rope_parameters."""
    config = model.config.text_config
    return getattr(config, "rope_parameters", None) or config.rope_scaling


class ByHand:
    """The conditioning as DESIGN defines it, from plain transformers' hidden states and NumPy formulas."""

    def __init__(
        self, vl_model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, image: Image.Image
    ):
        self.vl_model, self.tokenizer, self.image = vl_model, tokenizer, image

    def text(self, engine: ZImage, prompt: str) -> np.ndarray:
        ids = self.tokenizer.encode(TEMPLATE.format(prompt), add_special_tokens=False).ids
        return tiny.plain_text_states(engine.plain, engine.plain.embed_tokens.weight[ids])[-2].double().numpy()

    def statistics(self, engine: ZImage) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean and std of each dimension, and the std of all values, over the reference prompts' text embeddings."""
        every = np.concatenate([self.text(engine, prompt) for prompt in REFERENCE_PROMPTS])
        return every.mean(0), every.std(0, ddof=1), every.std(ddof=1)

    def hidden(
        self, prompt: str, layer: int = -8, token_mode: str = "text", ids: list[int] | None = None
    ) -> np.ndarray:
        """Rows of Qwen3-VL's hidden states; `ids` in place of those of one prompt in one template."""
        pixels = tiny.plain_pixels(self.image, 256)
        images = int(pixels["image_grid_thw"].prod()) // 4
        whole, modes = tiny.plain_ids(self.tokenizer, prompt, images)
        if ids is not None:
            block = [whole[i] for i in modes["image"]]
            whole, modes = (
                [*ids[:3], *block, *ids[3:]],
                {"text": [0, 1, 2, *range(3 + len(block), len(ids) + len(block))], "image": modes["image"]},
            )
        states = tiny.plain_hidden_states(self.vl_model, whole, pixels, modes["image"])
        return states[layer][modes[token_mode]].double().numpy()

    def blended(self, engine: ZImage, prompt: str, alpha: float = 0.3, layer: int = -8) -> np.ndarray:
        """The default settings: text positions, scaled to the text encoder's spread, mixed linearly."""
        vl = self.hidden(prompt, layer)
        return alpha * vl * (self.statistics(engine)[2] / vl.std(ddof=1)) + (1 - alpha) * self.text(engine, prompt)

    def spliced(self, engine: ZImage, prompt: str, layer: int = -2, mrope: bool = False) -> np.ndarray:
        """The text encoder's hidden states of the whole sequence, with the vision tower's output in place of the
        image's embeddings.

        With `mrope`, through transformers' text encoder and the standalone host, which is compared with Qwen3-VL's own
        class elsewhere.
        """
        pixels = tiny.plain_pixels(self.image, 256)
        image, *deepstack = tiny.plain_image_tokens(self.vl_model, pixels)
        ids, modes = tiny.plain_ids(self.tokenizer, prompt, len(image))
        embeds = engine.plain.embed_tokens.weight[ids]
        embeds[modes["image_no_markers"]] = image
        if not mrope:
            return tiny.plain_text_states(engine.plain, embeds)[layer].double().numpy()
        start = modes["image_no_markers"][0]
        grid = (self.image.height // 32, self.image.width // 32)
        sequence = Sequence(tuple(ids), (Block(start, grid),), system=0, head=start - 1)
        section = tuple(checkpoint_rope(self.vl_model)["mrope_section"])
        encoder = StandaloneTextEncoder(engine.plain, "plain")
        return (
            encoder.hidden_states(embeds, layer, ImageTokens(image, tuple(deepstack), section), sequence)
            .double()
            .numpy()
        )
