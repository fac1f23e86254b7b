"""A user's folder of pictures, whatever lies in it."""

import numpy as np
import pytest
from PIL import Image

from zvl_ext.fit.album import FEWEST, open_album


def filled(folder, count=FEWEST, captioned=True):
    for number in range(count):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(folder / f"{number:02d}.png")
        if captioned:
            (folder / f"{number:02d}.txt").write_text(f"grey {number},\n even\n", encoding="utf-8")
    return folder


def opened(folder, describe=None):
    said = []
    made = open_album(str(folder), describe or (lambda reference: f"described {reference.name}"), said.append)
    return made, said


def test_pictures_come_in_their_order_with_their_captions(tmp_path):
    pictures, said = opened(filled(tmp_path))
    assert [picture.name for picture in pictures] == [f"{n:02d}.png" for n in range(FEWEST)]
    assert pictures[3].caption == "grey 3, even"
    assert all(picture.own for picture in pictures)
    assert said == []


def test_pictures_without_captions_are_described(tmp_path):
    filled(tmp_path)
    (tmp_path / "02.txt").unlink()
    pictures, _ = opened(tmp_path)
    assert [picture.own for picture in pictures].count(False) == 1
    assert pictures[2].caption == "described 02.png"


def test_other_files_are_nobodys_business(tmp_path):
    filled(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    (tmp_path / "folder").mkdir()
    assert len(opened(tmp_path)[0]) == FEWEST


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("90.png", b"\x89PNG\r\n\x1a\n damaged", "90.png is left out"),
        ("90.png", b"", "90.png is left out"),
        ("90.jpg", b"no picture at all", "90.jpg is left out"),
        ("03.txt", b" , ; .\n", "03.png is left out: its caption has no words."),
        ("03.txt", b"", "03.png is left out: its caption has no words."),
        ("03.txt", b"\xff\xfe\x00 no UTF-8", "03.txt can't be read as UTF-8"),
        ("03.txt", b"x" * 2**17, "longer than"),
    ],
)
def test_what_can_not_be_used_is_said_and_left_out(tmp_path, name, data, words):
    filled(tmp_path, FEWEST + 1)
    (tmp_path / name).write_bytes(data)
    pictures, said = opened(tmp_path)
    assert len(pictures) >= FEWEST
    assert len(said) == 1
    assert words in said[0]
    assert "\n" not in said[0]


def test_the_same_picture_again_is_left_out(tmp_path):
    """Else it would be learned from and decide, too."""
    filled(tmp_path)
    (tmp_path / "copy.png").write_bytes((tmp_path / "01.png").read_bytes())
    pictures, said = opened(tmp_path)
    assert len(pictures) == FEWEST
    assert said == ["copy.png is left out: it is the same picture as 01.png."]


def test_a_caption_that_is_a_folder_is_said(tmp_path):
    filled(tmp_path, FEWEST + 1)
    (tmp_path / "03.txt").unlink()
    (tmp_path / "03.txt").mkdir()
    assert "03.txt can't be read" in opened(tmp_path)[1][0]


@pytest.mark.parametrize(("count", "words"), [(0, "has no pictures"), (1, "has 1 picture that"), (7, "has 7 pictures")])
def test_too_few_pictures_are_refused(tmp_path, refused, count, words):
    with refused(words):
        opened(filled(tmp_path, count))


@pytest.mark.parametrize("name", ["nowhere", "file", "a\0b"])
def test_what_is_no_folder_is_refused(tmp_path, refused, name):
    (tmp_path / "file").write_text("")
    with refused("can't be read as a folder"):
        opened(f"{tmp_path}/{name}")
