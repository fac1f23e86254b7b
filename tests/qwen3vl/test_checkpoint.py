"""Weights: what is opened, in which form, and that nothing is held twice."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from transformers import Qwen3VLForConditionalGeneration
from weights import EMBEDDING, assert_same_weights, loaded_state

from zvl_ext.qwen3vl.checkpoint import Checkpoint, Stored
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.sequence import VisionTokens

# --- both forms


def test_a_folder_with_one_shard_is_opened(folder, state):
    assert_same_weights(loaded_state(folder), state)


def test_a_folder_with_several_shards_is_opened(sharded, state):
    assert_same_weights(loaded_state(sharded), state)


def test_several_shards_without_their_index_are_opened(sharded, state, tmp_path):
    path = Path(shutil.copytree(sharded, tmp_path / "copied"))
    (path / "model.safetensors.index.json").unlink()
    assert_same_weights(loaded_state(path), state)


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_single_file_is_opened_in_both_layouts(layout, dtype, state, tmp_path):
    stored = {name: value.to(dtype) for name, value in state.items()}
    path = tiny.save_single(stored, tmp_path / "one.safetensors", layout)
    assert_same_weights(loaded_state(path, dtype), stored)
    assert (
        open_checkpoint(str(path)).stored_dtype
        == {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]
    )


def test_the_layer_for_logits_is_not_read(state, tmp_path):
    renamed = tiny.in_layout(state, "model.layers + visual") | {"lm_head.weight": torch.zeros(3, 3)}
    save_file(renamed, tmp_path / "one.safetensors")
    assert_same_weights(loaded_state(tmp_path / "one.safetensors"), state)


def test_opening_reads_headers_only(folder):
    """The values are not even looked at: they may be anything."""
    opened = open_checkpoint(str(folder))
    assert isinstance(opened, Checkpoint)
    assert opened.parameters == sum(math.prod(stored.shape) for stored in opened.tensors.values())
    assert opened.scales == {}


def test_what_is_known_of_a_folder(folder, model, tokenizer):
    opened = open_checkpoint(str(folder))
    special = tiny.token_ids(tokenizer)
    assert (opened.name, opened.path) == ("tiny-vl", str(folder))
    assert (opened.hidden_size, opened.layers, opened.unit) == (64, 5, 32)
    assert opened.vision_tokens == VisionTokens(
        special["vision_start_token_id"], special["image_token_id"], special["vision_end_token_id"]
    )
    assert opened.parameters == sum(p.numel() for p in model.model.parameters())
    assert opened.files == [str(folder / "model.safetensors")]
    assert opened.tokenizer_folder == str(folder)


def test_the_name_can_be_given_and_is_otherwise_the_last_part_of_the_path(folder, state, tmp_path):
    assert open_checkpoint(str(folder), "shown").name == "shown"
    assert open_checkpoint(str(folder) + "/").name == "tiny-vl"
    path = tiny.save_single(state, tmp_path / "one.safetensors")
    assert open_checkpoint(str(path)).name == "one.safetensors"
    assert open_checkpoint(str(path)).tokenizer_folder == str(tmp_path)


def test_the_identity_changes_when_the_weights_do(copied):
    before = open_checkpoint(str(copied)).identity
    assert open_checkpoint(str(copied)).identity == before
    os.utime(copied / "model.safetensors", ns=(1, 1))
    assert open_checkpoint(str(copied)).identity != before


def test_the_grid_of_a_reference_is_counted_in_image_tokens(checkpoint):
    from zvl_ext.reference import open_reference

    assert checkpoint.grid(open_reference(tiny.picture(160, 96)), 256) == (3, 5)
    rows, columns = checkpoint.grid(open_reference(tiny.picture(1600, 960)), 64)
    assert rows * columns <= 64
    assert columns > rows


def test_the_stored_dtype_is_that_of_most_parameters():
    def stored(dtype: str, *shape: int) -> Stored:
        return Stored("file", "key", shape, dtype)

    tensors = {
        "a": stored("F8_E4M3", 100, 100),
        "b": stored("BF16", 10),
        "c": stored("BF16", 10),
        "d": stored("F32", 99, 99),
    }
    assert Checkpoint("x", "x", {}, tensors, {}).stored_dtype == "F8_E4M3"


def test_weights_come_in_the_dtype_that_was_asked_for_but_for_the_embedding(folder, state):
    """That one is looked up in the file, a token's row at a time, so it stays as it is stored."""
    got = loaded_state(folder, torch.bfloat16)
    assert_same_weights(
        got, {name: value if name == EMBEDDING else value.to(torch.bfloat16) for name, value in state.items()}
    )
    assert {name: value.dtype for name, value in got.items()} == {
        name: torch.float32 if name == EMBEDDING else torch.bfloat16 for name in state
    }


def test_layers_that_do_not_exist_are_refused(checkpoint, refused):
    for layer in (-5, -1):
        checkpoint.check_layer(layer)
    for layer in (0, 1, -6, -36):
        with refused(f"Hidden layer {layer} does not exist: tiny-vl has layers -1 to -5"):
            checkpoint.check_layer(layer)


@pytest.mark.parametrize(("width", "size"), [(2048, "Qwen3-VL-2B"), (4096, "Qwen3-VL-8B")])
def test_a_qwen3_vl_of_another_size_is_refused_by_its_size(width, size, refused):
    wrong = Checkpoint("x", "x", {"text_config": {"hidden_size": width}}, {}, {})
    with refused(rf"{size} is {width} wide, .* 2560\. Choose a Qwen3-VL-4B"):
        wrong.require_width(2560)


def test_widths_that_fit_are_accepted(refused):
    Checkpoint("x", "x", {"text_config": {"hidden_size": 2560}}, {}, {}).require_width(2560)
    with refused("same width"):
        Checkpoint("x", "x", {"text_config": {"hidden_size": 2560}}, {}, {}).require_width(64)


# --- memory


MEASURE = """
import sys, torch
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.language import load
path, small = sys.argv[1:]
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
load(open_checkpoint(small), torch.float32)  # everything is imported and warm
before = peak()
model = load(open_checkpoint(path), torch.bfloat16)
# every page is really there
sum(int(weight.view(torch.uint8).flatten()[::4096].sum()) for weight in model.module.parameters())
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_loading_does_not_hold_the_weights_twice(kind, tokenizer, folder, tmp_path, root):
    """Peak memory of a process that loads about 200 MB (in fp8: 100), above what the same imports take: that of the
    file."""
    config = tiny.make_config(tokenizer)
    config.text_config.num_hidden_layers = 40
    config.text_config.intermediate_size = 12_800
    with torch.device("meta"):
        shapes = {
            name: weight.shape for name, weight in Qwen3VLForConditionalGeneration(config).model.named_parameters()
        }
    state = {}
    for name, shape in shapes.items():
        state[name] = torch.full(shape, 0.5, dtype=torch.bfloat16)  # not zeros: pages that hold nothing take no memory
        if kind == "fp8" and tiny.is_linear(name, state[name]):
            state[name] = state[name].to(torch.float8_e4m3fn)
            state[name + "_scale"] = torch.ones(())
    path = tiny.save_single(state, tmp_path / "large.safetensors")
    weights = sum(value.nbytes for value in state.values())
    del state
    assert weights > {"bf16": 190e6, "fp8": 95e6}[kind]
    # The C library maps tensors as large as real ones by themselves, but puts tensors as small as these into one heap,
    # where gaps remain.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(folder)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert weights * 0.9 < int(done.stdout) < weights * 1.15
