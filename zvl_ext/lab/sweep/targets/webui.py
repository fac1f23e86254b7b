"""Running web UIs, by the addresses that the user gives: each makes one picture at a time, over its API."""

from __future__ import annotations

import argparse
import base64
import binascii
import http.client
import io
import json
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ....errors import PRODUCT, ZvlError
from ....outside import parse_json, plain, reason
from ...crew import Failed, Gone, Unfit
from . import Job, Made
from .crewed import Crewed

TXT2IMG, OPTIONS = "/sdapi/v1/txt2img", "/sdapi/v1/options"
TIMEOUT = 900.0  # seconds for a picture
_SHORT = 10.0  # seconds for anything else
_LIMIT = 256 * 2**20  # bytes of an answer
_AHEAD = 8
_NOTE = "ZVL note"
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_PNG = b"\x89PNG\r\n\x1a\n"


class WebUI:
    """One web UI.

    Raises:
        ZvlError: the address is none.
    """

    def __init__(self, url: str):
        self._at = _split(url)
        self.name = f"The web UI {self._at.hostname}:{self._port}"
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False

    @property
    def _port(self) -> int:
        return self._at.port or (443 if self._at.scheme == "https" else 80)

    def checkpoint(self) -> str:
        """What it has loaded; "" where it does not say.

        Raises:
            Gone: it can't be reached.
        """
        status, answer = self._ask("GET", OPTIONS, None, _SHORT)
        if status in (401, 403):
            raise Unfit(f"{self.name} asks for a name and a password. Give them in its address: http://NAME:WORD@HOST.")
        chosen = answer.get("sd_model_checkpoint") if isinstance(answer, dict) and status == 200 else None
        return chosen if isinstance(chosen, str) else ""

    def work(self, job: Job) -> Made:
        """Have a picture made.

        Raises:
            Gone, Failed: another may make it. ZvlError: nobody will.
        """
        status, answer = self._ask("POST", TXT2IMG, body(job), TIMEOUT)
        if status == 200:
            return self._made(answer)
        said = _said(answer)
        if status in _BUSY:
            raise Failed(f"{self.name} answered {status}{said and ': ' + said}")
        if status == 404:
            raise Unfit(f"{self.name} has no {TXT2IMG}. Start it with --api.")
        raise ZvlError(f"{self.name} refused this ({status}{said and ': ' + said}).")

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def _ask(self, method: str, path: str, content: dict[str, Any] | None, timeout: float) -> tuple[int, Any]:
        kind = http.client.HTTPSConnection if self._at.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"}
        if self._at.username is not None:
            word = f"{unquote(self._at.username)}:{unquote(self._at.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(word.encode()).decode()
        data = None if content is None else json.dumps(content).encode()
        connection = self._connection = kind(self._at.hostname or "", self._port, timeout=timeout)
        try:
            connection.request(method, self._at.path.rstrip("/") + path, data, headers)
            response = connection.getresponse()
            text = response.read(_LIMIT + 1)
        except ssl.SSLError as error:
            raise Gone(f"no secure connection: {reason(error)}") from None
        except (OSError, http.client.HTTPException, AttributeError) as error:  # closed from outside: no socket any more
            raise Gone(reason(error) if str(error) else "it ended the connection") from None
        finally:
            connection.close()
        try:
            return response.status, parse_json(text) if len(text) <= _LIMIT else None
        except ValueError:
            return response.status, None

    def _made(self, answer: Any) -> Made:
        images = answer.get("images") if isinstance(answer, dict) else None
        try:
            data = base64.b64decode(images[0].rpartition(",")[2], validate=True)
        except (TypeError, IndexError, AttributeError, KeyError, binascii.Error, ValueError):
            raise Failed(f"{self.name} answered without a picture") from None
        return Made(_as_png(data, self.name), _notes(answer.get("info")))


def _split(url: str) -> SplitResult:
    try:
        at = urlsplit(url if "://" in url else f"http://{url}")
        fine = at.scheme in ("http", "https") and at.hostname and (at.port is None or at.port)
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url:
        raise ZvlError(f"--webui {plain(url)}: an address such as http://127.0.0.1:7860 is needed.")
    return at


def body(job: Job) -> dict[str, Any]:
    """A job as the API takes it."""
    asked = job.asked
    sent = {
        "prompt": asked["prompt"],
        "negative_prompt": asked["negative_prompt"],
        "seed": asked["seed"],
        "steps": asked["steps"],
        "cfg_scale": asked["cfg"],
        "width": asked["size"],
        "height": asked["size"],
        "batch_size": 1,
        "n_iter": 1,
        "save_images": False,
        "send_images": True,
    }
    pictures = {name: base64.b64encode(data).decode() for name, data in job.pictures.items()}
    named = {**job.settings, **pictures}
    return {**sent, "alwayson_scripts": {PRODUCT: {"args": [named]}}} if named else sent


def _as_png(data: bytes, name: str) -> bytes:
    """A web UI's picture, which is PNG unless its settings say otherwise, checked."""
    from ....reference import open_reference

    try:
        picture = open_reference(data).image
    except ZvlError:
        raise Failed(f"{name} answered with something that is no picture") from None
    if data.startswith(_PNG):
        return data
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _notes(info: Any) -> tuple[str, ...]:
    """What the extension said of the picture, where the web UI tells its parameters."""
    try:
        more = parse_json(info)["extra_generation_params"]
        return (plain(more[_NOTE], 400),) if _NOTE in more else ()
    except (TypeError, KeyError, ValueError, AttributeError):
        return ()


def _said(answer: Any) -> str:
    found = [answer.get(name) for name in ("detail", "errors", "error")] if isinstance(answer, dict) else []
    return next((plain(each, 200) for each in found if each), "")


class WebUIs(Crewed):
    """Several web UIs."""

    def __init__(self, members: list[WebUI], say: Callable[[str], None]):
        name = ", ".join(member.name.removeprefix("The ") for member in members)
        super().__init__(members, name, f"web UI {_checkpoint(members, say)}", _AHEAD, say)


def _checkpoint(members: list[WebUI], say: Callable[[str], None]) -> str:
    """The checkpoint that all of them have loaded; "" where none says."""
    found, away = {}, {}
    for member in members:
        try:
            found[member.name] = member.checkpoint()
        except Gone as error:
            away[member.name] = str(error)
    for name, why in away.items():
        if not found:
            raise ZvlError(f"{name} can't be reached ({why}). Start it with --api, or name another address.")
        say(f"{name} can't be reached ({why}). It is tried again; its part goes to the others.")
    known = {name: checkpoint for name, checkpoint in found.items() if checkpoint}
    if len(set(known.values())) > 1:
        (one, a), (other, b) = list(known.items())[:2]
        raise ZvlError(f"{one} has {plain(a)} loaded, {other[4:]} {plain(b)}: load the same, or name one of them.")
    return next(iter(known.values()), "")


def open_target(args: argparse.Namespace, say: Callable[[str], None]) -> WebUIs:
    members = [WebUI(url) for url in args.webui]
    if len({member.name for member in members}) < len(members):
        raise ZvlError("--webui names the same address twice. A web UI makes one picture at a time.")
    return WebUIs(members, say)
