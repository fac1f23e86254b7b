"""The command line: what it writes, and that bad input is one line on standard error, exit code 2 and no file."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zvl_ext.__main__ import main
from zvl_ext.options import OPTIONS
from zvl_ext.store import Disk, data_folder

HIDDEN = 64


class Result:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def process(root):
    """Run `python -m zvl_ext` as a person does."""

    def run(*arguments: object, **more) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "zvl_ext", *map(str, arguments)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
            **more,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(capfd):
    """The same without a new process, where starting one would only import torch again."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


def assert_refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.startswith("zvl_ext: ")
    assert result.err.endswith("\n")
    assert len(result.err.splitlines()) == 1, result.err
    assert all(word in result.err for word in words), result.err


@pytest.fixture
def work(tmp_path) -> Path:
    """A folder with a picture, embeddings of 9 tokens and hidden states of 21."""
    tiny.picture(160, 96).save(tmp_path / "image.png")
    random = np.random.default_rng(0)
    spread = random.uniform(1, 30, HIDDEN)
    for name, rows in (("text", 9), ("more", 14), ("vl", 21), ("image_rows", 17)):
        states = torch.tensor(random.normal(size=(rows, HIDDEN)) * spread, dtype=torch.float32)
        save_file(
            {"hidden_states": states},
            tmp_path / f"{name}.safetensors",
            {"tokens": "image"} if name == "image_rows" else {},
        )
    return tmp_path


def states(path: Path) -> torch.Tensor:
    tensors = load_file(path)
    assert list(tensors) == ["hidden_states"]
    return tensors["hidden_states"]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


# --- extract


def test_extract_writes_what_plain_transformers_says(process, work, folder, model, tokenizer):
    out = work / "V.safetensors"
    prompt = '\n\nein "Bär" {0} 🐻'
    done = process(
        "extract",
        work / "image.png",
        "--model",
        folder,
        "--prompt",
        prompt,
        "--layer",
        "-3",
        "--tokens",
        "all",
        "--out",
        out,
    )
    assert done.code == 0, done.err
    assert str(out) in done.out
    pixels = tiny.plain_pixels(tiny.picture(160, 96), 256)
    ids, modes = tiny.plain_ids(tokenizer, prompt, 15)
    wanted = tiny.plain_hidden_states(model, ids, pixels, modes["image_no_markers"])[-3]
    got = states(out)
    assert (got.dtype, got.shape) == (torch.float32, wanted.shape)
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-3
    told = metadata(out)
    assert {
        "layer": "-3",
        "tokens": "all",
        "prompt": prompt,
        "image_tokens": "15",
        "model": "tiny-vl",
    }.items() <= told.items()
    assert told["reference"] == hashlib.sha256((work / "image.png").read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["text", "image", "image_no_markers", "all"])
def test_extract_selects_the_rows_of_each_token_mode(mode, cli, work, folder, encode):
    n = len(encode("<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"))
    done = cli(
        "extract",
        work / "image.png",
        "--model",
        folder,
        "--prompt",
        "a cat",
        "--layer",
        -2,
        "--tokens",
        mode,
        "--out",
        work / "V.safetensors",
    )
    assert done.code == 0
    assert len(states(work / "V.safetensors")) == {"text": n, "image": 17, "image_no_markers": 15, "all": n + 17}[mode]


def test_extract_keeps_to_the_token_budget(cli, work, folder):
    tiny.picture(900, 700).save(work / "large.png")
    done = cli(
        "extract",
        work / "large.png",
        "--model",
        folder,
        "--layer",
        -2,
        "--reference-tokens",
        16,
        "--tokens",
        "image_no_markers",
        "--out",
        work / "V",
    )
    assert done.code == 0
    assert 8 < len(states(work / "V")) <= 16
    assert metadata(work / "V")["image_tokens"] == str(len(states(work / "V")))


