import re

import torch

_WEIGHTED = re.compile(r"\(([^():]+):([\d.]+)\)")


def segments(line):
    """A prompt's parts with their weights. A colon with a number inside round brackets is emphasis."""
    found, end = [], 0
    for match in _WEIGHTED.finditer(line):
        found += [(line[end : match.start()], 1.0), (match[1], float(match[2]))]
        end = match.end()
    found.append((line[end:], 1.0))
    return [part for part in found if part[0]] or [("", 1.0)]


class Qwen3TextProcessingEngine:
    """Texts to one [tokens, hidden] each. Every weighted part is wrapped in the whole template; a repeated text is
    encoded once."""

    def __init__(self, text_encoder, tokenizer):
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.llama_template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        self.intermediate_output = -2
        self.id_pad = 151643  # <|endoftext|>

    def tokenize(self, texts):
        return self.tokenizer([self.llama_template.format(text) for text in texts])["input_ids"]

    def mask(self, ids):
        """1 up to the first <|endoftext|>, and 0 behind it."""
        end = ids.index(self.id_pad) + 1 if self.id_pad in ids else len(ids)
        return torch.tensor([[1] * end + [0] * (len(ids) - end)])

    def __call__(self, texts):
        known = {}
        for line in texts:
            if line not in known:
                parts = segments(line)
                ids = self.tokenize([text for text, _ in parts])
                weights = torch.tensor([w for (_, w), part in zip(parts, ids) for _ in part])
                embeds = self.text_encoder.get_input_embeddings()(torch.tensor([[i for part in ids for i in part]]))
                embeds = embeds * weights.to(embeds)[None, :, None]
                mask = self.mask([i for part in ids for i in part])
                known[line] = self.text_encoder(
                    None,
                    attention_mask=mask,
                    embeds=embeds,
                    num_tokens=[int(mask.sum())],
                    intermediate_output=self.intermediate_output,
                    final_layer_norm_intermediate=False,
                )[1][0]
        return [known[line] for line in texts]
