"""`statistics`: how far hidden states are from what the image model takes. Of two files, of a text encoder alone, or of
the user's own models with a reference and a prompt."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ZvlError
from ..options import BY_NAME, Settings
from .common import add_command, add_weights, check_out, device, given, value, whole
from .tensors import check_widths, load, save

if TYPE_CHECKING:
    from ..mixing.statistics import ReferenceStatistics, Worst

# What each way of asking needs, and what else only it takes.
_WAYS = {
    "text": ("vl", "reference_out"),
    "text_encoder": ("reference_out", "tokenizer"),
    "reference": ("prompt", "set", "out", "attention", "z_image", "qwen3_vl", "weights", "size", "steps", "guidance"),
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "statistics",
        "how far hidden states are from text embeddings: of files, or of your models",
        "statistics --text text.safetensors --vl vl.safetensors",
        "statistics --text-encoder Z-IMAGE-FOLDER",
        'statistics --reference picture.png --prompt "a large cross" --out analysis',
    )
    files = parser.add_argument_group("of two files")
    files.add_argument("--text", nargs="+", help="text embeddings of one or more prompts, .safetensors")
    files.add_argument("--vl", help="hidden states from extract, .safetensors")
    encoder = parser.add_argument_group("of a text encoder, by layer, on the built-in prompts")
    encoder.add_argument(
        "--text-encoder", metavar="PATH", help="Z-Image's diffusers folder, or a folder or file of Qwen3-4B"
    )
    encoder.add_argument(
        "--tokenizer", metavar="FOLDER", help="a folder with tokenizer.json; default: the text encoder's"
    )
    parser.add_argument(
        "--reference-out", help="also write the text embeddings' statistics here, for blend --reference-stats"
    )
    models = parser.add_argument_group("of a reference and a prompt; without weights named: of the miniature")
    models.add_argument("--reference", metavar="FILE", help="the reference image")
    models.add_argument("--prompt", help="default: empty")
    models.add_argument("--set", action="append", metavar="NAME=VALUE", help="an option, see `options`")
    models.add_argument("--out", metavar="FOLDER", help="write the tables, plots and numbers into this folder")
    models.add_argument(
        "--no-attention", dest="attention", action="store_false", default=None,
        help="make no picture to measure the attention that the reference gets",
    )  # fmt: skip
    add_weights(models)
    models.add_argument("--size", type=whole(64, 2048), help="the picture's width and height, with the real weights")
    models.add_argument("--steps", type=whole(1, 100), help="default: 8")
    guidance = dataclasses.replace(BY_NAME["alpha"], name="guidance", maximum=30.0)
    models.add_argument("--guidance", type=value(guidance), help="classifier-free guidance, 0 is none")
    models.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of the picture; default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    way = _way(args)
    if args.reference_out:
        check_out(args.reference_out, "--reference-out")
    {"text": _of_files, "text_encoder": _of_encoder, "reference": _of_models}[way](args)


def _way(args: argparse.Namespace) -> str:
    """What the statistics are of.

    Raises:
        ZvlError: the arguments name nothing, or two things.
    """
    named = [name for name in _WAYS if getattr(args, name)]
    if args.vl and "text" not in named:
        raise ZvlError("--vl is compared with text embeddings: name them with --text.")
    if len(named) != 1:
        said = " and ".join(f"--{name.replace('_', '-')}" for name in named) or "nothing"
        raise ZvlError(
            f"Name one of --text with --vl, --text-encoder and --reference, not {said}: each has statistics of its own."
        )
    (way,) = named
    if way == "text" and not args.vl:
        raise ZvlError("--text is compared with hidden states: name them with --vl.")
    others = {name for names in _WAYS.values() for name in names} - set(_WAYS[way])
    if foreign := next((name for name in sorted(others) if getattr(args, name) not in (None, [])), None):
        flag = "no-attention" if foreign == "attention" else foreign.replace("_", "-")
        raise ZvlError(f"--{flag} does not go with --{way.replace('_', '-')}. Leave it out.")
    return way


def _of_files(args: argparse.Namespace) -> None:
    import torch

    from ..mixing.statistics import compare, measure_all, moments, worst_of

    texts = [load(path)[0] for path in args.text]
    vl, metadata = load(args.vl)
    for path, text in zip(args.text, texts):
        check_widths(path, text, args.vl, vl)
    # Image positions never hold position 0, the attention sink of a text sequence.
    holds_first = metadata.get("tokens", "text") in ("text", "all")
    parts = {
        "with position 0": (torch.cat(texts), vl),
        "without position 0": (torch.cat([text[1:] for text in texts]), vl[1:] if holds_first else vl),
    }
    if args.reference_out:
        _save(measure_all(texts), args.reference_out)
    if args.json:
        result: dict[str, Any] = {title.replace(" ", "_"): compare(*sides) for title, sides in parts.items()}
        print(json.dumps({**result, "vl_holds_position_0": holds_first}, indent=2))
        return
    for title, sides in parts.items():
        part, worst = compare(*sides), worst_of(moments(sides[0]), moments(sides[1]))
        print(f"{title} ({part['text_tokens']} text tokens, {part['vl_tokens']} vl tokens)")
        print(f"  global std            text {part['text_std']:.4g}, vl {part['vl_std']:.4g}")
        print(f"  per-dim correlation   {part['correlation']:.4f}")
        print(f"  std ratio vl/text     median {part['median_ratio']:.3g}x, worst {part['worst_ratio']:.4g}x")
        for each in worst:
            print(f"    dimension {each.dimension:<5}     {_told(each)}")
        print(f"  over 10x              {part['outliers']} dimensions")


def _told(worst: Worst) -> str:
    return f"text {worst.text:.4g}, vl {worst.vl:.4g}: vl {worst.times:.4g}x {worst.direction}"


def _save(reference: ReferenceStatistics, path: str) -> None:
    """Write reference statistics for `blend --reference-stats`."""
    import torch

    tensors = {
        "per_dim_mean": reference.per_dim_mean,
        "per_dim_std": reference.per_dim_std,
        "global_std": torch.tensor(reference.global_std),
    }
    save(tensors, path, {"zvl_ext": __version__})


def _of_encoder(args: argparse.Namespace) -> None:
    from ..analysis.data import encoder_data
    from ..analysis.layers import encoder_statistics
    from ..analysis.tables import encoder_table
    from ..hosts.standalone_encoder import TextEncoderFiles
    from ..image_models import READS, Z_IMAGE
    from ..mixing.prompts import REFERENCE_PROMPTS

    files = TextEncoderFiles(args.text_encoder, args.tokenizer or "", _device(args.device))
    with _progress() as told:
        found = encoder_statistics(
            files.encoder, files.encode, Z_IMAGE.template, REFERENCE_PROMPTS,
            lambda done: told("measuring the text encoder, prompt", done, len(REFERENCE_PROMPTS)),
        )  # fmt: skip
    if args.reference_out:
        _save(found.at(Z_IMAGE.read_at(READS, len(found.layers))).whole, args.reference_out)
    print(json.dumps(encoder_data(found)) if args.json else encoder_table(found).text())


def _device(named: str) -> str:
    """A device by name, the first accelerator for `auto`."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if named == "auto" else device(named)