def test_extract_reads_a_single_file_with_the_tokenizer_named_or_beside_it(cli, work, folder, model):
    path = tiny.save_single(
        tiny.inner_state(model), work / "one.safetensors", metadata=tiny.config_metadata(model.config)
    )
    arguments = ("extract", work / "image.png", "--model", path, "--layer", -2, "--out", work / "V.safetensors")
    assert_refused(cli(*arguments), "tokenizer.json", "--tokenizer")
    assert cli(*arguments, "--tokenizer", folder).code == 0
    (work / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert cli(*arguments).code == 0


def test_a_written_file_has_the_rights_other_new_files_have(cli, work):
    """The temporary file it is renamed from is readable by its owner alone."""
    (work / "ordinary").write_bytes(b"")
    assert (
        cli(
            "blend",
            "--text",
            work / "text.safetensors",
            "--vl",
            work / "vl.safetensors",
            "--out",
            work / "C.safetensors",
        ).code
        == 0
    )
    assert stat.S_IMODE((work / "C.safetensors").stat().st_mode) == stat.S_IMODE((work / "ordinary").stat().st_mode)


# --- blend


def test_blend_writes_the_research_default_formula(process, work):
    out = work / "C.safetensors"
    done = process(
        "blend", "--text", work / "text.safetensors", "--vl", work / "vl.safetensors", "--alpha", "0.3", "--out", out
    )
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
    done = cli(
        "blend",
        "--text",
        work / "text.safetensors",
        "--vl",
        work / "vl.safetensors",
        "--alpha",
        0,
        "--length-match",
        length_match,
        "--out",
        work / "C",
    )
    assert done.code == 0
    assert torch.equal(states(work / "C"), states(work / "text.safetensors"))


@pytest.mark.parametrize(("rows", "wanted"), [("vl", 9), ("text", 9)])
def test_blend_at_alpha_1_without_scaling_writes_the_vl_side(rows, wanted, cli, work):
    done = cli(
        "blend",
        "--text",
        work / "text.safetensors",
        "--vl",
        work / f"{rows}.safetensors",
        "--alpha",
        1,
        "--no-scale-to-text",
        "--length-match",
        "truncate",
        "--out",
        work / "C",
    )
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
    done = cli(
        "blend",
        "--text",
        files[0],
        "--vl",
        files[0],
        "--alpha",
        1,
        "--normalization",
        "per_dim",
        "--reference-stats",
        work / "S.safetensors",
        "--out",
        work / "C",
    )
    assert done.code == 0
    v = states(files[0]).double().numpy()
    wanted = np.clip((v - v.mean(axis=0)) / v.std(axis=0, ddof=1), -3, 3) * both.std(axis=0, ddof=1) + both.mean(axis=0)
    assert np.abs(states(work / "C").double().numpy() - wanted).max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_blend_reads_other_float_types_and_a_batch_of_one(dtype, cli, work):
    kept = states(work / "text.safetensors").to(dtype)
    save_file({"hidden_states": kept[None]}, work / "batch.safetensors")
    assert (
        cli(
            "blend",
            "--text",
            work / "batch.safetensors",
            "--vl",
            work / "vl.safetensors",
            "--alpha",
            0,
            "--out",
            work / "C",
        ).code
        == 0
    )
    assert torch.equal(states(work / "C"), kept.float())


def test_blend_may_write_over_its_own_input(cli, work):
    text = work / "text.safetensors"
    before = states(text)
    assert cli("blend", "--text", text, "--vl", text, "--alpha", 1, "--no-scale-to-text", "--out", text).code == 0
    assert torch.equal(states(text), before)


# --- statistics


def strict(text: str):
    """JSON as every other program reads it: NaN and Infinity are none."""

    def refuse(name: str):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_statistics_tells_the_findings_numbers_with_and_without_position_0(process, work):
    done = process(
        "statistics",
        "--text",
        work / "text.safetensors",
        work / "more.safetensors",
        "--vl",
        work / "vl.safetensors",
        "--json",
    )
    assert done.code == 0, done.err
    told = strict(done.out)
    files = [states(work / f"{name}.safetensors").double().numpy() for name in ("text", "more", "vl")]
    for key, first in (("with_position_0", 0), ("without_position_0", 1)):
        text, vl = np.concatenate([file[first:] for file in files[:2]]), files[2][first:]
        ratio = vl.std(axis=0, ddof=1) / text.std(axis=0, ddof=1)
        assert (told[key]["text_tokens"], told[key]["vl_tokens"]) == (len(text), len(vl))
        assert told[key]["text_std"] == pytest.approx(text.std(ddof=1), rel=1e-4)
        assert told[key]["vl_std"] == pytest.approx(vl.std(ddof=1), rel=1e-4)
        assert told[key]["correlation"] == pytest.approx(
            np.corrcoef(vl.std(axis=0, ddof=1), text.std(axis=0, ddof=1))[0, 1], abs=1e-4
        )
        assert told[key]["worst_ratio"] == pytest.approx(np.maximum(ratio, 1 / ratio).max(), rel=1e-4)
        assert told[key]["worst_dimensions"][0][0] == int(np.maximum(ratio, 1 / ratio).argmax())


def test_image_rows_hold_no_position_0_and_keep_all_rows(cli, work):
    done = cli("statistics", "--text", work / "text.safetensors", "--vl", work / "image_rows.safetensors", "--json")
    told = strict(done.out)
    assert told["vl_holds_position_0"] is False
    assert (told["without_position_0"]["text_tokens"], told["without_position_0"]["vl_tokens"]) == (8, 17)


def test_statistics_without_json_is_for_people(cli, work):
    done = cli("statistics", "--text", work / "text.safetensors", "--vl", work / "vl.safetensors")
    assert done.code == 0
    for words in ("with position 0", "without position 0", "global std", "correlation", "median", "worst"):
        assert words in done.out


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_statistics_of_one_token_are_still_numbers_or_a_clear_refusal(arguments, cli, work):
    """One token has no spread, and without position 0 nothing is left."""
    save_file({"hidden_states": torch.randn(1, HIDDEN)}, work / "one.safetensors")
    for pair in (("one", "vl"), ("text", "one"), ("one", "one")):
        done = cli(
            "statistics", "--text", work / f"{pair[0]}.safetensors", "--vl", work / f"{pair[1]}.safetensors", *arguments
        )
        if done.code == 0:
            assert strict(done.out) if arguments else done.out
        else:
            assert_refused(done)


def test_a_dimension_that_never_changes_leaves_the_json_valid(cli, work):
    save_file({"hidden_states": torch.ones(9, HIDDEN)}, work / "flat.safetensors")
    done = cli("statistics", "--text", work / "flat.safetensors", "--vl", work / "vl.safetensors", "--json")
    assert done.code == 0
    assert strict(done.out)


# --- cache


def test_cache_tells_where_and_how_much_and_clears(process, cli, tmp_path):
    folder = tmp_path / "data" / "cache"
    disk = Disk(str(folder), 100_000)
    told = cli("cache", "--folder", folder)
    assert (told.code, told.out, told.err) == (0, f"{folder}: 0 entries, 0 bytes\n", "")
    assert not folder.exists()
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


# --- options


def test_options_tells_every_control_as_json(process):
    done = process("options", "--json")
    assert done.code == 0
    told = strict(done.out)
    assert [each["name"] for each in told] == [option.name for option in OPTIONS]
    for each, option in zip(told, OPTIONS):
        assert (each["label"], each["default"], each["infotext"], each["axis"]) == (
            option.label,
            option.default,
            option.infotext,
            option.axis,
        )
        assert each["range"] == (None if option.minimum is None else [option.minimum, option.maximum])


def test_options_tells_every_control_to_people(process):
    done = process("options")
    assert done.code == 0
    assert done.err == ""
    for option in OPTIONS:
        assert option.name in done.out
        assert option.help in done.out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["extract", "--help"], ["blend", "--help"], ["statistics", "-h"], ["--version"]]
)
def test_help_and_version_are_no_errors(arguments, process):
    done = process(*arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out


# --- bad input: arguments


BAD_ARGUMENTS = [
    [],
    ["nothing"],
    ["--nothing"],
    ["options", "--nothing"],
    ["options", "extra"],
    ["cache", "extra"],
    ["cache", "--folder"],
    ["extract"],
    ["extract", "a.png"],
    ["extract", "a.png", "--model", "m"],
    ["extract", "a.png", "--out", "o"],
    ["blend"],
    ["blend", "--text", "t"],
    ["blend", "--text", "t", "--vl", "v"],
    ["statistics"],
    ["statistics", "--text"],
    ["extract", "a.png", "--model", "m", "--out", "o", "--layer"],
    ["extract", "a.png", "--model", "m", "--out", "o", "--dtype", "int8"],
]
BAD_VALUES = (
    [
        ("extract", "--layer", value)
        for value in (
            "0",
            "1",
            "-1001",
            "x",
            "",
            "-1.5",
            "NaN",
            "1e99",
            "[-8]",
            "true",
            "null",
            "-8\n-9",
            "0x8",
            "-" + "9" * 400,
        )
    ]
    + [
        ("extract", "--tokens", "words"),
        ("extract", "--tokens", ""),
        ("extract", "--reference-tokens", "3"),
        ("extract", "--reference-tokens", "1025"),
        ("extract", "--reference-tokens", "many"),
        ("extract", "--dtype", "a\nb"),
    ]
    + [
        ("blend", "--alpha", value)
        for value in (
            "-0.1",
            "1.1",
            "x",
            "",
            "0,3",
            "NaN",
            "Infinity",
            "1e400",
            "9" * 400,
            "-" + "9" * 400,
            "9" * 5000,
            '"0.3"',
            "true",
            "{}",
            "0.3 0.4",
        )
    ]
    + [
        ("blend", "--normalization", "all"),
        ("blend", "--outlier-repair", "x"),
        ("blend", "--outlier-threshold", "0"),
        ("blend", "--length-match", "x"),
        ("blend", "--blend-mode", "Linear"),
        ("blend", "--scale-to-text", "yes"),
    ]
)


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=lambda arguments: " ".join(arguments) or "none")
def test_a_wrong_command_line_is_one_line(arguments, process):
    assert_refused(process(*arguments))


