"""The command line itself: help is no error, and a wrong argument is one line that names it, with exit code 2."""

import pytest
from command_line import assert_refused


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
