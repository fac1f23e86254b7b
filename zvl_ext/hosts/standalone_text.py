"""Z-Image's text encoder through transformers, as engine splice's language model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

import torch

from ..engines.sources import ImageTokens, TextEncoder
from ..engines.text_encoder import as_qwen3vl, mrope_tables, states_at
from ..image_models import Z_IMAGE
from ..qwen3vl.modules import TextConfig, TextModel
from ..sequence import Sequence, check_ids

Tables = tuple[torch.Tensor, torch.Tensor]  # cosine and sine

(TEXT_LAYER,) = Z_IMAGE.layers  # where Z-Image reads its text encoder
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StandaloneTextEncoder(TextEncoder):
    """A text encoder of transformers (Qwen3Model or alike) as splice's language model. Threads take turns.

    Args:
        model: The model, on its device.
        name: Identifies its weights.
    """

    def __init__(self, model: TextModel, name: str):
        self.model = model
        self.layers = len(model.layers)
        self.identity = name
        self._turn = threading.RLock()

    @torch.inference_mode()
    def embed(self, ids: list[int]) -> torch.Tensor:
        embedding = self.model.embed_tokens
        check_ids(ids, embedding.num_embeddings, "The text encoder")
        rows: torch.Tensor = embedding(torch.tensor(ids, device=embedding.weight.device))
        return rows.float()

    def states(
        self,
        rows: torch.Tensor,
        indices: Iterable[int],
        image: ImageTokens | None,
        sequence: Sequence | None,
        first: int = 0,
    ) -> dict[int, torch.Tensor]:
        def forward() -> torch.Tensor:
            embeds = rows[None].to(self.model.embed_tokens.weight)
            last: torch.Tensor = self.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            return last

        with contextlib.ExitStack() as stack:
            stack.enter_context(self._turn)
            if image is not None:
                if sequence is None:
                    raise ValueError("image tokens need the sequence that they stand in")
                tables = self._rotary_tables(image, sequence)
                stack.enter_context(
                    as_qwen3vl(self.model.layers, image, sequence.images, "position_embeddings", tables)
                )
            return states_at(self.model, first, indices, forward)

    def _rotary_tables(self, image: ImageTokens, sequence: Sequence) -> Callable[[Tables], Tables]:
        """transformers hands its layers (cos, sin), each [1, tokens, head_dim]."""
        config = self.model.config
        cosine, sine = mrope_tables(sequence.position_ids(), config.head_dim, _rope_theta(config), image.mrope_section)
        return lambda old: (cosine[None].to(old[0]), sine[None].to(old[1]))


def _rope_theta(config: TextConfig) -> float:
    """transformers 4 has rope_theta, transformers 5 rope_parameters."""
    theta: float = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    return theta