@pytest.mark.parametrize(("command", "option", "value"), BAD_VALUES, ids=lambda value: repr(value)[:30])
def test_a_wrong_value_is_one_line_that_names_its_option(command, option, value, cli, work):
    needed = {
        "extract": ["image.png", "--model", "m", "--out", work / "o"],
        "blend": ["--text", "t", "--vl", "v", "--out", work / "o"],
    }[command]
    result = cli(command, *needed, f"{option}={value}")
    assert_refused(result, option)
    assert len(result.err) < 700
    assert not (work / "o").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["no\nthing"],
        ["options", "ex\ntra"],
        ["options", "--no\nthing"],
        ["extract", "no\nsuch.png", "--model", "m", "--out", "o"],
        ["extract", "{work}/image.png", "--model", "no\nsuch", "--out", "o"],
        ["blend", "--text", "no\nsuch", "--vl", "v", "--out", "o"],
        ["extract", "{work}/image.png", "--model", "m", "--out", "no\nfolder/o"],
    ],
)
def test_a_name_with_a_line_break_does_not_break_the_line(arguments, cli, work):
    assert_refused(cli(*(argument.replace("{work}", str(work)) for argument in arguments)))


# --- bad input: files


@pytest.fixture
def extract_arguments(work, folder):
    def make(**changed: object) -> list[object]:
        given = {"image": work / "image.png", "model": folder, "layer": -2, "out": work / "V.safetensors"} | changed
        return [
            "extract",
            given.pop("image"),
            *(part for name, value in given.items() for part in ("--" + name, value)),
        ]

    return make


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "content", [None, b"", b"text", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 50]
)
def test_extract_refuses_what_is_no_picture(content, process, work, extract_arguments):
    if content is not None:
        (work / "bad.png").write_bytes(content)
    before = listing(work)
    assert_refused(process(*extract_arguments(image=work / "bad.png")), "Reference image")
    assert listing(work) == before


