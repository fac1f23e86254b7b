"""The README says what the code does."""

from pathlib import Path

from zvl_ext.__main__ import COMMANDS
from zvl_ext.commands import options
from zvl_ext.presets import PRESETS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_options_is_the_declared_one():
    assert options.options_table() in README, "run: python -m zvl_ext options --markdown"


def test_every_preset_is_explained():
    for name in PRESETS:
        assert f"| {name} |" in README


def test_every_command_is_shown():
    for command in COMMANDS:
        assert f"python -m zvl_ext {command.__name__.rpartition('.')[2].replace('_', '-')}" in README
