"""The stand-in of the web UI's sampling agrees with the real one on what the contract of the weight relies on."""

from __future__ import annotations

import importlib.util
import inspect
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import hosts
import pytest
import torch
from backend.nn import lumina
from backend.sampling import condition
from modules import prompt_parser

pytestmark = pytest.mark.skipif(not hosts.REAL, reason="compares the stand-in with a real web UI: set ZVL_HOST")
Entry = namedtuple("Entry", ["end_at_step", "cond"])


def standin(path: str) -> Any:
    """A module of the stand-in, beside the real one of that name."""
    spec = importlib.util.spec_from_file_location("standin_" + path.replace("/", "_"), hosts.STANDIN / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(100 * count + seed))


@pytest.mark.parametrize("step", range(9))
def test_what_is_conditioned_on_at_a_step(step: int) -> None:
    ours = standin("modules/prompt_parser")
    scheduled = [Entry(3, rows(5)), Entry(8, rows(7))]
    parts = [[scheduled, [Entry(8, rows(9))]], [[Entry(8, rows(4))]]]
    batch = [[SimpleNamespace(schedules=part, weight=0.5 + i) for i, part in enumerate(line)] for line in parts]
    theirs = prompt_parser.reconstruct_multicond_batch(SimpleNamespace(batch=batch), step)
    got = ours.reconstruct_multicond_batch(SimpleNamespace(batch=batch), step)
    assert got[0] == theirs[0]
    assert torch.equal(got[1], theirs[1])
    alike = [[Entry(3, rows(5)), Entry(8, rows(5, 1))], [Entry(8, rows(5, 2))]]
    assert torch.equal(ours.reconstruct_cond_batch(alike, step), prompt_parser.reconstruct_cond_batch(alike, step))


@pytest.mark.parametrize(("first", "second"), [(8, 24), (24, 36), (10, 13), (10, 10), (10, 50), (12, 48)])
def test_captions_to_a_common_length(first: int, second: int) -> None:
    ours = standin("backend/sampling/condition")
    a, b = rows(first)[None], rows(second, 1)[None]
    one, other = ((each.ConditionCrossAttn(a), each.ConditionCrossAttn(b)) for each in (ours, condition))
    assert one[0].can_concat(one[1]) == other[0].can_concat(other[1])
    assert torch.equal(one[0].concat([one[1]]), other[0].concat([other[1]]))
    for batch in (1, 2, 3):
        assert torch.equal(one[0].process_cond(batch, "cpu").cond, other[0].process_cond(batch, "cpu").cond)


def test_weighted_parts() -> None:
    ours = standin("backend/sampling/condition")
    stacked, order = torch.stack([rows(5, i) for i in range(4)]), [[(0, 1.0), (1, 0.5)], [(2, 1.0), (3, -0.25)]]
    got, theirs = (each.compile_weighted_conditions(stacked, order) for each in (ours, condition))
    assert [entry["strength"] for entry in got] == [entry["strength"] for entry in theirs]
    for a, b in zip(got, theirs):
        assert torch.equal(a["cross_attn"], b["cross_attn"])
        assert torch.equal(a["model_conds"]["c_crossattn"].cond, b["model_conds"]["c_crossattn"].cond)


def test_the_image_models_parts() -> None:
    """Names, parameters and rotary tables."""
    ours = standin("backend/nn/lumina")
    sizes = {"dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "axes_dims": [8, 12, 12], "qk_norm": True}
    a, b = (each.NextDiT(**sizes, cap_feat_dim=16, pad_tokens_multiple=32) for each in (ours, lumina))
    for name in ("layers", "noise_refiner", "context_refiner"):
        blocks = getattr(a, name), getattr(b, name)
        assert len(blocks[0]) == len(blocks[1])
        signatures = [list(inspect.signature(each[0].attention.forward).parameters) for each in blocks]
        assert signatures[0] == signatures[1]
    for name in ("patch_size", "pad_tokens_multiple"):
        assert getattr(a, name) == getattr(b, name)
    positions = torch.arange(30.0).reshape(2, 5, 3)
    assert torch.allclose(a.rope_embedder(positions), b.rope_embedder(positions).float(), atol=1e-5)
