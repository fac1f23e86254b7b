"""Memory that runs out anywhere ends that picture and nothing else: the next ones are as if it had not been."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import memory_management as mm
from compare import hooks
from host_runs import DOG, restarted
from sampling import FRONT, Studio

from zvl_ext.hosts import forge_encoder
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "sampling"]

ERRORS = {
    "card": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "main memory": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."
    ),
    "Python": MemoryError(),
}
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


@pytest.mark.parametrize(("stage", "engine", "error"), CASES)
def test_out_of_memory_ends_one_picture_alone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, stage: str, engine: str, error: str
) -> None:
    if stage == "placing" and not hasattr(mm, "load_models_gpu"):
        pytest.skip("this web UI places models otherwise")
    web, settings = studio.web, FRONT | {"engine": engine, "weight": 0.5}
    plain, wanted = studio.picture(), studio.picture(**settings)
    right, on_text_encoder = kept(), hooks(forge_encoder._language_model(web.engine))  # one of the test's own
    restarted(web)
    with monkeypatch.context() as patch:

        def fail(*args: Any, **kwargs: Any) -> None:
            raise ERRORS[error]

        patch.setattr(STAGES[stage][0], fail)
        with pytest.raises(Exception) as caught:  # noqa: PT011  the host's own, or ours
            studio.picture(**settings)
    if stage not in ("placing", "sampling"):  # there it is the web UI's own
        assert len(str(caught.value).splitlines()) == 1
    assert torch.equal(studio.picture(), plain)
    assert studio.modifiers == []
    assert hooks(studio.model) == 0
    assert hooks(forge_encoder._language_model(web.engine)) == on_text_encoder
    assert all(torch.equal(tensor, right[key][name]) for key, v in kept().items() for name, tensor in v.items())
    assert torch.equal(studio.picture(**settings), wanted)
    assert not torch.equal(studio.picture(DOG, **settings), wanted)
