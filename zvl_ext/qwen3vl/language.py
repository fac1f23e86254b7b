"""Qwen3-VL as transformers has it, reduced to what conditioning needs: hidden states at some layers.

transformers is imported here, on first use: a web UI's start does not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..reference import References, in_order, sized
from ..sequence import Sequence, check_ids
from . import vision
from .checkpoint import EMBEDDING
from .embedding import StoredEmbedding
from .layers import layers_between, recorded
from .linear import adopt, float32_memory
from .loading import blank, fill, fill_layers, slots, transformers_classes
from .passes import Pass, whole_states

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .modules import VLModel

_LAYER = "language_model.layers.{}."


class Qwen3VL:
    """A loaded Qwen3-VL: its vision tower and the first layers of its language model, no logits.

    Attributes:
        module: transformers' `Qwen3VLModel` with the layers that are loaded and without input embeddings; what a host
            moves between devices.
        embedding: The input embeddings, which stay in the file: a token's row is read when it is needed.
        head: What makes logits of the last hidden states, where it is loaded: a part of the module then.
        checkpoint: Where it came from.
    """

    def __init__(
        self,
        module: VLModel,
        embedding: StoredEmbedding,
        layers: list[torch.nn.Module],
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        storage: str,
    ):
        self.module = module
        self.embedding = embedding
        self.checkpoint = checkpoint
        self.head: torch.nn.Module | None = None
        self._waiting = layers  # without memory, to be filled when a deeper layer is asked for
        self._dtype = dtype
        self._storage = storage

    @property
    def depth(self) -> int:
        """How many layers are loaded."""
        return len(self.module.language_model.layers)

    def deepen(self, depth: int) -> None:
        """Load what is missing of the first `depth` layers, on the CPU.

        Raises:
            ZvlError: the weights can't be read.
        """
        first, layers = self.depth, self._waiting[: max(0, depth - self.depth)]
        fill_layers(
            {_LAYER.format(first + i): layer for i, layer in enumerate(layers)},
            self.checkpoint,
            self._dtype,
            self._storage == "fp8",
        )
        self.module.language_model.layers.extend(layers)
        del self._waiting[: len(layers)]

    def load_head(self) -> None:
        """Load what makes logits of hidden states, on the CPU: for writing a text, not for reading.

        Raises:
            ZvlError: there is none, or it can't be read.
        """
        if self.head is None:
            self.checkpoint.require_words()
            name = self.checkpoint.head
            with torch.device("meta"):
                head = torch.nn.Linear(self.checkpoint.hidden_size, self.checkpoint.tensors[name].shape[0], bias=False)
            adopt(head)
            fill_layers({name.removesuffix("weight"): head}, self.checkpoint, self._dtype, fp8=False)
            self.module.lm_head = self.head = head.eval()

    def drop_head(self) -> None:
        """Give its memory back: 0.78 GB of Qwen3-VL-4B's."""
        if self.head is not None:
            self.head = None
            del self.module.lm_head

    def hidden_states(
        self, sequence: Sequence, references: References, tokens: int, layers: Iterable[int]
    ) -> dict[int, torch.Tensor]:
        """Hidden states of one whole sequence after it has seen the references, from one run with nothing kept.

        Args:
            sequence, references, tokens: As for `extend`.
            layers: Negative indices as in transformers' `hidden_states`: -1 is the last layer after the final norm, -k
                the residual stream after `layers - k + 1` layers.

        Returns:
            float32 [len(sequence.ids), hidden] on the CPU, by layer.

        Raises:
            ZvlError: a layer that does not exist, ids outside the vocabulary, or values that are not finite.
        """
        layers = sorted(set(layers))
        prefix, tails = self.extend([sequence], references, tokens, max(map(self.checkpoint.depth, layers)))
        return {layer: whole_states(prefix, tails[0], layer, self.checkpoint) for layer in layers}

    @torch.inference_mode()
    def extend(
        self,
        sequences: list[Sequence],
        references: References,
        tokens: int,
        depth: int,
        prefix: Pass | None = None,
        tails: list[Pass | None] | None = None,
    ) -> tuple[Pass, list[Pass | None]]:
        """Bring everything to a depth, running only what has not been run.

        Args:
            sequences: From `build_sequence_of`, all alike up to the fork, with these references' grids.
            tokens: The budget the grids were made with.
            depth: How many layers are needed; they have to be loaded.
            prefix: What is kept of the tokens before the fork, which depend on the references alone.
            tails: What is kept of each sequence's tokens from the fork on.

        Returns:
            prefix and tails, at least that deep; None for a sequence that ends at the fork. They are the same to the
            last bit
            whatever was kept: prefix and tails always run by themselves.

        Raises:
            ZvlError: ids outside the vocabulary.
        """
        tails = list(tails or [None] * len(sequences))
        embeds = [self._embed(sequence) for sequence in sequences]
        whole, fork = sequences[0], sequences[0].fork
        with float32_memory():
            if prefix is None or prefix.depth < depth:
                # transformers 4 adds DeepStack to a state in place, transformers 5 does not: nothing goes on from so
                # early a state.
                start = prefix if prefix and prefix.depth > self._deepstack else None
                rows = start.last if start else embeds[0][:fork]
                image = self._see(references, tokens, whole, rows) if whole.blocks and not start else {}
                first = start.depth if start else 0
                more = self._run(rows, whole.position_ids()[:, :fork], first, depth, None, **image)
                prefix = start.deepened(more) if start else more
            # One after another: in a batch, a prompt's last bits would depend on the others.
            for i, (sequence, tail) in enumerate(zip(sequences, tails)):
                first = tail.depth if tail else 0
                if first < depth and len(sequence.ids) > fork:
                    rows = tail.last if tail else embeds[i][fork:]
                    more = self._run(rows, sequence.position_ids()[:, fork:], first, depth, prefix, sequence.filled)
                    tails[i] = tail.deepened(more) if tail else more
        return prefix, tails

    @property
    def _deepstack(self) -> int:
        return len(self.checkpoint.config["vision_config"]["deepstack_visual_indexes"])

    def _embed(self, sequence: Sequence) -> torch.Tensor:
        check_ids(sequence.ids, self.embedding.num_embeddings, self.checkpoint.name)
        rows: torch.Tensor = self.embedding(torch.tensor(sequence.ids))
        return rows.to(self._dtype)

    def _see(self, references: References, tokens: int, sequence: Sequence, rows: torch.Tensor) -> dict[str, Any]:
        """Put the image tokens into their rows; gives what DeepStack adds and where."""
        additions = []
        for reference, block in zip(in_order(references), sequence.blocks, strict=True):
            picture = sized(reference, tokens, self.checkpoint.unit)
            image, deepstack, grid = vision.image_tokens(self.module.visual, picture)
            if grid != block.grid:
                raise ValueError(f"the sequence was built for {block.grid} image tokens, the reference gives {grid}")
            rows[block.start : block.end] = image.to(rows)
            additions.append(deepstack)
        mask = torch.zeros(1, len(rows), dtype=torch.bool, device=additions[0][0].device)
        mask[0, sequence.images] = True
        return {"visual_pos_masks": mask, "deepstack_visual_embeds": list(map(torch.cat, zip(*additions)))}

    def _run(
        self,
        rows: torch.Tensor,
        positions: torch.Tensor,
        first: int,
        depth: int,
        past: Pass | None,
        filled: int = 0,
        **image: Any,
    ) -> Pass:
        """Run layers `first` to `depth` over rows [tokens, hidden] with positions [3, tokens], behind what is kept of
        others.

        Args:
            filled: How many of the last rows no other attends to.
        """
        from transformers import DynamicCache

        text_model = self.module.language_model
        device = text_model.norm.weight.device
        before = past.tokens if past else 0
        cache = DynamicCache()
        if past:
            for layer in range(depth):
                cache.update(past.keys[layer][None].to(device), past.values[layer][None].to(device), layer)
        rows = rows[None].to(device)
        # Four rows: with three, transformers 4 would take the image's repeated time for a break between packed
        # sequences.
        order = torch.arange(before, before + rows.shape[1])[None]
        if filled:
            image["attention_mask"] = torch.ones(1, before + rows.shape[1], dtype=torch.long, device=device)
            image["attention_mask"][:, -filled:] = 0
        with (
            layers_between(text_model, first, depth),
            recorded(text_model, {k: first + k for k in range(depth - first)}) as states,
        ):
            output = text_model(
                inputs_embeds=rows,
                position_ids=torch.cat([order, positions])[:, None].to(device),
                past_key_values=cache,
                use_cache=True,
                **image,
            )
        every = [*([] if first else [rows]), *(states[k] for k in range(first, depth))]
        if depth == self.checkpoint.layers:
            every.append(output.last_hidden_state)
        caches = [cache.layers[k] for k in range(first, depth)]
        return Pass(
            torch.stack([state[0].cpu() for state in every]),
            torch.stack([layer.keys[0, :, before:].cpu() for layer in caches]),
            torch.stack([layer.values[0, :, before:].cpu() for layer in caches]),
        )


def load(checkpoint: Checkpoint, dtype: torch.dtype, depth: int | None = None, storage: str = "auto") -> Qwen3VL:
    """Load Qwen3-VL on the CPU.

    Args:
        dtype: What is computed in.
        depth: How many layers of the language model; all by default. `Qwen3VL.deepen` loads further ones.
        storage: `auto` (matrices of the layers that are stored in eight bits stay so) or `fp8` (the others are kept in
            fp8).

    Raises:
        ZvlError: there is no language model, transformers is missing or too old, or a tensor is missing, misshapen or
            in a form that can't be read; it is named.
    """
    checkpoint.require_language()
    model_class, _, _ = transformers_classes()
    module = blank(model_class, checkpoint)
    text_model = module.language_model
    layers = list(text_model.layers)
    text_model.layers = torch.nn.ModuleList()
    text_model.embed_tokens = None  # type: ignore[assignment]  # not the module's from here on
    fill(slots(module, ""), checkpoint, dtype)
    embedding = StoredEmbedding(checkpoint, EMBEDDING, dtype)
    loaded = Qwen3VL(module, embedding, layers, checkpoint, dtype, storage)
    loaded.deepen(len(layers) if depth is None else depth)
    return loaded
