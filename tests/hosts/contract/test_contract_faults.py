"""A fault anywhere ends that picture and nothing else: the next ones are as if it had not been.

Memory that runs out, weights that somebody writes anew, other extensions that raise, another checkpoint in the middle.
"""

from __future__ import annotations

import contextlib
import functools
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import memory_management as mm
from compare import hooks
from host_runs import CAT, DOG, restarted
from rewritten import WAYS, replaced, truncated
from sampling import FRONT, Studio, on_each_step

from zvl_ext.hosts import forge_encoder
from zvl_ext.webui import run
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "sampling"]

ERRORS = {
    "card": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "main memory": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."
    ),
    "Python": MemoryError(),
}
LINE = r"^\w[^\n]{20,300}\.$"  # the web UI puts the exception's class before it: the product's name
BOTH, BLEND, SPLICE = ("blend", "splice"), ("blend",), ("splice",)
STAGES = {  # what fails, and with which engines it is asked
    "placing": ("backend.memory_management.load_models_gpu", BOTH),
    "loading the language model": ("zvl_ext.qwen3vl.language.load", BLEND),
    "loading the tower": ("zvl_ext.qwen3vl.vision.load", SPLICE),
    "reading": ("zvl_ext.qwen3vl.language.Qwen3VL._run", BLEND),
    "looking": ("zvl_ext.qwen3vl.vision.stacked_tokens", SPLICE),
    "the text encoder's pass": ("zvl_ext.hosts.forge_encoder.states_at", SPLICE),
    "keeping": ("zvl_ext.store.Store.put", BOTH),
    "mixing": ("zvl_ext.conditioner.blend", BOTH),
    "sampling": ("zvl_ext.attention.bias", BOTH),
}
CASES = [
    *((stage, engine, "card") for stage, (_, engines) in STAGES.items() for engine in engines),
    *(("reading", "blend", error) for error in ERRORS if error != "card"),
]


def kept() -> dict:
    return {
        key: {name: tensor.clone() for name, tensor in value.items()} for key, (value, _) in KEEPER.store._kept.items()
    }


@contextlib.contextmanager
def fault(studio: Studio, **settings: Any) -> Iterator[torch.Tensor]:
    """A picture goes wrong in here: nothing of it is left, and nothing kept is lost or changed. Gives the right one."""
    web = studio.web
    plain, wanted = studio.picture(), studio.picture(**settings)
    right, on_text_encoder = kept(), hooks(forge_encoder.language_model(web.engine))  # one of the test's own
    restarted(web)
    yield wanted
    assert torch.equal(studio.picture(), plain)
    assert studio.modifiers == []
    assert hooks(studio.model) == 0
    assert hooks(forge_encoder.language_model(web.engine)) == on_text_encoder
    assert all(torch.equal(tensor, right[key][name]) for key, v in kept().items() for name, tensor in v.items())
    assert torch.equal(studio.picture(**settings), wanted)
    assert not torch.equal(studio.picture(DOG, **settings), wanted)


@pytest.mark.parametrize(("stage", "engine", "error"), CASES)
def test_out_of_memory_ends_one_picture_alone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, stage: str, engine: str, error: str
) -> None:
    if stage == "placing" and not hasattr(mm, "load_models_gpu"):
        pytest.skip("this web UI places models otherwise")
    settings = FRONT | {"engine": engine, "weight": 0.5}
    with fault(studio, **settings), monkeypatch.context() as patch:

        def fail(*args: Any, **kwargs: Any) -> None:
            raise ERRORS[error]

        patch.setattr(STAGES[stage][0], fail)
        with pytest.raises(Exception) as caught:  # noqa: PT011  the host's own, or ours
            studio.picture(**settings)
        if stage not in ("placing", "sampling"):  # there it is the web UI's own
            assert len(str(caught.value).splitlines()) == 1


WRITTEN_ANEW = {  # the function whose n-th call finds other weights than those that were there, with which engines
    "opening": ("zvl_ext.qwen3vl.pieces.Pieces.__init__", 1, BOTH),
    "the first weights": ("zvl_ext.qwen3vl.pieces.Pieces.read_into", 1, BOTH),
    "between two weights": ("zvl_ext.qwen3vl.pieces.Pieces.read_into", 9, BOTH),
    "placing": ("backend.memory_management.load_models_gpu", 1, BOTH),
    **{stage: (STAGES[stage][0], 1, STAGES[stage][1]) for stage in ("reading", "looking", "keeping", "sampling")},
}


