"""Fixtures of the contract tests: tiny models in a web UI, and one picture's conditioning made the way the web UI makes
it.

A pytest plugin: test modules name it in `pytest_plugins`. They import from it as well, and there is no assertion in it,
    hence
PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import numpy as np
import pytest
import tiny
import torch
import transformers
from backend import memory_management as mm
from backend.diffusion_engine import zimage
from backend.nn.llm import llama
from backend.operations import using_forge_operations
from backend.patcher.base import ModelPatcher
from backend.text_processing.qwen3_engine import Qwen3TextProcessingEngine
from modules import paths, processing, shared
from PIL import Image
from tokenizers import Tokenizer

from zvl_ext.engines.sources import ImageTokens
from zvl_ext.hosts.standalone import StandaloneTextEncoder
from zvl_ext.mixing.statistics import REFERENCE_PROMPTS
from zvl_ext.options import OPTIONS, Settings
from zvl_ext.qwen3vl import language, vision
from zvl_ext.sequence import Sequence
from zvl_ext.store import Disk
from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER

torch.set_num_threads(1)
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LAYERS = 12  # of the tiny Qwen3-VL: the default layer, -8, lies behind the three that DeepStack adds to
TEXT_LAYERS = 3


# --- the image model's side


def make_text_encoder(seed: int, hidden: int = 64) -> tuple[torch.nn.Module, transformers.Qwen3Model]:
    """The web UI's own text encoder at a small size, and transformers' with the same weights."""
    sizes = {
        "vocab_size": tiny.EMBEDDINGS,
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
    }
    torch.manual_seed(seed)
    rope = {
        "rope_theta": 1e6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # for transformers 4 and 5
    plain = tiny.randomized(
        transformers.Qwen3Model(transformers.Qwen3Config(**sizes, **rope, head_dim=32, max_position_embeddings=4096))
    )
    fields = [(name, type(value), value) for name, value in sizes.items()]
    small = dataclasses.make_dataclass("Small", fields, bases=(llama.Qwen3_4BConfig,), namespace={"head_dim": 32})
    with pytest.MonkeyPatch.context() as patch, using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        patch.setattr(llama, "Qwen3_4BConfig", small)
        encoder = llama.Qwen3_4B({})
    encoder.load_state_dict({f"model.{name}": weight.clone() for name, weight in plain.state_dict().items()})
    return encoder.eval().requires_grad_(False), plain


class ZImage(zimage.ZImage):
    """The web UI's own engine with a tiny text encoder and nothing else."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 0, filename: str = "zimage.safetensors", hidden: int = 64):
        self.text_encoder, self.plain = make_text_encoder(seed, hidden)
        stage = torch.nn.ModuleDict({"qwen3": self.text_encoder})
        cpu = torch.device("cpu")
        clip = SimpleNamespace(cond_stage_model=stage, patcher=ModelPatcher(stage, load_device=cpu, offload_device=cpu))
        shifts: list[float] = []
        self.shifts = shifts  # what the sampler was told
        predictor = SimpleNamespace(set_parameters=lambda shift: shifts.append(shift))
        self.forge_objects = SimpleNamespace(
            clip=clip, unet=SimpleNamespace(model=SimpleNamespace(predictor=predictor))
        )
        self.text_processing_engine_gemma = Qwen3TextProcessingEngine(
            text_encoder=self.text_encoder,
            tokenizer=lambda texts: {
                "input_ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            },
        )
        self.filename = filename
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.is_inpaint, self.is_wan, self.use_shift, self.use_distilled_cfg_scale = False, False, True, False
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra=os.path.splitext(filename)[0])


class AnotherArchitecture(ZImage):
    """A model that is not Z-Image, however much its parts look like it."""


# --- what was done


