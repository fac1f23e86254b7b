"""From a conditioning to a picture: the host's own image model, at a small size, in the host's own sampling function.

What lies between its `process` and its decoder is done here as the host does it, step by step, without its samplers'
progress bars and previews. A pytest plugin as host_fixtures is, hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from backend.modules.k_model import KModel
from backend.nn import lumina
from backend.patcher.unet import UnetPatcher
from backend.sampling.sampling_function import sampling_function
from host_fixtures import WebUI
from host_runs import BARE, CAT, SPLICE
from modules import prompt_parser, script_callbacks, shared

from zvl_ext.webui import run

CHANNELS, HIDDEN, BLOCKS = 16, 64, 3
SIZE = (16, 16)  # of the latents; 64 rows, a multiple of 32
ODD_SIZE = (12, 14)  # 42 rows: the image model fills them up to 64
STEPS = 4
FRONT = {**SPLICE, **BARE, "block_place": "front"}  # the reference inserted where a weight near 0 tends to plain

UNWEIGHED = {
    "weight": 1.0,
    "merge": 1,
    "image_dropout": 0.0,
    "start": 0.0,
    "end": 1.0,
    "curve": "constant",
    "blocks": "all",
}


class Predictor:
    """Of a model that tells the noise's direction: flow matching."""

    def set_parameters(self, shift: float = 1.0) -> None:
        pass

    def calculate_input(self, sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma

    def calculate_denoised(self, sigma: torch.Tensor, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x - output * sigma[:, None, None, None]


def make_model() -> torch.nn.Module:
    """A small Z-Image."""
    return lumina.NextDiT(
        patch_size=2,
        in_channels=CHANNELS,
        dim=64,
        n_layers=BLOCKS,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=HIDDEN,
        axes_dims=[8, 12, 12],
        axes_lens=[512, 64, 64],
        rope_theta=256.0,
        z_image_modulation=False,  # the real one, with it, has no size below 256
        time_scale=1000.0,
        pad_tokens_multiple=32,
    )


def patcher_of(model: torch.nn.Module, seed: int = 0) -> UnetPatcher:
    """An image model as the web UI has loaded it, with random weights."""
    torch.manual_seed(seed)
    for token in (getattr(model, name, None) for name in ("x_pad_token", "cap_pad_token")):
        if token is not None:
            torch.nn.init.normal_(token)
    tiny.randomized(model)
    model.storage_dtype = model.computation_dtype = torch.float32
    config, cpu = SimpleNamespace(memory_usage_factor=1.0), torch.device("cpu")
    k_model = KModel(model, diffusers_scheduler=None, k_predictor=Predictor(), config=config)
    return UnetPatcher(k_model, load_device=cpu, offload_device=cpu, current_device=cpu)


class Denoiser:
    """What every sampler calls: the host's CFGDenoiser, as far as its conditioning."""

    def __init__(self, p: Any, engine: Any, steps: int, cfg: float):
        self.p, self.engine, self.cfg = p, engine, cfg
        self.step, self.total_steps = 0, steps
        self.inner_model = SimpleNamespace(inner_model=engine)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        given = self.p.sampler.sampler_extra_args
        order, cond = prompt_parser.reconstruct_multicond_batch(given["cond"], self.step)
        uncond = given["uncond"] and prompt_parser.reconstruct_cond_batch(given["uncond"], self.step)
        params = script_callbacks.CFGDenoiserParams(
            x, None, sigma, self.step, self.total_steps, cond, uncond, denoiser=self
        )
        if attached := run.current(self.p):
            attached.during_sampling(self.inner_model.inner_model)
        script_callbacks.cfg_denoiser_callback(params)
        denoised = sampling_function(
            self, denoiser_params=params, cond_scale=self.cfg, cond_composition=order, extra_model_options={}
        )[0]
        self.step += 1
        return denoised


class Studio:
    """A web UI that makes pictures: latents [batch, channels, height, width].

    Attributes:
        calls: For every call of the image model what it was given, and `output`: what came out.
    """

    make_model = staticmethod(make_model)

    def __init__(self, web: WebUI, reference: Any):
        self.web, self.reference = web, reference
        self.calls: list[dict] = []
        self.load(web.engine)

    def load(self, engine: Any, seed: int = 0) -> Any:
        """Give an engine an image model."""
        unet = patcher_of(self.make_model(), seed)
        engine.loaded_unet = engine.forge_objects.unet = unet
        apply = unet.model.apply_model

        def watched(x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            options = kwargs["transformer_options"]
            self.calls.append({"x": x, "t": t, "cond_or_uncond": list(options["cond_or_uncond"]), **kwargs})
            self.calls[-1]["output"] = output = apply(x, t, **kwargs)
            return output

        unet.model.apply_model = watched
        return engine

    @property
    def model(self) -> torch.nn.Module:
        """The image model."""
        return self.web.engine.loaded_unet.model.diffusion_model

    @property
    def modifiers(self) -> list:
        """What was asked to change the conditioning in the last sampling."""
        return self.web.engine.forge_objects.unet.model_options.get("conditioning_modifiers", [])

    def p(self, prompt: str | list[str] = CAT, cfg: float = 1.0, **fields: Any) -> Any:
        return self.web.p(prompt, cfg_scale=cfg, **{"steps": STEPS, **fields})

    def condition(self, p: Any, **settings: Any) -> Any:
        """Up to the sampler, with the reference where there are settings: by themselves they weigh nothing."""
        if settings:
            return self.web.run(p, reference=self.reference, **UNWEIGHED | settings)
        return self.web.run(p, False)

    def sample(
        self,
        p: Any,
        steps: int = STEPS,
        size: tuple[int, int] = SIZE,
        prepare: Callable[[Any], None] = lambda unet: None,
        conds: tuple[Any, Any] | None = None,
        attached: bool = True,
    ) -> torch.Tensor:
        """One pass of a generation that is conditioned: Euler's method from noise.

        Args:
            prepare: What another extension does to the image model beforehand.
            conds: Those of a second pass.
            attached: Whether the extension hears of it.
        """
        engine = shared.sd_model
        with torch.inference_mode():
            engine.forge_objects.unet = engine.loaded_unet.clone()
            cond, uncond = conds or (p.c, p.uc)
            prepare(engine.forge_objects.unet)
            if attached and (own := run.current(p)):
                own.before_sampling()
            denoiser = Denoiser(p, engine, steps, p.cfg_scale)
            p.sampler = SimpleNamespace(
                model_wrap_cfg=denoiser, sampler_extra_args={"cond": cond, "uncond": uncond, "cond_scale": p.cfg_scale}
            )
            noise = [torch.randn(CHANNELS, *size, generator=torch.Generator().manual_seed(seed)) for seed in p.seeds]
            x, sigmas = torch.stack(noise), torch.linspace(1.0, 0.0, steps + 1)
            for now, then in itertools.pairwise(sigmas):
                sigma = now.expand(len(x))
                x = x + (x - denoiser(x, sigma)) / now * (then - now)
        return x

    def picture(self, prompt: str | list[str] = CAT, cfg: float = 1.0, seed: int = 1, **more: Any) -> torch.Tensor:
        """A picture from nothing: settings of the extension by their names, and arguments of `sample`."""
        ours = {name: more.pop(name) for name in ("steps", "size", "prepare") if name in more}
        p = self.condition(self.p(prompt, cfg, seed=seed), **more)
        made = self.sample(p, **ours)
        if attached := run.current(p):
            attached.after_sampling()
        if any("no effect" in comment for comment in p.comments):
            pytest.fail("the weight was not asked for")
        return made


@contextlib.contextmanager
def on_each_step(callback: Callable[[Any], None]) -> Iterator[None]:
    """Another extension's callback before each step."""
    script_callbacks.on_cfg_denoiser(callback)
    try:
        yield
    finally:
        script_callbacks.remove_callbacks_for_function(callback)


@pytest.fixture
def studio(web: WebUI, picture: Any) -> Studio:
    return Studio(web, picture)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two pictures are from each other, relative to the second."""
    return float((a - b).norm() / b.norm())
