"""The pipeline on its own, for the command line and the tests: one model, one device, no web UI."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..alone import makes_alone
from ..analysis.layers import EncoderStatistics, encoder_statistics
from ..attention_shares import AttentionShares
from ..beginning import Beginning
from ..conditioner import Unit, condition_units, plain_picture
from ..conditioning import Conditioning
from ..conditioning_file import Saved
from ..engines import ENGINES
from ..engines.sources import Sources, Text
from ..errors import ZvlError
from ..image_models import Z_IMAGE
from ..loras import Named
from ..mixing.prompts import REFERENCE_PROMPTS
from ..mixing.statistics import ReferenceStatistics, measure_all
from ..options import Settings
from ..profiles import Profile
from ..projections import Projection
from ..qwen3vl import language, vision, writing
from ..qwen3vl.checkpoint import Checkpoint
from ..qwen3vl.files import open_checkpoint
from ..qwen3vl.modules import VisionTower
from ..qwen3vl.passes import Pass
from ..qwen3vl.tokenizer import tokenizer
from ..qwen3vl.writing import Writer
from ..reference import Reference, References, sized
from ..sequence import TEMPLATE, Sequence
from ..store import Store
from .standalone_attention import check_profile, weighted
from .standalone_beginning import from_picture, steps_from
from .standalone_encoder import config_of, from_folder
from .standalone_lora import add_loras
from .standalone_shares import watched
from .standalone_text import DTYPES, TEXT_LAYER, StandaloneTextEncoder

if TYPE_CHECKING:
    from PIL import Image

_STORED = {"F32": torch.float32, "F16": torch.float16}
_SMALL = 10**9  # parameters up to which "auto" computes in float32 on the CPU: at most 4 GB


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _dtype(named: str | torch.dtype, device: torch.device, parameters: int, stored: str) -> torch.dtype:
    """What a model of that many parameters, stored so, computes in on a device."""
    if isinstance(named, torch.dtype):
        return named
    if named != "auto":
        return DTYPES[named]
    if device.type == "cpu" and parameters <= _SMALL:
        return torch.float32
    return _STORED.get(stored, torch.bfloat16)


def _parameters(folder: str) -> int:
    """How many parameters a folder's safetensors files have, where each takes two bytes."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.endswith(".safetensors")) // 2


