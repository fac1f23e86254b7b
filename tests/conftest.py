"""What all tests share: tiny models, made once, and the promise that every refusal is one clear line."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import tiny
import torch
import transformers
from tokenizers import Tokenizer

from zvl_ext.checkpoint import Checkpoint, open_checkpoint
from zvl_ext.errors import ZvlError
from zvl_ext.language import Qwen3VL, load

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing under test fetches anything."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        local = isinstance(address, (str, bytes)) or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost", "::1"))
        assert local, f"a test tried to reach {address}"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@contextlib.contextmanager
def _refused(pattern: str = "") -> Iterator[None]:
    with pytest.raises(ZvlError) as caught:
        yield
    message = str(caught.value)
    assert len(message.splitlines()) == 1, f"a refusal is one line, not {message!r}"
    assert re.search(pattern, message), f"{message!r} does not say {pattern!r}"


@pytest.fixture
def refused() -> Callable:
    """`with refused(pattern):` the block raises ZvlError with one line in which the pattern is found."""
    return _refused


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def encode(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    """Plain transformers: the reference every comparison is made with. Its shapes tell its configuration."""
    return tiny.make_model(tiny.make_config(tokenizer, tiny.REGULAR))


@pytest.fixture(scope="session")
def irregular(tokenizer: Tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    """Another one, with head counts, MRoPE sections and a theta that only its config.json tells."""
    return tiny.make_model(tiny.make_config(tokenizer, tiny.IRREGULAR), seed=1)


@pytest.fixture(scope="session")
def folder(model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` as a Hugging Face folder with one shard."""
    return tiny.save_folder(model, tokenizer, tmp_path_factory.mktemp("models") / "tiny-vl")


@pytest.fixture(scope="session")
def sharded(model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` as a Hugging Face folder with several shards and an index."""
    path = tiny.save_folder(model, tokenizer, tmp_path_factory.mktemp("models") / "tiny-vl-sharded", max_shard_size="500KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    return path


@pytest.fixture(scope="session")
def irregular_folder(irregular: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_folder(irregular, tokenizer, tmp_path_factory.mktemp("models") / "irregular-vl", max_shard_size="500KB")


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


@pytest.fixture(scope="session")
def loaded(checkpoint: Checkpoint) -> Qwen3VL:
    return load(checkpoint, torch.float32)
