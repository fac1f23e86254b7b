"""Fixtures of the contract tests: tiny models in a web UI, up to the point where sampling would begin.

A pytest plugin: test modules name it in `pytest_plugins`. They import from it as well, and there is no assertion in it,
hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
import transformers
from backend import memory_management as mm
from by_hand import ByHand
from host_engine import ZImage
from modules import paths, processing, shared
from PIL import Image
from published import as_published
from tokenizers import Tokenizer

from zvl_ext.hosts.forge import takes
from zvl_ext.qwen3vl import language, vision
from zvl_ext.store import Disk
from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER

torch.set_num_threads(1)
LAYERS = 12  # of the tiny Qwen3-VL: the published layer, -8, lies behind the three that DeepStack adds to


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
            seen.append(("place", kwargs.get("force_full_load", not takes(place, "force_full_load"))))
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
    """Plain transformers, deep enough for the published layer."""
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
        """One picture with the extension: its arguments in order, or by name beside the published settings."""
        run.attach(p, [{"enabled": True, **as_published(named)}] if named else list(args))
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
    monkeypatch.setattr(KEEPER.references, "folder", str(tmp_path / "references"))
    KEEPER.store.clear()
    KEEPER.made.clear()
    KEEPER.last = None
    yield WebUI(make_engine(), events, weights, monkeypatch)
    KEEPER.residence.drop()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A reference image whose sides are multiples of 32: nobody has to resize it."""
    return tiny.picture(96, 64, seed=5)


@pytest.fixture(scope="session")
def other_picture() -> Image.Image:
    return tiny.picture(64, 64, seed=6)


@pytest.fixture
def by_hand(
    vl_model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, picture: Image.Image
) -> ByHand:
    """What is to come out, computed without zvl_ext."""
    return ByHand(vl_model, tokenizer, picture)
