"""`blend`: the conditioning of two files, or with statistics of a third."""

import numpy as np
import pytest
import torch
from command_line import HIDDEN, assert_refused, metadata, pair, states
from safetensors.torch import load_file, save_file


def test_blend_writes_the_research_default_formula(process, work):
    out = work / "C.safetensors"
    done = process("blend", *pair(work), "--alpha", "0.3", "--out", out)
    assert done.code == 0, done.err
    text, vl = (states(work / f"{name}.safetensors").double().numpy() for name in ("text", "vl"))
    at = np.clip((np.arange(9) + 0.5) * 21 / 9 - 0.5, 0, 20)
    scaled = vl * (text.std(ddof=1) / vl.std(ddof=1))
    wanted = 0.3 * np.stack([np.interp(at, np.arange(21), scaled[:, i]) for i in range(HIDDEN)], axis=1) + 0.7 * text
    assert np.abs(states(out).double().numpy() - wanted).max() < 1e-3
    assert metadata(out)["alpha"] == "0.3"
    assert metadata(out)["normalization"] == "global"


@pytest.mark.parametrize("length_match", ["interpolate", "truncate"])
def test_blend_with_alpha_0_writes_the_text_bit_for_bit(length_match, cli, work):
    done = cli("blend", *pair(work), "--alpha", 0, "--length-match", length_match, "--out", work / "C")
    assert done.code == 0
    assert torch.equal(states(work / "C"), states(work / "text.safetensors"))


@pytest.mark.parametrize(("rows", "wanted"), [("vl", 9), ("text", 9)])
def test_blend_at_alpha_1_without_scaling_writes_the_vl_side(rows, wanted, cli, work):
    options = ("--alpha", 1, "--no-scale-to-text", "--length-match", "truncate")
    done = cli("blend", *pair(work, vl=rows), *options, "--out", work / "C")
    assert done.code == 0
    assert torch.equal(states(work / "C"), states(work / f"{rows}.safetensors")[:wanted])


def test_blend_uses_the_statistics_that_statistics_wrote(cli, work):
    """Text embeddings of several prompts are measured once and used as the reference."""
    files = [work / "text.safetensors", work / "more.safetensors"]
    done = cli(
        "statistics", "--text", *files, "--vl", work / "vl.safetensors", "--reference-out", work / "S.safetensors"
    )
    assert done.code == 0
    both = np.concatenate([states(file).double().numpy() for file in files])
    kept = load_file(work / "S.safetensors")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in kept.items()} == {
        "per_dim_mean": (torch.float32, (HIDDEN,)),
        "per_dim_std": (torch.float32, (HIDDEN,)),
        "global_std": (torch.float32, ()),
    }
    assert np.allclose(kept["per_dim_mean"], both.mean(axis=0), atol=1e-4)
    assert np.allclose(kept["per_dim_std"], both.std(axis=0, ddof=1), rtol=1e-4)
    assert float(kept["global_std"]) == pytest.approx(both.std(ddof=1), rel=1e-4)
    options = ("--alpha", 1, "--normalization", "per_dim", "--reference-stats", work / "S.safetensors")
    done = cli("blend", *pair(work, vl="text"), *options, "--out", work / "C")
    assert done.code == 0
    v = states(files[0]).double().numpy()
    wanted = np.clip((v - v.mean(axis=0)) / v.std(axis=0, ddof=1), -3, 3) * both.std(axis=0, ddof=1) + both.mean(axis=0)
    assert np.abs(states(work / "C").double().numpy() - wanted).max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_blend_reads_other_float_types_and_a_batch_of_one(dtype, cli, work):
    kept = states(work / "text.safetensors").to(dtype)
    save_file({"hidden_states": kept[None]}, work / "batch.safetensors")
    assert cli("blend", *pair(work, text="batch"), "--alpha", 0, "--out", work / "C").code == 0
    assert torch.equal(states(work / "C"), kept.float())


def test_blend_may_write_over_its_own_input(cli, work):
    text = work / "text.safetensors"
    before = states(text)
    assert cli("blend", "--text", text, "--vl", text, "--alpha", 1, "--no-scale-to-text", "--out", text).code == 0
    assert torch.equal(states(text), before)


GOOD = {"per_dim_mean": torch.zeros(HIDDEN), "per_dim_std": torch.ones(HIDDEN), "global_std": torch.tensor(1.0)}


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"text",
        {},
        {k: v for k, v in GOOD.items() if k != "global_std"},
        GOOD | {"per_dim_std": torch.ones(HIDDEN + 1)},
        GOOD | {"per_dim_mean": torch.ones(1, HIDDEN)},
        GOOD | {"global_std": torch.ones(2)},
    ],
)
def test_files_that_hold_no_statistics_are_refused_by_name(content, cli, work):
    if isinstance(content, bytes):
        (work / "S.safetensors").write_bytes(content)
    elif content is not None:
        save_file(content, work / "S.safetensors")
    done = cli("blend", *pair(work), "--reference-stats", work / "S.safetensors", "--out", work / "C.safetensors")
    assert_refused(done, "S.safetensors")
    assert not (work / "C.safetensors").exists()
