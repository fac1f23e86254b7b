"""`options`: every control, for people and as JSON."""

from command_line import strict

from zvl_ext.options import OPTIONS


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
