"""`extract`: hidden states of Qwen3-VL after it has seen an image and a prompt."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ZvlError
from ..options import BY_NAME, PROMPT
from .common import PUBLISHED, add_command, add_dtype, add_option, check_out, device
from .tensors import TENSOR, save

if TYPE_CHECKING:
    from ..mixing.statistics import ReferenceStatistics


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "extract",
        "hidden states of Qwen3-VL: what one of its layers makes of an image and a prompt",
        'extract picture.png --model models/qwen3_vl/Qwen3-VL-4B-Instruct --prompt "a house" --out vl.safetensors',
    )
    parser.add_argument("image", help="the reference image, a file")
    parser.add_argument("--model", required=True, help="a Hugging Face folder or one .safetensors file of Qwen3-VL")
    parser.add_argument("--prompt", default="", help="the prompt; default: empty")
    add_option(
        parser, "hidden_layer", "--layer", option=dataclasses.replace(BY_NAME["hidden_layer"], minimum=-1000)
    )  # any depth, not only Z-Image's
    add_option(parser, "token_mode", "--tokens")
    add_option(parser, "reference_tokens")
    add_option(parser, "system_prompt")
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json; default: the model's folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    add_dtype(parser, "float16")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    from ..qwen3vl.files import open_checkpoint
    from ..reference import open_file

    try:
        args.prompt.encode(), args.system_prompt.encode()
    except UnicodeEncodeError as error:
        raise ZvlError("--prompt is not UTF-8 text.") from error
    reference = open_file(args.image)
    checkpoint = open_checkpoint(args.model)
    checkpoint.check_layer(args.hidden_layer)

    import torch

    from .. import conditioner
    from ..engines.sources import Sources, Text
    from ..hosts.standalone import StandaloneExtractor
    from ..qwen3vl.tokenizer import tokenizer
    from ..sequence import HEAD, TEMPLATE
    from ..store import Store

    encode = tokenizer(args.tokenizer or checkpoint.tokenizer_folder)
    settings = dataclasses.replace(
        PUBLISHED,
        hidden_layer=args.hidden_layer,
        token_mode=args.token_mode,
        reference_tokens=args.reference_tokens,
        system_prompt=args.system_prompt,
        vl_prompt=PROMPT,
    )
    no_embeddings = torch.empty(0, checkpoint.hidden_size)  # nothing is blended here
    text = Text(args.prompt, tuple(encode(TEMPLATE.format(args.prompt))), no_embeddings)
    extractor = StandaloneExtractor(checkpoint, device(args.device), args.dtype)
    sources = Sources(extractor, encode, _no_statistics, text_encoder=None, store=Store())
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
    save({TENSOR: states.contiguous()}, args.out, metadata)
    print(
        f"{args.out}: {states.shape[0]} tokens × {states.shape[1]}, layer {args.hidden_layer}, {rows * columns} image "
        f"tokens ({rows} × {columns})"
    )


def _no_statistics() -> ReferenceStatistics:
    raise ValueError("extract has no text encoder whose statistics it could measure")
