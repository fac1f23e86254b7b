"""The page "Z-Image VL" in the web UI's settings, declared once: it is registered, read and documented from here."""

from __future__ import annotations

from dataclasses import dataclass

from ..hosts import forge

SECTION = ("zvl", "Z-Image VL")
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """One slider.

    Attributes:
        name: The key in the web UI's settings file and API.
        default, minimum, maximum, step: In MiB.
        label: What the page calls it.
        help: A sentence shown beside it.
    """

    name: str
    default: int
    minimum: int
    maximum: int
    step: int
    label: str
    help: str

    @property
    def value(self) -> float:
        """The user's choice; the default where a hand-edited file holds anything but a number within the range."""
        value = forge.setting(self.name, self.default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if number and self.minimum <= value <= self.maximum else self.default


@dataclass(frozen=True)
class Switch:
    """One checkbox; as `Setting`, on or off."""

    name: str
    default: bool
    label: str
    help: str

    @property
    def value(self) -> bool:
        value = forge.setting(self.name, self.default)
        return value if isinstance(value, bool) else self.default


MEMORY = Setting(
    "zvl_memory", 1024, 64, 16384, 64, "Main memory for kept references and results, in MiB",
    "what Qwen3-VL made of references and prompts, so that the same ones are not read again; the longest unused goes "
    "first",
)  # fmt: skip
DISK = Setting(
    "zvl_disk", 0, 0, 65536, 256, "Disk space for kept references and results, in MiB",
    "0 = off; hidden states of references and prompts in the extension's data folder, so that they survive a restart",
)  # fmt: skip
REFERENCES = Setting(
    "zvl_references", 256, 0, 16384, 64, "Disk space for used reference images, in MiB",
    "0 = off; kept as PNG in the extension's data folder, so that pasting a picture's parameters brings its reference "
    "back after a restart; the wastebasket in the panel removes them",
)  # fmt: skip
NESTED = Switch(
    "zvl_nested", True, "Use the reference in passes that other extensions make within a picture",
    "such as ADetailer's for faces, where its own settings let this script through (script name zvl); off: these "
    "passes have their prompt alone",
)  # fmt: skip
SETTINGS = (MEMORY, DISK, REFERENCES, NESTED)


def register() -> None:
    """Add the page; the web UI calls this before it builds its settings, again after a reload of them."""
    if forge.has_zimage():
        forge.register_settings(SECTION, SETTINGS)


def memory_limit() -> int:
    """Bytes of main memory for what is kept."""
    return int(MEMORY.value * MIB)


def disk_limit() -> int:
    """Bytes on disk for what is kept; 0 keeps nothing there."""
    return int(DISK.value * MIB)


def references_limit() -> int:
    """Bytes on disk for used references; 0 keeps none there."""
    return int(REFERENCES.value * MIB)
