"""Qwen3's tokenizer from the files beside a model, checked before anything is read with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..outside import no_file, read_json, read_regular, reason

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LIMIT = 2**26  # bytes; Qwen3's tokenizer.json has 11 MB
# Qwen's special tokens in the order of their ids, which follow the vocabulary's.
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_QWENS = 151643  # entries of Qwen's vocabulary, which the special tokens' ids follow
_WHOLE, _VOCABULARY, _MERGES, _CONFIG = "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"
# How Qwen's tokenizer splits a text into pieces (transformers' Qwen2Converter).
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Words:
    """A tokenizer in both directions. Called, it makes ids of a text; special tokens' text becomes special ids.

    Args:
        loaded: The tokenizer.
        source: Its file, for messages.
    """

    def __init__(self, loaded: Tokenizer, source: str):
        self._loaded, self._source = loaded, source

    def __call__(self, text: str) -> list[int]:
        with _one_line(f"{self._source} can't read this text", "Change it"):
            return _ids(self._loaded, text)

    def decode(self, ids: list[int]) -> str:
        """The text of ids without special tokens; what is no whole character is U+FFFD."""
        with _one_line(f"{self._source} has no text for what was written", "Download it again"):
            text: str = self._loaded.decode(ids, skip_special_tokens=True)
        return text


def tokenizer(folder: str) -> Words:
    """The tokenizer of a Hugging Face folder.

    Raises:
        ZvlError: the folder has no tokenizer, or one that would read the prompt's template in another way than the
            model was trained with.
    """
    there = [name for name in (_WHOLE, _VOCABULARY, _MERGES) if _is_there(folder, name)]
    if not there or there in ([_VOCABULARY], [_MERGES]):
        raise ZvlError(
            f"There is no tokenizer.json in {folder}. Name a folder that has one with --tokenizer (any Qwen3 or "
            "Qwen3-VL folder)."
        )
    source = os.path.join(folder, there[0])
    with _one_line(f"{source} can't be read", "Download it again"):
        loaded = _from_json(source) if there[0] == _WHOLE else _from_vocabulary(folder)
        loaded.no_padding()  # a file may ask for either
        loaded.no_truncation()
        if not _reads_template(loaded):
            _register(loaded, folder)
        whole = _reads_template(loaded)
    if not whole:
        raise ZvlError(
            f"{source}: <|im_start|> or <|im_end|> is not one token, so prompts would be read wrongly. Get the "
            "tokenizer.json of a Qwen3 or Qwen3-VL folder."
        )
    return Words(loaded, source)


def _ids(loaded: Tokenizer, text: str) -> list[int]:
    ids: list[int] = loaded.encode(text, add_special_tokens=False).ids
    return ids


def _reads_template(loaded: Tokenizer) -> bool:
    """Whether the template's special tokens are one id each, wherever they stand. Spelled out letter by letter, they
    would change every hidden state, and nothing would say so."""
    start, end = (_ids(loaded, token) for token in ("<|im_start|>", "<|im_end|>"))
    text = _ids(loaded, "<|im_start|>user\na<|im_end|>\n")
    return len(start) == len(end) == 1 and start != end and text[:1] == start and text.count(end[0]) == 1


@contextlib.contextmanager
def _one_line(what: str, advice: str) -> Iterator[None]:
    """The tokenizers library raises bare Exception, and for some inputs PanicException, which is not even that."""
    try:
        yield
    except (ZvlError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ZvlError(f"{what} ({reason(error)}). {advice}.") from error


def _is_there(folder: str, name: str) -> bool:
    """Raises ZvlError for what is there and is no file."""
    what = no_file(os.path.join(folder, name))
    if what not in ("", "not there"):
        raise ZvlError(f"{os.path.join(folder, name)} is {what}, it has to be a file.")
    return not what


def _from_json(path: str) -> Tokenizer:
    from tokenizers import Tokenizer

    made: Tokenizer = Tokenizer.from_buffer(read_regular(path, _LIMIT))
    return made


def _from_vocabulary(folder: str) -> Tokenizer:
    """From the files of Qwen's first tokenizer, which leave the special tokens out."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = read_json(os.path.join(folder, _VOCABULARY), _LIMIT)
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not all(type(id) is int for id in ids) or set(ids) != set(range(len(ids))):
        raise ValueError("it does not number its entries one after another")
    lines = read_regular(os.path.join(folder, _MERGES), _LIMIT).decode("utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _register(loaded: Tokenizer, folder: str) -> None:
    """Add the special tokens that tokenizer_config.json lists, or Qwen's where the vocabulary is Qwen's."""
    from tokenizers import AddedToken

    size = loaded.get_vocab_size()
    listed = dict(enumerate(_SPECIAL, _QWENS)) if size == _QWENS else {}
    if _is_there(folder, _CONFIG):
        listed = _listed(read_json(os.path.join(folder, _CONFIG), _LIMIT)) or listed
    for id, token in sorted(listed.items()):
        # A token gets the next id. Where that is not the one that the model knows it by, it is left out.
        if loaded.token_to_id(token) is None and loaded.get_vocab_size() != id:
            break
        loaded.add_special_tokens([AddedToken(token, special=True, normalized=False)])


def _listed(config: object) -> dict[int, str]:
    """A tokenizer_config.json's special tokens by their ids."""
    added = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    entries = {id: entry for id, entry in added.items() if isinstance(entry, dict)} if isinstance(added, dict) else {}
    return {
        int(id): entry["content"]
        for id, entry in entries.items()
        if id.isascii() and id.isdecimal() and len(id) < 9 and isinstance(entry.get("content"), str)
    }
