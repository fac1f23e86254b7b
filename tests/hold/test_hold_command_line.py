"""Generated command lines and files: each is done, or refused in one short line; what is written is finite."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated
from safetensors.torch import load_file, save, save_file

from zvl_ext.__main__ import COMMANDS, main
from zvl_ext.commands.blend import BLEND_OPTIONS
from zvl_ext.options import BY_NAME


def told(*arguments: object) -> tuple[int, str, str]:
    """What a command says; whatever it is, it keeps to the rules."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), bounded():
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as done:  # --help
            code = done.code or 0
    assert code in (0, 2)
    if code:
        assert out.getvalue() == ""
        assert err.getvalue().startswith("zvl_ext: ")
        assert err.getvalue().count("\n") == 1
        assert len(err.getvalue()) <= 300
        assert "Something unexpected" not in err.getvalue()
    else:
        assert err.getvalue() == ""
    return code, out.getvalue(), err.getvalue()


# --- arguments

FLAGS = (
    "--text",
    "--vl",
    "--out",
    "--alpha",
    "--json",
    "--set",
    "--folder",
    "--model",
    "--prompt",
    "--seed",
    "--layer",
)
words = st.sampled_from([*FLAGS, "-1", "0.3", "alpha=1", ""]) | st.text(max_size=12)
names = st.sampled_from([command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS])
# Those that work without a file named would write into the folder, or take long.
IDLE = ("options", "cache", "blend", "statistics", "extract", "encode", "vision-tower")


@hypothesis.given(names | st.text(max_size=8), st.lists(words, max_size=8))
@hypothesis.example("cache", ["--folder", "a\0b"])
@hypothesis.example("extract", ["a\0b", "--model", "m", "--out", "o"])
@hypothesis.example("blend", ["--alpha", "9" * 5000])
@hypothesis.example("options", ["x" * 5000])
@hypothesis.example("blend", ["--alpha", "[" * 100_000])
@hypothesis.example("\ud800", [])
@generated(120)
def test_any_arguments_are_a_command_or_one_line(command: str, arguments: list[str]) -> None:
    if command in IDLE or command not in [c.__name__.rpartition(".")[2] for c in COMMANDS]:
        hypothesis.assume("--clear" not in arguments)
        told(command, *arguments)


# --- files


def file_of(rows: int, width: int, kind: str, seed: int, dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    if kind == "huge":
        values *= 3e37
    elif kind in ("nan", "inf"):
        values.view(-1)[:1] = float(kind)
    elif kind == "constant":
        values[:] = 2.0
    return values.to(dtype)


tensors = st.builds(
    file_of,
    st.sampled_from([0, 1, 1, 2, 3, 9, 21]),
    st.sampled_from([0, 1, 4, 4, 4, 4, 4]),
    st.sampled_from(["ordinary", "ordinary", "ordinary", "huge", "nan", "inf", "constant"]),
    st.integers(0, 9),
    st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32]),
)
numbers = st.integers(-5, 30).map(str) | st.sampled_from(
    ["9" * 5000, "-1", "1e3", "", "٣", "NaN", "10**5000", "9" * 19]
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.sampled_from(["text", "image", "image_no_markers", "all", "none", ""]),
        "image_tokens": numbers,
        "head": numbers,
        "prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    },
)
files = st.tuples(st.sampled_from(["hidden_states"] * 6 + ["x"]), tensors, metadata)


def value_of(name: str) -> st.SearchStrategy:
    option = BY_NAME[name]
    return st.sampled_from(option.choices) if option.choices else st.floats(option.minimum, option.maximum)


options = st.fixed_dictionaries({}, optional={name: value_of(name) for name in BLEND_OPTIONS})


def written(folder: Path, name: str, content: tuple[str, torch.Tensor, dict[str, str]]) -> Path:
    key, tensor, told_of_it = content
    save_file({key: tensor}, folder / name, told_of_it)
    return folder / name


@hypothesis.given(files, files, options)
@generated(80)
def test_blend_and_statistics_of_any_files(text, vl, chosen) -> None:
    folder = Path(os.environ["ZVL_TEST_FOLDER"])
    pair = ("--text", written(folder, "t", text), "--vl", written(folder, "v", vl))
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    code, out, _ = told("blend", *pair, *arguments, "--out", folder / "C")
    if code == 0:
        assert load_file(folder / "C")["hidden_states"].isfinite().all()
        (folder / "C").unlink()
        both = text[2].get("prompt"), vl[2].get("prompt")
        assert ("different prompts" in out) == (None not in both and both[0] != both[1])
    code, out, _ = told("statistics", *pair, "--json", "--reference-out", folder / "S")
    if code == 0:
        json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "S").values())
        (folder / "S").unlink()
    assert {path.name for path in folder.iterdir()} == {"t", "v"}, "nothing half-written"


