"""`--help` of every command has examples that can be typed, and what was typed wrong names that command's own help."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator

import pytest
from command_line import Result

from zvl_ext.__main__ import COMMANDS, MINIATURE, build_parser, main


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Of all commands, and of the commands within one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from parsers(each)


EVERY = list(parsers(build_parser()))
every = pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog.removeprefix("python -m zvl_ext "))


def test_every_command_is_met() -> None:
    assert len(EVERY) >= len(COMMANDS) > 12


@every
def test_its_help_says_what_it_does_and_shows_it(parser: argparse.ArgumentParser) -> None:
    assert re.fullmatch(r"[A-Z].{20,}\.", parser.description or "")
    examples = [line.strip() for line in parser.format_help().splitlines() if line.startswith("  python -m zvl_ext ")]
    assert examples
    for example in examples:
        assert example.startswith(parser.prog)
        build_parser().parse_args(shlex.split(example)[3:])  # raises what it can't take


@every
def test_its_help_explains_every_argument_and_its_words(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action.option_strings
        assert "Default: ." not in (action.help or "")
    said = parser.format_help()
    assert said.count(MINIATURE) == ("miniature" in said.replace(MINIATURE, ""))


@every
def test_what_is_not_known_names_its_own_help(parser: argparse.ArgumentParser, capfd: pytest.CaptureFixture) -> None:
    example = next(line for line in parser.format_help().splitlines() if line.startswith("  python -m zvl_ext "))
    assert main([*shlex.split(example)[3:], "--no-such-thing"]) == 2
    said = capfd.readouterr().err
    assert "--no-such-thing" in said
    command = parser.prog if not parser._subparsers else rf"{parser.prog} \w+"
    assert re.search(rf"\(see {command} --help\)\n$", said), said


def test_no_such_command_names_the_whole_help(cli: Callable[..., Result]) -> None:
    assert cli("paint").err.endswith("(see python -m zvl_ext --help)\n")
    assert cli("fit", "dreams").err.endswith("(see python -m zvl_ext fit --help)\n")


def test_a_value_it_can_not_take_names_its_own_help(cli: Callable[..., Result]) -> None:
    assert cli("generate", "--size", "12").err.endswith("(see python -m zvl_ext generate --help)\n")
    assert cli("extract").err.endswith("(see python -m zvl_ext extract --help)\n")
