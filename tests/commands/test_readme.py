"""README and pages say what the code does, what the evidence has, and where things are."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from zvl_ext.__main__ import build_parser
from zvl_ext.options import OPTIONS
from zvl_ext.presets import PRESETS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / ".github" / "docs"
WORDS = 900
PICTURES = 4 * 10**6  # bytes of all pictures of the repository
_TARGET = re.compile(r"""(?:\]\(|src(?:set)?=")([^)"\s#]+)""")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_pages = script("make_pages")
PAGES = make_pages.PAGES
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@page
def test_what_is_made_is_up_to_date(page: Path) -> None:
    assert make_pages.made(TEXT[page]) == TEXT[page], "run: python .github/docs/make_pages.py"


def test_a_number_that_changed_is_written_again() -> None:
    stale = "a <!-- =evidence presets; Balanced; adherence -->0.01<!-- / --> b"
    now = make_pages.measured("presets", "Balanced", "adherence")
    assert make_pages.made(stale) == f"a <!-- =evidence presets; Balanced; adherence -->{now:.2f}<!-- / --> b"
    with pytest.raises(SystemExit, match="0 rows"):
        make_pages.made("<!-- =evidence presets; Nothing; adherence --><!-- / -->")


@page
def test_a_mark_within_text_never_begins_a_line(page: Path) -> None:
    """Markdown would take the line for HTML and end the paragraph."""
    assert not re.search(r"^\s*<!-- =(evidence|claim) ", TEXT[page], re.M)


def test_the_readme_is_short() -> None:
    text = re.sub(r"<!--.*?-->", "", TEXT[ROOT / "README.md"], flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # where a link goes to is not read
    words = [word for word in text.split() if re.search(r"\w", word)]
    assert len(words) <= WORDS, len(words)


def test_every_preset_option_and_command_has_its_place() -> None:
    for name in PRESETS:
        assert f"| {name} |" in TEXT[DOCS / "using.md"]
    for option in OPTIONS:
        assert option.unit > 1 or f"| `{option.name}`<br>{option.label} |" in TEXT[DOCS / "options.md"]
    for command in commands(build_parser()):
        assert any(command in text for text in TEXT.values()), f"no page shows {command}"


def commands(parser: argparse.ArgumentParser) -> list[str]:
    """As they are typed, those within one included."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = [name for action in inner for each in action.choices.values() for name in commands(each)]
    return found or [parser.prog]


@page
def test_links_and_pictures_are_there(page: Path) -> None:
    targets = [target for target in _TARGET.findall(TEXT[page]) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target).resolve() for target in _TARGET.findall(TEXT[ROOT / "README.md"])}
    assert set(DOCS.glob("*.md")) <= linked


def test_every_picture_is_shown_and_can_be_made_again() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in _TARGET.findall(TEXT[page])}
    kept = set((DOCS / "pictures").iterdir())
    assert kept <= shown
    made = script("make_pictures")
    source = (DOCS / "make_pictures.py").read_text(encoding="utf-8")
    of_panel = {"panel-light", "panel-dark"}  # the theme is part of the name
    assert not [path for path in kept if path.stem not in {*made.STRIPS, *of_panel} and f'"{path.stem}"' not in source]


def test_the_pictures_are_few() -> None:
    kinds = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
    not_ours = re.compile(r"\.git/|\.venv|data/|build/|dist/|zvl-demo")
    found = [path for path in ROOT.rglob("*") if path.suffix in kinds]
    found = [path for path in found if not not_ours.match(path.relative_to(ROOT).as_posix())]
    assert DOCS / "pictures" / "weight.png" in found
    assert sum(path.stat().st_size for path in found) <= PICTURES
