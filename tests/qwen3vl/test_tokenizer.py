"""Tokenizers: the template's tokens are one id each, or nothing is read."""

import json
import os
from pathlib import Path

import pytest
import tiny
import torch

from zvl_ext.errors import ZvlError
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.qwen3vl.tokenizer import tokenizer
from zvl_ext.sequence import TEMPLATE, check_ids

TEXTS = (
    TEMPLATE.format("a photo of a cat"),
    TEMPLATE.format("\n\n a cat"),
    "don't  do it\t\n\n12345 é½ \N{GRINNING FACE} <|vision_start|>",
    "",
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Write a tokenizer.json with something changed in it; gives its folder."""

    def save(**changes) -> str:
        (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()) | changes))
        return str(tmp_path)

    return save


@pytest.fixture
def first(tokenizer) -> int:
    """The id of the first special token."""
    return tokenizer.token_to_id(SPECIALS[0])


@pytest.fixture
def split(tokenizer, tmp_path) -> Path:
    """The same tokenizer as vocab.json and merges.txt, which leave the special tokens out."""
    model = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return tmp_path


def added(first: int, tokens: tuple[str, ...] = SPECIALS) -> str:
    """A tokenizer_config.json that lists special tokens."""
    return json.dumps({"added_tokens_decoder": {str(first + i): {"content": text} for i, text in enumerate(tokens)}})


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_json_reads_as_its_library_does(text, saved, tokenizer, encode):
    assert tokenizer_of(saved())(text) == encode(text)


def tokenizer_of(folder: str | Path):
    return tokenizer(str(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_padding_and_truncation_that_a_file_asks_for_are_left_alone(text, saved, encode):
    padding = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    assert tokenizer_of(saved(padding=padding, truncation=truncation))(text) == encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_vocabulary_and_merges_with_the_special_tokens_listed_beside_them_are_the_same_tokenizer(
    text, split, encode, first
):
    (split / "tokenizer_config.json").write_text(added(first))
    assert tokenizer_of(split)(text) == encode(text)


@pytest.mark.parametrize("gone", ["<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_the_templates_tokens_is_refused(gone, saved, tokenizer, refused):
    tokens = [token for token in json.loads(tokenizer.to_str())["added_tokens"] if token["content"] != gone]
    with refused(r"tokenizer\.json: <\|im_start\|> or <\|im_end\|> is not one token"):
        tokenizer_of(saved(added_tokens=tokens))


def test_a_tokenizer_json_without_them_takes_them_from_the_list_beside_it(saved, encode, tmp_path, first):
    folder = saved(added_tokens=[])
    (tmp_path / "tokenizer_config.json").write_text(added(first))
    for text in TEXTS:
        assert tokenizer_of(folder)(text) == encode(text)


@pytest.mark.parametrize(
    "listed",
    [
        None,
        "{}",
        "[]",
        '{"added_tokens_decoder": 5}',
        '{"added_tokens_decoder": {"-1": {"content": "<|im_start|>"}, "a": {}, "5": "x", "6": {"content": 5}}}',
        added(1),
        added(10**7),
    ],
)
def test_vocabulary_and_merges_without_the_special_tokens_or_with_other_ids_are_refused(listed, split, refused):
    """Registered under other ids than the model's, they would be as wrong as spelled out."""
    if listed is not None:
        (split / "tokenizer_config.json").write_text(listed)
    with refused(r"vocab\.json: <\|im_start\|> or <\|im_end\|> is not one token"):
        tokenizer_of(split)


def test_special_tokens_listed_under_other_ids_are_not_registered(split, first, refused):
    for number in (first - 1, first + 1):
        (split / "tokenizer_config.json").write_text(added(number))
        with refused("is not one token"):
            tokenizer_of(split)


def test_qwens_own_vocabulary_gets_qwens_special_tokens(tmp_path):
    """Ids of the published Qwen3 and Qwen3-VL."""
    alphabet = sorted(tiny.models.pre_tokenizers.ByteLevel.alphabet())
    entries = alphabet + [f"filler{number}" for number in range(151643 - len(alphabet))]
    (tmp_path / "vocab.json").write_text(json.dumps({text: number for number, text in enumerate(entries)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    ids = tokenizer_of(tmp_path)("<|im_start|><|im_end|><|vision_start|><|vision_end|><|image_pad|><|endoftext|>")
    assert ids == [151644, 151645, 151652, 151653, 151655, 151643]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 99999999999999999999}, "merges": []}}',
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b'{"version": "1.0", "model": {"type": "WordPiece"}}',
    ],
    ids=range(9),
)
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_damaged_tokenizer_is_refused_in_one_line(name, data, tmp_path, refused):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "merges.txt").write_bytes(b"a b\n")
    with refused(rf"{name}( can't be read|: <\|im_start\|>)"):
        tokenizer_of(tmp_path)


def test_what_is_no_exception_is_refused_all_the_same(saved, monkeypatch, refused):
    """The library's PanicException is a BaseException."""

    class PanicException(BaseException):
        pass

    def panic(*args, **named):
        raise PanicException("called `Option::unwrap()` on a `None` value\nnote: run with RUST_BACKTRACE=1")

    folder = saved()
    encode = tokenizer_of(folder)
    with refused("can't read this text"):
        encode("\ud800")
    monkeypatch.setattr("zvl_ext.qwen3vl.tokenizer._ids", panic)
    with refused(r"tokenizer\.json can't read this text \(called"):
        encode("a")
    with refused(r"tokenizer\.json can't be read \(called"):
        tokenizer_of(folder)


def test_files_that_are_none_are_not_opened(tmp_path, refused):
    os.mkfifo(tmp_path / "tokenizer.json")
    with refused(r"tokenizer\.json is a pipe, it has to be a file"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    with refused(r"tokenizer\.json is a device, it has to be a file"):
        tokenizer_of(tmp_path)


@pytest.mark.parametrize("files", [(), ("vocab.json",), ("merges.txt",)])
def test_a_folder_without_a_tokenizer_says_what_to_name(files, tmp_path, refused):
    for name in files:
        (tmp_path / name).write_text("{}")
    with refused("There is no tokenizer.json in .*--tokenizer"):
        tokenizer_of(tmp_path)
    with refused("There is no tokenizer.json in "):
        tokenizer_of(tmp_path / "nothing")


# --- ids


@pytest.mark.parametrize("ids", [[512], [0, 1, 600], [-1], [2**40]])
def test_an_id_outside_the_vocabulary_is_refused_before_it_reaches_the_embedding(ids, text_encoder, refused):
    """On a GPU the attempt would end the process' use of it."""
    with refused("The text encoder has a vocabulary of 512, the prompt a token "):
        StandaloneTextEncoder(text_encoder, "tiny").embed(ids)
    with pytest.raises(ZvlError):
        check_ids(ids, 512, "x")


def test_ids_of_the_vocabulary_are_embedded(text_encoder):
    rows = StandaloneTextEncoder(text_encoder, "tiny").embed([0, 511])
    assert torch.equal(rows, text_encoder.embed_tokens.weight[[0, 511]])
