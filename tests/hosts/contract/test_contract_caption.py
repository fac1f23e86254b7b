"""A reference described in the web UI: by the model that it holds, while no picture is made, and nothing of it
stays."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from host_fixtures import WebUI
from host_runs import CAT, same
from modules import call_queue, shared
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from zvl_ext.caption import LENGTHS, Asked, Wish
from zvl_ext.options import Settings
from zvl_ext.reference import open_reference
from zvl_ext.webui.describe import described
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]

TOKENS = LENGTHS["short"].tokens


@pytest.fixture(scope="module")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that writes text."""
    return tiny.save_folder(tiny.make_writer(tokenizer), tokenizer, tmp_path_factory.mktemp("weights") / "writer")


@pytest.fixture
def writer(web: WebUI, written: Path) -> WebUI:
    """The web UI with those weights beside the others."""
    (web.weights / "writer").symlink_to(written)
    return web


@pytest.fixture(scope="module")
def plain(written: Path, tokenizer: Tokenizer) -> Callable[[Image.Image, str], str]:
    """What plain transformers says."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(written, local_files_only=True).float().eval()
    ends = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]

    def say(image: Image.Image, question: str) -> str:
        pixels = tiny.plain_pixels(image, Settings().reference_tokens)
        ids, _ = tiny.plain_ids(tokenizer, question, int(pixels["image_grid_thw"].prod()) // 4)
        model.model.rope_deltas = None
        with torch.no_grad():
            output = model.generate(
                **tiny.plain_inputs(model, ids, pixels), max_new_tokens=TOKENS, do_sample=False, eos_token_id=ends,
                pad_token_id=ends[0],
            )  # fmt: skip
        return tokenizer.decode(output[0, len(ids) :].tolist()).rstrip("\ufffd").strip()

    return say


def settings(picture: Image.Image, **more: Any) -> Settings:
    return Settings.from_mapping({"reference": open_reference(picture), "model": "writer", **more})


def asked(**more: Any) -> Asked:
    return Asked(Wish("short", instruction="What is this?"), (64, 64), **more)


def test_it_is_what_transformers_says_and_the_pieces_are_it(writer: WebUI, picture: Any, plain: Callable) -> None:
    pieces: list[str] = []
    caption = described(settings(picture), asked(on_text=pieces.append))
    assert caption.text == "".join(pieces) == plain(picture, "What is this?")
    assert caption.text
    assert described(settings(picture), asked()) == caption, "the same every time"
    own = described(settings(picture), Asked(Wish("short", "German")))
    assert own.text == plain(picture, Wish("short", "German").question)


def test_a_picture_before_and_after_is_the_same_and_the_logits_layer_is_given_back(web: WebUI, picture: Any) -> None:
    before = web.run(web.p(), reference=picture)
    described(settings(picture, model=""), asked())
    assert hasattr(KEEPER.residence.model.module, "lm_head")
    KEEPER.store.clear()
    after = web.run(web.p([CAT]), reference=picture, alpha=0.9)
    assert not hasattr(KEEPER.residence.model.module, "lm_head")
    assert web.events.count("load") == 1
    KEEPER.store.clear()
    again = web.run(web.p(), reference=picture)
    assert same(before.c, again.c)
    assert not same(before.c, after.c)
    shown = described(settings(picture, model=""), asked())
    KEEPER.residence.drop()
    assert described(settings(picture, model=""), asked()) == shown


def test_the_crop_and_the_mask_decide_what_is_seen(writer: WebUI, plain: Callable) -> None:
    wide = tiny.picture(192, 64, seed=5)
    middle = described(settings(wide, crop="centre"), asked())
    assert middle.text == plain(wide.crop((64, 0, 128, 64)), "What is this?")
    mask = Image.new("RGB", (2, 1))
    mask.putpixel((0, 0), (255, 255, 255))
    seen = settings(
        tiny.picture(64, 64), reference_mask=open_reference(mask.resize((64, 64), Image.Resampling.NEAREST))
    )
    grey = tiny.picture(64, 64)
    grey.paste((128, 128, 128), (32, 0, 64, 64))
    assert described(seen, asked()).text == plain(grey, "What is this?")


@pytest.mark.parametrize("ended_by", ["stop", "interrupted", "skipped"])
def test_it_can_be_ended_between_tokens_and_what_there_is_stays(writer: WebUI, picture: Any, ended_by: str) -> None:
    whole = described(settings(picture), asked()).text
    pieces: list[str] = []

    def on_text(piece: str) -> None:
        pieces.append(piece)
        if ended_by != "stop" and len(pieces) == 2:
            setattr(shared.state, ended_by, True)

    caption = described(
        settings(picture), asked(on_text=on_text, stopped=lambda: ended_by == "stop" and len(pieces) > 1)
    )
    assert caption.ended == "stopped"
    assert caption.text == "".join(pieces) == whole[: len(caption.text)]
    assert len(caption.text) < len(whole)
    assert not shared.state.interrupted
    assert not shared.state.skipped
    assert described(settings(picture), asked()).text == whole


def test_it_waits_for_the_picture_and_may_be_stopped_meanwhile(writer: WebUI, picture: Any) -> None:
    stopped, made = [False], []

    def work() -> None:
        made.append(described(settings(picture), asked(stopped=lambda: stopped[0])))

    with call_queue.queue_lock:
        first = threading.Thread(target=work)
        first.start()
        first.join(0.5)
        assert first.is_alive()
        assert writer.events.count("load") == 0
        stopped[0] = True
    first.join(60)
    assert (made[0].text, made[0].ended) == ("", "stopped")
    assert writer.events.count("load") == 0, "nothing is loaded for what nobody wants"
    shared.state.interrupted = True  # of a picture before
    assert described(settings(picture), asked()).ended != "stopped"
    assert call_queue.queue_lock.acquire(blocking=False)
    call_queue.queue_lock.release()


def test_what_can_not_be_described_is_one_line(web: WebUI, picture: Any, vl_model: Any, refused: Callable) -> None:
    with refused("no reference 1 to describe"):
        described(Settings(), asked())
    with refused("no Qwen3-VL model 'other'"):
        described(settings(picture, model="other"), asked())
    tower = {name: value for name, value in tiny.inner_state(vl_model).items() if name.startswith("visual.")}
    tiny.save_single(tower, web.weights / "tower.safetensors")
    with refused("the language model, which describes, is missing"):
        described(settings(picture, model="tower.safetensors"), asked())
    assert web.events.count("load") == 0


# --- over the API


@pytest.fixture
def client(writer: WebUI) -> Any:
    """A server with a route of the host's own and what it asks of its users, and this one beside it."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.security import HTTPBasic, HTTPBasicCredentials
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()

    def auth(credentials: HTTPBasicCredentials = fastapi.Depends(HTTPBasic())) -> None:  # noqa: B008
        if credentials.password != "right":
            raise fastapi.HTTPException(401, "Incorrect username or password")

    auth.__annotations__["credentials"] = HTTPBasicCredentials
    app.add_api_route("/sdapi/v1/script-info", list, methods=["GET"], dependencies=[fastapi.Depends(auth)])
    from zvl_ext.webui import api

    api.register(None, app)
    client = TestClient(app)
    client.auth = ("user", "right")
    return client


