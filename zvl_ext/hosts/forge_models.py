"""The web UI's text encoder and memory management: where Qwen3-VL and splice meet the host's models.

Loaded with the first generation that uses a reference; the host has imported torch long before.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from backend import memory_management as mm
from backend.patcher.base import ModelPatcher

from .. import language, vision
from ..budget import weight_bytes, working_bytes
from ..checkpoint import Checkpoint
from ..errors import ZvlError
from ..options import Settings
from ..reference import Reference, sized
from ..sequence import TEMPLATE, Encode, Sequence
from ..splice import ImageTokens, TextEncoder, as_qwen3vl, mrope_tables, states_at
from .forge import queue_lock, show_progress, takes

GIB = 2**30
UNKNOWN = "This version of the web UI encodes Z-Image's prompt in a way Z-Image VL does not know. Look for an update of Z-Image VL."


def encoder(engine: Any) -> Encode:
    """The host's tokenizer as a function from text to ids.

    Raises:
        ZvlError: the engine's prompt template is not Z-Image's, or it can't be found.
    """
    text_engine = next((part for part in vars(engine).values() if hasattr(part, "llama_template") and hasattr(part, "tokenizer")), None)
    if text_engine is None or text_engine.llama_template != TEMPLATE:
        raise ZvlError(UNKNOWN)
    tokenizer = getattr(text_engine.tokenizer, "tokenizer", text_engine.tokenizer)  # newer engines wrap it
    return lambda text: tokenizer([text])["input_ids"][0]


def _language_model(engine: Any) -> Any:
    """The text encoder's module that has the embedding and the layers, whatever class the engine wraps it in."""
    root = engine.forge_objects.clip.cond_stage_model
    found = [module for name, module in root.named_modules() if hasattr(module, "embed_tokens") and hasattr(module, "layers")]
    if len(found) != 1:
        raise ZvlError(UNKNOWN)
    return found[0]


