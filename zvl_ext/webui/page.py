"""A page to try the product in, without a web UI: its accordion over the standalone pipeline."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from starlette.middleware import Middleware

from ..analysis.wanted import Wanted
from ..budget import Memory, read_together, weight_bytes, working_bytes
from ..caption import Asked, Caption
from ..declaration import LEARNED
from ..errors import ZvlError
from ..options import Settings
from ..reference import Reference
from . import page_look, panel
from .standalone import Request, Weights, describe_with, learned, make_beside_plain, make_sweep

TITLE = "Z-Image VL"
_SEEDS = 2**32
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class PageHost:
    """What the accordion needs of this page (`host.Host`).

    Args:
        weights: What the page runs on.
    """

    batches = False
    makes = True

    def __init__(self, weights: Weights):
        self._weights = weights

    def input_accordion(self, label: str, elem_id: str) -> tuple[Any, Any]:
        """The switch lies on the accordion's title, as in the web UI, so that it is there when the accordion is
        closed."""
        with gr.Column(elem_classes=["zvl-accordion"]):
            switch = gr.Checkbox(
                False, label=label, elem_id=f"{elem_id}-checkbox", elem_classes=["zvl-switch"], container=False
            )
            accordion = gr.Accordion(label, open=True, elem_id=elem_id)
        return switch, accordion

    def tool_button(self, tooltip: str, **kwargs: Any) -> Any:
        return gr.Button(elem_classes=["zvl-tool"], **kwargs)

    def paste_field(self, component: Any, read: Callable[[dict], Any]) -> Any:
        return component, read

    def models(self) -> dict[str, str]:
        checkpoint = self._weights.model.extractor.checkpoint
        return {checkpoint.name: checkpoint.path}

    def obstacle(self) -> str:
        return ""

    def model_folders(self) -> list[str]:
        return [self._weights.model.extractor.checkpoint.path]

    def files(self, kind: str) -> dict[str, str] | None:
        """The page makes its pictures from references; conditioning files are for `generate` and the web UI."""
        return (self._weights.files(kind) or None) if kind in LEARNED else None

    def file(self, kind: str, name: str) -> Any:
        if kind not in LEARNED:
            raise ZvlError("There are no conditioning files here.")
        return self._weights.file(kind, name)

    def save_conditioning(self, name: str) -> str:
        raise ZvlError("There are no conditioning files here.")

    def unload(self) -> None:
        self._weights.model.unload()

    def busy(self) -> bool:
        """Whoever wants a model waits for it, and models are small or many here."""
        return False

    def describe(self, settings: Settings, number: int, asked: Asked) -> Caption:
        return describe_with(self._weights, settings, asked, number)

    def analyse(self, settings: Settings, number: int, asked: Wanted) -> Any:
        from .standalone_analysis import analyse_with

        settings, files = learned(self._weights, settings)
        request = Request(asked.prompt, settings, [0], self._weights.sampling, **files)
        return analyse_with(self._weights, request, number, asked.attention, asked.on_step)

    def memory(self, settings: Settings) -> Memory:
        """The need alone: a model that stands alone goes nowhere else when it does not fit."""
        extractor, settings = self._weights.model.extractor, self._weights.fitted(settings)
        return Memory(
            weight_bytes(extractor.checkpoint, settings, extractor.dtype.itemsize)
            + working_bytes(read_together(settings))
        )

    def text_encoder_bytes(self) -> int:
        return self._weights.model.text_encoder_bytes

    def forget(self) -> int:
        """Forget what is kept of references; gives the bytes that it took."""
        store = self._weights.model.store
        freed = store.size
        store.clear()
        return freed

    def recent(self, digest: str) -> Any:
        """Nothing is pasted here."""

    def ensure_temp_folder(self) -> None:
        """gradio makes its own."""


def build(weights: Weights, prompt: str | None = None, seed: int = 0, reference: Reference | None = None) -> gr.Blocks:
    """The page.

    Args:
        prompt, seed, reference: What is in the controls from the beginning.
    """
    sampling = weights.sampling
    shown = reference or weights.reference()
    stopped = threading.Event()

    def asked(progress: Any, sweep: bool, prompt: str, negative: str, seed: float, *rest: Any) -> tuple:
        """What a button asks for: the gallery's entries, all parameters, the first one's, and what is said."""
        steps, guidance, count, *values = rest
        stopped.clear()

        def on_step(done: int, of: int) -> None:
            if stopped.is_set():
                raise ZvlError("Stopped.")
            progress((done, of), desc="Sampling", unit="steps")

        first = random.randrange(_SEEDS) if seed is None or seed < 0 else int(seed) % _SEEDS  # noqa: S311
        try:
            settings, files = learned(weights, Settings.from_positions(values))
            request = Request(
                prompt,
                settings,
                [(first + i) % _SEEDS for i in range(1 if sweep else int(count))],
                sampling | {"steps": int(steps), "guidance": float(guidance)},
                negative,
                **files,
            )
            made = make_sweep(weights, request, on_step) if sweep else make_beside_plain(weights, request, on_step)
        except ZvlError as error:
            return [], [], "", page_look.said([str(error)], "zvl-error")
        entries = list(zip(made.pictures, made.captions))
        bars = page_look.bars(list(zip(made.captions, made.measures)))
        return entries, made.parameters, made.parameters[-1], bars + page_look.said(made.notes)

    # gradio finds the progress by its place among the defaults.
    def generate(*values: Any, progress: Any = gr.Progress()) -> tuple:  # noqa: B008
        return asked(progress, False, *values)

    def sweep(*values: Any, progress: Any = gr.Progress()) -> tuple:  # noqa: B008
        return asked(progress, True, *values)

    def choose(parameters: list[str], event: gr.SelectData) -> str:
        return parameters[event.index] if event.index < len(parameters) else ""

    with gr.Blocks(
        title=TITLE, css=page_look.css(), head=page_look.head(), theme=page_look.theme(), analytics_enabled=False
    ) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{weights.about}</p>")
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                prompt = gr.Textbox(prompt or weights.prompt, label="Prompt", lines=2, elem_id="txt2img_prompt")
                negative = gr.Textbox(label="Negative prompt", lines=1, elem_id="txt2img_neg_prompt")
                with gr.Row():
                    steps = gr.Slider(1, 50, value=sampling["steps"], step=1, label="Sampling steps")
                    guidance = gr.Slider(0, 10, value=sampling["guidance"], step=0.1, label="Guidance")
                with gr.Row():
                    seed = gr.Number(
                        seed,
                        label="Seed",
                        info="-1: another one every time",
                        precision=0,
                        minimum=-1,
                        maximum=_SEEDS - 1,
                    )
                    count = gr.Slider(
                        1, 4, value=1, step=1, label="Batch count", info="each picture with the next seed"
                    )
                components, _ = panel.build(TITLE, lambda name: f"zvl_txt2img_{name}", PageHost(weights))
            with gr.Column(scale=2, min_width=320):
                with gr.Row():
                    button = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
                    over = gr.Button("Sweep the weight", elem_id="zvl_sweep")
                    stop = gr.Button("Stop", elem_id="txt2img_interrupt", min_width=60, scale=0)
                gallery = gr.Gallery(
                    label="Pictures",
                    format="png",
                    columns=3,
                    height=460,
                    object_fit="contain",
                    interactive=False,
                    show_share_button=False,
                    elem_id="txt2img_gallery",
                    elem_classes=["zvl-result"],
                )
                said = gr.HTML(elem_id="zvl_said", elem_classes=["zvl-said"])
                parameters = gr.Textbox(
                    label="Parameters", lines=4, interactive=False, show_copy_button=True, elem_id="zvl_parameters"
                )
                by_name = dict(zip((option.name for option in panel.OPTIONS), components))
                if examples := weights.examples():
                    gr.Examples(
                        [[path] for path in examples],
                        inputs=[by_name["reference"]],
                        label="References to try",
                        elem_id="zvl_txt2img_examples",
                    )
        if shown is not None:
            by_name["enabled"].value = True
            page.load(lambda: gr.update(value=shown.image), outputs=[by_name["reference"]], show_progress="hidden")
        every = gr.State([])
        event = {
            "inputs": [prompt, negative, seed, steps, guidance, count, *components],
            "outputs": [gallery, every, parameters, said],
        }
        button.click(generate, **event)
        prompt.submit(generate, **event)
        over.click(sweep, **event)
        stop.click(stopped.set, queue=False, show_progress="hidden")
        gallery.select(choose, inputs=[every], outputs=[parameters], show_progress="hidden")
    return page


class _Offline:
    """Tells the browser to load nothing from anywhere else; gradio's page names a script on another server.

    Args:
        app: The ASGI application that makes the page.
    """

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, with_policy)


def serve(page: gr.Blocks, port: int | None) -> None:
    """Show the page until the command is stopped."""
    app = {"middleware": [Middleware(_Offline)]}
    desktop = (
        os.name == "nt"
        or sys.platform == "darwin"
        or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    )
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port, share=False, show_api=False, inbrowser=desktop, app_kwargs=app
        )
    except OSError as error:
        raise ZvlError(
            f"The page can't be opened ({str(error).splitlines()[0]}). Choose another port with --port."
        ) from error
