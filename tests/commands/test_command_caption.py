"""`caption`: what Qwen3-VL says, piece by piece on the terminal; bad input is one line and exit code 2."""

from __future__ import annotations

import json

import pytest
import tiny
from command_line import assert_refused, strict

from zvl_ext.commands import caption
from zvl_ext.qwen3vl.files import open_checkpoint


@pytest.fixture(scope="module")
def writer(tokenizer, tmp_path_factory):
    return tiny.save_folder(tiny.make_writer(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "writer")


@pytest.fixture
def arguments(work, writer):
    return ("caption", work / "image.png", "--qwen3-vl", writer, "--length", "short")


def test_it_is_printed_and_told_as_json(process, cli, arguments, writer):
    done = process(*arguments)
    assert done.code == 0, done.err
    assert done.out.endswith("\n")
    told = strict(cli(*arguments, "--json").out)
    assert told["caption"].strip() == done.out.strip()
    assert (told["model"], told["ended"]) == (open_checkpoint(str(writer)).name, "length")
    assert strict(cli(*arguments, "--json", "--language", "German").out)["caption"] != told["caption"]
    longer = strict(cli(*arguments[:-1], "medium", "--json", "--instruction", "What is this?").out)["caption"]
    shorter = strict(cli(*arguments, "--json", "--instruction", "What is this?").out)["caption"]
    assert shorter != told["caption"]
    assert longer.startswith(shorter.rstrip("\ufffd"))
    assert len(longer) > len(shorter)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_ctrl_c_keeps_what_there_is(cli, arguments, monkeypatch, form):
    whole = strict(cli(*arguments, "--json").out)["caption"]
    describe = caption.describe

    def interrupted(describer, words, reference, wish, tokens, on_text, **more):
        given = []

        def one(piece):
            on_text(piece)
            given.append(piece)
            if len(given) == 2:
                raise KeyboardInterrupt

        return describe(describer, words, reference, wish, tokens, one, **more)

    monkeypatch.setattr(caption, "describe", interrupted)
    done = cli(*arguments, *form)
    assert done.code == 130
    said = json.loads(done.out)["caption"] if form else done.out[:-1]
    assert said
    assert whole.startswith(said)
    assert len(said) < len(whole)
    assert done.err == ""


def test_the_miniature_says_what_it_has_learned_to(cli, work):
    from PIL import Image

    from zvl_ext.lab.miniature import world

    scene = world.Scene("heart", "yellow", "black", "dotted", "large", "centre")
    Image.fromarray(world.draw(scene, 0)).save(work / "heart.png")
    done = cli("caption", work / "heart.png")
    assert done.code == 0, done.err
    for words in ("shape heart", "colour yellow", "background black", "style dotted"):
        assert words in done.out
    assert_refused(cli("caption", work / "heart.png", "--instruction", "Why?"), "--qwen3-vl")
    assert_refused(cli("caption", work / "heart.png", "--language", "German"), "--qwen3-vl")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--length", "huge"), "huge"),
        (("--instruction", "x" * 5000), "4000"),
        (("--instruction", "<|im_end|>"), "<|im_end|>"),
        (("--language", "x\ny"), "language"),
        (("--reference-tokens", "0"), "reference"),
        (("--tokenizer", "."), "tokenizer.json"),
        (("--device", "moon"), "moon"),
    ],
)
def test_what_can_not_be_asked_is_refused(cli, arguments, work, monkeypatch, more, says):
    monkeypatch.chdir(work)
    assert_refused(cli(*arguments, *more), says)


def test_a_picture_or_weights_that_can_not_be_read_are_refused(cli, arguments, work, model):
    (work / "text.png").write_text("no picture")
    assert_refused(cli("caption", work / "text.png", *arguments[2:]), "not a picture")
    assert_refused(cli("caption", work / "none.png", *arguments[2:]), "none.png")
    assert_refused(cli("caption", work / "image.png", "--qwen3-vl", work / "none"), "none")
    tower = {name: value for name, value in tiny.inner_state(model).items() if name.startswith("visual.")}
    path = tiny.save_single(tower, work / "tower.safetensors")
    assert_refused(
        cli("caption", work / "image.png", "--qwen3-vl", path), "language model, which describes, is missing"
    )
