"""Files of tensors that commands read and write: wrong ones are refused by name, and none is ever half written."""

import os
import stat
from pathlib import Path

import pytest
import torch
from command_line import HIDDEN, assert_refused, listing, pair
from safetensors.torch import save_file


def test_a_written_file_has_the_rights_other_new_files_have(cli, work):
    """The temporary file it is renamed from is readable by its owner alone."""
    (work / "ordinary").write_bytes(b"")
    assert cli("blend", *pair(work), "--out", work / "C.safetensors").code == 0
    assert stat.S_IMODE((work / "C.safetensors").stat().st_mode) == stat.S_IMODE((work / "ordinary").stat().st_mode)


@pytest.mark.parametrize("command", ["extract", "blend", "statistics"])
@pytest.mark.parametrize("out", ["nowhere/V.safetensors", "."])
def test_an_output_that_can_not_be_written_is_refused(command, out, cli, work, extract_arguments):
    arguments = {
        "extract": extract_arguments(out=work / out),
        "blend": ["blend", *pair(work), "--out", work / out],
        "statistics": ["statistics", *pair(work), "--reference-out", work / out],
    }[command]
    before = listing(work)
    assert_refused(cli(*arguments), "folder")
    assert listing(work) == before


BAD_EMBEDDINGS = {
    "nothing": None,
    "empty file": b"",
    "text": b"hello",
    "pickle": b"\x80\x04N.",
    "another tensor": {"states": torch.zeros(3, HIDDEN)},
    "no tensor": {},
    "one dimension": {"hidden_states": torch.zeros(HIDDEN)},
    "a batch of two": {"hidden_states": torch.zeros(2, 3, HIDDEN)},
    "no rows": {"hidden_states": torch.zeros(0, HIDDEN)},
    "no width": {"hidden_states": torch.zeros(3, 0)},
    "integers": {"hidden_states": torch.zeros(3, HIDDEN, dtype=torch.int64)},
    "another width": {"hidden_states": torch.zeros(3, HIDDEN + 1)},
}


@pytest.mark.parametrize("command", ["blend", "statistics"])
@pytest.mark.parametrize("side", ["text", "vl"])
@pytest.mark.parametrize("kind", BAD_EMBEDDINGS)
def test_files_that_hold_no_embeddings_are_refused_by_name(kind, side, command, cli, work):
    content = BAD_EMBEDDINGS[kind]
    if isinstance(content, bytes):
        (work / "bad.safetensors").write_bytes(content)
    elif content is not None:
        save_file(content, work / "bad.safetensors")
    before = listing(work)
    out = ["--out", work / "C.safetensors"] if command == "blend" else []
    assert_refused(cli(command, *pair(work, **{side: "bad"}), *out), "bad.safetensors")
    assert listing(work) == before


# --- never half a file


@pytest.mark.parametrize("existing", [b"what was there", None])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(existing, error, cli, work, monkeypatch):
    import safetensors.torch

    def half(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise error

    if existing:
        (work / "C.safetensors").write_bytes(existing)
    before = listing(work)
    monkeypatch.setattr(safetensors.torch, "save_file", half)
    arguments = ("blend", *pair(work), "--out", work / "C.safetensors")
    if isinstance(error, OSError):
        assert_refused(cli(*arguments), "C.safetensors", "No space left")
    else:
        with pytest.raises(KeyboardInterrupt):
            cli(*arguments)
    assert listing(work) == before
    if existing:
        assert (work / "C.safetensors").read_bytes() == existing


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_nothing(process, work):
    """A real failure in the middle of the write, as safetensors reports it."""
    import resource

    save_file({"hidden_states": torch.zeros(2000, HIDDEN)}, work / "long.safetensors")
    before = listing(work)
    arguments = ("blend", *pair(work, text="long"), "--out", work / "C.safetensors")
    done = process(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert_refused(done, "C.safetensors")
    assert listing(work) == before
