"""What README and pages take from the project itself: `python .github/docs/make_pages.py` writes it in again.

It stands between marks, which a reader of the page does not see:

    <!-- =options -->...<!-- / -->                                    a table of MADE
    <!-- =evidence presets; Balanced; adherence -->0.56<!-- / -->     a number of results.json: part, row, measure; a
                                                                      format may follow: percent
    <!-- =claim More alpha; alpha 0.3 ([+-.\\d]+) -->+0.00<!-- / -->    a number in a claim's numbers: how the claim
                                                                      begins, and a pattern with the number in brackets

A test has everything as it would be written now, so after `evaluate`, or a change of an option or a preset, this is the
one command.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / ".github" / "docs").glob("*.md")))
_RESULTS = ROOT / "zvl_ext" / "lab" / "miniature" / "evidence" / "results.json"
_MARK = re.compile(r"<!-- =(?P<what>.+?) -->(?P<now>.*?)<!-- / -->", re.S)
# Rows of the evidence page's table: what it calls them, and where they lie: part, row.
_EVIDENCE = (
    ("the prompt alone", "baselines", "prompt alone"),
    *((f"**{name}**" if name == "Balanced" else name, "presets", name) for name in (
        "Balanced", "Fill in", "Close variation", "Research default", "Research, all tokens", "Research image tokens",
        "Image tokens, sink-aware", "Splice: faithful", "Splice: variation", "Splice: creative", "Splice: gist")),
    *((f"weight {weight} (engine splice, positions sequential)", "weight", f"splice, sequential: {weight}")
      for weight in ("0.1", "0.2", "0.35", "0.5", "0.7", "1", "2")),
    ("a caption of the reference behind the prompt", "baselines", "caption behind the prompt"),
    ("img2img, denoising strength 0.25", "baselines", "img2img, strength 0.25"),
    ("a trained adapter of IP-Adapter's kind, scale 1", "baselines", "trained adapter, scale 1"),
    ("the same, scale 1.5", "baselines", "trained adapter, scale 1.5"),
)  # fmt: skip


@functools.cache
def results() -> dict[str, Any]:
    return json.loads(_RESULTS.read_text(encoding="utf-8"))


def measured(part: str, row: str, measure: str) -> float:
    found = [each for each in results()["rows"] if (each["part"], each["name"]) == (part, row)]
    if len(found) != 1:
        raise SystemExit(f"results.json has {len(found)} rows {row!r} in part {part!r}.")
    value = found[0]["measured"][measure]
    return value[0] if isinstance(value, list) else value


def _number(what: str) -> str:
    part, row, measure, *form = what.split("; ")
    value = measured(part, row, measure)
    return f"{100 * value:.0f} %" if form == ["percent"] else f"{value:.2f}"


def _claimed(what: str) -> str:
    """The one number of a claim that the pattern has in brackets; several claims may begin alike."""
    begins, pattern = what.split("; ", 1)
    claims = [*results()["must_show"], *results()["findings"]]
    found = [
        m[1] for claim in claims if claim["claim"].startswith(begins) and (m := re.search(pattern, claim["numbers"]))
    ]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} claims that begin with {begins!r} have {pattern!r} in their numbers.")
    return found[0]


def _options(_: str) -> str:
    from zvl_ext.commands.options import options_table

    return f"\n{options_table()}\n"


def _presets(_: str) -> str:
    from zvl_ext.presets import ABOUT, PRESETS

    rows = [f"| {name} | {PRESETS[name]['engine']} | {about} |" for name, about in ABOUT.items()]
    return "\n".join(["", "| preset | engine | what it is for |", "|---|---|---|", *rows, ""])


def _axes(_: str) -> str:
    from zvl_ext.options import OPTIONS

    return ", ".join(f"*{option.axis}*" for option in OPTIONS if option.axis and option.unit < 2)


def _evidence(_: str) -> str:
    shares = ("adherence", "similarity", "neither")
    rows = [
        f"| {called} | {' | '.join(f'{measured(part, row, share):.2f}' for share in shares)} |"
        for called, part, row in _EVIDENCE
    ]
    return "\n".join(["", "| | follows the prompt | follows the reference | neither |", "|---|---|---|---|", *rows, ""])


def _claims(_: str) -> str:
    def table(kind: str, title: str) -> list[str]:
        rows = [f"| {each['claim']} | {each['verdict']} |" for each in results()[kind]]
        return [f"| {title} | verdict |", "|---|---|", *rows]

    return "\n".join(
        ["", *table("must_show", "claim"), "", "And what others have published:", "", *table("findings", "finding"), ""]
    )


def _fitted(_: str) -> str:
    rows = []
    for name in ("prompt alone", "caption behind the prompt", *results()["best of fitted"]):
        half, full = (
            next(each for each in results()["rows"] if each["part"] == "fitted" and each["name"] == f"{asked}: {name}")
            for asked in ("half prompts", "full prompts")
        )
        made = half.get("learned", {"parameters": 0, "seconds": 0})
        shares = [half["measured"][share][0] for share in ("adherence", "similarity")]
        shares += [full["measured"][share][0] for share in ("adherence", "similarity")]
        told = [f"{made['parameters']:,}", f"{made['seconds']:.0f}", *(f"{share:.2f}" for share in shares)]
        rows.append(f"| {name} | {' | '.join(told)} |")
    columns = ["", "numbers", "seconds", "half: kept", "half: filled in", "full: prompt", "full: reference"]
    return "\n".join(["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows, ""])


MADE: dict[str, Callable[[str], str]] = {
    "options": _options,
    "presets": _presets,
    "axes": _axes,
    "shares": _evidence,
    "claims": _claims,
    "fitted": _fitted,
    "evidence": _number,
    "claim": _claimed,
}


def made(text: str) -> str:
    """A page as it has to be."""

    def again(mark: re.Match[str]) -> str:
        what = mark["what"]
        name = next(name for name in MADE if what == name or what.startswith(f"{name} "))
        return f"<!-- ={what} -->{MADE[name](what[len(name) :].strip())}<!-- / -->"

    return _MARK.sub(again, text)


def main() -> None:
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = made(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: written")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
