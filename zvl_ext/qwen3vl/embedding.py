"""Input embeddings that stay in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .forms import FORMS

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


class StoredEmbedding(torch.nn.Module):
    """Embeddings of which only the rows that a sequence needs are read, whatever form they are stored in.

    All of Qwen3-VL-4B's take 0.78 GB in bfloat16; a prompt of 60 tokens needs 0.3 MB of them.

    Args:
        name: The tensor, [vocabulary, hidden].
        dtype: Of what comes out, where it is not stored in a float form of its own.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, dtype: torch.dtype):
        super().__init__()
        stored = checkpoint.tensors[name]
        self._checkpoint, self._name = checkpoint, name
        self.num_embeddings, self.embedding_dim = stored.shape
        form = FORMS[stored.dtype]
        plain = form.numbers == 1 and not form.packed
        self.dtype = form.values(torch.empty(form.bytes, dtype=torch.uint8), (1,)).dtype if plain else dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [*ids.shape, hidden] on the CPU.

        Raises:
            ZvlError: the file can't be read, or has been changed since it was opened.
        """
        rows = self._checkpoint.rows(self._name, ids.flatten().tolist(), self.dtype)
        return rows.reshape(*ids.shape, self.embedding_dim)

    @property
    def weight(self) -> torch.Tensor:
        """All of them, read anew."""
        return next(self._checkpoint.read([self._name], self.dtype))[1]
