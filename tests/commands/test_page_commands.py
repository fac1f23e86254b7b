"""Every command of README and pages runs, one page after another, as a reader would type them; what needs the real
weights is read by the command line's own parser."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before what imports it
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from web_uis import WebUI

pytest.importorskip("diffusers")

from zvl_ext.__main__ import build_parser, main
from zvl_ext.lab import demo, demo_sheet
from zvl_ext.lab.miniature import world
from zvl_ext.options import Settings
from zvl_ext.webui import api

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md")))
REAL = "# real weights"  # in a block: above the commands that need them
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_KNOWN = ("", "sh", "python", "json")


def fenced(page: Path, language: str) -> list[str]:
    return [text for kind, text in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page: Path) -> list[tuple[str, bool]]:
    """What a reader may type, and whether it needs the real weights."""
    found = []
    for text in fenced(page, "sh"):
        for real, part in enumerate(text.split(REAL)):
            found += [(line, bool(real)) for line in part.splitlines() if line.startswith("python ")]
    return found


PAGES_WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_all_commands_are_found() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert {kind for kind, _ in _FENCE.findall(text)} <= set(_KNOWN), page
        assert not [each for each in fenced(page, "") if re.search(r"^(python|curl|zvl) ", each, re.M)], (
            f"{page}: commands stand in ```sh"
        )
        for block in fenced(page, "sh"):
            assert block.startswith("curl ") or all(re.match("python |#|$", line) for line in block.splitlines()), block
    assert len(PAGES_WITH_COMMANDS) >= 6


@pytest.fixture(scope="module")
def miniature() -> demo.Weights:
    """As the commands load it for each of them, at one step."""
    named = argparse.Namespace(weights=None, z_image=None, qwen3_vl=None, device="cpu", steps=1, guidance=None)
    return demo.open_weights(named)


@pytest.fixture
def place(tmp_path: Path, miniature: demo.Weights, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages name, and commands that do less of the same."""
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("picture.png", "other.png", "pictures/one.png", "pictures/two.png")):
        scene = world.Scene("star", ("green", "red")[number % 2], "navy", "dotted")
        Image.fromarray(world.draw(scene, number)).save(tmp_path / name)
    for name in ("text", "vl"):
        save_file({"hidden_states": torch.randn(20, 96)}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "open_weights", lambda args: miniature)
    monkeypatch.setattr(demo_sheet, "PLANS", [dataclasses.replace(demo_sheet.PLANS[0], changes=(("", {}),))])
    for name in ("benchmark", "evaluation"):  # minutes: tests/lab runs them with less to do
        monkeypatch.setattr(f"zvl_ext.lab.{name}.run.run", lambda *arguments: {})
    monkeypatch.setattr("zvl_ext.lab.benchmark.run.table", str)
    return tmp_path


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.name)
def test_every_command_runs(page: Path, place: Path, capfd: pytest.CaptureFixture) -> None:
    with WebUI() as web:  # makes a sweep's pictures, which would be made by processes of this machine
        run_all(page, {"sweep": ["--webui", web.url], **_LESS}, capfd)


_LESS = {
    "fit pictures": ["--count", "12"],
    "fit weights": ["--examples", "12", "--steps", "1", "--batch", "1", "--anyway"],
}


def run_all(page: Path, more: dict[str, list[str]], capfd: pytest.CaptureFixture) -> None:
    for line, real in commands(page):
        words = shlex.split(line, comments=True)[1:]
        if words[:2] == ["-m", "zvl_ext"]:
            build_parser().parse_args(words[2:])
            there = words[2:4] != ["fit", "weights"] or find_spec("accelerate")
            if there and not real:
                typed = " ".join(words[2:])
                less = next((arguments for name, arguments in more.items() if typed.startswith(name)), [])
                assert main([*words[2:], *less]) == 0, (line, capfd.readouterr().err)
        elif words[0] == "install.py":
            said = subprocess.run([sys.executable, ROOT / "install.py", "--help"], capture_output=True, text=True)
            assert f"install.py {words[1]}" in said.stdout, line
        elif words[:2] == ["-m", "zvl_ext.lab.training"]:
            from zvl_ext.lab.training import __main__ as training

            assert words[2] in (*training.STAGES, "publish", "restore", "STAGE"), line
        else:
            assert (ROOT / words[0]).is_file() or words[0] == "-m", line


# --- the HTTP API


class _Api(BaseHTTPRequestHandler):
    """What a web UI answers, after the extension's own checks of what is sent."""

    asked: list[Settings]

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if route := api.ROUTES.get(self.path):
            given = api._parsed(sent, route.fields)
            self._say({"size": len(base64.b64decode(given["image"])), "asked": sorted(given)})
        elif self.path == "/sdapi/v1/txt2img":
            (named,) = json.loads(sent)["alwayson_scripts"]["Z-Image VL"]["args"]
            self.asked.append(Settings.from_mapping(named))
            made = base64.b64encode(b"a picture").decode()
            self._say({"images": [made], "info": json.dumps({"infotexts": ["a house, ZVL: 0.2.0"]})})

    def _say(self, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def web_ui() -> Iterator[ThreadingHTTPServer]:
    _Api.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_api_examples_do_what_they_say(place: Path, web_ui: ThreadingHTTPServer) -> None:
    page = ROOT / ".github" / "docs" / "api.md"
    here = f"http://127.0.0.1:{web_ui.server_address[1]}"
    said = []
    examples = [["bash", "-c", text] for text in fenced(page, "sh")]
    examples += [[sys.executable, "-c", text] for text in fenced(page, "python")]
    assert len(examples) == 4
    for *how, text in examples:
        assert "http://127.0.0.1:7860" in text
        mine = text.replace("http://127.0.0.1:7860", here)
        done = subprocess.run([*how, mine], cwd=place, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    first, second = _Api.asked
    assert (first.preset, first.weight, len(first.units)) == ("Custom", 0.8, 1)
    assert (second.region, second.region_2, second.weight_2, len(second.units)) == ("left", "right", 0.6, 2)
    assert json.loads((place / "answer.json").read_text())["images"]
    caption, statistics = (json.loads(text) for text in said[1:3])
    assert caption["size"] == statistics["size"] == (place / "picture.png").stat().st_size
    assert caption["asked"] == sorted(api.ROUTES["/zvl/caption"].fields)
    assert statistics["asked"] == ["image", "options", "prompt"]
    assert (place / "made.png").read_bytes() == b"a picture"
    assert said[3] == "a house, ZVL: 0.2.0\n"
