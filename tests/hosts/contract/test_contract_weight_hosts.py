"""Weight beside other extensions, in other versions of the web UI, and where it can't be set."""

from __future__ import annotations

import copy
import importlib.util
from types import SimpleNamespace
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import attention as host_attention
from backend.nn import lumina
from compare import hooks
from host_engine import AnotherArchitecture
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, SPLICE, conds
from sampling import FRONT, STEPS, Studio, apart, on_each_step

from zvl_ext.errors import ZvlError
from zvl_ext.webui import run

pytest_plugins = ["host_fixtures", "sampling"]

WEIGHT = {**FRONT, "weight": 0.3}


# --- beside other extensions


def test_another_extensions_wrapper_is_called_inside(studio: Studio) -> None:
    alone, seen = studio.picture(**WEIGHT), []

    def prepare(unet: Any) -> None:
        def wrapper(apply: Any, call: dict) -> torch.Tensor:
            seen.append((hooks(studio.model), sorted(call)))
            return apply(call["input"], call["timestep"], **call["c"]) * 0.5

        unet.set_model_unet_function_wrapper(wrapper)

    halved = studio.picture(**WEIGHT, prepare=prepare)
    assert len(seen) == STEPS
    assert all(count > 0 for count, _ in seen), "the weights are on while it runs"
    assert {tuple(names) for _, names in seen} == {("c", "cond_or_uncond", "input", "timestep")}
    assert apart(halved, alone) > 0.1
    assert torch.equal(studio.picture(prepare=prepare), studio.picture(prepare=prepare))
    assert apart(studio.picture(**WEIGHT | {"weight": 1e-6}, prepare=prepare), studio.picture(prepare=prepare)) < 1e-4


def test_a_wrapper_that_calls_the_model_for_each_tile(studio: Studio) -> None:
    """One call of the wrapper, several of the image model, with more than one picture's captions."""

    def prepare(unet: Any) -> None:
        def wrapper(apply: Any, call: dict) -> torch.Tensor:
            tiles = torch.cat([call["input"][..., :8], call["input"][..., 8:]])
            c = {**call["c"], "c_crossattn": call["c"]["c_crossattn"].repeat(2, 1, 1)}
            left, right = apply(tiles, call["timestep"].repeat(2), **c).chunk(2)
            again = apply(call["input"][..., 4:12], call["timestep"], **call["c"])
            return torch.cat([left[..., :4], (left[..., 4:] + again[..., :4]) / 2, right], dim=-1)

        unet.set_model_unet_function_wrapper(wrapper)

    plain, tiny_weight, whole = (
        studio.picture(prepare=prepare, **settings) for settings in ({}, WEIGHT | {"weight": 1e-6}, WEIGHT)
    )
    assert apart(tiny_weight, plain) < 1e-4
    assert apart(whole, plain) > 1e-3


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_noise_that_another_extension_adds_to_the_conditioning(studio: Studio, cfg: float) -> None:
    """Rows are found by their marks, not by their values."""

    def noisy(params: Any) -> None:
        noise = torch.randn(params.text_cond.shape, generator=torch.Generator().manual_seed(params.denoiser.step))
        params.text_cond = params.text_cond + 1e-6 * noise

    quiet = studio.picture(cfg=cfg, **WEIGHT)
    with on_each_step(noisy):
        made = studio.picture(cfg=cfg, **WEIGHT)
    assert 0 < apart(made, quiet) < 1e-4


