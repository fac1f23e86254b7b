"""Texts of the user's own are limited before they are put together, and once they are tokens."""

import pytest

from zvl_ext.options import PROMPT
from zvl_ext.texts import MOST_CHARACTERS, MOST_TOKENS, filled


def words(text):
    return [0] * len(text.split())


def never(text):
    raise AssertionError("it was put together and encoded")


def test_the_prompt_is_put_in_wherever_its_place_is():
    assert (
        filled("vl_prompt", "Draw {prompt}, yes {prompt}!", "a {prompt}", words) == "Draw a {prompt}, yes a {prompt}!"
    )
    assert filled("system_prompt", "{other} {", "a cat", words) == "{other} {"
    assert filled("system_prompt", "", "a cat", words) == ""


@pytest.mark.parametrize(
    ("own", "prompt"), [(PROMPT * 100_000, "x" * 12_000), (PROMPT * 2, "x" * 10_001), ("y" * 20_001, "")]
)
def test_what_would_have_too_many_characters_is_not_put_together(own, prompt, refused):
    length = len(own.replace(PROMPT, "")) + own.count(PROMPT) * len(prompt)
    with refused(f"^Text for Qwen3-VL has {length} characters .* at most {MOST_CHARACTERS} are read. Shorten it.$"):
        filled("vl_prompt", own, prompt, never)


def test_what_has_too_many_tokens_is_refused(refused):
    assert filled("system_prompt", "a " * MOST_TOKENS, "", words)
    with refused(f"^System text has {MOST_TOKENS + 1} tokens .* at most {MOST_TOKENS} are read"):
        filled("system_prompt", "a " * (MOST_TOKENS + 1), "", words)