def sent(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_api_gives_the_same(client: Any, picture: Any, plain: Callable) -> None:
    given = {"image": sent(picture), "length": "short", "instruction": "What is this?", "model": "writer"}
    answer = client.post("/zvl/caption", json=given)
    assert answer.status_code == 200, answer.text
    assert answer.json()["caption"] == plain(picture, "What is this?")
    assert answer.json()["ended"] in ("whole", "length")
    head = "data:image/png;base64,"
    assert (
        client.post("/zvl/caption", json=given | {"image": head + sent(picture), "model": "writer"}).json()
        == answer.json()
    )


def test_the_api_asks_for_what_the_hosts_own_asks_for(client: Any, picture: Any) -> None:
    client.auth = ("user", "wrong")
    assert client.post("/zvl/caption", json={"image": sent(picture)}).status_code == 401
    client.auth = None
    assert client.post("/zvl/caption", json={"image": sent(picture)}).status_code == 401


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no json", "A JSON object"),
        ("[" * 100_000, "A JSON object"),
        ([], "A JSON object"),
        ({}, "image is missing"),
        ({"image": None}, "image is missing"),
        ({"image": ["a"]}, "image is missing"),
        ({"image": "/etc/passwd"}, "not a path"),
        ({"image": "http://127.0.0.1/a.png"}, "addresses are not fetched"),
        ({"image": "bm8gcGljdHVyZQ=="}, "Reference image"),
        ({"image": "PICTURE", "path": "/etc"}, "'path' is not known"),
        ({"image": "PICTURE", "length": "huge"}, "short, medium, long"),
        ({"image": "PICTURE", "language": 3}, "text"),
        ({"image": "PICTURE", "instruction": "x" * 5000}, "4000"),
        ({"image": "PICTURE", "model": "../../etc"}, "no Qwen3-VL model"),
        ({"image": "PICTURE", "model": 3}, "model"),
    ],
)  # fmt: skip
def test_the_api_refuses_in_one_line(client: Any, picture: Any, given: Any, says: str) -> None:
    if isinstance(given, dict) and given.get("image") == "PICTURE":
        given = given | {"image": sent(picture)}
    body = {"content": given} if isinstance(given, str) else {"json": given}
    answer = client.post("/zvl/caption", **body)
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert detail.startswith("Z-Image VL: ")
    assert says in detail
    assert "\n" not in detail
    assert len(detail) <= 300


def test_without_an_api_there_is_no_route() -> None:
    fastapi = pytest.importorskip("fastapi")
    from zvl_ext.webui import api

    app = fastapi.FastAPI()
    before = len(app.routes)
    api.register(None, app)
    assert len(app.routes) == before
