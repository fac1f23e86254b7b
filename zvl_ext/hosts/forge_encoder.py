"""The web UI's text encoder: its tokenizer, what it reads, and how engine splice reads with it.

Loaded with the first generation that uses a reference; the host has imported torch long before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from backend import memory_management as mm

from ..engines.sources import ImageTokens, KeysValues, TextEncoder
from ..engines.text_encoder import as_qwen3vl, mrope_tables, states_at
from ..errors import ZvlError
from ..image_models import ImageModel
from ..qwen3vl.layers import replaced_argument, watched
from ..sequence import Encode, Sequence, check_ids
from .forge import check_interrupted, takes, text_engine

UNKNOWN = (
    "This version of the web UI encodes the image model's prompt in a way Z-Image VL does not know. "
    "Look for an update of Z-Image VL."
)


def encoder(engine: Any, model: ImageModel) -> Encode:
    """The host's tokenizer as a function from text to ids.

    Raises:
        ZvlError: the engine's prompt template is not the image model's, it reads its text encoder at other layers, or
            neither can be found.
    """
    read_with = text_engine(engine)
    if read_with is None or read_with.llama_template != model.template.text or not _reads_at(read_with, model):
        raise ZvlError(UNKNOWN)
    tokenizer = getattr(read_with.tokenizer, "tokenizer", read_with.tokenizer)  # newer engines wrap it
    return lambda text: tokenizer([text])["input_ids"][0]


def _reads_at(read_with: Any, model: ImageModel) -> bool:
    """Whether a text engine that names several layers names the image model's."""
    layers = getattr(read_with, "intermediate_output", None)
    return not isinstance(layers, (list, tuple)) or tuple(layers) == model.layers


def language_model(engine: Any) -> Any:
    """The text encoder's module that has the embedding and the layers, whatever class the engine wraps it in."""
    root = engine.forge_objects.clip.cond_stage_model
    found = [
        module for name, module in root.named_modules() if hasattr(module, "embed_tokens") and hasattr(module, "layers")
    ]
    if len(found) != 1:
        raise ZvlError(UNKNOWN)
    return found[0]


class Read(NamedTuple):
    """One sequence that the text encoder has read.

    Attributes:
        inputs: Input embeddings [n, hidden]; None where the host leaves it to the model to look them up.
        masked: How many of the last ids no token attends to. The web UI masks what stands behind an <|endoftext|>.
    """

    ids: list[int]
    inputs: Any
    masked: int


