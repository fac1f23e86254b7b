"""What all tests share: tiny models, made once, and the promise that every refusal is one clear line."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import fewer_prompts  # noqa: F401
import pytest
import tiny
import torch
import transformers
from tokenizers import Tokenizer

from zvl_ext.engines.sources import Sources, Text
from zvl_ext.errors import ZvlError
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.qwen3vl import checkpoint as checkpoints
from zvl_ext.qwen3vl.checkpoint import Checkpoint
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import Qwen3VL, load
from zvl_ext.reference import Reference, open_reference
from zvl_ext.sequence import TEMPLATE
from zvl_ext.store import Store

pytest.register_assert_rewrite(
    "command_line", "compare", "deep", "pixels", "weights"
)  # what fails there is told as well
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing under test fetches anything."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        local = isinstance(address, (str, bytes)) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost", "::1")
        )
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
def folder(
    model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`model` as a Hugging Face folder with one shard."""
    return tiny.save_folder(model, tokenizer, tmp_path_factory.mktemp("models") / "tiny-vl")


@pytest.fixture(scope="session")
def sharded(
    model: transformers.Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`model` as a Hugging Face folder with several shards and an index."""
    path = tiny.save_folder(
        model, tokenizer, tmp_path_factory.mktemp("models") / "tiny-vl-sharded", max_shard_size="500KB"
    )
    assert len(list(path.glob("*.safetensors"))) > 3
    return path


@pytest.fixture(scope="session")
def irregular_folder(
    irregular: transformers.Qwen3VLForConditionalGeneration,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return tiny.save_folder(
        irregular, tokenizer, tmp_path_factory.mktemp("models") / "irregular-vl", max_shard_size="500KB"
    )


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


@pytest.fixture(scope="session")
def loaded(checkpoint: Checkpoint) -> Qwen3VL:
    return load(checkpoint, torch.float32)


@pytest.fixture
def get_tensor(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The names of all tensors that are read, from now on, and their bytes."""
    read: dict[str, int] = {}
    real = checkpoints._read

    def recording(stored, opened):
        assert stored.key not in read, f"{stored.key} is read twice"
        value = real(stored, opened)
        read[stored.key] = value.nbytes
        return value

    monkeypatch.setattr(checkpoints, "_read", recording)
    return read


# --- the pipeline over the tiny models


class Counting:
    """A part of the pipeline whose passes are noted, by the method's name. Attributes set here hide the part's own."""

    def __init__(self, part: Any):
        self.part = part
        self.passes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("extend", "image_tokens", "states"):
            self.passes.append(name)
        return getattr(self.part, name)


@pytest.fixture(scope="session")
def standalone(checkpoint: Checkpoint) -> StandaloneExtractor:
    return StandaloneExtractor(checkpoint)


@pytest.fixture(scope="session")
def text_encoder(tokenizer: Tokenizer) -> transformers.Qwen3Model:
    """The image model's own: as wide as `model`, deeper."""
    return tiny.make_text_encoder(tokenizer)


@pytest.fixture
def extractor(standalone: StandaloneExtractor) -> Counting:
    return Counting(standalone)


@pytest.fixture
def encoder(text_encoder: transformers.Qwen3Model) -> Counting:
    return Counting(StandaloneTextEncoder(text_encoder, "tiny"))


@pytest.fixture
def reference() -> Reference:
    """A picture of 15 image tokens."""
    return open_reference(tiny.picture(160, 96))


@pytest.fixture
def text_of(encode: Callable, text_encoder: transformers.Qwen3Model) -> Callable[..., Text]:
    """What a host makes of a prompt. Where an emphasis is given, every input embedding is multiplied with its
    number."""

    def make(
        prompt: str = "a photo of a cat", dtype: torch.dtype = torch.float32, emphasis: torch.Tensor | float = 1.0
    ) -> Text:
        ids = tuple(encode(TEMPLATE.format(prompt)))
        inputs = text_encoder.get_input_embeddings()(torch.tensor(ids)) * emphasis
        return Text(prompt, ids, tiny.plain_text_states(text_encoder, inputs)[-2].to(dtype), inputs)

    return make


@pytest.fixture
def said() -> list[str]:
    """What the user was told."""
    return []


@pytest.fixture
def sources(extractor: Counting, encode: Callable, encoder: Counting, said: list[str]) -> Sources:
    """Sources with an empty store. Statistics are not to be asked for, unless a test puts some in."""
    return Sources(extractor, encode, lambda: pytest.fail("statistics were asked for"), encoder, Store(), said.append)
