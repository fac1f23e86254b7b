"""The benchmark's weights on disk, that it leaves nothing behind, and what it refuses. With tiny models."""

import dataclasses
import shutil
import tempfile
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load
from tiny_benchmark import TINY, quiet

from zvl_ext.__main__ import main
from zvl_ext.lab.benchmark import size as sizes
from zvl_ext.lab.benchmark import weights

# --- weights on disk


def test_the_full_size_is_qwen3_vl_4b():
    shapes = weights._shapes(sizes.FULL)
    count = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(count.values()) == 4_437_815_808
    assert sum(each for name, each in count.items() if name.startswith("visual.")) == 415_347_712
    shards = weights._shards(shapes)
    assert [name for shard in shards for name in shard] == list(shapes)
    assert all(sum(count[name] for name in shard) * 2 <= 2e9 for shard in shards)
    vision = sizes.FULL.config
    assert (vision["vision_start_token_id"], vision["vision_end_token_id"], vision["image_token_id"]) == (
        151652,
        151653,
        151655,
    )


def test_a_quarter_of_the_widths_keeps_the_parts_shares():
    def shares(size: sizes.Size) -> dict[str, float]:
        count = Counter()
        for name, shape in weights._shapes(size).items():
            count[name.partition(".")[0] if "embed_tokens" not in name else "embedding"] += torch.Size(shape).numel()
        return {name: each / count.total() for name, each in count.items()}

    assert shares(sizes.SMALL) == pytest.approx(shares(sizes.FULL), rel=0.05)
    assert sizes.SMALL.text["num_hidden_layers"] == sizes.FULL.text["num_hidden_layers"]


def contents(folder) -> dict[str, torch.Tensor]:
    return {
        name: value for file in sorted(folder.rglob("*.safetensors")) for name, value in load(file.read_bytes()).items()
    }


def test_the_weights_are_the_same_every_time_however_they_are_sharded(tmp_path, monkeypatch):
    with weights.random_checkpoint(TINY, str(tmp_path / "one"), quiet):
        one = contents(tmp_path / "one")
    monkeypatch.setattr(weights, "_SHARD", 200_000)
    with weights.random_checkpoint(TINY, str(tmp_path / "many"), quiet) as opened:
        assert len(opened.files) > 3
        many = contents(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert all(value.dtype == torch.bfloat16 for value in one.values())


def test_a_temporary_folder_is_removed_whatever_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with weights.random_checkpoint(TINY, None, quiet) as opened:
        assert opened.path.startswith(str(tmp_path))
        assert contents(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), weights.random_checkpoint(TINY, None, quiet):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_complete_folder_is_used_again_and_anything_else_is_written_anew(tmp_path):
    said: list[str] = []

    def write(size=TINY):
        said.clear()
        with weights.random_checkpoint(size, str(tmp_path), said.append):
            return contents(tmp_path)

    first = write()
    assert said
    write()
    assert said == []
    folder = tmp_path / "zvl-benchmark-tiny"
    (shard,) = folder.glob("*.safetensors")
    for spoil in (lambda: shard.write_bytes(shard.read_bytes()[:-100]), shard.unlink, (folder / "config.json").unlink):
        spoil()
        again = write()
        assert said
        assert all(torch.equal(first[name], again[name]) for name in first)
    write(dataclasses.replace(TINY, vision=TINY.vision | {"intermediate_size": 64}))
    assert said


def test_an_interrupted_write_is_not_taken_for_complete(tmp_path, monkeypatch):
    real, calls = weights.random_weight, []

    def interrupted(name, shape):
        calls.append(name)
        if len(calls) == 50:
            raise KeyboardInterrupt
        return real(name, shape)

    monkeypatch.setattr(weights, "_SHARD", 200_000)
    monkeypatch.setattr(weights, "random_weight", interrupted)
    with pytest.raises(KeyboardInterrupt), weights.random_checkpoint(TINY, str(tmp_path), quiet):
        pass
    assert list(tmp_path.rglob("*.safetensors"))
    said: list[str] = []
    with weights.random_checkpoint(TINY, str(tmp_path), said.append) as opened:
        assert said
        assert opened.parameters == sum(torch.Size(shape).numel() for shape in weights._shapes(TINY).values())


# --- bad input


def assert_refused(capfd, arguments: list, *words: str) -> None:
    capfd.readouterr()
    code = main(["benchmark", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    "arguments",
    [["--repetitions", "0"], ["--repetitions", "x"], ["--repetitions", "101"], ["--nothing"], ["small"], ["--work"]],
)
def test_a_wrong_command_line_is_one_line(arguments, capfd):
    assert_refused(capfd, arguments)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(weights, "free_memory", lambda: 10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=8 * 10**9))
    assert_refused(capfd, ["--full", "--work", tmp_path], "8.9 GB", "8.0", "--work")
    assert list(tmp_path.iterdir()) == []


def test_a_memory_that_is_too_small_is_refused_before_anything_is_written(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(weights, "free_memory", lambda: 12 * 10**9)
    assert_refused(capfd, ["--full", "--work", tmp_path], "15.5 GB", "12.0")
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_that_is_a_file_is_refused(tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    assert_refused(capfd, ["--work", tmp_path / "file"], "--work")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_free_memory_is_known_here():
    free = weights.free_memory()
    assert free is None or free > 2**20