def test_extract_refuses_a_huge_picture_in_one_line(process, work, extract_arguments):
    """Pillow warns about sizes between its own two limits, on standard error as well."""
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += (12_000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    (work / "huge.bmp").write_bytes(header)
    assert_refused(process(*extract_arguments(image=work / "huge.bmp")), "million pixels")


@pytest.mark.parametrize("what", ["nothing", "a text", "a folder", "a pickle"])
def test_extract_refuses_what_is_no_model(what, cli, work, extract_arguments):
    path = work / "bad"
    if what == "a text":
        path.write_text("text")
    elif what == "a folder":
        path.mkdir()
    elif what == "a pickle":
        path = work / "bad.safetensors"
        path.write_bytes(b"\x80\x04N.")
    assert_refused(cli(*extract_arguments(model=path)), "bad")
    assert not (work / "V.safetensors").exists()


def test_extract_refuses_damaged_weights_in_one_line_and_writes_nothing(
    process, work, folder, model, extract_arguments
):
    """Only noticed while the model is loaded, with transformers at work: it must not add lines of its own."""
    weights = tiny.inner_state(model)
    del weights["language_model.layers.3.mlp.up_proj.weight"]
    path = tiny.save_single(weights, work / "part.safetensors", metadata=tiny.config_metadata(model.config))
    before = listing(work)
    assert_refused(
        process(*extract_arguments(model=path, tokenizer=folder)),
        "language_model.layers.3.mlp.up_proj.weight is missing",
    )
    assert listing(work) == before


def test_extract_refuses_a_layer_the_model_does_not_have(cli, extract_arguments):
    assert_refused(cli(*extract_arguments(layer=-8)), "Hidden layer -8 does not exist: tiny-vl has layers -1 to -5")


@pytest.mark.parametrize("content", ["", "{}", "[]", "\0", '{"version": "1.0"}'])
def test_extract_refuses_a_broken_tokenizer(content, cli, work, extract_arguments):
    (work / "tokenizer.json").write_text(content)
    assert_refused(cli(*extract_arguments(tokenizer=work)), "tokenizer.json")


def test_extract_refuses_a_tokenizer_of_another_model(cli, work, extract_arguments):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(work / "tokenizer.json"))
    assert_refused(cli(*extract_arguments(tokenizer=work)))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:-1", "cpu:x", "meta", "a\nb"])
