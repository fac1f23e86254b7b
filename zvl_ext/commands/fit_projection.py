"""`fit projection`: a Qwen3-VL's hidden states brought to those of the text encoder, so that another size serves
engine blend."""

from __future__ import annotations

import argparse
import functools
import os
import re
import time
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError
from .common import add_command, add_dtype, bar, check_out, device, repeatable, say, whole

if TYPE_CHECKING:
    from ..fit.pairs import Readers
    from ..hosts.standalone import StandaloneExtractor
    from ..reference import Reference

LAYERS = (-8, -6, -2)  # where presets and the options' help read
_LISTED = re.compile(r"-[1-9]\d{0,2}(\s*,\s*-[1-9]\d{0,2})*", re.ASCII)
_EXAMPLES = (
    "fit projection --pictures pictures --out mine.safetensors",
    "fit projection --pictures FOLDER --z-image FOLDER --qwen3-vl Qwen3-VL-2B --layers=-8,-2 --out 2b.safetensors",
)
_MORE = """
`fit pictures --out pictures` draws pictures for the first, which is about the miniature."""


def add(what: Any) -> None:
    """Declare the command."""
    parser = add_command(
        what,
        "projection",
        "a Qwen3-VL's states as the text encoder's, so that one of another size can be used in engine blend",
        *_EXAMPLES,
        more=_MORE,
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help="pictures, each with its caption in NAME.txt beside it, which Qwen3-VL reads behind the picture; it "
        "describes those that have none",
    )
    parser.add_argument("--texts", metavar="FILE", help="prompts, one on a line, which are read without a picture")
    parser.add_argument("--out", required=True, metavar="FILE", help="the projection to write, .safetensors")
    parser.add_argument(
        "--z-image",
        metavar="PATH",
        help="a diffusers folder of Z-Image, or a folder or file of Qwen3-4B; default: the miniature's",
    )
    parser.add_argument(
        "--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one file of Qwen3-VL; default: the miniature's"
    )
    parser.add_argument(
        "--layers", type=_layers, help=f"hidden layers of Qwen3-VL; default: {','.join(map(str, LAYERS))}, or as deep"
    )
    parser.add_argument(
        "--method",
        choices=("ridge", "procrustes"),
        default="ridge",
        help="ridge: a regression, whose penalty held-out texts decide. procrustes: a rotation with a scale",
    )
    parser.add_argument(
        "--reference-tokens", type=whole(4, 1024), default=256, help="of a picture, at most; default: %(default)s"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    add_dtype(parser)
    parser.add_argument("--state", metavar="FOLDER", help="where captions are kept; default: the file's, .fit")
    parser.add_argument("--anyway", action="store_true", help="write the projection where nothing was gained, too")
    parser.set_defaults(run=run, typed=functools.partial(repeatable, parser))


def _layers(text: str) -> tuple[int, ...]:
    from ..projections import MOST

    if not _LISTED.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(f"layers from the end such as --layers=-8,-2 are needed, not {text[:60]!r}")
    layers = tuple(sorted({int(part) for part in text.split(",")}))
    if len(layers) > MOST:
        raise argparse.ArgumentTypeError(f"{len(layers)} layers were named; {MOST} are possible")
    return layers


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    if not (args.pictures or args.texts):
        raise ZvlError("Name what to learn from: --pictures FOLDER, --texts FILE, or both.")
    from ..fit import projection as fit

    began = time.monotonic()
    texts = fit.texts_of(args.texts) if args.texts else []
    readers, extractor, question = _readers(args)
    checkpoint, width = extractor.checkpoint, readers.width
    pictures = _described(args, readers, extractor, question)
    known = {caption for caption, _ in pictures}
    texts = [text for text in texts if text not in known]
    material = [*pictures, *((text, None) for text in texts)]
    fit.check_count(len(material))
    need = fit.memory(checkpoint.hidden_size, width, len(readers.layers))
    say(
        f"{len(pictures)} pictures and {len(texts)} texts, {len(readers.layers)} hidden layers from "
        f"{checkpoint.hidden_size} to {width} wide. Calculated: {need / 2**30:.2f} GiB of main memory besides the "
        "models."
    )
    try:
        gathered = fit.gather(readers, material, bar)
    except KeyboardInterrupt:
        say("Stopped. Nothing is written.")
        raise
    if gathered.rows < 2 * checkpoint.hidden_size:
        say(
            f"There are {gathered.rows} pairs of rows for states {checkpoint.hidden_size} wide: more texts or pictures "
            "would make it better."
        )
    found = {}
    for layer, each in fit.solved(gathered, args.method, bar):
        found[layer] = each
        say(each.line(layer))
    if not (args.anyway or any(each.gains for each in found.values())):
        raise ZvlError(
            "Nothing was gained, so nothing is written. More texts and pictures, or another layer, may help; --anyway "
            "writes the file all the same."
        )
    about = {
        "image_model": fit.name_of(args.z_image),
        "model": checkpoint.name,
        "layers": str(checkpoint.layers),
        "fingerprint": checkpoint.fingerprint,
        "method": args.method,
        "texts": str(len(texts)),
        "pictures": str(len(pictures)),
        "seconds": f"{time.monotonic() - began:.0f}",
        "command": args.typed(args),
    }
    fit.write(args.out, gathered, found, about)
    say(f"{args.out} is written. In the web UI it belongs into models/qwen3_vl/projections.")


def _readers(args: argparse.Namespace) -> tuple[Readers, StandaloneExtractor, str | None]:
    """Both models, Qwen3-VL by itself, and what it is asked where it knows no instructions."""
    from ..fit.pairs import Readers
    from ..hosts.standalone import StandaloneExtractor
    from ..hosts.standalone_encoder import TextEncoderFiles
    from ..lab.miniature import family
    from ..qwen3vl.files import open_checkpoint

    family.be_quiet()
    own = not args.z_image
    args.z_image = args.z_image or os.path.join(family.WEIGHTS, "z-image")
    args.qwen3_vl = args.qwen3_vl or os.path.join(family.WEIGHTS, "qwen3-vl")
    checkpoint = open_checkpoint(args.qwen3_vl, any_size=True)
    layers = args.layers or tuple(
        sorted({family.layer_at_same_depth(layer, checkpoint.layers) for layer in LAYERS} if own else LAYERS)
    )
    for layer in layers:
        checkpoint.check_layer(layer)
    extractor = StandaloneExtractor(checkpoint, device(args.device), args.dtype)
    files = TextEncoderFiles(args.z_image, device=str(extractor.device), dtype=args.dtype)
    tokens = min(args.reference_tokens, family.GRID**2) if own else args.reference_tokens
    return Readers(extractor, files.text, files.encode, layers, tokens), extractor, "" if own else None


def _described(
    args: argparse.Namespace, readers: Readers, extractor: StandaloneExtractor, question: str | None
) -> list[tuple[str, Reference | None]]:
    """The captions of a folder's pictures, each with its picture. Those that Qwen3-VL writes are kept, because writing
    takes seconds each."""
    if not args.pictures:
        return []
    from ..fit.album import open_album
    from ..fit.describing import Captioner
    from ..fit.state import make_folder

    folder = args.state or os.path.splitext(args.out)[0] + ".fit"
    make_folder(folder)

    describe = Captioner(extractor, readers.encode, readers.tokens, question, folder)
    return [(each.caption, each.reference) for each in open_album(args.pictures, describe, say)]
