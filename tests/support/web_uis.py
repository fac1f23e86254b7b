"""Web UIs' API as small servers: a picture is a function of what is asked for, and each request is remembered."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def picture(body: dict[str, Any], kind: str = "PNG") -> bytes:
    """What is made of a request."""
    seed = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8], 16)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("parameters", body["prompt"])
    image.save(file, kind, **({"pnginfo": text} if kind == "PNG" else {}))
    return file.getvalue()


class WebUI:
    """A server on this machine.

    Attributes:
        asked: What was asked for, in order.
        made: What was answered with a picture.
        answer: What to answer to a request instead: a status and what is said; None: the picture.
    """

    def __init__(self, checkpoint: str | None = "z-image", seconds: float = 0.0, kind: str = "PNG"):
        self.checkpoint, self.seconds, self.kind = checkpoint, seconds, kind
        self.asked: list[dict] = []
        self.made: list[dict] = []
        self.heads: list[dict] = []
        self.answer: Callable[[dict], tuple[int, Any] | None] = lambda body: None
        self._dead = threading.Event()
        self._server = self._serving(0)
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serving(self, port: int) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", port), _handler(self))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def die(self) -> None:
        """Answer nothing any more, also not what is being made."""
        self._dead.set()
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        self._dead.clear()
        self._server = self._serving(self.port)

    def __enter__(self) -> WebUI:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._dead.is_set():
            self.die()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone in the middle: the test's own output is read."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _handler(web: WebUI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            web.heads.append(dict(self.headers))
            known = self.path == "/sdapi/v1/options" and web.checkpoint is not None
            self._say(200, {"sd_model_checkpoint": web.checkpoint}) if known else self._say(
                404, {"detail": "Not Found"}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/sdapi/v1/txt2img":
                return self._say(404, {"detail": "Not Found"})
            web.heads.append(dict(self.headers))
            web.asked.append(body)
            time.sleep(web.seconds)
            if web._dead.is_set():
                return self.connection.close()
            if (other := web.answer(body)) is not None:
                return self._say(*other)
            web.made.append(body)
            data = base64.b64encode(picture(body, web.kind)).decode()
            info = json.dumps({"extra_generation_params": {"ZVL note": "Z-Image VL: a note."}})
            return self._say(200, {"images": [data], "parameters": {}, "info": info})

        def _say(self, status: int, answer: Any) -> None:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass

    return Handler