class StandaloneExtractor:
    """Qwen3-VL held on one device, loaded on first use. Threads that share it take turns: a pass puts hooks on the
    model.

    Args:
        device: `auto` (the first accelerator, else the CPU) or a torch device's name.
        dtype: `auto` (as stored, fp8 as bfloat16; small models on the CPU in float32), a key of DTYPES, or torch's own.
        storage: As the option of that name.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", dtype: str | torch.dtype = "auto", storage: str = "auto"
    ):
        self.checkpoint = checkpoint
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device, checkpoint.parameters, checkpoint.stored_dtype)
        self.storage = storage
        self.precision = f"{self.device} {self.dtype}" + (" fp8" if storage == "fp8" else "")
        self._model: language.Qwen3VL | None = None
        self._tower: VisionTower | None = None
        self._turn = threading.RLock()

    def extend(
        self,
        sequences: list[Sequence],
        references: References,
        tokens: int,
        depth: int,
        prefix: Pass | None = None,
        tails: list[Pass | None] | None = None,
    ) -> tuple[Pass, list[Pass | None]]:
        with self._turn:
            model = self._loaded(depth)
            model.module.to(self.device)
            return model.extend(sequences, references, tokens, depth, prefix, tails)

    def write(
        self, sequence: Sequence, reference: Reference, tokens: int, writer: Writer, most: int, ends: list[int]
    ) -> None:
        """As `writing.write`, with all layers loaded."""
        with self._turn:
            model = self._loaded(self.checkpoint.layers)
            model.load_head()
            model.module.to(self.device)
            writing.write(model, sequence, reference, tokens, writer, most, ends)

    def _loaded(self, depth: int) -> language.Qwen3VL:
        """The language model with that many layers at least."""
        if self._model is None:
            self._model = language.load(self.checkpoint, self.dtype, depth, self.storage)
        elif self._model.depth < depth:
            self._model.deepen(depth)
        return self._model

    def image_tokens(self, reference: Reference, tokens: int) -> torch.Tensor:
        with self._turn:
            if self._tower is None:
                self._tower = vision.load(self.checkpoint, self.dtype).to(self.device)
            return vision.stacked_tokens(self._tower, sized(reference, tokens, self.checkpoint.unit))

    def unload(self) -> None:
        with self._turn:
            self._model = self._tower = None


class ZImage:
    """Z-Image through diffusers, with a Qwen3-VL beside it: the whole product without a web UI. Threads that share it
    take turns in each of its models.

    Args:
        z_image: A diffusers folder of Z-Image.
        qwen3_vl: A Hugging Face folder or one .safetensors file of Qwen3-VL; "": none, for the prompt alone and for
            conditionings from files.
        device, dtype: As for StandaloneExtractor.
        reference_prompts: What the text encoder's reference statistics are measured on.

    Raises:
        ZvlError: a folder that isn't there or isn't what it should be.
    """

    def __init__(
        self,
        z_image: str,
        qwen3_vl: str,
        device: str = "auto",
        dtype: str = "auto",
        reference_prompts: tuple[str, ...] = REFERENCE_PROMPTS,
    ):
        if not os.path.isfile(os.path.join(z_image, "model_index.json")):
            raise ZvlError(f"{z_image} is not a diffusers folder of Z-Image: it has no model_index.json.")
        from diffusers import ZImagePipeline

        self._extractor: StandaloneExtractor | None = None
        if qwen3_vl:
            self._extractor = StandaloneExtractor(open_checkpoint(qwen3_vl, any_size=True), device, dtype)
            self.device, self.dtype = self._extractor.device, self._extractor.dtype
        else:
            self.device = _device(device)
            self.dtype = _dtype(dtype, self.device, _parameters(os.path.join(z_image, "text_encoder")), "")
        self.pipeline = ZImagePipeline.from_pretrained(
            z_image,
            tokenizer=None,
            text_encoder=None,  # on first use
            torch_dtype=self.dtype,
            local_files_only=True,
            use_safetensors=True,
        ).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.encode = tokenizer(os.path.join(z_image, "tokenizer"))
        self._z_image = os.path.abspath(z_image)
        self._text_encoder: StandaloneTextEncoder | None = None
        self.text_layers: int = config_of(self._text_folder)["num_hidden_layers"]
        self.store = Store()
        self._other: StandaloneExtractor | None = None
        self._turn = threading.RLock()
        self._reference_prompts = reference_prompts
        self._by_layer: EncoderStatistics | None = None

    @property
    def text_encoder(self) -> StandaloneTextEncoder:
        """Z-Image's text encoder, loaded on first use: where Qwen3-VL alone makes the conditioning, never.

        Raises:
            ZvlError: it can't be loaded.
        """
        with self._turn:
            if self._text_encoder is None:
                model = from_folder(self._text_folder, self.dtype).eval().requires_grad_(False).to(self.device)
                self._text_encoder = StandaloneTextEncoder(model, self._z_image)
            return self._text_encoder

    @property
    def text_encoder_loaded(self) -> bool:
        return self._text_encoder is not None

    @property
    def _text_folder(self) -> str:
        return os.path.join(self._z_image, "text_encoder")

    @property
    def text_encoder_bytes(self) -> int:
        """The memory that the text encoder takes where it is loaded."""
        return _parameters(self._text_folder) * self.dtype.itemsize

    @property
    def extractor(self) -> StandaloneExtractor:
        """Qwen3-VL.

        Raises:
            ZvlError: none was named.
        """
        if self._extractor is None:
            raise ZvlError("A reference is read with Qwen3-VL, and none was named. Name one with --qwen3-vl.")
        return self._extractor

    def check_file(self, saved: Saved) -> None:
        """Raise ZvlError where a conditioning from a file does not fit the image model."""
        saved.check(self.hidden, len(self.pipeline.transformer.layers))
        self.check_length(len(saved.conditioning), f"{saved.name} was made for another image model.")

    def check_profile(self, profile: Profile) -> None:
        """Raise ZvlError where a profile is about another image model."""
        check_profile(self.pipeline.transformer, profile)

    def add_loras(self, loras: Iterable[Named]) -> None:
        """Let LoRAs act on the image model from now on.

        Raises:
            ZvlError: one can't be read, or is not about this image model.
        """
        with self._turn:
            add_loras(self.pipeline, list(loras))

    @property
    def hidden(self) -> int:
        """The width of the rows that the image model takes."""
        width: int = self.pipeline.transformer.config.cap_feat_dim
        return width

    @functools.cached_property
    def statistics(self) -> ReferenceStatistics:
        """The text encoder's reference statistics."""
        return measure_all(self.text(prompt).embeddings for prompt in self._reference_prompts)

    def encoder_statistics(self, on_prompt: Callable[[int, int], None] = lambda done, of: None) -> EncoderStatistics:
        """The text encoder's, by layer; measured when they are asked for the first time.

        Args:
            on_prompt: Told how many prompts are done, of how many; what it raises ends the work.
        """
        prompts = self._reference_prompts
        with self._turn:
            if self._by_layer is None:
                self._by_layer = encoder_statistics(
                    self.text_encoder,
                    self.encode,
                    Z_IMAGE.template,
                    prompts,
                    lambda done: on_prompt(done, len(prompts)),
                )
            return self._by_layer

    def text(self, prompt: str) -> Text:
        """The prompt's text embeddings, float32 [tokens, hidden], as Z-Image takes them."""
        ids = self.encode(TEMPLATE.format(prompt))
        self.check_length(len(ids))
        inputs = self.text_encoder.embed(ids)
        return Text(prompt, tuple(ids), self.text_encoder.hidden_states(inputs, TEXT_LAYER, None, None), inputs)

    def unread_text(self, prompt: str) -> Text:
        """As `text`, for a conditioning in which nothing of the text encoder is: its tokens alone."""
        ids = self.encode(TEMPLATE.format(prompt))
        self.check_length(len(ids))
        return Text(prompt, tuple(ids), torch.full((len(ids), self.hidden), torch.nan), read=False)

    def check_length(self, tokens: int, advice: str = "Shorten the prompt.") -> None:
        """Raise ZvlError where a conditioning of that many tokens is more than the image model has positions for."""
        room = (
            (self.pipeline.transformer.config.axes_lens[0] - 2) // 32 * 32
        )  # it pads texts to 32, and the picture's position comes next
        if tokens > room:
            raise ZvlError(f"The conditioning has {tokens} tokens, the image model takes {room}. {advice}")

    def condition(
        self,
        settings: Settings,
        reference: Reference,
        prompt: str,
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
        profile: Profile | None = None,
        projection: Projection | None = None,
    ) -> Conditioning:
        """What the image model gets for a prompt as text, for `generate`."""
        unit = Unit(settings, reference, profile=profile, projection=projection)
        units = [] if plain_picture(settings) else [unit]
        return self.condition_units(units, prompt, seed, say)

    def condition_units(
        self,
        units: list[Unit],
        prompt: str,
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
        negative: bool = False,
        whole: bool = False,
    ) -> Conditioning:
        """As `condition`, with several references.

        Args:
            negative: Whether the prompt is the negative one.
            whole: Whether the prompt's own rows are wanted, too, where they have no part in the picture: a file holds
                them.
        """
        if not units:
            return Conditioning(self.text(prompt).embeddings)
        sources = self.sources_for(units[0].settings, say)
        alone = makes_alone(unit.settings for unit in units if unit.settings.negative == negative)
        text = self.unread_text(prompt) if alone and not whole else self.text(prompt)
        return condition_units(units, [text], sources, negative)[0](seed)

    def sources_for(self, settings: Settings, say: Callable[[str], None] = lambda line: None) -> Sources:
        """What the settings' engine draws on."""
        return Sources(
            self.extractor_for(settings),
            self.encode,
            lambda: self.statistics,
            None if ENGINES[settings.engine].language_model else self.text_encoder,
            self.store,
            say,
        )

    def extractor_for(self, settings: Settings) -> StandaloneExtractor:
        """The one for a device and a storage; besides the first there is one more at most."""
        main = self.extractor
        device, storage = ("cpu" if settings.device == "cpu" else str(main.device)), settings.storage
        if (device, storage) == (str(main.device), main.storage):
            return main
        with self._turn:
            other = self._other
            if other is None or (str(other.device), other.storage) != (device, storage):
                dtype = "auto" if device != str(main.device) else main.dtype
                self._other = other = StandaloneExtractor(main.checkpoint, device, dtype, storage)
            return other

    def unload(self) -> None:
        """Free the memory that Qwen3-VL takes; it is loaded again when it is needed."""
        if self._extractor is not None:
            self._extractor.unload()
        self._other = None

    def unload_text_encoder(self) -> None:
        """Free the memory that the text encoder takes; it is loaded again when it is needed."""
        with self._turn:
            self._text_encoder = None

    @torch.inference_mode()
    def generate(
        self,
        conditionings: Iterable[Conditioning | torch.Tensor],
        seeds: list[int],
        size: tuple[int, int] = (1024, 1024),
        steps: int = 8,
        guidance: float = 0.0,
        batch: int = 1,
        negative: str | list[Conditioning] = "",
        on_step: Callable[[int, int], None] | None = None,
        beginning: Beginning | None = None,
        shares: AttentionShares | None = None,
    ) -> list[Image.Image]:
        """One picture for each conditioning. A picture depends on its own conditioning and seed, not on the batch it is
        in.

        Args:
            conditionings: From `condition`, or rows alone, float [tokens, hidden].
            size: Width and height in pixels.
            on_step: Told how many sampling steps are done, of all there are; what it raises stops the work.
            guidance: Classifier-free guidance against the negative prompt, diffusers' way of counting: 0 is none.
            negative: The negative prompt, or a conditioning for each picture.
            beginning: What sampling begins from besides noise.
            shares: Gets how much of the attention the first picture's references get; the pictures stay as they are.

        Raises:
            ZvlError: a conditioning is longer than the image model has positions for, or the image model takes no
                weight.
        """
        width, height = size
        wanted = [each if isinstance(each, Conditioning) else Conditioning(each) for each in conditionings]
        against: list[Conditioning] = []
        if guidance > 0:
            against = (
                [Conditioning(self.text(negative).embeddings)] * len(wanted) if isinstance(negative, str) else negative
            )
        self.check_length(max(map(len, [*wanted, *against])))
        pictures: list[Image.Image] = []
        sampled = steps if beginning is None else steps_from(steps, beginning.strength)
        every = sampled * math.ceil(len(wanted) / batch)

        def told(pipeline: object, step: int, time: object, values: dict[str, object]) -> dict[str, object]:
            if on_step is not None:
                on_step(sampled * (len(pictures) // batch) + step + 1, every)
            return values

        for start in range(0, len(wanted), batch):
            part, other = wanted[start : start + batch], against[start : start + batch]
            rows, negatives = ([each.rows.to(self.device, self.dtype) for each in half] for half in (part, other))
            pipeline: Any = self.pipeline
            more: dict[str, Any] = {}
            if beginning is not None:
                pipeline, more = from_picture(pipeline, beginning, size, len(part))
            with (
                self._turn,
                weighted(pipeline.transformer, [*part, *other], sampled),
                watched(pipeline.transformer, part[0], None if start else shares),
            ):
                output = pipeline(
                    prompt_embeds=rows,
                    negative_prompt_embeds=negatives or None,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]],
                    width=width,
                    height=height,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    callback_on_step_end=told,
                    **more,
                )
            pictures += output.images
        return pictures