class Events(list):
    """What was run, in order.

    ("text", ids), ("load", model), ("deepen", layers), ("tower", model), ("place", whole), ("vision", patches) and
    ("vl", rows).
    """

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]

    def count(self, kind: str) -> int:
        return self.kinds().count(kind)

    def of(self, kind: str) -> list:
        return [what for each, what in self if each == kind]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Every pass of a Qwen3-VL and its placing by the web UI; the text encoders of `make_engine` report here, too."""
    seen = Events()
    load, deepen, load_tower, place = language.load, language.Qwen3VL.deepen, vision.load, mm.load_models_gpu

    def watched_load(*args: Any) -> language.Qwen3VL:
        model = load(*args)
        seen.append(("load", args[0].name))
        model.module.language_model.register_forward_pre_hook(
            lambda m, a, k: seen.append(("vl", k["inputs_embeds"].shape[1])), with_kwargs=True
        )
        model.module.visual.register_forward_pre_hook(lambda m, a: seen.append(("vision", a[0].shape[0])))
        return model

    def watched_deepen(model: language.Qwen3VL, depth: int) -> None:
        if model.depth:
            seen.append(("deepen", depth))
        deepen(model, depth)

    def watched_tower(*args: Any) -> torch.nn.Module:
        tower = load_tower(*args)
        seen.append(("tower", args[0].name))
        tower.register_forward_pre_hook(lambda m, a: seen.append(("vision", a[0].shape[0])))
        return tower

    @functools.wraps(place)  # its signature is looked at
    def watched_place(models: list, *args: Any, **kwargs: Any) -> Any:
        if any(type(patcher.model).__name__ == "Qwen3VLModel" for patcher in models):
            seen.append(("place", kwargs.get("force_full_load")))
        return place(models, *args, **kwargs)

    monkeypatch.setattr(language, "load", watched_load)
    monkeypatch.setattr(language.Qwen3VL, "deepen", watched_deepen)
    monkeypatch.setattr(vision, "load", watched_tower)
    monkeypatch.setattr(mm, "load_models_gpu", watched_place)
    return seen


@pytest.fixture
def make_engine(tokenizer: Tokenizer, events: Events) -> Callable[..., ZImage]:
    def make(kind: type[ZImage] = ZImage, **options: Any) -> ZImage:
        engine = kind(tokenizer, **options)
        engine.text_encoder.get_input_embeddings().register_forward_pre_hook(
            lambda m, a: events.append(("text", a[0].tolist()))
        )
        return engine

    return make


# --- Qwen3-VL


@pytest.fixture(scope="session")
def vl_model(tokenizer: Tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    """Plain transformers, deep enough for the default layer."""
    config = tiny.make_config(tokenizer)
    config.text_config.num_hidden_layers = LAYERS
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * LAYERS
    return tiny.make_model(config, seed=3)


@pytest.fixture(scope="session")
def vl_folder(
    vl_model: transformers.Qwen3VLForConditionalGeneration,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return tiny.save_folder(vl_model, tokenizer, tmp_path_factory.mktemp("weights") / "tiny-vl")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the web UI looks for Qwen3-VL weights: empty."""
    folder = tmp_path / "models" / "qwen3_vl"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "models_path", str(folder.parent))
    return folder


# --- pictures


def positions(**values: Any) -> list[Any]:
    """The arguments as the panel sends them: the values of all controls, in order."""
    settings = dataclasses.replace(Settings(enabled=True), **values)
    return [getattr(settings, option.name) for option in OPTIONS]


