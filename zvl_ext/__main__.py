"""The command line: `python -m zvl_ext extract | blend | statistics | demo | evaluate | benchmark | cache | options`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ZvlError
from .options import BY_NAME, OPTIONS, PROMPT, Option, Settings

if TYPE_CHECKING:
    import torch

    from .select import Rows
    from .statistics import ReferenceStatistics

TENSOR = "hidden_states"
BLEND_OPTIONS = ("alpha", "normalization", "outlier_repair", "outlier_threshold", "length_match", "blend_mode")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ZvlError(f"{message} (see python -m zvl_ext --help)")


def _value(option: Option) -> Any:
    """An argparse type that applies the option's own check."""

    def convert(text: str) -> Any:
        try:
            return option.check(json.loads(text) if option.kind in ("number", "integer") else text)
        except (ValueError, ZvlError) as error:
            message = str(error) if isinstance(error, ZvlError) else str(option.refuse(text, f"a {option.kind}"))
            raise argparse.ArgumentTypeError(message.removeprefix("Z-Image VL: ")) from None

    return convert


def _whole(low: int, high: int) -> Any:
    """An argparse type for whole numbers in a range."""

    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high} is needed, not {text!r}")
        return int(text)

    return convert


def _add(parser: argparse.ArgumentParser, name: str, *aliases: str, option: Option | None = None) -> None:
    option = option or BY_NAME[name]
    parser.add_argument(
        "--" + name.replace("_", "-"),
        *aliases,
        dest=name,
        type=_value(option),
        default=option.default,
        metavar="|".join(option.choices) or option.kind.upper(),
        help=f"{option.help} Default: {option.default}.".replace("%", "%%"),
    )


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m zvl_ext", description="Z-Image VL on the command line.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    extract = commands.add_parser("extract", help="hidden states of Qwen3-VL after it has seen an image and a prompt")
    extract.add_argument("image", help="the reference image, a file")
    extract.add_argument("--model", required=True, help="a Hugging Face folder or one .safetensors file of Qwen3-VL")
    extract.add_argument("--prompt", default="", help="the prompt; default: empty")
    _add(extract, "hidden_layer", "--layer", option=dataclasses.replace(BY_NAME["hidden_layer"], minimum=-1000))  # any depth, not only Z-Image's
    _add(extract, "token_mode", "--tokens")
    _add(extract, "reference_tokens")
    _add(extract, "system_prompt")
    extract.add_argument("--tokenizer", help="a folder with tokenizer.json; default: the model's folder")
    extract.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    extract.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    extract.add_argument("--out", required=True, help="the .safetensors file to write")
    extract.set_defaults(run=_extract)

    mix = commands.add_parser("blend", help="blend hidden states into text embeddings")
    mix.add_argument("--text", required=True, help="text embeddings, .safetensors")
    mix.add_argument("--vl", required=True, help="hidden states from extract, .safetensors")
    for name in BLEND_OPTIONS:
        _add(mix, name)
    mix.add_argument("--scale-to-text", action=argparse.BooleanOptionalAction, default=True, help=BY_NAME["scale_to_text"].help)
    mix.add_argument("--reference-stats", help="the text encoder's statistics, .safetensors; default: measured on --text")
    mix.add_argument("--out", required=True, help="the .safetensors file to write")
    mix.set_defaults(run=_blend)

    compare = commands.add_parser("statistics", help="how far hidden states are from text embeddings")
    compare.add_argument("--text", required=True, nargs="+", help="text embeddings of one or more prompts, .safetensors")
    compare.add_argument("--vl", required=True, help="hidden states from extract, .safetensors")
    compare.add_argument("--reference-out", help="also write the text embeddings' statistics here, for blend --reference-stats")
    compare.add_argument("--json", action="store_true")
    compare.set_defaults(run=_statistics)

    demo = commands.add_parser("demo", help="a contact sheet of one reference and one prompt over alpha, or a page to try the product in")
    demo.add_argument("--out", default="zvl-demo.png", help="the PNG to write; default: %(default)s")
    demo.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="default: %(default)s")
    demo.add_argument("--prompt", help="default: one of the miniature's world")
    demo.add_argument("--reference", metavar="FILE", help="the reference image; default: one of the miniature's world")
    demo.add_argument("--z-image", metavar="FOLDER", help="a diffusers folder of Z-Image-Turbo; default: the miniature")
    demo.add_argument("--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one .safetensors file of Qwen3-VL; default: the miniature")
    demo.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")
    demo.add_argument("--size", type=_whole(64, 2048), help="width and height in pixels with the real weights; default: 1024")
    demo.add_argument("--steps", type=_whole(1, 100), help="default: 8")
    guidance = dataclasses.replace(BY_NAME["alpha"], name="guidance", maximum=30.0)
    demo.add_argument("--guidance", type=_value(guidance), help="classifier-free guidance, 0 is none; default: what the weights are made for")
    demo.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    demo.add_argument("--ui", action="store_true", help="open a page with the web UI's accordion instead")
    demo.add_argument("--port", type=_whole(1, 65535), help="of the page; default: the first free one from 7860")
    demo.set_defaults(run=_demo)

    evaluate = commands.add_parser("evaluate", help="measure every way of conditioning on the miniature family: tables, plots and verdicts")
    evaluate.add_argument("--out", metavar="FOLDER", help="where results.json, evidence.md and the plots go; default: evidence beside the weights")
    evaluate.add_argument("--pairs", type=_whole(2, 10_000), help="pairs of the main part; the other parts take fewer in proportion; default: 200")
    evaluate.add_argument("--quick", action="store_true", help="few pairs, in about two minutes: numbers with wide intervals")
    evaluate.add_argument("--workers", type=_whole(1, 64), help="processes; default: one for each core, at most 8")
    evaluate.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")
    evaluate.set_defaults(run=_evaluate)

    benchmark = commands.add_parser("benchmark", help="what a reference image costs in time and memory, beside the naive way; on random weights")
    benchmark.add_argument(
        "--full", action="store_true", help="the real sizes: 9 GB on disk, 16 GB of memory and many minutes; default: a quarter of the widths"
    )
    benchmark.add_argument("--json", action="store_true")
    benchmark.add_argument("--repetitions", type=_whole(1, 100), default=3, help="of each measurement; the medians are told; default: %(default)s")
    benchmark.add_argument("--work", metavar="FOLDER", help="where the random weights are written, or used again, and stay; default: a temporary folder")
    benchmark.set_defaults(run=_benchmark)

    cache = commands.add_parser("cache", help="the hidden states kept on disk: where, how many and how large")
    cache.add_argument("--clear", action="store_true", help="remove them")
    cache.add_argument("--folder", help="another folder")
    cache.add_argument("--json", action="store_true")
    cache.set_defaults(run=_cache)

    options = commands.add_parser("options", help="every control with its range, default and names")
    options.add_argument("--json", action="store_true")
    options.add_argument("--markdown", action="store_true", help="as the table in the README")
    options.set_defaults(run=_options)
    return parser


