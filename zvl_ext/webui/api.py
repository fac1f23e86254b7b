"""`POST /zvl/caption`: a picture described, for API clients of the web UI."""

from __future__ import annotations

import json
from typing import Any

from ..caption import Asked, Wish
from ..errors import ZvlError, line_of, shown, titled
from ..hosts import forge
from ..options import Settings
from ..reference import MAX_BYTES, open_reference

PATH = "/zvl/caption"
_BESIDE = "/sdapi/v1/script-info"  # a route of the host's own: who may ask for that may ask for this
_MOST = MAX_BYTES * 4 // 3 + 2**20  # bytes of a request
_FIELDS = ("image", "length", "language", "instruction", "model")


def register(page: Any, app: Any) -> None:
    """Add the route beside the host's own, where it has any: with what it asks of those who use them."""
    from fastapi import Request  # late: a host without an API need not have it

    theirs = next((route for route in app.routes if getattr(route, "path", "") == _BESIDE), None)
    if theirs is None or not forge.has_zimage():
        return

    async def caption(request: Request) -> Any:
        from fastapi.concurrency import run_in_threadpool
        from fastapi.responses import JSONResponse

        try:
            given = _parsed(await _body(request))
            return JSONResponse(await run_in_threadpool(_answer, given))
        except ZvlError as error:
            return JSONResponse({"detail": titled(line_of(error))}, status_code=422)

    # Named by its class: what stands in this function's annotations can't be looked up by name.
    caption.__annotations__ = {"request": Request}
    app.add_api_route(PATH, caption, methods=["POST"], dependencies=list(theirs.dependencies), response_model=None)


async def _body(request: Any) -> bytes:
    """What was sent, and no more of it than a picture may have."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MOST:
            raise ZvlError(f"More than {_MOST >> 20} MiB were sent. Make the picture smaller first.")
    return b"".join(parts)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ZvlError(f"A JSON object is needed, with {', '.join(_FIELDS)}; all but image may be left out.")
    if unknown := next((key for key in given if key not in _FIELDS), None):
        raise ZvlError(f"{shown(unknown)} is not known; there are {', '.join(_FIELDS)}.")
    if not isinstance(given.get("image"), str) or not given["image"]:
        raise ZvlError("image is missing: send the picture as base64 text.")
    return given


def _answer(given: dict[str, Any]) -> dict[str, Any]:
    from .describe import described

    wish = Wish(**{name: given[name] for name in ("length", "language", "instruction") if name in given})
    reference = open_reference(given["image"])
    settings = Settings.from_mapping({"reference": reference, "model": given.get("model", "")})
    caption = described(settings, Asked(wish, reference.image.size))
    return {"caption": caption.text, "tokens": caption.tokens, "ended": caption.ended}