def test_extract_refuses_devices_that_are_none(device, cli, extract_arguments):
    assert_refused(cli(*extract_arguments(device=device)), "device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_extract_refuses_devices_that_this_machine_has_not(device, cli, work, extract_arguments):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    assert_refused(cli(*extract_arguments(device=device)), device)
    assert not (work / "V.safetensors").exists()


def test_extract_refuses_a_prompt_that_is_no_text(cli, extract_arguments):
    """What Python makes of an argument's bytes that are not UTF-8."""
    assert_refused(cli(*extract_arguments(prompt="a \udcff cat")))


@pytest.mark.parametrize("command", ["extract", "blend", "statistics"])
@pytest.mark.parametrize("out", ["nowhere/V.safetensors", "."])
def test_an_output_that_can_not_be_written_is_refused(command, out, cli, work, extract_arguments):
    pair = ["--text", work / "text.safetensors", "--vl", work / "vl.safetensors"]
    arguments = {
        "extract": extract_arguments(out=work / out),
        "blend": ["blend", *pair, "--out", work / out],
        "statistics": ["statistics", *pair, "--reference-out", work / out],
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
    files = {"text": work / "text.safetensors", "vl": work / "vl.safetensors"} | {side: work / "bad.safetensors"}
    before = listing(work)
    out = ["--out", work / "C.safetensors"] if command == "blend" else []
    assert_refused(cli(command, "--text", files["text"], "--vl", files["vl"], *out), "bad.safetensors")
    assert listing(work) == before


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
    pair = ["--text", work / "text.safetensors", "--vl", work / "vl.safetensors"]
    assert_refused(
        cli("blend", *pair, "--reference-stats", work / "S.safetensors", "--out", work / "C.safetensors"),
        "S.safetensors",
    )
    assert not (work / "C.safetensors").exists()


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
    arguments = [
        "blend",
        "--text",
        work / "text.safetensors",
        "--vl",
        work / "vl.safetensors",
        "--out",
        work / "C.safetensors",
    ]
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
    done = process(
        "blend",
        "--text",
        work / "long.safetensors",
        "--vl",
        work / "vl.safetensors",
        "--out",
        work / "C.safetensors",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert_refused(done, "C.safetensors")
    assert listing(work) == before