class WebUI:
    """A web UI with an engine and one Qwen3-VL, up to the point where sampling would begin."""

    def __init__(self, engine: ZImage, events: Events, weights: Path, monkeypatch: pytest.MonkeyPatch):
        self.events, self.weights, self._monkeypatch = events, weights, monkeypatch
        self.use(engine)

    @property
    def engine(self) -> ZImage:
        return shared.sd_model

    def use(self, engine: ZImage) -> None:
        """Another checkpoint is loaded."""
        self._monkeypatch.setattr(shared, "sd_model", engine)

    @staticmethod
    def p(prompt: str | list[str] = "a photo of a cat", api: bool = False, **fields: Any) -> Any:
        """A generation as the panel makes it; a list makes a batch of different prompts."""
        count = len(prompt) if isinstance(prompt, list) else fields.pop("batch_size", 1)
        more = {
            "steps": 8,
            "cfg_scale": 1.0,
            "width": 64,
            "height": 64,
            "negative_prompt": "ugly",
            "seed": 1,
            "sampler_name": "Euler",
            **fields,
        }
        p = processing.StableDiffusionProcessingTxt2Img(prompt=prompt, batch_size=count, **more)
        p.is_api = api
        return p

    @staticmethod
    def condition(p: Any) -> Any:
        """What lies between the scripts' `process` and sampling, in the web UI's order and under its inference mode."""
        p.setup_prompts()
        with torch.inference_mode():
            p.prompts, p.negative_prompts = p.all_prompts[: p.batch_size], p.all_negative_prompts[: p.batch_size]
            p.seeds = [p.seed + i for i in range(p.batch_size)]
            p.parse_extra_network_prompts()
            p.setup_conds()
        return p

    def run(self, p: Any, *args: Any, **named: Any) -> Any:
        """One picture with the extension: its arguments in order, or by name."""
        run.attach(p, [{"enabled": True, **named}] if named else list(args))
        return self.condition(p)

    def plain(self, prompt: str | list[str] = "a photo of a cat", **fields: Any) -> Any:
        """One picture of a web UI that has no such extension."""
        return self.condition(self.p(prompt, **fields))


@pytest.fixture(scope="session")
def _settled(vl_folder: Path) -> None:
    """What the test run has imported and made stays, so that the garbage collector need not look at it at every
    unloading."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def web(
    _settled: None,
    make_engine: Callable[..., ZImage],
    events: Events,
    weights: Path,
    vl_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WebUI]:
    """A web UI just started: nothing in its caches, nothing remembered."""
    (weights / "tiny-vl").symlink_to(vl_folder)
    for kind, names in ((processing.StableDiffusionProcessing, ("cached_c", "cached_uc")),
                        (processing.StableDiffusionProcessingTxt2Img, ("cached_hr_c", "cached_hr_uc"))):  # fmt: skip
        for name in names:
            monkeypatch.setattr(kind, name, [None, None, None])
    monkeypatch.setattr(KEEPER, "disk", Disk(str(tmp_path / "kept"), 0))
    monkeypatch.setattr(KEEPER.store, "disk", None)
    KEEPER.store.clear()
    yield WebUI(make_engine(), events, weights, monkeypatch)
    KEEPER.residence.drop()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A reference image whose sides are multiples of 32: nobody has to resize it."""
    return tiny.picture(96, 64, seed=5)


@pytest.fixture(scope="session")
def other_picture() -> Image.Image:
    return tiny.picture(64, 64, seed=6)


def rows(c: Any) -> list[torch.Tensor]:
    """All tensors of a conditioning, in order: of `p.c` (parts of prompts with schedules) or `p.uc` (schedules)."""
    lines = [part.schedules for line in c.batch for part in line] if hasattr(c, "batch") else c
    return [entry.cond for schedule in lines for entry in schedule]


def conds(p: Any) -> list[torch.Tensor]:
    """The tensors that the first pass of a generation is conditioned on."""
    return rows(p.c)


def same(a: Any, b: Any) -> bool:
    """Whether two conditionings are equal, bit for bit."""
    a, b = rows(a), rows(b)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def close(got: torch.Tensor, want: np.ndarray, tolerance: float = 2e-4) -> bool:
    """Equal up to float32 rounding, relative to the largest value."""
    got = got.double().numpy()
    return got.shape == want.shape and np.abs(got - want).max() <= tolerance * np.abs(want).max()


# --- the independent side: plain transformers and NumPy


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
        sequence = Sequence(tuple(ids), start, grid, system=0, head=start - 1)
        section = tuple(checkpoint_rope(self.vl_model)["mrope_section"])
        encoder = StandaloneTextEncoder(engine.plain, "plain")
        return (
            encoder.hidden_states(embeds, layer, ImageTokens(image, tuple(deepstack), section), sequence)
            .double()
            .numpy()
        )


@pytest.fixture
def by_hand(
    vl_model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, picture: Image.Image
) -> ByHand:
    """What is to come out, computed without zvl_ext."""
    return ByHand(vl_model, tokenizer, picture)