@contextlib.contextmanager
def observed(engine: Any) -> Iterator[list[tuple[list[int], Any]]]:
    """What the text encoder reads while the context is open: (ids, input embeddings [n, hidden]) of each sequence, in order.

    Watching the module gives what was really read: templates, emphasis and BREAK included, whatever the engine's class.
    """
    model = _language_model(engine)
    ids: list[list[int]] = []
    seen: list[tuple[list[int], Any]] = []

    def watch_ids(module: Any, inputs: tuple) -> None:
        ids.extend(inputs[0].tolist())

    def watch_embeds(module: Any, args: tuple, kwargs: dict) -> None:
        embeds = kwargs.get("embeds")
        rows = [None] * len(ids) if embeds is None else list(embeds.detach())
        seen.extend(zip(ids, rows))
        ids.clear()

    handles = [model.embed_tokens.register_forward_pre_hook(watch_ids), model.register_forward_pre_hook(watch_embeds, with_kwargs=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def told(engine: Any) -> Iterator[list[Callable[[], None]]]:
    """What the engine tells its predictor while the context is open, as calls to be made again.

    Some engines set the sampling shift whenever they encode a prompt: who spares the encoding has to do that.
    """
    calls: list[Callable[[], None]] = []
    predictor = getattr(getattr(engine.forge_objects.unet, "model", None), "predictor", None)
    tell = getattr(predictor, "set_parameters", None)
    if tell is None:
        yield calls
        return

    def noted(*args: Any, **kwargs: Any) -> None:
        calls.append(functools.partial(tell, *args, **kwargs))
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


def text_state(engine: Any) -> str:
    """Another one for every text encoder that is loaded and every LoRA put into it; of this process.

    A host that does not count its changes gets one that nothing equals.
    """
    return str(getattr(engine.forge_objects.clip.patcher, "patches_uuid", None) or uuid.uuid4())


class ForgeTextEncoder(TextEncoder):
    """The host's text encoder as splice's language model: Qwen3-4B, placed by the host, LoRA included."""

    def __init__(self, engine: Any):
        self._patcher = engine.forge_objects.clip.patcher
        self._model = _language_model(engine)
        self.layers = len(self._model.layers)
        self.identity = str(getattr(engine, "filename", ""))
        self.state = text_state(engine)
        if not takes(self._model.forward, "embeds"):
            raise ZvlError(UNKNOWN)

    def embed(self, ids: list[int]) -> Any:
        self._place()
        return self._model.embed_tokens(torch.tensor(ids, device=self._device())).float()

    def states(self, rows: Any, indices: Iterable[int], image: ImageTokens | None, sequence: Sequence | None, first: int = 0) -> dict[int, Any]:
        self._place()
        rows = rows.to(self._device())

        def forward() -> Any:
            mask = torch.ones(1, rows.shape[0], dtype=torch.long, device=rows.device)
            return self._model(None, attention_mask=mask, embeds=rows[None], num_tokens=[rows.shape[0]])[0]

        if image is None:
            return states_at(self._model, first, indices, forward)
        with as_qwen3vl(self._model.layers, image, sequence.image_start, "freqs_cis", self._rotary_tables(image, sequence)):
            return states_at(self._model, first, indices, forward)

    def _rotary_tables(self, image: ImageTokens, sequence: Sequence) -> Callable[[Any], Any]:
        """The host hands its layers (cos [1, 1, tokens, head_dim], sin and -sin [1, 1, tokens, head_dim / 2])."""
        config = self._model.config
        cosine, sine = mrope_tables(sequence.position_ids(), config.head_dim, config.rope_theta, image.mrope_section)
        half = config.head_dim // 2

        def replace(old: Any) -> Any:
            if not isinstance(old, tuple) or [t.shape[-1] for t in old] != [2 * half, half, half] or old[0].shape[-2] != len(sequence.ids):
                raise ZvlError("This version of the web UI does not let positions be replaced. Choose positions sequential.")
            return cosine.to(old[0])[None, None], sine[:, :half].to(old[1])[None, None], -sine[:, half:].to(old[2])[None, None]

        return replace

    def _place(self) -> None:
        mm.load_model_gpu(self._patcher)

    def _device(self) -> Any:
        return mm.text_encoder_device()


# --- memory ---------------------------------------------------------------------------------------------------------


class _Loaded:
    """The one part of Qwen3-VL that is held between pictures, as the host holds its text encoder."""

    key: tuple | None = None
    model: Any = None
    patcher: Any = None

    def hold(self, key: tuple, model: Any, module: Any, device: Any) -> None:
        """Let the host's memory management place a model's module on a device."""
        offload = device if device.type == "cpu" else mm.text_encoder_offload_device()
        self.key, self.model, self.patcher = key, model, ModelPatcher(module, load_device=device, offload_device=offload)

    def take_off(self) -> None:
        """Take the module from the host: it goes to where the host keeps what is not in use."""
        self.patcher.detach()
        mm.unload_model(self.patcher)
        self.patcher = None

    def drop(self) -> None:
        if self.model is None:
            return
        with contextlib.suppress(Exception):  # best effort: this runs after failures, too
            self.take_off()
        self.key = self.model = self.patcher = None
        gc.collect()
        mm.soft_empty_cache()


_LOADED = _Loaded()


def unload() -> None:
    """Give back the memory that Qwen3-VL takes, when no picture is being made."""
    with queue_lock():
        _LOADED.drop()


class ForgeExtractor:
    """Qwen3-VL, or its vision tower alone, on the host's device, placed by the host's memory management.

    What is loaded of it is always placed whole: the host's partial offloading leaves parts of a transformers model on the wrong
    device.

    Args:
        checkpoint: The weights.
        settings: Of which the engine, the layer, the storage and the device matter. Device `auto` is the text encoder's, or the
            CPU where the model can't fit.

    Attributes:
        note: Something the user should know about the placement, or "".
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings):
        self.checkpoint = checkpoint
        self.note = ""
        self._storage = "auto" if settings.engine == "splice" else settings.storage
        self.device = torch.device("cpu") if settings.device == "cpu" else mm.text_encoder_device()
        self.dtype = _compute_dtype(self.device)
        if self.device.type != "cpu":
            needed = weight_bytes(checkpoint, settings, self.dtype.itemsize) + working_bytes(settings.reference_tokens)
            total = mm.get_total_memory(self.device)
            no_vram = getattr(mm.vram_state, "name", "") == "NO_VRAM"
            if needed > total or no_vram:
                self.note = f"Qwen3-VL needs {needed / GIB:.1f} GiB, the graphics card has {total / GIB:.1f}: it runs on the CPU, which is slower."
                self.device = torch.device("cpu")
                self.dtype = _compute_dtype(self.device)
        self.precision = f"{self.device} {self.dtype}" + (" fp8" if self._storage == "fp8" else "")

    def extend(
        self,
        sequences: list[Sequence],
        reference: Reference,
        tokens: int,
        depth: int,
        prefix: language.Pass | None = None,
        tails: list[language.Pass | None] | None = None,
    ) -> tuple[language.Pass, list[language.Pass | None]]:
        with self._placed("language", sum(len(sequence.ids) for sequence in sequences), depth) as model:
            return model.extend(sequences, reference, tokens, depth, prefix, tails)

    def image_tokens(self, reference: Reference, tokens: int) -> Any:
        with self._placed("vision", tokens) as tower:
            return vision.stacked_tokens(tower, sized(reference, tokens, self.checkpoint.unit))

    @contextlib.contextmanager
    def _placed(self, part: str, tokens: int, depth: int = 0) -> Iterator[Any]:
        """The model on its device for the time of one pass; failures are told in one line and leave nothing behind."""
        out_of_memory = getattr(mm, "OOM_EXCEPTION", torch.cuda.OutOfMemoryError)
        try:
            self._place(part, tokens, depth)
            show_progress("Z-Image VL: reading the reference")
            yield _LOADED.model
        except (out_of_memory, MemoryError) as error:
            _LOADED.drop()
            raise ZvlError(f"Not enough memory for Qwen3-VL on {self.device}. Choose the device cpu, or a smaller reference size.") from error
        except RuntimeError as error:
            _LOADED.drop()  # in an unknown state, on an unknown device: the next run starts afresh
            if "not enough memory" in str(error):  # torch's words for the CPU
                raise ZvlError("Not enough main memory for Qwen3-VL. Close other programs, or use a computer with more.") from error
            raise

    def _place(self, part: str, tokens: int, depth: int) -> None:
        key = (self.checkpoint.identity, self.precision, part)
        # The host moves the weights later, outside inference mode, where tensors made inside could not be replaced.
        with torch.inference_mode(False):
            if _LOADED.key != key:
                _LOADED.drop()
                show_progress(f"Z-Image VL: loading {self.checkpoint.name}")
                if part == "vision":
                    tower = vision.load(self.checkpoint, self.dtype)
                    _LOADED.hold(key, tower, tower, self.device)
                else:
                    model = language.load(self.checkpoint, self.dtype, depth, self._storage)
                    _LOADED.hold(key, model, model.module, self.device)
            elif depth > getattr(_LOADED.model, "depth", depth):
                show_progress(f"Z-Image VL: loading more of {self.checkpoint.name}")
                model = _LOADED.model
                _LOADED.take_off()  # the host would not learn that the module has grown
                try:
                    model.deepen(depth)
                finally:  # what was there is still of use
                    _LOADED.hold(key, model, model.module, self.device)
            more = {"force_full_load": True} if takes(mm.load_models_gpu, "force_full_load") else {}
            mm.load_models_gpu([_LOADED.patcher], memory_required=working_bytes(tokens), **more)


def _compute_dtype(device: Any) -> Any:
    """The host's dtype for text encoders where Qwen3-VL can compute in it, else bfloat16 if possible.

    fp8 is for storage only; fp16 is slow on a CPU and its range is narrow for the attention sink's activations.
    """
    dtype = mm.text_encoder_dtype()
    if dtype in (torch.bfloat16, torch.float32):
        return dtype
    if device.type == "cpu" or mm.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16
