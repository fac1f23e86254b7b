"""A page to try the product in, without a web UI: its accordion over the standalone pipeline."""

from __future__ import annotations

import html
import json
import os
import random
import sys
from collections.abc import Callable
from typing import Any, Protocol

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import torch
from PIL import Image
from starlette.middleware import Middleware

from ..budget import Memory, weight_bytes, working_bytes
from ..errors import ZvlError
from ..hosts.standalone import ZImage
from ..options import Settings
from ..reference import Reference, open_reference
from . import infotext, page_look, panel

TITLE = "Z-Image VL"
_SEEDS = 2**32
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Weights(Protocol):
    """What the page runs on.

    Attributes:
        name: As people call it.
        sampling: `size`, `steps` and `guidance` to begin with, for `ZImage.generate`.
        prompt: What the prompt box holds in the beginning.
        about: A line of HTML.
    """

    model: ZImage
    name: str
    sampling: dict[str, Any]

    @property
    def prompt(self) -> str: ...

    @property
    def about(self) -> str: ...

    def examples(self) -> list[str]:
        """References to try, as files."""

    def fitted(self, settings: Settings) -> Settings:
        """Settings made for the real models as this model takes them."""

    def differences(self, settings: Settings, reference: Reference) -> tuple[list[str], dict[str, str]]:
        """What `fitted` changed: as lines for the user, and as entries of a picture's parameters."""


class PageHost:
    """What the accordion needs of this page (`host.Host`).

    Args:
        weights: What the page runs on.
    """

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

    def model_folders(self) -> list[str]:
        return [self._weights.model.extractor.checkpoint.path]

    def unload(self) -> None:
        self._weights.model.unload()

    def memory(self, settings: Settings) -> Memory:
        """The need alone: a model that stands alone goes nowhere else when it does not fit."""
        extractor, settings = self._weights.model.extractor, self._weights.fitted(settings)
        return Memory(
            weight_bytes(extractor.checkpoint, settings, extractor.dtype.itemsize)
            + working_bytes(settings.reference_tokens)
        )

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


def generate(
    weights: Weights, prompt: str, negative: str, seed: float, steps: float, guidance: float, count: float, *values: Any
) -> tuple[list[Image.Image], list[str], list[str]]:
    """The pictures, each one's parameters, and lines about what was done differently.

    Args:
        values: The accordion's, in the order of the options.

    Raises:
        ZvlError: with one line for the user.
    """
    settings, notes = Settings.from_positions(values), []
    sampling = weights.sampling | {"steps": int(steps), "guidance": float(guidance)}
    first = random.randrange(_SEEDS) if seed is None or seed < 0 else int(seed) % _SEEDS  # noqa: S311
    seeds = [(first + i) % _SEEDS for i in range(int(count))]
    model, entries = weights.model, {}
    reference = open_reference(settings.reference) if settings.enabled and settings.reference is not None else None
    if settings.enabled and reference is None:
        notes.append("No reference image, so the picture was made from the prompt alone.")
    if reference is None or settings.alpha == 0.0:
        conditionings = [model.text(prompt).embeddings] * len(seeds)
    else:
        conditionings = _conditionings(weights, settings, reference, prompt, seeds, notes)
        entries = infotext.write(settings, reference, model.extractor.checkpoint.name)
        lines, more = weights.differences(settings, reference)
        notes += lines
        entries |= more
    pictures = model.generate(conditionings, seeds, **sampling, negative=negative if guidance > 0 else "")
    if negative and guidance <= 0:
        notes.append("The negative prompt has no effect at guidance 0.")
    return pictures, [_parameters(weights, prompt, negative, each, sampling, entries) for each in seeds], notes


def _conditionings(
    weights: Weights, settings: Settings, reference: Reference, prompt: str, seeds: list[int], notes: list[str]
) -> list[torch.Tensor]:
    def say(line: str) -> None:
        if line not in notes:  # one line for all pictures of a batch
            notes.append(line)

    return [weights.model.condition(weights.fitted(settings), reference, prompt, seed, say) for seed in seeds]


def _parameters(
    weights: Weights, prompt: str, negative: str, seed: int, sampling: dict[str, Any], entries: dict[str, str]
) -> str:
    """A picture's parameters, in the web UI's form."""
    width, height = sampling["size"]
    pairs = {
        "Steps": sampling["steps"],
        "CFG scale": f"{sampling['guidance']:g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": weights.name,
    } | entries
    line = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items())
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:"\n') else text


def build(weights: Weights, prompt: str | None = None, seed: int = 0, reference: Reference | None = None) -> gr.Blocks:
    """The page.

    Args:
        prompt, seed, reference: What is in the controls from the beginning.
    """
    sampling = weights.sampling

    def run(*values: Any) -> tuple[Any, list[str], str, str]:
        try:
            pictures, parameters, notes = generate(weights, *values)
        except ZvlError as error:
            return [], [], "", _said([str(error)], "zvl-error")
        return pictures, parameters, parameters[0], _said(notes)

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
                        1, 8, value=1, step=1, label="Batch count", info="each picture with the next seed"
                    )
                components, _ = panel.build(TITLE, lambda name: f"zvl_txt2img_{name}", PageHost(weights))
            with gr.Column(scale=2, min_width=320):
                button = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
                gallery = gr.Gallery(
                    label="Pictures",
                    format="png",
                    columns=2,
                    height=420,
                    object_fit="contain",
                    preview=True,
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
                    gr.Examples([[path] for path in examples], inputs=[by_name["reference"]], label="References to try")
        if reference is not None:
            by_name["reference"].value = by_name["reference"].postprocess(reference.image)
        every = gr.State([])
        button.click(
            run,
            inputs=[prompt, negative, seed, steps, guidance, count, *components],
            outputs=[gallery, every, parameters, said],
        )
        prompt.submit(
            run,
            inputs=[prompt, negative, seed, steps, guidance, count, *components],
            outputs=[gallery, every, parameters, said],
        )
        gallery.select(choose, inputs=[every], outputs=[parameters], show_progress="hidden")
    return page


def _said(lines: list[str], kind: str = "") -> str:
    return "".join(f"<p class='{kind}'>{html.escape(line)}</p>" for line in lines)


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
