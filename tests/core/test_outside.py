"""Files that are no files, and JSON that is anything: told in a few words, never waited for."""

import json
import os
import socket

import pytest

from zvl_ext.outside import no_file, open_regular, parse_json, plain, read_json, read_regular, reason


@pytest.fixture
def strange(tmp_path):
    """Paths that look like files: what it is -> the path."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "two", tmp_path / "one")
    os.symlink(tmp_path / "one", tmp_path / "two")
    os.symlink(tmp_path / "gone", tmp_path / "dangling")
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(tmp_path / "socket"))
    except OSError:  # the path is too long for a socket's
        bound = None
    yield {
        "a folder": tmp_path / "folder",
        "a pipe": tmp_path / "pipe",
        "a device": "/dev/zero",
        "a link that leads nowhere": tmp_path / "dangling",
        "not there": tmp_path / "nothing",
        "not to be reached": tmp_path / "one",
    } | ({"a socket": tmp_path / "socket"} if bound else {})
    if bound:
        bound.close()


def test_what_is_no_file_is_named_and_not_opened(strange, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *a: pytest.fail("it was opened"))
    for kind, path in strange.items():
        assert no_file(str(path)).startswith(kind)
        with pytest.raises(OSError, match=f"it is {kind}"):
            open_regular(str(path))
    assert no_file("a\0b")


def test_a_pipe_put_in_place_of_a_file_at_the_last_moment_is_not_waited_for(strange, monkeypatch):
    monkeypatch.setattr("zvl_ext.outside.no_file", lambda path: "")
    with pytest.raises(OSError, match="it is no file"):
        open_regular(str(strange["a pipe"]))


def test_files_and_links_to_files_are_read_up_to_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"[1]")
    os.symlink(tmp_path / "file", tmp_path / "link")
    assert no_file(str(tmp_path / "link")) == ""
    assert read_regular(str(tmp_path / "link"), 3) == b"[1]"
    assert read_json(str(tmp_path / "file"), 3) == [1]
    with pytest.raises(ValueError, match="longer than"):
        read_regular(str(tmp_path / "file"), 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        '["\ud83d"]',
        "null " * 2,
        b"\0",
    ],
)
def test_what_is_wrong_with_json_is_one_short_value_error(data):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(data)
    assert type(caught.value) is ValueError
    message = str(caught.value)
    assert 0 < len(message) <= 120
    assert message.isprintable()


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "\U0001f600é"]}, [], 5, "x"])
def test_json_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value


@pytest.mark.parametrize("value", ["a\nb", "\ud800", "x" * 1000, [["a"] * 100], "\x1b[2J", None, 1.5], ids=range(7))
def test_a_text_in_a_line_is_short_and_on_one_line(value):
    text = plain(value)
    text.encode()
    assert len(text) <= 60
    assert text.isprintable()


def test_an_error_of_the_system_is_told_without_its_number():
    assert reason(FileNotFoundError(2, "No such file or directory", "/x")) == "No such file or directory"
    assert reason(ValueError()) == "no reason is given"