def _extract(args: argparse.Namespace) -> None:
    _check_out(args.out)
    from .checkpoint import open_checkpoint
    from .reference import open_file

    try:
        args.prompt.encode(), args.system_prompt.encode()
    except UnicodeEncodeError as error:
        raise ZvlError("--prompt is not UTF-8 text.") from error
    reference = open_file(args.image)
    checkpoint = open_checkpoint(args.model)
    checkpoint.check_layer(args.hidden_layer)

    from . import conditioner
    from .hosts.standalone import StandaloneExtractor, tokenizer
    from .sequence import HEAD, TEMPLATE
    from .store import Store

    encode = tokenizer(args.tokenizer or checkpoint.tokenizer_folder)
    settings = Settings(
        hidden_layer=args.hidden_layer, token_mode=args.token_mode, reference_tokens=args.reference_tokens, system_prompt=args.system_prompt, vl_prompt=PROMPT
    )
    text = conditioner.Text(args.prompt, tuple(encode(TEMPLATE.format(args.prompt))), None)
    extractor = StandaloneExtractor(checkpoint, _device(args.device), args.dtype)
    sources = conditioner.Sources(extractor, encode, statistics=None, text_encoder=None, store=Store())
    states = conditioner.extract(settings, reference, text, sources).states
    rows, columns = checkpoint.grid(reference, args.reference_tokens)
    with open(args.image, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    metadata = {
        "layer": str(args.hidden_layer),
        "tokens": args.token_mode,
        "prompt": args.prompt,
        "image_tokens": str(rows * columns),
        "image_grid": f"{rows}x{columns}",
        "head": str(len(encode(HEAD))),
        "reference": digest,
        "reference_pixels": reference.digest,
        "model": checkpoint.name,
        "system_prompt": args.system_prompt,
        "precision": extractor.precision,
        "zvl_ext": __version__,
    }
    _save({TENSOR: states.contiguous()}, args.out, metadata)
    print(f"{args.out}: {states.shape[0]} tokens × {states.shape[1]}, layer {args.hidden_layer}, {rows * columns} image tokens ({rows} × {columns})")


def _blend(args: argparse.Namespace) -> None:
    _check_out(args.out)
    from . import conditioner
    from .statistics import measure

    (text, _), (vl, metadata) = _load(args.text), _load(args.vl)
    _check_widths(args.text, text, args.vl, vl)
    settings = Settings(**{name: getattr(args, name) for name in BLEND_OPTIONS}, scale_to_text=args.scale_to_text)
    statistics = None
    if conditioner.needs_statistics(settings):
        statistics = _load_statistics(args.reference_stats, text.shape[1]) if args.reference_stats else measure(text)
    result = conditioner.mix(settings, text, _rows(vl, metadata, args.vl), statistics)
    _save({TENSOR: result.contiguous()}, args.out, {name: str(getattr(settings, name)) for name in (*BLEND_OPTIONS, "scale_to_text")})
    print(f"{args.out}: {result.shape[0]} tokens × {result.shape[1]}, alpha {settings.alpha:g}")


def _check_widths(text_path: str, text: torch.Tensor, vl_path: str, vl: torch.Tensor) -> None:
    if text.shape[1] != vl.shape[1]:
        raise ZvlError(f"{text_path} is {text.shape[1]} wide, {vl_path} {vl.shape[1]}. Both have to come from models of the same width.")


def _rows(vl: torch.Tensor, metadata: dict[str, str], path: str) -> Rows:
    """The roles of the rows that extract wrote, from the file's metadata; without any, all are taken for text rows."""
    import torch

    from .select import Rows

    mode, rows = metadata.get("tokens", "text"), vl.shape[0]
    try:
        images, head = int(metadata.get("image_tokens", "0")), int(metadata.get("head", "3"))
        start = {"text": None, "image": 0, "image_no_markers": -1, "all": head}[mode]
    except (KeyError, ValueError) as error:
        raise ZvlError(f"{path}: the metadata is not what extract writes ({error}).") from error
    position = torch.arange(rows)
    if start is None:
        return Rows(vl, torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool), head)
    block = (position >= start) & (position < start + images + 2)
    return Rows(vl, ~block, (position > start) & (position <= start + images), head)


