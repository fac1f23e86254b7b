"""Beginning a txt2img picture from a reference by the web UI's own img2img sampling.

For the first pass of one batch its sampler, which the web UI makes anew for every pass, gets a `sample` of its own;
that encodes the reference with the web UI's VAE and calls the same sampler's `sample_img2img`. Nothing else is
replaced, and what is goes with the first call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from modules import sd_samplers_common, shared

from ..beginning import Beginning
from ..errors import ZvlError
from .forge import interrupted, setting


class FromReference:
    """The sampling of one batch that begins from a reference.

    Attributes:
        used: Whether the web UI has begun from it.
        note: A line for the user: why it has not, or what was done to the reference; "" where there is nothing to say.
    """

    def __init__(self, p: Any, beginning: Beginning, refusal: Callable[[str], Exception]):
        self._p, self._beginning, self._refusal = p, beginning, refusal
        self.used = False
        self.note = "the first pass was not sampled here, so nothing began from the reference."

    def install(self) -> None:
        """Let the pass that is about to be sampled begin from it, where that is the first one."""
        sampler = getattr(self._p, "sampler", None)
        if getattr(self._p, "is_hr_pass", False):
            return
        if not hasattr(sampler, "sample_img2img"):
            self.note = "this web UI's sampler can't begin from a picture, so it began from noise alone."
            return
        sampler.sample = self._sample

    def _sample(self, p: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of the sampler's `sample`.

        Args:
            x: Noise, float [batch, channels, height, width].
        """
        sampler = p.sampler
        del sampler.sample
        if interrupted():  # it will end at the first step: nothing need be encoded
            return sampler.sample(p, x, *args, **kwargs)
        with _strength(p, self._beginning.strength):
            steps, last = sd_samplers_common.setup_img2img_steps(p)
        if last + 1 >= steps:
            self.note = self._beginning.too_late(p.steps)
            return sampler.sample(p, x, *args, **kwargs)
        try:
            latents = self._latents(p, x)
        except ZvlError as error:
            raise self._refusal(str(error)) from None
        self.used = True
        multiplier = setting("initial_noise_multiplier", 1.0)  # of img2img's
        if multiplier != 1.0:
            p.extra_generation_params["Noise multiplier"] = multiplier
        with _strength(p, self._beginning.strength):
            return sampler.sample_img2img(p, latents, x * multiplier, *args, **kwargs)

    def _latents(self, p: Any, noise: Any) -> Any:
        """The reference as the VAE encodes it, for every picture of the batch, in the noise's shape."""
        from modules.processing import opt_f  # pixels for each value of the latents

        size = noise.shape[-1] * opt_f, noise.shape[-2] * opt_f
        self.note = self._beginning.stretched(size)
        pixels = np.asarray(self._beginning.at(size), np.float32) / 255.0
        image = torch.from_numpy(np.moveaxis(pixels, 2, 0)[None]).to(shared.device, dtype=torch.float32)
        method = setting("sd_vae_encode_method", "Full")
        if method != "Full":
            p.extra_generation_params["VAE Encoder"] = method
        with _same_draw(), _unnoticed(shared.sd_model):
            latents = sd_samplers_common.images_tensor_to_samples(
                image, sd_samplers_common.approximation_indexes.get(method), shared.sd_model
            )
        if latents.shape[1:] != noise.shape[1:] or not latents.isfinite().all():
            raise ZvlError(
                "The VAE can't encode the reference for this picture. Set the denoising strength to 1, or choose "
                "another VAE, or another size."
            )
        return latents.expand(noise.shape)


@contextlib.contextmanager
def _strength(p: Any, strength: float) -> Iterator[None]:
    """The generation with that denoising strength, which in txt2img is the second pass's, while the context is open."""
    kept = p.denoising_strength
    p.denoising_strength = strength
    try:
        yield
    finally:
        p.denoising_strength = kept


@contextlib.contextmanager
def _unnoticed(engine: Any) -> Iterator[None]:
    """Let an engine encode a picture without taking it for one that a later generation is to change."""
    noted = {name: value for name, value in vars(engine).items() if name == "ini_latent"}
    try:
        yield
    finally:
        vars(engine).update(noted)


@contextlib.contextmanager
def _same_draw() -> Iterator[None]:
    """Let the VAE, which draws its latents from a narrow distribution, draw the same ones every time, so that a picture
    depends on its own seed alone. Other random numbers go on as if nothing had been drawn."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(state)
