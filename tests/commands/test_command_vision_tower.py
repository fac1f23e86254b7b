"""`vision-tower`: Qwen3-VL's vision tower in a file of its own."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from safetensors import safe_open
from tiny import ggufs

from zvl_ext.__main__ import main
from zvl_ext.qwen3vl import vision
from zvl_ext.qwen3vl.files import open_checkpoint


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_it_writes_the_tower_alone(kind, request, model, tmp_path, capsys):
    source, out = request.getfixturevalue(kind), tmp_path / "tower.safetensors"
    assert main(["vision-tower", "--model", str(source), "--out", str(out)]) == 0
    with safe_open(out, "pt") as file:
        assert all(name.startswith("visual.") for name in file.keys())
        assert json.loads(file.metadata()["config"])["text_config"]["num_hidden_layers"] == 5
    assert 0 < out.stat().st_size - 4 * open_checkpoint(str(source)).count("visual.") < 20_000
    assert "It serves engine splice" in capsys.readouterr().out
    written, whole = open_checkpoint(str(out)), open_checkpoint(str(source))
    assert written.config["vision_config"] == whole.config["vision_config"]
    assert written.vision_tokens == whole.vision_tokens
    towers = [dict(vision.load(each, torch.float32).named_parameters()) for each in (written, whole)]
    assert all(torch.equal(value, towers[1][name]) for name, value in towers[0].items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_keeps_the_dtype(dtype, model, tmp_path):
    state = {name: value.to(dtype) for name, value in tiny.inner_state(model).items()}
    path = tiny.save_single(state, tmp_path / "one.safetensors")
    assert main(["vision-tower", "--model", str(path), "--out", str(tmp_path / "tower.safetensors")]) == 0
    with safe_open(tmp_path / "tower.safetensors", "pt") as file:
        got = {name: file.get_tensor(name) for name in file.keys()}
    assert got.keys() == {name for name in state if name.startswith("visual.")}
    assert all(torch.equal(value, state[name]) and value.dtype == dtype for name, value in got.items())


def test_an_mmproj_becomes_a_file_that_needs_no_package(model, tmp_path):
    pytest.importorskip("gguf")
    meant = ggufs.save_mmproj(tiny.inner_state(model), model.config, tmp_path / "mmproj.gguf", "F32")
    out = str(tmp_path / "tower.safetensors")
    assert main(["vision-tower", "--model", str(tmp_path / "mmproj.gguf"), "--out", out]) == 0
    tower = vision.load(open_checkpoint(out), torch.float32)
    assert all(torch.equal(value, meant["visual." + name]) for name, value in tower.named_parameters())


def test_what_it_can_not_do_is_one_line(folder, tmp_path, capsys):
    for out, said in (
        (tmp_path / "none" / "x.safetensors", "there is no folder"),
        (tmp_path / "x.bin", "ends with .safetensors"),
    ):
        assert main(["vision-tower", "--model", str(folder), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert main(["vision-tower", "--model", str(tmp_path / "nothing"), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert list(tmp_path.iterdir()) == []
