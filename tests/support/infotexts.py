"""A picture's parameters as the web UI writes and reads them."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI
from host_fixtures import WebUI
from modules import infotext_utils, processing

from zvl_ext.declaration import FILES
from zvl_ext.options import OPTIONS

# What a picture with one reference says in values.
WRITTEN = [o for o in OPTIONS if o.infotext and o.unit < 2 and o.kind not in FILES]


def parsed(web: WebUI, entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The entries as a picture carries them, and as the web UI reads them off it."""
    p = web.p("a cat, a dog: both")
    p.setup_prompts()
    p.all_seeds = p.all_subseeds = [1]
    p.extra_generation_params = {**entries, **more}
    text = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds)
    return infotext_utils.parse_generation_parameters(text)


def own(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key.startswith("ZVL")}
