"""Parameters as the line of text under a picture, and back."""

import contextlib
import json
import re

_KEY = re.compile(r"[\s,]*(\w[^:,\"]*):\s*")


class PasteField(tuple):
    """A component with the label, or the function of all parameters, that its pasted value comes from."""

    def __new__(cls, component, target, *, api=None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api=None):
        self.component, self.api = component, api
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


def quote(text):
    return json.dumps(text, ensure_ascii=False) if any(c in str(text) for c in ",:\n") else text


def pairs(line):
    """`key: value` up to the next comma; a value that begins as JSON text ends where that does."""
    at = 0
    while key := _KEY.match(line, at):
        at = key.end()
        end = line.find(",", at) % (len(line) + 1)  # not found: -1 becomes the end
        value = line[at:end]
        if value.startswith('"'):
            with contextlib.suppress(ValueError):  # it only looked like one
                value, end = json.JSONDecoder().raw_decode(line, at)
        elif not value:
            value = None
        yield key[1], value
        at = end


def parse_generation_parameters(x, skip_fields=None):
    """The last line's pairs. An empty value is lost, and one like 512x512 becomes two: both are the host's way."""
    *prompt, last = x.strip().split("\n")
    found = {"Prompt": "\n".join(prompt)}
    for key, value in pairs(last):
        if value is None:
            continue
        sides = value.split("x")
        if len(sides) == 2 and all(side.isdecimal() for side in sides):
            found.update({f"{key}-1": sides[0], f"{key}-2": sides[1]})
        else:
            found[key] = value
    return found