def _statistics(args: argparse.Namespace) -> None:
    if args.reference_out:
        _check_out(args.reference_out, "--reference-out")
    import torch

    from .statistics import compare, measure

    texts = [_load(path)[0] for path in args.text]
    vl, metadata = _load(args.vl)
    for path, text in zip(args.text, texts):
        _check_widths(path, text, args.vl, vl)
    # Image positions never hold position 0, the attention sink of a text sequence.
    holds_first = metadata.get("tokens", "text") in ("text", "all")
    result = {
        "with_position_0": compare(torch.cat(texts), vl),
        "without_position_0": compare(torch.cat([text[1:] for text in texts]), vl[1:] if holds_first else vl),
        "vl_holds_position_0": holds_first,
    }
    if args.reference_out:
        reference = measure(torch.cat(texts))
        tensors = {"per_dim_mean": reference.per_dim_mean, "per_dim_std": reference.per_dim_std, "global_std": torch.tensor(reference.global_std)}
        _save(tensors, args.reference_out, {"zvl_ext": __version__})
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for title, part in (("with position 0", result["with_position_0"]), ("without position 0", result["without_position_0"])):
        worst = ", ".join(f"{dimension}: {ratio:.3g}x" for dimension, ratio in part["worst_dimensions"])
        print(f"{title} ({part['text_tokens']} text tokens, {part['vl_tokens']} vl tokens)")
        print(f"  global std            text {part['text_std']:.4g}, vl {part['vl_std']:.4g}")
        print(f"  per-dim correlation   {part['correlation']:.4f}")
        print(f"  std ratio vl/text     median {part['median_ratio']:.3g}x, worst {part['worst_ratio']:.4g}x ({worst})")
        print(f"  over 10x              {part['outliers']} dimensions")


def _demo(args: argparse.Namespace) -> None:
    if not args.ui:
        _check_out(args.out)
    try:
        from .miniature import demo

        args.device = _device(args.device)
        demo.run(args)
    except ImportError as error:
        raise ZvlError(f"The demo needs more packages ({error}). This installs them: python install.py demo{' --ui' if args.ui else ''}") from error


