"""Pictures that begin from the reference: what the web UI's sampler is asked for, and what is left behind."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, CAT, conds
from modules import sd_samplers_common, shared
from PIL import Image

from zvl_ext.webui import infotext, run

pytest_plugins = ["host_fixtures"]

KEY = "ZVL denoising strength"
STEPS = 8
HALF = {**BARE, "denoising_strength": 0.5}


class Sampler:
    """A sampler as a pass has it: notes what it is asked for, and takes its steps.

    Attributes:
        begun: By which method, with which latents, noise and denoising strength.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[str, Any, Any, float]] = []
        self.model_wrap_cfg = SimpleNamespace(step=0, total_steps=STEPS)

    def sample(self, p: Any, x: Any, c: Any, uc: Any, steps: Any = None, image_conditioning: Any = None) -> Any:
        self.begun.append(("noise", None, x, p.denoising_strength))
        return self._steps(p, x)

    def sample_img2img(
        self, p: Any, x: Any, noise: Any, c: Any, uc: Any, steps: Any = None, image_conditioning: Any = None
    ) -> Any:
        self.begun.append(("picture", x, noise, p.denoising_strength))
        return self._steps(p, x)

    def _steps(self, p: Any, x: Any) -> Any:
        if not (shared.state.interrupted or getattr(shared.state, "skipped", False)):
            run.current(p).during_sampling(shared.sd_model)
        return x


def encoded(seen: list, image: torch.Tensor) -> torch.Tensor:
    """A VAE: 8 × 8 pixels' mean colours, in 16 channels, and a little noise as the web UI's adds it."""
    seen.append(image)
    means = torch.nn.functional.avg_pool2d(image, 8).repeat(1, 6, 1, 1)[:, :16]
    return means + 0.01 * torch.randn(means.shape)


@pytest.fixture
def vae(web: WebUI) -> list[torch.Tensor]:
    """What the VAE has encoded, [batch, 3, height, width] from -1 to 1."""
    seen: list[torch.Tensor] = []
    web.engine.encode_first_stage = functools.partial(encoded, seen)
    web.engine.get_first_stage_encoding = lambda latents: latents
    return seen


def sample(p: Any, passes: int = 1) -> list[Sampler]:
    """A batch's sampling, as the web UI does it; gives the sampler of each pass."""
    samplers = []
    with torch.inference_mode():
        for number in range(passes):
            p.sampler, p.is_hr_pass = Sampler(), number > 0
            for _ in range(1 + number):  # the web UI asks twice before the second pass
                run.current(p).before_sampling()
            noise = torch.stack([noise_of(p, seed) for seed in p.seeds])
            (p.sampler.sample_img2img if number else p.sampler.sample)(*([p] + [noise] * (1 + number)), p.c, p.uc)
            samplers.append(p.sampler)
        p.is_hr_pass = False
        run.current(p).after_sampling()
    return samplers


