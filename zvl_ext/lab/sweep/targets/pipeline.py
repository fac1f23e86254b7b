"""The pipeline without a web UI, in processes of this machine, each with a model of its own."""

from __future__ import annotations

import argparse
import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....errors import ZvlError
from ...demo import check, check_miniature
from ...digests import files_digest, weights_digest
from ...miniature import family
from ...processes import Process
from . import Job, Made
from .crewed import Crewed

_AHEAD = 32  # jobs that are handed over for each process: enough to choose those of its own reference
_MOST = 8  # processes where nobody says how many
_COMPRESSED = 3  # a fifth of the time that PNG's usual 6 takes, for a tenth more bytes
_REFERENCES = 8  # pictures that are kept open
_TEXTS = 64  # prompts whose embeddings are kept, a megabyte each with real weights


@dataclass(frozen=True)
class Spec:
    """Which weights, on which device. `threads`: of the CPU; 0: as torch has them."""

    z_image: str = ""
    qwen3_vl: str = ""
    weights: str = ""
    device: str = "auto"
    threads: int = 0

    @property
    def folder(self) -> str:
        """The miniature's."""
        return self.weights or family.WEIGHTS

    @property
    def name(self) -> str:
        return os.path.basename(os.path.normpath(self.z_image)) if self.z_image else "Z-Image miniature"


def spec_of(args: argparse.Namespace) -> Spec:
    """The weights that the command line names.

    Raises:
        ZvlError: what is named does not go together.
    """
    check(argparse.Namespace(z_image=args.z_image, qwen3_vl=args.qwen3_vl, size=None, ui=True))
    z_image, qwen3_vl, weights = (
        os.path.abspath(path) if path else "" for path in (args.z_image, args.qwen3_vl, args.weights)
    )
    threads = 0 if args.z_image else 1  # the miniature's numbers shall not depend on how many processes there are
    return Spec(z_image, qwen3_vl, weights, args.device, threads)


def identity(spec: Spec) -> str:
    """What decides how pictures look besides their cells.

    Raises:
        ZvlError: the weights are not there.
    """
    try:
        if not spec.z_image:
            check_miniature(spec.folder)
            return f"miniature {weights_digest(spec.folder)}"
        return f"{spec.name} {files_digest(spec.z_image, spec.qwen3_vl)}"
    except OSError as error:
        raise ZvlError(f"The weights can't be read ({error}).") from error


def prepare(spec: Spec) -> Callable[[Job], Made]:
    """Open the weights; gives what makes a job's picture with them."""
    import torch

    from ....webui import standalone
    from ... import demo

    if spec.threads:
        torch.set_num_threads(spec.threads)
    given = {"z_image": spec.z_image or None, "qwen3_vl": spec.qwen3_vl or None, "weights": spec.weights or None}
    none = dict.fromkeys(("size", "steps", "guidance"))
    weights = demo.open_weights(argparse.Namespace(**given, **none, device=spec.device))
    weights.model.text = functools.lru_cache(maxsize=_TEXTS)(weights.model.text)  # cells have few prompts

    def make(job: Job) -> Made:
        made = standalone.make(weights, request(job, weights))
        return Made(_png(made.pictures[0], made.parameters[0]), tuple(made.notes))

    return make


def request(job: Job, weights: Any) -> Any:
    """A job as the pipeline takes it, with the files of learned numbers that it names."""
    from ....options import BY_NAME, Settings
    from ....webui.standalone import Request, learned

    asked = job.asked
    pictures = {name: _opened(BY_NAME[name].kind, data) for name, data in job.pictures.items()}
    settings, files = learned(weights, Settings.from_mapping({**job.settings, **pictures}), paths=True)
    sampling = {"size": (asked["size"], asked["size"]), "steps": asked["steps"], "guidance": asked["cfg"] - 1.0}
    return Request(asked["prompt"], settings, [asked["seed"]], sampling, asked["negative_prompt"], **files)


@functools.lru_cache(maxsize=_REFERENCES)
def _opened(kind: str, data: bytes) -> Any:
    """A picture that is sent, opened once for the cells that follow each other."""
    from ....reference import open_mask, open_reference

    return (open_mask if kind == "mask" else open_reference)(data)


def _png(picture: Any, parameters: str) -> bytes:
    from PIL import PngImagePlugin

    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("parameters", parameters)
    picture.save(file, "PNG", pnginfo=text, compress_level=_COMPRESSED)
    return file.getvalue()


class Processes(Crewed):
    """Processes of this machine."""

    def __init__(self, specs: list[Spec], say: Callable[[str], None]):
        members = [Process(f"Worker {number}", prepare, spec) for number, spec in enumerate(specs, 1)]
        super().__init__(members, specs[0].name, identity(specs[0]), _AHEAD, say)


def open_target(args: argparse.Namespace, say: Callable[[str], None]) -> Processes:
    spec = spec_of(args)
    if not spec.z_image:
        count = args.workers or min(os.cpu_count() or 1, _MOST)
        return Processes([spec] * count, say)
    return Processes(_placed(spec, args.workers), say)


def _placed(spec: Spec, workers: int | None) -> list[Spec]:
    """Real weights: a process for each accelerator, or as many as are wanted."""
    import dataclasses

    import torch

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if spec.device == "auto" else []
    devices = devices or [spec.device]
    threads = (os.cpu_count() or 1) // workers if workers and workers > 1 else 0
    return [
        dataclasses.replace(spec, device=devices[number % len(devices)], threads=max(threads, 1) if threads else 0)
        for number in range(workers or len(devices))
    ]
