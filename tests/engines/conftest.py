"""What plain transformers makes of a spliced sequence."""

import pytest
import tiny
import torch
from cases import TOKENS


@pytest.fixture
def plain_sequential(model, text_encoder, tokenizer):
    """The text encoder's states on embeddings put together here; `scale` multiplies the prompt's own rows."""

    def make(
        prompt: str, size: tuple[int, int] = (160, 96), system: str = "", scale: torch.Tensor | float = 1.0
    ) -> tuple[tuple[torch.Tensor, ...], dict]:
        image = tiny.plain_image_tokens(model, tiny.plain_pixels(tiny.picture(*size), TOKENS))[0]
        ids, modes = tiny.plain_ids(tokenizer, prompt, image.shape[0], system)
        inputs = text_encoder.get_input_embeddings()(torch.tensor(ids))
        inputs[modes["text"]] *= scale
        inputs[modes["image_no_markers"]] = image
        return tiny.plain_text_states(text_encoder, inputs), modes

    return make


@pytest.fixture(scope="session")
def whole(model, text_encoder, tokenizer):
    """A Qwen3-VL that reads with the image model's text encoder."""
    return tiny.with_text_encoder(model, text_encoder, tokenizer)


@pytest.fixture
def plain_mrope(whole, tokenizer):
    """The states of plain Qwen3-VL whose language model is the text encoder."""

    def make(prompt: str, size: tuple[int, int] = (160, 96), system: str = "") -> tuple[tuple[torch.Tensor, ...], dict]:
        pixels = tiny.plain_pixels(tiny.picture(*size), TOKENS)
        ids, modes = tiny.plain_ids(tokenizer, prompt, int(pixels["image_grid_thw"].prod()) // 4, system)
        return tiny.plain_hidden_states(whole, ids, pixels, modes["image_no_markers"]), modes

    return make