def noise_of(p: Any, seed: int) -> torch.Tensor:
    return torch.randn(16, p.height // 8, p.width // 8, generator=torch.Generator().manual_seed(seed))


def test_the_first_pass_begins_from_the_references_latents_with_the_pictures_own_noise(
    web: WebUI, vae: list, picture: Any
) -> None:
    p = web.run(web.p(batch_size=2, width=96), reference=picture, **HALF)
    (sampler,) = sample(p)
    ((how, latents, noise, strength),) = sampler.begun
    assert (how, strength, p.denoising_strength) == ("picture", 0.5, 0.75)
    assert torch.equal(noise, torch.stack([noise_of(p, seed) for seed in p.seeds]))
    (pixels,) = vae
    assert np.array_equal(
        np.asarray(picture), ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    )
    assert torch.equal(latents[0], latents[1])
    assert p.extra_generation_params[KEY] == "0.5"
    assert "sample" not in vars(sampler)


def test_what_a_picture_begins_from_is_not_taken_for_a_picture_to_change(web: WebUI, vae: list, picture: Any) -> None:
    """Engines of models that edit pictures take what they encode for one, and give it to the next generation."""
    engine, encode = web.engine, web.engine.encode_first_stage
    engine.ini_latent = None

    def noting(image: torch.Tensor) -> torch.Tensor:
        engine.ini_latent = encode(image)
        return engine.ini_latent

    engine.encode_first_stage = noting
    sample(web.run(web.p(), reference=picture, **HALF))
    assert len(vae) == 1
    assert engine.ini_latent is None


def test_latents_are_the_same_every_time_and_other_random_numbers_go_on(web: WebUI, vae: list, picture: Any) -> None:
    def latents(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        p = web.run(web.p(), reference=picture, **HALF)
        torch.manual_seed(seed)
        (sampler,) = sample(p)
        return sampler.begun[0][1], torch.rand(3)

    (first, left), (second, _) = latents(1), latents(2)
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(left, torch.rand(3))


def test_off_nothing_is_encoded_and_nothing_replaced(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(), reference=picture, **BARE)
    (sampler,) = sample(p)
    assert [how for how, *_ in sampler.begun] == ["noise"]
    assert not vae
    assert KEY not in p.extra_generation_params


@pytest.mark.parametrize("crop", ["whole", "centre", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (128, 32)])
def test_the_reference_is_brought_to_the_pictures_size_as_crop_says(
    web: WebUI, vae: list, crop: str, size: tuple[int, int]
) -> None:
    colours = Image.new("RGB", (96, 48), "red")
    colours.paste("blue", (0, 0, 12, 48))
    p = web.run(web.p(width=size[0], height=size[1]), reference=colours, crop=crop, **HALF)
    sample(p)
    assert vae[0].shape == (1, 3, size[1], size[0])
    red, green, blue = ((vae[0][0, :, 0, 0] + 1) * 127.5).round().int().tolist()  # in the corner
    shape = size[0] / size[1]
    if crop == "pad":
        assert (red, green, blue) == (128, 128, 128)
    else:
        assert (blue > 250) == (crop == "whole" or shape > 2)
        assert (red > 250) == (not blue > 250)
    stretched = crop == "whole" and shape != 2
    assert stretched == any("stretched" in comment for comment in p.comments)


def test_transparent_parts_are_white(web: WebUI, vae: list) -> None:
    sample(web.run(web.p(), reference=Image.new("RGBA", (64, 64), (255, 0, 0, 0)), **HALF))
    assert vae[0].min() == 1.0


def test_of_several_references_the_first_that_acts_and_is_not_negative(
    web: WebUI, vae: list, picture: Any, other_picture: Any
) -> None:
    both = {"reference": picture, "reference_2": other_picture, **HALF}
    for more, seen in (
        ({}, picture),
        ({"negative": True}, other_picture),
        ({"start": 1.0}, other_picture),
    ):
        vae.clear()
        sample(web.run(web.p(cfg_scale=4.0, width=seen.width, height=seen.height), **both, **more))
        back = ((vae[0][0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        assert np.array_equal(back, np.asarray(seen))


def test_only_negative_references_begin_nothing(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(cfg_scale=4.0), reference=picture, negative=True, **HALF)
    (sampler,) = sample(p)
    assert sampler.begun[0][0] == "noise"
    assert KEY not in p.extra_generation_params
    assert any("denoising strength changes nothing here" in comment for comment in p.comments)


def test_hires_begins_its_first_pass_only(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(enable_hr=True), reference=picture, **HALF)
    first, second = sample(p, passes=2)
    assert [(how, strength) for how, _, _, strength in (*first.begun, *second.begun)] == [
        ("picture", 0.5),
        ("picture", 0.75),  # the web UI's own, of its own latents
    ]
    assert len(vae) == 1
    assert "sample" not in vars(second)


def test_a_first_pass_that_is_not_sampled_is_not_claimed(web: WebUI, vae: list, picture: Any) -> None:
    """As when an earlier picture is enlarged."""
    p = web.run(web.p(enable_hr=True), reference=picture, **HALF)
    p.sampler, p.is_hr_pass = Sampler(), True
    run.current(p).before_sampling()
    p.sampler.sample_img2img(p, None, None, p.c, p.uc)
    run.current(p).after_sampling()
    assert not vae
    assert KEY not in p.extra_generation_params
    assert infotext.MARK in p.extra_generation_params
    assert any("first pass was not sampled" in comment for comment in p.comments)


@pytest.mark.parametrize(
    ("fixed", "strength", "begins"), [(False, 0.9, False), (False, 0.87, True), (True, 0.9, False), (True, 0.88, True)]
)
def test_a_strength_that_leaves_no_step_out_is_said_and_not_claimed(
    web: WebUI, vae: list, picture: Any, monkeypatch: Any, fixed: bool, strength: float, begins: bool
) -> None:
    """The web UI counts whole steps: the first of eight begins from noise alone."""
    monkeypatch.setitem(shared.opts.data, "img2img_fix_steps", fixed)
    p = web.run(web.p(), reference=picture, denoising_strength=strength, **BARE)
    (sampler,) = sample(p)
    assert (sampler.begun[0][0], len(vae)) == (("picture", 1) if begins else ("noise", 0))
    assert (KEY in p.extra_generation_params) == begins
    assert any("Choose 0.87 or less, or more steps." in comment for comment in p.comments) == (not begins)


def test_the_web_uis_own_settings_of_img2img_hold(web: WebUI, vae: list, picture: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(shared.opts.data, "initial_noise_multiplier", 0.9)
    p = web.run(web.p(), reference=picture, **HALF)
    (sampler,) = sample(p)
    assert torch.equal(sampler.begun[0][2][0], noise_of(p, p.seeds[0]) * 0.9)
    assert p.extra_generation_params["Noise multiplier"] == 0.9


def test_img2img_says_that_it_has_no_part(web: WebUI, vae: list, picture: Any) -> None:
    p = web.p()
    p.init_images = [picture]
    web.run(p, reference=picture, **HALF)
    sample(p)
    assert not vae
    assert KEY not in p.extra_generation_params
    assert infotext.MARK in p.extra_generation_params
    assert any("no part in img2img" in comment for comment in p.comments)


@pytest.mark.parametrize("by", ["interrupted", "skipped"])
def test_a_picture_that_was_ended_encodes_and_claims_nothing(
    web: WebUI, vae: list, picture: Any, monkeypatch: Any, by: str
) -> None:
    p = web.run(web.p(), reference=picture, **HALF)
    monkeypatch.setattr(shared.state, by, True, raising=False)
    sample(p)
    assert not vae
    assert not {KEY, infotext.MARK} & p.extra_generation_params.keys()


@pytest.mark.parametrize("api", [False, True])
def test_a_vae_that_fails_ends_the_picture_in_one_line(web: WebUI, vae: list, picture: Any, api: bool) -> None:
    web.engine.encode_first_stage = lambda image: torch.full((1, 16, 8, 8), torch.nan)
    p = web.run(web.p(api=api), reference=picture, **HALF)
    p.sampler = Sampler()
    run.current(p).before_sampling()
    with pytest.raises(Exception, match="VAE can't encode the reference") as raised:
        p.sampler.sample(p, torch.zeros(1, 16, 8, 8), p.c, p.uc)
    assert getattr(raised.value, "status_code", 422) == 422
    assert p.denoising_strength == 0.75
    assert "sample" not in vars(p.sampler)


def test_whatever_fails_the_generation_has_its_own_strength_again(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(), reference=picture, **HALF)
    p.sampler = Sampler()
    p.sampler.sample_img2img = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("out of memory"))
    run.current(p).before_sampling()
    with pytest.raises(RuntimeError, match="out of memory"):
        p.sampler.sample(p, torch.zeros(1, 16, 8, 8), p.c, p.uc)
    assert p.denoising_strength == 0.75


def test_every_batch_begins_anew_and_the_conditioning_is_kept(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(), reference=picture, **HALF)
    first = sample(p)
    (again,) = sample(web.condition(p))
    assert [each.begun[0][0] for each in (*first, again)] == ["picture"] * 2
    web.events.clear()
    other = web.run(web.p(), reference=picture, **{**HALF, "denoising_strength": 0.6})
    assert not web.events
    assert all(map(torch.equal, conds(other), conds(p)))


def test_with_alpha_0_the_picture_is_the_plain_one(web: WebUI, vae: list, picture: Any) -> None:
    p = web.run(web.p(), reference=picture, alpha=0.0, **HALF)
    assert run.current(p) is None
    assert torch.equal(conds(p)[0], conds(web.plain(CAT))[0])


def test_the_stand_in_counts_steps_as_the_web_ui_does() -> None:
    p = SimpleNamespace(steps=8, denoising_strength=0.6)
    assert sd_samplers_common.setup_img2img_steps(p) == (8, 4)
    assert sd_samplers_common.setup_img2img_steps(p, 8) == (13, 7)