GOOD = save({"hidden_states": torch.ones(3, 4)}, {"prompt": "a"})


@hypothesis.given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=6)), max_size=3), st.binary())
@hypothesis.example([], b"\xff" * 8 + b"{}")
@hypothesis.example([], (10**6).to_bytes(8, "little") + b"[" * 10**6)
@generated(50)
def test_damaged_files_are_one_line(changes, instead) -> None:
    folder = Path(os.environ["ZVL_TEST_FOLDER"])
    data = GOOD
    for at, put in changes:
        data = data[:at] + put + data[at + len(put) :]
    (folder / "t").write_bytes(data if changes else instead)
    told("statistics", "--text", folder / "t", "--vl", folder / "t", "--json")
    told(
        "blend", "--text", folder / "t", "--vl", folder / "t", "--reference-stats", folder / "t", "--out", folder / "C"
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("ZVL_TEST_FOLDER", str(tmp_path / "files"))


NO_NUMBERS = [{"per_dim_std": float("nan")}, {"per_dim_mean": float("inf")}, {"global_std": float("nan")},
              {"per_dim_std": -1.0}, {"global_std": -1.0}]  # fmt: skip


@pytest.mark.parametrize("statistics", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("arguments", [["--normalization=per_dim"], ["--outlier-repair=scale", "--no-scale-to-text"]])
def test_statistics_that_are_no_numbers_are_refused(statistics, arguments, tmp_path) -> None:
    good = {"per_dim_mean": torch.zeros(4), "per_dim_std": torch.ones(4), "global_std": torch.tensor(1.0)}
    save_file(good | {name: torch.full_like(good[name], value) for name, value in statistics.items()}, tmp_path / "S")
    path = written(tmp_path, "t", ("hidden_states", torch.randn(9, 4), {}))
    more = ("--reference-stats", tmp_path / "S", "--out", tmp_path / "C", *arguments)
    code, _, err = told("blend", "--text", path, "--vl", path, *more)
    assert code == 2
    assert "statistics are not finite" in err
    assert not (tmp_path / "C").exists()


# --- what is no file, and no output


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "loop", "nothing"])
def test_what_is_no_file_is_neither_read_nor_replaced(kind, tmp_path) -> None:
    path = tmp_path / "odd"
    {
        "pipe": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "nothing": lambda: None,
    }[kind]()
    good = written(tmp_path, "t", ("hidden_states", torch.randn(9, 4), {}))
    for arguments in (
        ("blend", "--text", path, "--vl", good, "--out", tmp_path / "C"),
        ("blend", "--text", good, "--vl", good, "--reference-stats", path, "--out", tmp_path / "C"),
        ("statistics", "--text", good, path, "--vl", good),
        ("extract", path, "--model", tmp_path, "--out", tmp_path / "C"),
        ("extract", good, "--model", path, "--out", tmp_path / "C"),
    ):
        assert told(*arguments)[0] == 2
    if kind in ("pipe", "zero", "folder"):
        assert told("blend", "--text", good, "--vl", good, "--out", path)[0] == 2
        assert not path.is_file()


@pytest.fixture
def process(root):
    def run(*arguments: object, **more: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "zvl_ext", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, timeout=120, **more)

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_lacks_a_sign_gets_another(encoding, process, tmp_path) -> None:
    path = written(tmp_path, "t", ("hidden_states", torch.randn(9, 4), {"prompt": "a 猫"}))
    other = written(tmp_path, "v", ("hidden_states", torch.randn(9, 4), {"prompt": "b"}))
    done = process(
        "blend", "--text", path, "--vl", other, "--out", tmp_path / "C", env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"9 tokens {'×' if encoding == 'latin-1' else 'x'} 4" in done.stdout.decode(encoding)
    assert "'a \\u732b' and 'b'" in done.stdout.decode(encoding)
    listed = process("options", "--json", env=os.environ | {"PYTHONIOENCODING": encoding}).stdout.decode(encoding)
    assert [option["name"] for option in json.loads(listed)] == list(BY_NAME)


def test_who_reads_no_further_is_no_error(process, root) -> None:
    command = f"'{sys.executable}' -m zvl_ext options --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, timeout=120)
    assert done.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_without_a_word(root) -> None:
    pytest.importorskip("gradio")  # the page's
    worker = subprocess.Popen(
        [sys.executable, "-m", "zvl_ext", "demo", "--ui", "--port", "7997"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(2)
    worker.send_signal(signal.SIGINT)
    assert worker.communicate(timeout=60)[1] == b""
    assert worker.returncode == 130
