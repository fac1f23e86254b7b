"""`fit lora` and `generate --lora` on the command line, with the shipped miniature: little enough to be quick."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import assert_refused
from PIL import Image
from safetensors import safe_open

pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="a LoRA needs peft, an optional package")

from zvl_ext.lab.miniature.album import write_album
from zvl_ext.loras import DOWN, PREFIX, read_lora, write_lora

SMALL = ("--examples", "12", "--steps", "1", "--batch", "12", "--set", "reference_tokens=4")
GENERATE = ("generate", "--prompt", "a red circle", "--seed", "1", "--steps", "2")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_album(str(path), 8, seed=1)
    return path


@pytest.fixture(scope="module")
def fitted(album, tmp_path_factory):
    """What came of a fit that gained nothing and was written all the same."""
    import contextlib
    import io

    from zvl_ext.__main__ import main

    out, said = tmp_path_factory.mktemp("out") / "own.safetensors", io.StringIO()
    asked = ["--rank", "2", "--alpha", "3", "--anyway", *SMALL]
    with contextlib.redirect_stderr(said):
        code = main(["fit", "lora", "--pictures", str(album), "--out", str(out), *asked])
    return code, out, said.getvalue()


def test_it_writes_a_lora_that_tells_how_it_was_made(fitted):
    code, out, said = fitted
    assert code == 0, said
    assert len(read_lora(str(out))) == 3 * 7 * (6 + 1 + 1)
    with safe_open(out, "pt") as file:
        told, kinds = file.metadata(), {file.get_tensor(name).dtype for name in file.keys() if "lora" in name}
    assert kinds == {torch.float16}, "half of the memory, as LoRAs are shared"
    expected = {
        "base_model": "z-image, 6 blocks of 4 heads, 120 wide",
        "rank": "2",
        "alpha": "3",
        "layers": "blocks",
        "weight": "1",
        "curve": "ease out",
    }
    assert (expected | {"pictures": "8", "seed": "0", "engine": "splice"}).items() <= told.items()
    assert told["command"].startswith("zvl fit lora --set reference_tokens=4")
    assert {"--rank 2", "--alpha 3.0", "--rate 0.003"} <= {f"--{each.strip()}" for each in told["command"].split("--")}
    gained = json.loads(told["gained"])
    assert gained["gained"][1] <= gained["gained"][2]
    assert set(gained["reading"]) == {"before", "after", "more"}
    for words in ("Calculated: ", "what is learned", "takes off the loss", "is written"):
        assert words in said


def test_a_lora_acts_on_a_picture_and_is_in_its_parameters(cli, tmp_path, fitted):
    layers = [name for name in read_lora(str(fitted[1])) if name.endswith(DOWN) and ".attention." in name]
    names = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in layers]
    drawn, lora, made = torch.Generator().manual_seed(0), tmp_path / "strong.safetensors", {}

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=drawn) / 4

    write_lora(str(lora), {name: (random(2, 120), random(120, 2)) for name in names}, 2.0, {})
    for name, more in {
        "plain": (),
        "on": ("--lora", f"{lora}:0.5"),
        "off": ("--lora", f"{lora}:0"),
        "both": ("--lora", str(lora), "--lora", f"{lora}:-0.5"),
    }.items():
        out = tmp_path / f"{name}.png"
        result = cli(*GENERATE, "--out", str(out), *more)
        assert result.code == 0, result.err
        with Image.open(out) as picture:
            made[name] = np.asarray(picture, int), picture.info["parameters"].splitlines()[0]
    assert (made["plain"][0] == made["off"][0]).all()
    assert np.abs(made["plain"][0] - made["on"][0]).mean() > 1
    assert np.abs(made["on"][0] - made["both"][0]).mean() < 0.1, "their strengths are added"
    assert [made[name][1] for name in made] == [
        "a red circle",
        "a red circle <lora:strong:0.5>",
        "a red circle",
        "a red circle <lora:strong:1> <lora:strong:-0.5>",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lora", "nothing.safetensors"), "can't be read"),
        (("--lora", "own.safetensors:11"), "a strength from -10 to 10"),
    ],
)
def test_a_lora_that_can_not_be_is_refused(cli, tmp_path, arguments, words):
    assert_refused(cli(*GENERATE, "--out", str(tmp_path / "a.png"), *arguments), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rank", "0"), "a whole number from 1"),
        (("--alpha", "0"), "a number above 0"),
        (("--layers", "all"), "invalid choice"),
        (("--set", "weight=0"), "there are none"),
        (("--set", "profile=own"), "without a profile"),
    ],
)
def test_what_can_not_be_fitted_is_refused(cli, album, tmp_path, arguments, words):
    out = str(tmp_path / "own.safetensors")
    assert_refused(cli("fit", "lora", "--pictures", str(album), "--out", out, *arguments), words)
    assert not list(tmp_path.iterdir())


def test_the_state_of_another_form_is_refused(cli, album, tmp_path, fitted):
    state, out = fitted[1].with_suffix(".fit"), str(tmp_path / "own.safetensors")
    asked = ("--pictures", str(album), "--out", out, "--state", str(state), "--rank", "3", "--alpha", "3", *SMALL)
    result = cli("fit", "lora", *asked)
    assert result.code == 2
    assert "another fit" in result.err.splitlines()[-1]