def test_another_extensions_modifier_is_asked_as_well(studio: Studio) -> None:
    asked = []

    def other(*args: Any) -> tuple:
        asked.append(args)
        return args

    made = studio.picture(**WEIGHT, prepare=lambda unet: unet.add_conditioning_modifier(other))
    assert len(asked) == STEPS
    assert torch.equal(made, studio.picture(**WEIGHT))


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
def test_conditioning_that_another_extension_has_exchanged(studio: Studio, api: bool) -> None:
    def exchanged(params: Any) -> None:
        params.text_cond = params.text_cond[:, 1:]

    plain = studio.picture()
    p = studio.condition(studio.p(api=api), **WEIGHT)
    with on_each_step(exchanged):
        line = _refusal(api, lambda: studio.sample(p))
    assert "Another extension has exchanged the conditioning" in line
    assert hooks(studio.model) == 0
    assert torch.equal(studio.picture(), plain)


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
def test_conditioning_whose_rows_have_lost_their_marks(studio: Studio, api: bool) -> None:
    """Another extension's copy of the rows, put in place of the web UI's."""
    p = studio.condition(studio.p(api=api), **WEIGHT)
    for parts in p.c.batch:
        for part in parts:
            part.schedules[:] = [type(entry)(entry.end_at_step, entry.cond + 0) for entry in part.schedules]
    assert "Another extension has exchanged the conditioning" in _refusal(api, lambda: studio.sample(p))


def _refusal(api: bool, act: Any) -> str:
    """The line that a generation ends with; over the API its status is 422, where there is an API."""
    with pytest.raises(Exception, match="Choose weight 1") as caught:
        act()
    if api and importlib.util.find_spec("fastapi"):
        assert caught.value.status_code == 422
    else:
        assert type(caught.value) is ZvlError
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- other versions of the web UI