@contextlib.contextmanager
def observed(engine: Any) -> Iterator[list[Read]]:
    """What the text encoder reads while the context is open, in order.

    Watching the module gives what was really read: templates, emphasis and BREAK included, whatever the engine's class.
    """
    model = language_model(engine)
    ids: list[list[int]] = []
    seen: list[Read] = []

    def watch_ids(module: Any, inputs: tuple) -> None:
        ids.extend(inputs[0].tolist())

    def watch_embeds(module: Any, args: tuple, kwargs: dict) -> None:
        embeds = kwargs.get("embeds")
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        rows = [None] * len(ids) if embeds is None else list(embeds.detach())
        masked = [0] * len(ids) if mask is None else [len(line) - int(line.sum()) for line in mask]
        seen.extend(map(Read, ids, rows, masked))
        ids.clear()

    handles = [
        model.embed_tokens.register_forward_pre_hook(watch_ids),
        model.register_forward_pre_hook(watch_embeds, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def interruptible(engine: Any) -> Iterator[None]:
    """Let Interrupt and Skip end what the text encoder reads, between its layers, while the context is open."""
    with watched(language_model(engine).layers, check_interrupted):
        yield


@contextlib.contextmanager
def told(engine: Any, on: bool = True) -> Iterator[list[Callable[[], None]]]:
    """What the engine tells its predictor while the context is open, as calls to be made again.

    Some engines set the sampling shift whenever they encode a prompt: who spares the encoding has to do that.

    Args:
        on: Whether the predictor hears of it: not where a prompt is encoded of which no picture is made.
    """
    calls: list[Callable[[], None]] = []
    predictor = getattr(getattr(engine.forge_objects.unet, "model", None), "predictor", None)
    tell = getattr(predictor, "set_parameters", None)
    if tell is None:
        yield calls
        return

    def noted(*args: Any, **kwargs: Any) -> None:
        calls.append(functools.partial(tell, *args, **kwargs))
        if on:
            tell(*args, **kwargs)

    own = "set_parameters" in vars(predictor)
    predictor.set_parameters = noted
    try:
        yield calls
    finally:
        if own:
            predictor.set_parameters = tell
        else:
            del predictor.set_parameters


# By the text encoder's module: the LoRA seen on it last, and a name for this state.
_SEEN: weakref.WeakKeyDictionary[Any, tuple[list[tuple[Any, Any]], str]] = weakref.WeakKeyDictionary()


def text_state(engine: Any) -> str:
    """Another one for every text encoder that is loaded and every LoRA put into it; of this process.

    A host that neither counts its changes nor tells what it has put on gets one that nothing equals.
    """
    patcher = engine.forge_objects.clip.patcher
    if counted := getattr(patcher, "patches_uuid", None):
        return str(counted)
    patches = getattr(patcher, "lora_patches", None)
    if not isinstance(patches, dict):
        return str(uuid.uuid4())
    # Older hosts: the patches by file and strengths. The same file may hold other weights now, in patches of their own.
    now = list(patches.items())
    before, state = _SEEN.get(patcher.model, ([], ""))
    if (
        not state
        or [key for key, _ in now] != [key for key, _ in before]
        or any(new is not old for (_, new), (_, old) in zip(now, before))
    ):
        state = str(uuid.uuid4())
        _SEEN[patcher.model] = now, state
    return state


# How a host's layers take their rotary tables [1, 1, tokens, width]: by their widths in halves of a head, the tables in
# this form of cosine and sine [tokens, head_dim] and half a head.
_TABLES: dict[tuple[int, ...], Callable[[Any, Any, int], tuple]] = {
    (2, 1, 1): lambda cosine, sine, half: (cosine, sine[:, :half], -sine[:, half:]),
    (2, 2): lambda cosine, sine, half: (cosine, sine),
}


class ForgeTextEncoder(TextEncoder):
    """The host's text encoder as splice's language model: Qwen3-4B, placed by the host, LoRA included."""

    def __init__(self, engine: Any):
        self._patcher = engine.forge_objects.clip.patcher
        self._model = language_model(engine)
        self.layers = len(self._model.layers)
        self.identity = str(getattr(engine, "filename", ""))
        self.state = text_state(engine)
        if not takes(self._model.forward, "embeds"):
            raise ZvlError(UNKNOWN)
        self.goes_on = takes(self._model.forward, "past_key_values")

    def embed(self, ids: list[int]) -> Any:
        self._place()
        check_ids(ids, self._model.embed_tokens.num_embeddings, "The text encoder")
        return self._looked_up(ids).float()

    def states(
        self, rows: Any, indices: Iterable[int], image: ImageTokens | None, sequence: Sequence | None, first: int = 0
    ) -> dict[int, Any]:
        self._place()
        # As the host embeds its prompts: its layers compute in the dtype of what they are given, so that rows which
        # were kept as float32 would go on otherwise than those just embedded.
        rows = rows.to(self._device(), self._looked_up([0]).dtype)

        def forward() -> Any:
            mask = torch.ones(1, rows.shape[0], dtype=torch.long, device=rows.device)
            mask[:, rows.shape[0] - (sequence.masked if sequence else 0) :] = 0
            with watched(self._model.layers, check_interrupted):
                return self._model(None, attention_mask=mask, embeds=rows[None], num_tokens=[rows.shape[0]])[0]

        with self._positions(image, sequence, range(rows.shape[0])):
            return states_at(self._model, first, indices, forward)

    def states_behind(
        self,
        rows: Any,
        indices: Iterable[int],
        image: ImageTokens | None,
        sequence: Sequence,
        first: int = 0,
        past: KeysValues | None = None,
    ) -> tuple[dict[int, Any], KeysValues]:
        self._place()
        device, count = self._device(), rows.shape[0]
        rows, before = rows.to(device, self._looked_up([0]).dtype), 0 if past is None else past.keys.shape[2]
        given = [(k[None].to(rows), v[None].to(rows), before) for k, v in zip(*past)] if past else []
        handed: list[Any] = []

        def own_rows(mask: Any) -> Any:
            """The host makes the mask of the whole sequence, [tokens, tokens], and hands it to layers that get the last
            rows alone."""
            if mask is None or not past:
                return mask
            mask = mask[..., -count:, :].clone()
            mask[..., mask.shape[-1] - sequence.masked :] = torch.finfo(mask.dtype).min / 4
            return mask

        def forward() -> Any:
            with (
                watched(self._model.layers, check_interrupted),
                replaced_argument(self._model.layers, "attention_mask", own_rows),
            ):
                last, _, keys_values = self._model(None, embeds=rows[None], num_tokens=[count], past_key_values=given)
            handed.extend(keys_values)
            return last

        with self._positions(image, sequence, range(before, before + count)):
            states = states_at(self._model, first, indices, forward)
        keys, values = (torch.stack([kv[i][0][:, before:].cpu() for kv in handed]) for i in (0, 1))
        return states, KeysValues(keys, values)

    def _positions(self, image: ImageTokens | None, sequence: Sequence | None, tokens: range) -> Any:
        """Positions as Qwen3-VL counts them, for some of a sequence's tokens in one pass; nothing without image
        tokens."""
        if image is None:
            return contextlib.nullcontext()
        tables = self._rotary_tables(image, sequence, tokens)
        own = dataclasses.replace(image, deepstack=()) if tokens.start else image  # images stand in front of the fork
        return as_qwen3vl(self._model.layers, own, sequence.images, "freqs_cis", tables)

    def _rotary_tables(self, image: ImageTokens, sequence: Sequence, tokens: range) -> Callable[[Any], Any]:
        """MRoPE's tables in the host's form, in place of those it hands its layers."""
        config = self._model.config
        cosine, sine = mrope_tables(sequence.position_ids(), config.head_dim, config.rope_theta, image.mrope_section)
        cosine, sine = cosine[tokens.start : tokens.stop], sine[tokens.start : tokens.stop]

        def replace(old: Any) -> Any:
            widths = tuple(part.shape[-1] * 2 // config.head_dim for part in old) if isinstance(old, tuple) else ()
            form = _TABLES.get(widths)
            if form is None or old[0].shape[-2] != len(tokens):
                raise ZvlError(
                    "This version of the web UI does not let positions be replaced. Choose positions sequential."
                )
            return tuple(new.to(part)[None, None] for new, part in zip(form(cosine, sine, config.head_dim // 2), old))

        return replace

    def _looked_up(self, ids: list[int]) -> Any:
        # Where the embedding is: a host that is short of memory leaves it on the CPU.
        return self._model.embed_tokens(torch.tensor(ids, device=self._model.embed_tokens.weight.device))

    def _place(self) -> None:
        mm.load_model_gpu(self._patcher)

    def _device(self) -> Any:
        return mm.text_encoder_device()
