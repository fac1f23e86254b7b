"""LoRA files: their names, what they tell, what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from zvl_ext.loras import Named, named, read_lora, write_lora

TO_Q = "layers.0.attention.to_q"


def pair(rank: int = 2, inputs: int = 6, outputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    return torch.randn(rank, inputs, generator=made), torch.randn(outputs, rank, generator=made)


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:0", "a.safetensors", 0.0),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
        ("C:\\loras\\a.safetensors:.25", "C:\\loras\\a.safetensors", 0.25),
        ("folder:1/a.safetensors", "folder:1/a.safetensors", 1.0),
        (":1", ":1", 1.0),
    ],
)
def test_a_lora_is_asked_for_with_its_strength_behind_it(text, path, strength):
    assert named(text) == Named(path, strength)


@pytest.mark.parametrize("strength", ["11", "-10.5", "nan", "inf", "1e9"])
def test_a_strength_out_of_range_is_refused(refused, strength):
    with refused("a strength from -10 to 10 is needed"):
        named(f"a.safetensors:{strength}")


def test_it_is_told_as_web_uis_write_it():
    assert Named("/x/my style.safetensors", 0.75).written == "<lora:my style:0.75>"


def test_a_file_is_what_was_learned_and_its_alpha(tmp_path):
    down, up = pair()
    path = tmp_path / "a.safetensors"
    write_lora(str(path), {TO_Q: (down, up)}, 3.0, {})
    tensors = read_lora(str(path))
    name = f"diffusion_model.{TO_Q}"
    assert set(tensors) == {f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.alpha"}
    assert torch.equal(tensors[f"{name}.lora_A.weight"], down)
    assert torch.equal(tensors[f"{name}.lora_B.weight"], up)
    assert tensors[f"{name}.alpha"].item() == 3


def test_it_tells_how_it_was_made(tmp_path):
    path = tmp_path / "a.safetensors"
    write_lora(str(path), {TO_Q: pair()}, 1.0, {"rank": "2", "gained": {"gained": [0.1]}, "unknown": "x"})
    with safe_open(path, "pt") as file:
        told = file.metadata()
    assert told == {"format": "pt", "zvl_format": "zvl-lora-1", "rank": "2", "gained": '{"gained": [0.1]}'}


def test_numbers_that_are_not_finite_are_not_written(tmp_path, refused):
    down, up = pair()
    up[0] = torch.nan
    with refused("not finite"):
        write_lora(str(tmp_path / "a.safetensors"), {TO_Q: (down, up)}, 1.0, {})
    assert not list(tmp_path.iterdir())


def test_what_is_no_lora_is_refused(tmp_path, refused):
    with refused("can't be read"):
        read_lora(str(tmp_path / "nothing.safetensors"))
    path = str(tmp_path / "a.safetensors")
    save_file({"main": torch.zeros(2, 2)}, path)
    with refused("is no LoRA"):
        read_lora(path)
    save_file({"x.lora_A.weight": torch.full((2, 2), torch.inf)}, path)
    with refused("not finite"):
        read_lora(path)