def test_a_web_ui_that_stacks_its_prompts(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = studio.picture(**WEIGHT)
    monkeypatch.setattr(type(studio.p()), "cached_c", [None, None, None])
    original = type(studio.web.engine).get_learned_conditioning
    monkeypatch.setattr(
        type(studio.web.engine), "get_learned_conditioning", lambda self, prompt: torch.stack(original(self, prompt))
    )
    studio.condition(studio.p(DOG), **WEIGHT)  # another entry in the cache
    p = studio.condition(studio.p(), **WEIGHT)
    assert torch.equal(studio.sample(p), wanted)


def test_a_stack_is_a_tensor_whose_parts_carry_their_own() -> None:
    from zvl_ext.hosts.forge_attention import Stack

    parts = [torch.randn(3, 4), torch.randn(3, 4)]
    stack = Stack.of(parts)
    assert torch.equal(stack + 0, torch.stack(parts))
    assert stack.shape == (2, 3, 4)
    assert stack[0] is parts[0]
    assert stack[-1] is parts[1]
    assert [a is b for a, b in zip(stack, parts)] == [True, True]
    assert Stack.of(parts[:1]).squeeze(0) is parts[0]
    for made in (stack[:1], stack.to(torch.float16), stack * 2, stack[:, 0], stack.squeeze(0)):
        assert type(made) is torch.Tensor


def test_an_attention_that_ignores_masks_is_gone_round(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Sage attention is: without a word."""
    wanted = studio.picture(**WEIGHT)
    own = host_attention.attention_pytorch
    asked = []

    def sage(q: Any, k: Any, v: Any, heads: int, mask: Any = None, **kwargs: Any) -> torch.Tensor:
        asked.append(mask)
        return own(q, k, v, heads, **kwargs)

    monkeypatch.setattr(lumina, "attention_function", sage)
    plain = studio.picture()
    assert apart(studio.picture(**WEIGHT), wanted) < 1e-5
    assert apart(plain, wanted) > 1e-3
    assert asked
    assert all(mask is None for mask in asked)
    assert lumina.attention_function is sage


def test_a_web_ui_whose_every_attention_ignores_masks_is_refused(
    studio: Studio, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = host_attention.attention_pytorch
    monkeypatch.setattr(
        host_attention, "attention_pytorch", lambda q, k, v, heads, mask=None, **kwargs: own(q, k, v, heads, **kwargs)
    )
    with refused("attention ignores a mask"):
        studio.condition(studio.p(), **WEIGHT)


class Compiled(torch.nn.Module):
    """What torch.compile makes of a module: hooks that come later are not heard inside."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self._orig_mod = module
        self.ran = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.ran += 1
        return _without_hooks(self._orig_mod, *args, **kwargs)


def _without_hooks(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    kept = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    for part, _, _ in kept:
        part._forward_pre_hooks, part._forward_hooks = {}, {}
    try:
        return module.forward(*args, **kwargs)
    finally:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = before, after


@pytest.mark.parametrize("where", ["model", "block", "in place"])
def test_a_compiled_model_takes_the_weight(studio: Studio, where: str) -> None:
    wanted, plain = studio.picture(**WEIGHT), studio.picture()
    k_model, model = studio.web.engine.loaded_unet.model, studio.model
    ran = []
    if where == "model":
        k_model.diffusion_model = compiled = Compiled(model)
    elif where == "block":
        model.layers[1] = compiled = Compiled(model.layers[1])
    else:
        compiled = model
        model._compiled_call_impl = implementation = lambda *args, **kwargs: (
            ran.append(1) or _without_hooks(model, *args, **kwargs)
        )
    assert torch.equal(studio.picture(), plain)
    assert torch.equal(studio.picture(**WEIGHT), wanted)
    if where == "in place":
        assert model._compiled_call_impl is implementation
        assert len(ran) == STEPS, "it ran for the plain picture"
    else:
        assert (k_model.diffusion_model if where == "model" else model.layers[1]) is compiled
        assert compiled.ran == STEPS
    assert torch.equal(studio.picture(), plain)
    assert hooks(model) == 0


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
@pytest.mark.parametrize("change", ["no layers", "no refiner", "no attention", "no mask", "no modifiers", "no model"])
def test_an_image_model_of_other_blocks_is_refused_before_sampling(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, change: str, api: bool
) -> None:
    model, unet = studio.model, studio.web.engine.forge_objects.unet
    if change == "no layers":
        model.layers = torch.nn.ModuleList()
    elif change == "no refiner":
        del model.context_refiner
    elif change == "no attention":
        del model.layers[1].attention
    elif change == "no mask":
        monkeypatch.setattr(lumina.JointAttention, "forward", lambda self, x, freqs_cis: x)
    elif change == "no modifiers":
        monkeypatch.delattr(type(unet), "add_conditioning_modifier")
    else:
        studio.web.engine.forge_objects.unet = SimpleNamespace(model=SimpleNamespace(), clone=None)
    line = _refusal(api, lambda: studio.condition(studio.p(api=api), **WEIGHT))
    assert "blocks are not built as Z-Image VL knows them" in line
    if change != "no model":
        assert studio.condition(studio.p(api=api), **FRONT).c, "weight 1 needs nothing of it"


def test_a_part_of_the_blocks_is_not_enough(studio: Studio) -> None:
    """A model that leaves out a block while sampling: one line, and nothing is left behind."""
    p = studio.condition(studio.p(), **WEIGHT)
    studio.model.layers[1].forward = lambda x, *args, **kwargs: x
    assert "Only a part of the image model's blocks took the weight" in _refusal(False, lambda: studio.sample(p))
    assert hooks(studio.model) == 0


# --- more than one pass


def test_both_passes_of_hires(studio: Studio) -> None:
    """The web UI drops what was put on the image model before each; the second has its own conditioning and steps."""
    p = studio.condition(studio.p(enable_hr=True, hr_prompt=DOG), **WEIGHT)
    first = studio.sample(p)
    second = studio.sample(p, steps=2, conds=(p.hr_c, p.hr_uc))
    assert torch.equal(first, studio.picture(**WEIGHT))
    assert torch.equal(second, studio.picture(DOG, **WEIGHT, steps=2))


def test_the_second_pass_of_hires_on_another_checkpoint(studio: Studio, web: WebUI, make_engine: Any) -> None:
    engine = web.engine
    other = studio.load(make_engine(seed=9, filename="second.safetensors"), seed=5)
    p = studio.p(enable_hr=True)
    p.hr_checkpoint_info = {"another": "checkpoint"}
    first = studio.sample(studio.condition(p, **WEIGHT))
    web.use(other)
    p.is_hr_pass = True
    with torch.inference_mode():
        p.calculate_hr_conds()
    second = studio.sample(p, conds=(p.hr_c, p.hr_uc))
    assert torch.equal(second, studio.picture(**WEIGHT)), "as the other checkpoint makes it alone"
    assert hooks(studio.model) == 0
    web.use(engine)
    assert torch.equal(first, studio.picture(**WEIGHT))


def test_the_second_pass_of_hires_on_another_architecture_has_no_weight(
    studio: Studio, web: WebUI, make_engine: Any
) -> None:
    p = studio.p(enable_hr=True)
    p.hr_checkpoint_info = {"another": "checkpoint"}
    studio.sample(studio.condition(p, **WEIGHT))
    web.use(studio.load(make_engine(AnotherArchitecture, seed=9), seed=5))
    p.is_hr_pass = True
    with torch.inference_mode():
        p.calculate_hr_conds()
    second = studio.sample(p, conds=(p.hr_c, p.hr_uc))
    assert studio.modifiers == []
    assert torch.equal(second, studio.picture())


def test_an_image_model_that_comes_in_the_middle(studio: Studio) -> None:
    """A refiner: from the next step on the weight is on the model that has come."""
    engine = studio.web.engine
    p = studio.condition(studio.p(), **WEIGHT)

    def switch(params: Any) -> None:
        if params.denoiser.step == 1:
            engine.forge_objects.unet = engine.loaded_unet.clone()

    with on_each_step(switch):
        studio.sample(p)
    marked = ["zvl_marks" in call for call in studio.calls]
    assert marked == [True, False, True, True]


def test_two_generations_do_not_mix(studio: Studio) -> None:
    first, second = (studio.condition(studio.p(), **FRONT, weight=weight) for weight in (0.2, 0.6))
    wanted = [studio.picture(**FRONT, weight=weight) for weight in (0.2, 0.6)]
    assert torch.equal(studio.sample(first), wanted[0])
    assert torch.equal(studio.sample(second), wanted[1])
    assert torch.equal(studio.sample(first), wanted[0])


@pytest.mark.parametrize(
    "settings", [{"token_mode": "text"}, {"length_match": "interpolate"}, {"length_match": "truncate"}], ids=str
)
@pytest.mark.parametrize("more", [{"weight": 0.3}, {"end": 0.5}, {"blocks": "late"}], ids=str)
def test_settings_without_inserted_rows_are_sampled(studio: Studio, settings: dict, more: dict) -> None:
    base = {**SPLICE, **BARE, "engine": "blend", "alpha": 0.5, **settings}
    made = studio.picture(**base, **more)
    assert made.isfinite().all()
    assert hooks(studio.model) == 0


def test_images_that_differ_by_their_seed_keep_their_marks(studio: Studio) -> None:
    """With dropout every picture of a batch has a conditioning of its own."""
    settings = FRONT | {"image_dropout": 0.5, "proportional": True, "weight": 0.5}
    p = studio.condition(studio.p([CAT, CAT]), **settings)
    assert not torch.equal(*conds(p))
    both = studio.sample(p)
    for i in range(2):
        assert apart(both[i : i + 1], studio.picture(seed=1 + i, **settings)) < 1e-5


def test_a_copy_of_a_generation_has_its_own_weight(studio: Studio) -> None:
    p = studio.condition(studio.p(), **WEIGHT)
    cell = copy.copy(p)
    assert run.current(cell) is None
    studio.condition(cell, **WEIGHT | {"weight": 0.7})
    assert torch.equal(studio.sample(cell), studio.picture(**WEIGHT | {"weight": 0.7}))
    assert torch.equal(studio.sample(p), studio.picture(**WEIGHT))
