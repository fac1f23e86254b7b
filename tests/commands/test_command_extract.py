"""`extract`: hidden states in a file; bad input is one line on standard error, exit code 2 and no file."""

import hashlib

import pytest
import tiny
import torch
from command_line import assert_refused, listing, metadata, states


def test_extract_writes_what_plain_transformers_says(process, work, extract_arguments, model, tokenizer):
    out = work / "V.safetensors"
    prompt = '\n\nein "Bär" {0} 🐻'
    done = process(*extract_arguments(prompt=prompt, layer=-3, tokens="all", out=out))
    assert done.code == 0, done.err
    assert str(out) in done.out
    pixels = tiny.plain_pixels(tiny.picture(160, 96), 256)
    ids, modes = tiny.plain_ids(tokenizer, prompt, 15)
    wanted = tiny.plain_hidden_states(model, ids, pixels, modes["image_no_markers"])[-3]
    got = states(out)
    assert (got.dtype, got.shape) == (torch.float32, wanted.shape)
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-3
    told = metadata(out)
    wanted = {"layer": "-3", "tokens": "all", "prompt": prompt, "image_tokens": "15", "model": "tiny-vl"}
    assert wanted.items() <= told.items()
    assert told["reference"] == hashlib.sha256((work / "image.png").read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["text", "image", "image_no_markers", "all"])
def test_extract_selects_the_rows_of_each_token_mode(mode, cli, work, extract_arguments, encode):
    n = len(encode("<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"))
    assert cli(*extract_arguments(prompt="a cat", tokens=mode)).code == 0
    assert len(states(work / "V.safetensors")) == {"text": n, "image": 17, "image_no_markers": 15, "all": n + 17}[mode]


def test_extract_keeps_to_the_token_budget(cli, work, extract_arguments):
    tiny.picture(900, 700).save(work / "large.png")
    given = {"image": work / "large.png", "reference_tokens": 16, "tokens": "image_no_markers", "out": work / "V"}
    assert cli(*extract_arguments(**given)).code == 0
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


# --- bad input


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
