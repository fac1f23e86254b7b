"""Routes for API clients of the web UI: `POST /zvl/caption` describes a picture, `POST /zvl/statistics` analyses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..analysis.wanted import SAMPLED, Wanted
from ..caption import Asked, Wish
from ..errors import Stopped, ZvlError, line_of, shown, titled
from ..hosts import forge
from ..options import OPTIONS, Settings
from ..reference import MAX_BYTES, open_reference

_BESIDE = "/sdapi/v1/script-info"  # a route of the host's own: who may ask for that may ask for this
_MOST = MAX_BYTES * 4 // 3 + 2**20  # bytes of a request


@dataclass(frozen=True)
class Route:
    """One route.

    Attributes:
        fields: What a request may have; all but the picture may be left out.
        answer: Makes the reply of it.
    """

    fields: tuple[str, ...]
    answer: Callable[[dict[str, Any]], dict[str, Any]]


def register(page: Any, app: Any) -> None:
    """Add the routes beside the host's own, where it has any: with what it asks of those who use them."""
    theirs = next((route for route in app.routes if getattr(route, "path", "") == _BESIDE), None)
    if theirs is None or not forge.has_zimage():
        return
    for path, route in ROUTES.items():
        app.add_api_route(
            path, _handler(route), methods=["POST"], dependencies=list(theirs.dependencies), response_model=None
        )


def _handler(route: Route) -> Callable:
    from fastapi import Request  # late: a host without an API need not have it

    async def handle(request: Request) -> Any:
        from fastapi.concurrency import run_in_threadpool
        from fastapi.responses import JSONResponse

        try:
            given = _parsed(await _body(request), route.fields)
            return JSONResponse(await run_in_threadpool(route.answer, given))
        except Stopped:
            return JSONResponse({"detail": titled("It was stopped in the web UI.")}, status_code=422)
        except ZvlError as error:
            return JSONResponse({"detail": titled(line_of(error))}, status_code=422)

    # Named by its class: what stands in this function's annotations can't be looked up by name.
    handle.__annotations__ = {"request": Request}
    return handle


async def _body(request: Any) -> bytes:
    """What was sent, and no more of it than a picture may have."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MOST:
            raise ZvlError(f"More than {_MOST >> 20} MiB were sent. Make the picture smaller first.")
    return b"".join(parts)


def _parsed(body: bytes, fields: tuple[str, ...]) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ZvlError(f"A JSON object is needed, with {', '.join(fields)}; all but image may be left out.")
    if unknown := next((key for key in given if key not in fields), None):
        raise ZvlError(f"{shown(unknown)} is not known; there are {', '.join(fields)}.")
    if not isinstance(given.get("image"), str) or not given["image"]:
        raise ZvlError("image is missing: send the picture as base64 text.")
    return given


def _caption(given: dict[str, Any]) -> dict[str, Any]:
    from .describe import described

    wish = Wish(**{name: given[name] for name in ("length", "language", "instruction") if name in given})
    reference = open_reference(given["image"])
    settings = Settings.from_mapping({"reference": reference, "model": given.get("model", "")})
    caption = described(settings, Asked(wish, reference.image.size))
    return {"caption": caption.text, "tokens": caption.tokens, "ended": caption.ended}


def _statistics(given: dict[str, Any]) -> dict[str, Any]:
    from ..analysis.data import data_of
    from .analyse import analysed_here

    prompt, options = given.get("prompt", ""), given.get("options", {})
    if not isinstance(prompt, str):
        raise ZvlError(f"prompt has to be text, not {shown(prompt)}.")
    if not isinstance(options, dict):
        raise ZvlError(f"options has to be an object of names and values, not {shown(options)}.")
    if own := next((name for name in options if name not in _SETTABLE), None):
        raise ZvlError(f"options has {shown(own)}, which is no option here; python -m zvl_ext options lists them.")
    reference = open_reference(given["image"])
    settings = Settings.from_mapping({**options, "reference": reference, "model": given.get("model", "")})
    attention = given.get("attention", False)
    if not isinstance(attention, bool):
        raise ZvlError(f"attention has to be true or false, not {shown(attention)}.")
    sampled = {name: option.check(given[name]) for name, option in SAMPLED.items() if name in given}
    shape = reference.image.size
    if attention or sampled:
        shape = (sampled.pop("width", SAMPLED["width"].default), sampled.pop("height", SAMPLED["height"].default))
    return data_of(analysed_here(settings, Wanted(prompt, shape, attention=attention, **sampled)))


_PLAIN = ("number", "integer", "choice", "switch", "text", "blocks", "layers", "region")  # kinds of options
# Options of one reference that are neither files nor named by a field of their own.
_SETTABLE = frozenset(
    option.name for option in OPTIONS if option.unit < 2 and option.kind in _PLAIN and option.name != "enabled"
)
ROUTES = {
    "/zvl/caption": Route(("image", "length", "language", "instruction", "model"), _caption),
    "/zvl/statistics": Route(("image", "prompt", "options", "model", "attention", *SAMPLED), _statistics),
}
