"""`cache`: where, how much, and away with it."""

import torch
from command_line import assert_refused, strict

from zvl_ext.store import Disk, data_folder


def test_cache_tells_where_and_how_much_and_clears(process, cli, tmp_path):
    folder = tmp_path / "data" / "cache"
    disk = Disk(str(folder), 100_000)
    for arguments in (["--clear"], ["--json"], []):
        assert_refused(cli("cache", "--folder", folder, *arguments), str(folder), "no such folder")
    assert not folder.exists()
    folder.mkdir(parents=True)
    told = cli("cache", "--folder", folder)
    assert (told.code, told.out, told.err) == (0, f"{folder}: 0 entries, 0 bytes\n", "")
    for key in "ab":
        disk.put(key, {"x": torch.zeros(1000)})
    (folder / "mine.txt").write_text("mine")
    size = disk.size
    assert size > 8000
    assert cli("cache", "--folder", folder).out == f"{folder}: 2 entries, {size} bytes\n"
    assert strict(process("cache", "--folder", folder, "--json").out) == {
        "folder": str(folder),
        "entries": 2,
        "bytes": size,
        "removed": 0,
    }
    assert cli("cache", "--folder", folder, "--clear").out == f"{folder}: 0 entries, 0 bytes; 2 files removed\n"
    assert strict(cli("cache", "--folder", folder, "--clear", "--json").out) == {
        "folder": str(folder),
        "entries": 0,
        "bytes": 0,
        "removed": 0,
    }
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_cache_without_a_folder_is_about_the_extensions_own(cli):
    assert strict(cli("cache", "--json").out)["folder"] == data_folder()
    assert cli("cache").out.startswith(f"{data_folder()}: ")
