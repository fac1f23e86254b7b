"""What CLIP, SigLIP or DINOv2 say of pictures, from folders that the user has. Nothing is fetched."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from ....errors import ZvlError
from ....measures import ADHERENCE, SIMILARITY, Metric, Shown
from ....outside import plain, read_json, reason
from ...digests import files_digest

_TEXT, _IMAGE = "text", "image"
# The kinds that are read, by config.json's model_type, and what each can compare a picture with.
KINDS = {
    "clip": (_IMAGE, _TEXT), "siglip": (_IMAGE, _TEXT), "siglip2": (_IMAGE, _TEXT), "dinov2": (_IMAGE,),
    "dinov2_with_registers": (_IMAGE,),
}  # fmt: skip
_CONFIG = 2**20  # bytes


def metrics(folder: str) -> list[Metric]:
    """The measures of an encoder's folder.

    Raises:
        ZvlError: it is no folder of such a model.
    """
    shown = plain(folder, 120)
    try:
        config = read_json(os.path.join(folder, "config.json"), _CONFIG)
    except (OSError, ValueError) as error:
        raise ZvlError(f"--encoder {shown} is no folder of a Hugging Face model ({reason(error)}).") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ZvlError(f"--encoder {shown} holds {plain(kind)}; {', '.join(KINDS)} can be used.")
    encoder, name = Encoder(folder, kind), plain(os.path.basename(os.path.normpath(folder)), 40)
    of = files_digest(folder)
    found = [
        Metric(f"{name} image", f"{name}: to the reference", "Cosine of the picture's and the reference's embeddings.",
               encoder.beside_reference, 1, SIMILARITY, identity=of),
        Metric(f"{name} text", f"{name}: to the prompt", "Cosine of the picture's and the prompt's embeddings.",
               encoder.beside_prompt, 1, ADHERENCE, identity=of),
    ]  # fmt: skip
    return found[: len(KINDS[kind])]


class Encoder:
    """A model that gives pictures and texts embeddings, opened when it is first asked."""

    def __init__(self, folder: str, kind: str):
        self.folder, self.kind = folder, kind
        self._model: Any = None
        self._reference = lru_cache(maxsize=64)(self._read)
        self._text = lru_cache(maxsize=4096)(self._said)

    def beside_reference(self, shown: Shown) -> float | None:
        if shown.reference is None:
            return None
        other = self._reference(shown.reference.size, shown.reference.tobytes())
        return float(self._embedded(shown.picture) @ other)

    def beside_prompt(self, shown: Shown) -> float | None:
        return float(self._embedded(shown.picture) @ self._text(shown.prompt)) if shown.prompt.strip() else None

    def _read(self, size: tuple[int, int], pixels: bytes) -> Any:
        from PIL import Image

        return self._embedded(Image.frombytes("RGB", size, pixels))

    def _embedded(self, picture: Any) -> Any:
        """A picture's embedding, of length 1."""
        import torch

        self._open()
        with torch.inference_mode():
            inputs = self._pictures(images=[picture], return_tensors="pt").to(self._device)
            if hasattr(self._model, "get_image_features"):
                found = self._model.get_image_features(**inputs)
            else:
                found = self._model(**inputs)
        return _unit(found)

    def _said(self, text: str) -> Any:
        import torch

        self._open()
        with torch.inference_mode():
            words = self._tokens([text], return_tensors="pt", truncation=True, padding="max_length").to(self._device)
            taken = {name: words[name] for name in ("input_ids", "attention_mask") if name in words}
            return _unit(self._model.get_text_features(**taken))

    def _open(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._pictures = AutoImageProcessor.from_pretrained(self.folder, use_fast=False, local_files_only=True)
            if _TEXT in KINDS[self.kind]:
                self._tokens = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            model = AutoModel.from_pretrained(self.folder, use_safetensors=True, local_files_only=True)
        except Exception as error:
            said = plain(error, 160)
            raise ZvlError(f"--encoder {plain(self.folder, 100)} can't be loaded ({said}).") from error
        self._model = model.float().eval().to(self._device)


def _unit(found: Any) -> Any:
    """The embedding in what a model gives: a tensor, or an output with a pooled one. [features], of length 1."""
    vector = getattr(found, "pooler_output", found)
    vector = vector[0].float().cpu()
    return vector / vector.norm().clamp_min(1e-9)
