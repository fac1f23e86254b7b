"""The newest parts of Forge Neo around the same text encoder, as its single files have them.

After backend/text_processing/z_image_engine.py (commit 21886f4), backend/text_processing/_comfy.py (commit 0184b0d) and
modules/prompt_parser.py (commit ba6d874) of Haoming02/sd-webui-forge-classic.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import torch
from by_hand import TEMPLATE
from modules import prompt_parser


class TextEngine:
    """A tokenizer inside a tokenizer, a model inside a model, no emphasis; backslashes before brackets go.

    What stands behind an <|endoftext|> is masked, with it; a whole line's result is on the CPU.
    """

    llama_template = TEMPLATE

    def __init__(self, old: Any, pad: int = 151643):
        self.text_encoder = SimpleNamespace(transformer=old.text_encoder)
        self.tokenizer = SimpleNamespace(tokenizer=old.tokenizer)
        self.pad = pad

    def __call__(self, texts: list[str]) -> list[torch.Tensor]:
        known: dict[str, torch.Tensor] = {}
        return [known[text] if text in known else known.setdefault(text, self._encoded(text)) for text in texts]

    def _encoded(self, text: str) -> torch.Tensor:
        line = TEMPLATE.format(text).replace("\\(", "(").replace("\\)", ")")
        model = self.text_encoder.transformer
        (ids,) = self.tokenizer.tokenizer([line])["input_ids"]
        embedding = model.get_input_embeddings()
        embeds = embedding(torch.tensor([ids], device=embedding.weight.device)).to(torch.float32)
        end = ids.index(self.pad) if self.pad in ids else len(ids)
        mask = torch.tensor([[1] * end + [0] * (len(ids) - end)], device=embeds.device)
        more = {"num_tokens": [end], "intermediate_output": -2, "final_layer_norm_intermediate": False}
        (rows,) = model(None, mask, embeds=embeds, dtype=torch.float32, embeds_info=[], **more)[1].float()
        return rows.cpu()


class OneText:
    """An engine that is asked for one text at a time (`is_llm`) and gives [1, tokens, hidden]."""

    is_llm = True

    def __init__(self, engine: Any):
        self.ask, self.asked = engine.get_learned_conditioning, 0

    def __call__(self, prompts: Any) -> torch.Tensor:
        (_,) = prompts
        self.asked += 1
        return torch.stack(list(self.ask(prompts)))


def one_text_per_call(model: Any, prompts: Any, steps: int, *rest: Any) -> list[list]:
    """`get_learned_conditioning` of the newest prompt parser, where the engine is a language model: one call for each
    text of a schedule."""
    made = []
    for schedule in prompt_parser.get_learned_conditioning(_Echo, prompts, steps):
        texts = [prompt_parser.SdConditioning([entry.cond], copy_from=prompts) for entry in schedule]
        encoded = [model.get_learned_conditioning(text).squeeze(0) for text in texts]
        ends = [entry.end_at_step for entry in schedule]
        made.append(list(map(prompt_parser.ScheduledPromptConditioning, ends, encoded)))
    return made


class _Echo:
    """What a prompt's schedule says, in place of what a model makes of it."""

    is_llm = False

    @staticmethod
    def get_learned_conditioning(prompts: Any) -> list[str]:
        return list(prompts)
