"""The command line, and a folder to work in."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from command_line import HIDDEN, Result
from safetensors.torch import save_file

from zvl_ext.__main__ import main


@pytest.fixture
def process(root) -> Callable[..., Result]:
    """Run `python -m zvl_ext` as a person does."""

    def run(*arguments: object, **more) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "zvl_ext", *map(str, arguments)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
            **more,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(capfd) -> Callable[..., Result]:
    """The same without a new process, where starting one would only import torch again."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def work(tmp_path) -> Path:
    """A folder with a picture, embeddings of 9 tokens and hidden states of 21."""
    tiny.picture(160, 96).save(tmp_path / "image.png")
    random = np.random.default_rng(0)
    spread = random.uniform(1, 30, HIDDEN)
    for name, rows in (("text", 9), ("more", 14), ("vl", 21), ("image_rows", 17)):
        states = torch.tensor(random.normal(size=(rows, HIDDEN)) * spread, dtype=torch.float32)
        save_file(
            {"hidden_states": states},
            tmp_path / f"{name}.safetensors",
            {"tokens": "image"} if name == "image_rows" else {},
        )
    return tmp_path


@pytest.fixture
def extract_arguments(work, folder) -> Callable[..., list]:
    """A command line of `extract` that works, with what is changed in it."""

    def make(**changed: object) -> list[object]:
        given = {"image": work / "image.png", "model": folder, "layer": -2, "out": work / "V.safetensors"} | changed
        return [
            "extract",
            given.pop("image"),
            *(part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)),
        ]

    return make
