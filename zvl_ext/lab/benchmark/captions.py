"""A caption of a reference, word by word, beside transformers' own generation over its own layers."""

from __future__ import annotations

from typing import Any

import torch

from .bench import Bench, Row, reference_of
from .sides import Naive, interleaved

TOKENS = 24  # that are written


def captions(bench: Bench, naive: Naive, image_tokens: int) -> Row:
    """The same number of tokens behind the same reference, by both."""
    bench.say("a caption")
    reference, text = reference_of(image_tokens), bench.text(0)
    sequence, end = bench.sequence(text, reference), bench.size.special
    inputs = naive.inputs(sequence, reference)
    agreed = []

    def ours(number: int) -> list[int]:
        written: list[int] = []

        def writer(id: int) -> bool:
            written.append(id)
            return False

        bench.ours.write(sequence, reference, image_tokens, writer, TOKENS, [end])
        return written

    @torch.inference_mode()
    def theirs(number: int) -> list[int]:
        naive.module.model.rope_deltas = None  # kept between calls
        options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": [end], "pad_token_id": end}
        ids: list[int] = naive.module.generate(**inputs, **options)[0, len(sequence.ids) :].tolist()
        return ids

    def check(number: int, results: dict[str, Any]) -> None:
        # With weights at random the logits lie close together: in bfloat16 a rounding decides, and what follows.
        pairs = list(zip(results["naive"], results["ours"]))
        agreed.append(next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)))

    seconds = interleaved({"naive": theirs, "ours": ours}, min(bench.repetitions, 3), bench.say, check)
    note = f"{TOKENS / seconds['ours']:.2g} a second with the reading; the first {min(agreed)} are the same"
    return Row(f"a caption of {TOKENS} tokens", "s", seconds["naive"], seconds["ours"], note=note)
