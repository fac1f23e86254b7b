"""Settings of the published findings, for tests that are about a mechanism and not about what a fresh panel has."""

from __future__ import annotations

from typing import Any

from zvl_ext.options import Settings

NAME = "Research default"  # engine blend, alpha 0.3, layer -8, the prompt's own tokens


def as_published(values: dict[str, Any]) -> dict[str, Any]:
    """Named values beside those of the published findings, unless they name a preset themselves."""
    return {"preset": NAME, **values}


def research(**values: Any) -> Settings:
    """The published findings' settings with other values beside them."""
    return Settings.from_mapping(as_published(values))