def right_or_refused(studio: Studio, wanted: torch.Tensor, **settings: Any) -> bool:
    """Whether a picture is the one that is wanted, or was refused in a line."""
    try:
        return torch.equal(studio.picture(**settings), wanted)
    except Exception as error:  # noqa: BLE001  the web UI's class for it
        return re.search(LINE, str(error)) is not None


@pytest.fixture
def own_weights(web: Any, vl_folder: Path) -> Callable[[], Path]:
    """Makes the web UI's Qwen3-VL a folder of the test's own; the one time and the other."""

    def place() -> Path:
        folder = web.weights / "tiny-vl"
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(vl_folder, folder, copy_function=shutil.copy2)
        return max(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)

    return place


@pytest.mark.parametrize("way", [truncated, replaced])
@pytest.mark.parametrize(
    ("stage", "engine"), [(stage, engine) for stage, (_, _, engines) in WRITTEN_ANEW.items() for engine in engines]
)
def test_weights_that_are_written_anew(
    studio: Studio, own_weights: Callable, monkeypatch: pytest.MonkeyPatch, stage: str, engine: str, way: Callable
) -> None:
    """The picture is the one of the weights that were there, or the run ends with a line."""
    target, call, _ = WRITTEN_ANEW[stage]
    if stage == "placing" and not hasattr(mm, "load_models_gpu"):
        pytest.skip("this web UI places models otherwise")
    settings, file, called = FRONT | {"engine": engine, "weight": 0.5}, own_weights(), []
    with fault(studio, **settings) as wanted, monkeypatch.context() as patch:
        original = pkgutil.resolve_name(target)

        @functools.wraps(original)  # the web UI's signature is looked at
        def written_first(*args: Any, **kwargs: Any) -> Any:
            called.append(1)
            if len(called) == call:
                way(file)
            return original(*args, **kwargs)

        patch.setattr(target, written_first)
        assert right_or_refused(studio, wanted, **settings)
        assert len(called) >= call, "the stage was not reached"
        own_weights()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", BOTH)
def test_weights_that_are_written_anew_between_pictures(
    studio: Studio, own_weights: Callable, engine: str, way: Callable
) -> None:
    settings, file = FRONT | {"engine": engine, "weight": 0.5}, own_weights()
    with fault(studio, **settings):
        studio.picture(**settings)
        way(file)
        for prompt in (DOG, CAT):
            with pytest.raises(Exception, match=LINE):
                studio.picture(prompt, **settings)
        own_weights()


OTHERS = ["cached_params", "get_conds_with_caching", "a wrapper", "a modifier"]


@pytest.mark.parametrize("place", OTHERS)
@pytest.mark.parametrize("engine", BOTH)
def test_another_extension_that_raises(studio: Studio, engine: str, place: str) -> None:
    settings = FRONT | {"engine": engine, "weight": 0.5}

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyError("of another extension")

    with fault(studio, **settings):
        p, prepare = studio.p(), lambda unet: None
        if place == "a wrapper":
            prepare = lambda unet: unet.set_model_unet_function_wrapper(fail)  # noqa: E731
        elif place == "a modifier":
            prepare = lambda unet: unet.add_conditioning_modifier(fail)  # noqa: E731
        else:
            setattr(p, place, fail)
        with pytest.raises(KeyError, match="of another extension"):
            studio.sample(studio.condition(p, **settings), prepare=prepare)


def test_another_extensions_callback_that_raises(studio: Studio) -> None:
    """The web UI reports it and goes on, and so does the picture."""
    settings = FRONT | {"weight": 0.5}

    def fail(*args: Any) -> None:
        raise KeyError("of another extension")

    with fault(studio, **settings) as wanted, on_each_step(fail):
        assert torch.equal(studio.picture(**settings), wanted)


@pytest.mark.parametrize("when", ["before sampling", "between two steps", "before the second pass"])
def test_another_checkpoint_in_the_middle(studio: Studio, make_engine: Callable, when: str) -> None:
    """As hires fix with a checkpoint of its own does, and a switch by another request."""
    settings = FRONT | {"weight": 0.5}
    first, other = studio.web.engine, studio.load(make_engine(seed=9, filename="another.safetensors"), seed=5)
    with fault(studio, **settings):
        p = studio.condition(studio.p(), **settings)
        if when == "before sampling":
            studio.web.use(other)
        elif when == "between two steps":
            with on_each_step(lambda params: params.sampling_step == 1 and studio.web.use(other)):
                studio.sample(p)
        else:
            studio.sample(p)
            studio.web.use(other)
        studio.sample(p)
        if attached := run.current(p):
            attached.after_sampling()
        assert studio.modifiers == [] or studio.web.engine is other
        assert hooks(other.loaded_unet.model.diffusion_model) == 0
        studio.web.use(first)