def _evaluate(args: argparse.Namespace) -> None:
    from .miniature import family
    from .miniature.evaluation import run
    from .miniature.evaluation.experiments import QUICK, Plan

    plan = QUICK if args.quick else Plan()
    run.run(args.weights or family.WEIGHTS, args.out, plan.of(args.pairs) if args.pairs else plan, args.workers)


def _benchmark(args: argparse.Namespace) -> None:
    from .benchmark import run, size

    report = run.run(size.FULL if args.full else size.SMALL, args.repetitions, args.work)
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else run.table(report))


def _cache(args: argparse.Namespace) -> None:
    from .store import Disk, data_folder

    disk = Disk(args.folder or data_folder(), limit=0)
    removed = disk.clear() if args.clear else 0
    sizes = [file.size for file in disk.files()]
    if args.json:
        print(json.dumps({"folder": disk.folder, "entries": len(sizes), "bytes": sum(sizes), "removed": removed}, indent=2))
        return
    print(f"{disk.folder}: {len(sizes)} entries, {sum(sizes)} bytes{f'; {removed} files removed' if args.clear else ''}")


def _options(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps([option.describe() for option in OPTIONS], indent=2, ensure_ascii=False))
        return
    if args.markdown:
        print(options_table())
        return
    for option in OPTIONS:
        print(f"{option.name:18} {_values(option)}; default {json.dumps(option.default)}")
        print(f"{'':18} {option.help}")


def options_table() -> str:
    """The options in the order of the positional API, as a table in Markdown."""
    rows = [f"| `{o.name}` | {_values(o)} | {'' if o.default in (None, '') else f'`{json.dumps(o.default)}`'} |" for o in OPTIONS]
    return "\n".join(["| name | values | default |", "|---|---|---|", *rows])


def _values(option: Option) -> str:
    """What an option takes, in words."""
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.minimum is not None:
        return f"{option.minimum:g} to {option.maximum:g}"
    words = {"switch": "true, false", "image": "an image as base64 text", "model": "a name from the panel's list; empty: the first"}
    return words.get(option.kind, option.kind)


def _device(name: str) -> str:
    import torch

    try:
        if name != "auto":
            torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZvlError(f"--device {name}: torch knows no such device.") from error
    return name


def _check_out(path: str, flag: str = "--out") -> None:
    """Refuse before the work, not after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise ZvlError(f"{flag} {path}: {'this is a folder' if os.path.isdir(path) else 'there is no folder ' + folder}.")


def _load(path: str) -> tuple[torch.Tensor, dict[str, str]]:
    """The tensor `hidden_states` of a file as float32 [tokens, hidden], and the file's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if TENSOR not in file.keys():
                raise ZvlError(f"{path} has no tensor {TENSOR!r}. It has to be written by extract or blend, or in the same way.")
            tensor, metadata = file.get_tensor(TENSOR), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ZvlError(f"{path} can't be read as safetensors ({error}).") from error
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or tensor.shape[0] == 0 or not tensor.is_floating_point():
        raise ZvlError(f"{path}: {TENSOR} is {tensor.dtype} {list(tensor.shape)}; float [tokens, hidden] is needed.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ZvlError(f"{path}: {TENSOR} has values that are not finite. Extract it again, in another dtype.")
    return tensor, metadata


def _load_statistics(path: str, hidden: int) -> ReferenceStatistics:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .statistics import ReferenceStatistics

    try:
        tensors = load_file(path)
        mean, std, overall = (tensors[key].float() for key in ("per_dim_mean", "per_dim_std", "global_std"))
    except (OSError, SafetensorError) as error:
        raise ZvlError(f"{path} can't be read as safetensors ({error}).") from error
    except KeyError as error:
        raise ZvlError(f"{path} has no tensor {error}. Reference statistics hold per_dim_mean, per_dim_std and global_std.") from error
    if mean.shape != (hidden,) or std.shape != (hidden,) or overall.numel() != 1:
        raise ZvlError(f"{path}: the statistics are for width {list(mean.shape)}, the embeddings are {hidden} wide.")
    return ReferenceStatistics(mean, std, float(overall))


def _save(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
    """Write beside the target and rename, so that no half-written file is left under its name."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".tmp")
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, SafetensorError) as error:
        raise ZvlError(f"{path} can't be written ({getattr(error, 'strerror', None) or error}).") from error


def main(arguments: list[str] | None = None) -> int:
    try:
        args = build_parser().parse_args(arguments)
        args.run(args)
    except ZvlError as error:
        print("zvl_ext: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"zvl_ext: {error}. Install it with: python -m pip install torch transformers safetensors pillow numpy", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