def _of_models(args: argparse.Namespace) -> None:
    named = given(args.set or [])
    from ..analysis.data import data_of
    from ..analysis.report import check_folder, save
    from ..analysis.tables import tables
    from ..reference import open_file
    from ..webui.standalone import Request, learned
    from ..webui.standalone_analysis import analyse_with
    from .generate import opened

    if args.out:
        check_folder(args.out)
    settings = Settings.from_mapping({**named, "enabled": True})
    settings = dataclasses.replace(settings, reference=open_file(args.reference))
    weights = opened(args)
    settings, files = learned(weights, settings, paths=True)
    request = Request(args.prompt or "", settings, [args.seed], weights.sampling, **files)
    with _progress() as told:
        found = analyse_with(weights, request, attention=args.attention is None, on_step=told)
    written = save(found, args.out) if args.out else []
    if args.json:
        print(json.dumps(data_of(found), ensure_ascii=False))
        return
    if found.note:
        print(found.note)
    print("\n\n".join(table.text() for table in tables(found)))
    if written:
        plots = "" if any(name.endswith(".png") for name in written) else " (for plots install matplotlib)"
        print(f"\n{args.out}: {', '.join(written)}{plots}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """What is being done, as bars on standard error: on a terminal alone."""
    from tqdm import tqdm

    with contextlib.ExitStack() as bars:
        shown: dict[str, Any] = {}

        def told(what: str, done: int, of: int) -> None:
            if what not in shown:
                bars.close()
                shown.clear()
                shown[what] = bars.enter_context(tqdm(total=of, desc=what, disable=None, leave=False))
            shown[what].update(done - shown[what].n)

        yield told
