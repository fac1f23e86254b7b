"""The list of names that models are chosen by."""

import os
from pathlib import Path

from zvl_ext.qwen3vl.files import find


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_folders_and_files_are_listed_by_names_relative_to_where_they_were_found(tmp_path):
    for name in (
        "one.safetensors",
        "deep/er/two.safetensors",
        "Qwen3-VL/config.json",
        "Qwen3-VL/model-1.safetensors",
        "Qwen3-VL/model-2.safetensors",
    ):
        touch(tmp_path / "a" / name)
    for name in (
        "x/Thinking/config.json",
        "x/Thinking/model.safetensors",
        "notes.txt",
        "empty/config.json",
        ".hidden/three.safetensors",
        "old.bin",
    ):
        touch(tmp_path / "b" / name)
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert find(roots) == {
        "one.safetensors": str(tmp_path / "a" / "one.safetensors"),
        "deep/er/two.safetensors": str(tmp_path / "a" / "deep" / "er" / "two.safetensors"),
        "Qwen3-VL": str(tmp_path / "a" / "Qwen3-VL"),
        "x/Thinking": str(tmp_path / "b" / "x" / "Thinking"),
    }


def test_the_first_folder_wins_where_names_are_the_same(tmp_path):
    for root in ("a", "b"):
        touch(tmp_path / root / "one.safetensors")
    assert find([str(tmp_path / "b"), str(tmp_path / "a")])["one.safetensors"].startswith(str(tmp_path / "b"))


def test_no_name_leaves_its_folder(tmp_path):
    touch(tmp_path / "secret.safetensors")
    touch(tmp_path / "root" / "in" / "one.safetensors")
    names = find([str(tmp_path / "root"), str(tmp_path / "root") + "/"])
    assert set(names) == {"in/one.safetensors"}
    assert not any(name.startswith(("/", "..")) or ".." in name.split("/") for name in names)
    for name in (
        "../secret.safetensors",
        "/etc/passwd",
        str(tmp_path / "secret.safetensors"),
        "in/../../secret.safetensors",
    ):
        assert name not in names


def test_folders_that_are_not_there_and_links_in_a_circle_do_no_harm(tmp_path):
    touch(tmp_path / "root" / "one.safetensors")
    os.symlink(tmp_path / "root", tmp_path / "root" / "again", target_is_directory=True)
    names = find([str(tmp_path / "nowhere"), str(tmp_path / "root")])
    assert names["one.safetensors"] == str(tmp_path / "root" / "one.safetensors")
    assert len(names) < 10
