"""What a command said and wrote."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

HIDDEN = 64  # the width of all that these tests read and write


class Result:
    """The exit code and what was written to standard output and standard error."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


def assert_refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.startswith("zvl_ext: ")
    assert result.err.endswith("\n")
    assert len(result.err.splitlines()) == 1, result.err
    assert all(word in result.err for word in words), result.err


def strict(text: str):
    """JSON as every other program reads it: NaN and Infinity are none."""

    def refuse(name: str):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def states(path: Path) -> torch.Tensor:
    tensors = load_file(path)
    assert list(tensors) == ["hidden_states"]
    return tensors["hidden_states"]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def pair(work: Path, text: str = "text", vl: str = "vl") -> tuple[str, Path, str, Path]:
    """The arguments that name two files of a folder."""
    return "--text", work / f"{text}.safetensors", "--vl", work / f"{vl}.safetensors"


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
