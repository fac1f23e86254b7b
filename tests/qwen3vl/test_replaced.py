"""Weights that somebody writes anew while they are used: the process goes on, and nothing of two files is mixed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from cases import TOKENS, sequence_for
from rewritten import WAYS, emptied, replaced, truncated, zeroed
from tiny import ggufs

from zvl_ext.qwen3vl import checkpoint as checkpoints
from zvl_ext.qwen3vl import vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
from zvl_ext.qwen3vl.pieces import Pieces
from zvl_ext.reference import open_reference


@pytest.fixture
def file(state, model, tmp_path) -> Path:
    return tiny.save_single(state, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))


@pytest.fixture
def read(encode):
    """A loaded model's states for a prompt."""

    def states(loaded, prompt: str) -> torch.Tensor:
        reference = open_reference(tiny.picture(96, 64))
        sequence = sequence_for(loaded.checkpoint, encode, prompt, reference)
        return loaded.hidden_states(sequence, reference, TOKENS, [-2])[-2]

    return states


@pytest.mark.parametrize("way", WAYS)
def test_after_it_was_opened_nothing_of_the_new_file_is_read(way, file, refused):
    opened = open_checkpoint(str(file))
    way(file)
    for load_part in (lambda: load(opened, torch.float32), lambda: vision.load(opened, torch.float32)):
        with refused(r"one\.safetensors (has been changed since it was opened|can't be read)"):
            load_part()


@pytest.mark.parametrize("way", WAYS)
def test_between_pictures_what_is_loaded_stays_what_it_was(way, file, read, refused):
    loaded = load(open_checkpoint(str(file)), torch.float32, depth=4)
    before = {name: value.clone() for name, value in loaded.module.state_dict().items()}
    way(file)
    assert all(torch.equal(value, before[name]) for name, value in loaded.module.state_dict().items())
    for more in (lambda: read(loaded, "a cat"), lambda: loaded.deepen(5)):
        with refused(r"one\.safetensors (has been changed since it was opened|can't be read)"):
            more()
    assert loaded.depth == 4


@pytest.mark.parametrize("way", [truncated, emptied, zeroed])
def test_while_it_is_read(way, file, monkeypatch, refused):
    opened, real, count = open_checkpoint(str(file)), checkpoints._read, iter(range(1000))

    def slow(stored, files):
        if next(count) == 30:
            way(file)
        return real(stored, files)

    monkeypatch.setattr(checkpoints, "_read", slow)
    with refused(r"one\.safetensors has been changed since it was opened"):
        load(opened, torch.float32)


def test_a_file_that_takes_the_others_place_while_it_is_read_is_not_mixed_with_it(file, state, monkeypatch):
    opened, real, count = open_checkpoint(str(file)), checkpoints._read, iter(range(1000))

    def slow(stored, files):
        if next(count) == 30:
            replaced(file)
        return real(stored, files)

    monkeypatch.setattr(checkpoints, "_read", slow)
    got = dict(opened.read(opened.tensors, torch.float32))
    assert all(torch.equal(value, state[name]) for name, value in got.items())


@pytest.mark.parametrize("way", [truncated, zeroed])
def test_a_gguf_is_read_in_the_same_way(way, state, model, tmp_path, refused):
    pytest.importorskip("gguf")
    ggufs.save_mmproj(state, model.config, tmp_path / "mmproj.gguf")
    opened = open_checkpoint(str(tmp_path / "mmproj.gguf"))
    way(tmp_path / "mmproj.gguf")
    with refused(r"mmproj\.gguf has been changed"):
        vision.load(opened, torch.float32)


def test_once_it_is_whole_again_it_is_read_again(file, state, tmp_path):
    shutil.copy(file, tmp_path / "kept")
    truncated(file)
    with pytest.raises(ValueError, match="one"):
        open_checkpoint(str(file))
    shutil.copy(tmp_path / "kept", file)
    assert dict(open_checkpoint(str(file)).read(state, torch.float32)).keys() == state.keys()


ENDS = """
import os, sys, torch
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
loaded = load(open_checkpoint(sys.argv[1]), torch.bfloat16)
os.truncate(sys.argv[1], 100)
print(sum(float(value.float().abs().sum()) for value in loaded.module.state_dict().values()) > 0)
try:
    loaded.embedding(torch.tensor([1]))
except ValueError as error:
    print(error)
"""


def test_no_process_ends_with_a_bus_error(state, tmp_path, root):
    file = tiny.save_single({n: v.to(torch.bfloat16) for n, v in state.items()}, tmp_path / "one.safetensors")
    done = subprocess.run([sys.executable, "-c", ENDS, str(file)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "True"
    assert "has been changed since it was opened" in done.stdout


def test_no_file_is_mapped(file):
    loaded = load(open_checkpoint(str(file)), torch.float32)
    assert loaded.module.state_dict()
    if sys.platform.startswith("linux"):
        assert str(file) not in Path("/proc/self/maps").read_text()


def test_what_is_no_file_is_never_waited_for(tmp_path, refused):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        with refused("it is a pipe"):
            Pieces(str(tmp_path / "pipe.safetensors"), "pipe.safetensors")
    with refused("it is a folder"):
        Pieces(str(tmp_path), "x")
    with refused("it is not there"):
        Pieces(str(tmp_path / "x"), "x")
