"""Linear layers in bfloat16 whose sums are in float32."""

from __future__ import annotations

import contextlib
import copy

import pytest
import tiny
import torch
from compare import relative_error
from weights import opened

from zvl_ext.qwen3vl import linear


def summed(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer in float64."""
    return x.double() @ layer.weight.double().T + layer.bias.double()


@pytest.fixture
def layers() -> torch.nn.Sequential:
    """Two in bfloat16, the second with the larger matrix."""
    torch.manual_seed(0)
    return (
        torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.Linear(40, 90)).to(torch.bfloat16).requires_grad_(False)
    )


@pytest.mark.parametrize("memory", ["shared", "shared by an inner run", "none"])
@pytest.mark.parametrize("rows", [1, 11, 12, 40])
def test_from_so_many_rows_on_bfloat16_is_summed_in_float32_and_rounded_once(rows, memory, layers, monkeypatch):
    monkeypatch.setattr(linear, "float32_from", lambda: 12)
    plain = copy.deepcopy(layers)
    linear.adopt(layers)
    assert [type(layer) for layer in layers] == [linear.Linear] * 2
    assert dict(layers.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    x = torch.randn(1, rows, 64).to(torch.bfloat16)
    with contextlib.ExitStack() as stack:
        for _ in range({"shared": 1, "shared by an inner run": 2, "none": 0}[memory]):
            stack.enter_context(linear.float32_memory())
        for layer, ours in zip(plain, layers):
            got = ours(x)
            assert got.dtype == torch.bfloat16
            if rows < 12:
                assert torch.equal(got, layer(x))
            else:
                wanted = summed(layer, x)
                assert ((got.double() - wanted).abs() <= 2**-8 * wanted.abs() * 1.01 + 1e-5).all()
            x = got
    assert linear._SCRATCH.memory is None, "given back"


def test_the_memory_is_given_back_after_a_failure(layers, monkeypatch):
    with pytest.raises(RuntimeError, match="interrupted"), linear.float32_memory():
        raise RuntimeError("interrupted")
    assert linear._SCRATCH.memory is None


@pytest.mark.parametrize("kind", ["bf16", "fp8"])
@pytest.mark.parametrize("rows", [0, 16, 2**60])
def test_whichever_way_a_cpu_sums_the_states_are_near_float32(rows, kind, state, saved, states, monkeypatch):
    """Sixteen are fewer than stand before the fork and more than behind it."""
    monkeypatch.setattr(linear, "float32_from", lambda: rows)
    stored = (
        {name: value.to(torch.bfloat16) for name, value in state.items()}
        if kind == "bf16"
        else tiny.quantize(state, "rows")[0]
    )
    path = saved(stored)
    full, half = states(opened(path, torch.float32)), states(opened(path, torch.bfloat16))
    for layer in full:
        assert 0 < relative_error(half[layer], full[layer]) < 0.03, layer


def test_weights_that_are_computed_with_as_they_are_stay_what_torch_makes_of_them(layers):
    plain = copy.deepcopy(layers)
    linear.adopt(layers)
    for dtype in (torch.float32, torch.float16):
        x = torch.randn(20, 64).to(dtype)
        assert torch.equal(layers.to(dtype)(x), plain.to(dtype)(x))
