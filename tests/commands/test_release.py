"""What others read of the project: the extension index, the web UI's list of extensions, the changelog."""

from __future__ import annotations

import configparser
import datetime
import json
import re
from pathlib import Path

import zvl_ext

ROOT = Path(__file__).parents[2]
# Those of AUTOMATIC1111/stable-diffusion-webui-extensions, tags.json; "installed" is the web UI's own.
_TAGS = {
    "script", "localization", "tab", "dropdown", "ads", "training", "models", "UI related", "prompting", "editing",
    "manipulations", "online", "animation", "query", "science", "extras",
}  # fmt: skip


def test_the_index_takes_the_entry() -> None:
    """After that repository's .github/scripts/validate.py."""
    entry = json.loads((ROOT / ".github" / "index-entry.json").read_text(encoding="utf-8"))
    assert list(entry) == ["name", "url", "description", "added", "tags"]
    assert re.fullmatch(r"https://github\.com/[^/ ]+/[^/ ]+\.git", entry["url"])
    assert datetime.date.fromisoformat(entry["added"])
    assert entry["tags"]
    assert set(entry["tags"]) <= _TAGS
    assert entry["name"] == "Z-Image VL"
    assert 20 < len(entry["description"]) <= 300
    assert "\n" not in entry["description"]


def test_the_metadata_is_what_the_package_says() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "metadata.ini", encoding="utf-8")
    assert metadata.sections() == ["Extension"]
    extension = metadata["Extension"]
    name = json.loads((ROOT / ".github" / "index-entry.json").read_text(encoding="utf-8"))["url"].split("/")[-1]
    assert extension["Name"] == extension["Name"].lower().strip() == name.removesuffix(".git")
    assert extension["Version"] == zvl_ext.__version__
    assert extension["License"] in (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()[0]
    assert not {"Requires", "Before", "After"} & set(extension)


def test_the_changelog_leads_up_to_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text, re.M)
    released = [(version, datetime.date.fromisoformat(day)) for version, day in headings if version != "Unreleased"]
    assert [day for _, day in released] == sorted((day for _, day in released), reverse=True)
    assert headings[0][0] == "Unreleased"
    assert released[0][0] == zvl_ext.__version__
    parts = re.findall(r"^### (\w+)$", text.split("## [0.2.0]")[1].split("## [0.1.0]")[0], re.M)
    assert parts == ["Added", "Changed", "Fixed"]


def test_the_package_has_the_version_of_the_module_and_the_extension_s_name() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]\n' in project
    assert 'version = { attr = "zvl_ext.__version__" }' in project
    entry = json.loads((ROOT / ".github" / "index-entry.json").read_text(encoding="utf-8"))
    added = re.findall(r"^## \[[\d.]+\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert entry["added"] in added, "the day of a release"
