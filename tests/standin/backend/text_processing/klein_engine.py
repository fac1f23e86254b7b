import torch

from backend.text_processing.qwen3_engine import segments


class KleinTextProcessingEngine:
    """Texts to one [tokens, 3 · hidden] each: the states of three layers side by side, of at least 512 tokens."""

    def __init__(self, text_encoder, tokenizer):
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.llama_template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        self.intermediate_output = [9, 18, 27]
        self.id_pad = 151643  # <|endoftext|>
        self.min_length = 512

    def tokenize(self, texts):
        return self.tokenizer([self.llama_template.format(text) for text in texts])["input_ids"]

    def mask(self, ids):
        """1 up to the first <|endoftext|>; 0 for it and for what is behind it."""
        end = ids.index(self.id_pad) if self.id_pad in ids else len(ids)
        return torch.tensor([[1] * end + [0] * (len(ids) - end)])

    def __call__(self, texts):
        known = {}
        for line in texts:
            if line not in known:
                parts = segments(line)
                encoded = self.tokenize([text for text, _ in parts])
                weights = [w for (_, w), part in zip(parts, encoded) for _ in part]
                ids = [i for part in encoded for i in part]
                fill = max(0, self.min_length - len(ids))
                ids, weights = ids + [self.id_pad] * fill, torch.tensor(weights + [1.0] * fill)
                embeds = self.text_encoder.get_input_embeddings()(torch.tensor([ids]))
                embeds = embeds * weights.to(embeds)[None, :, None]
                mask = self.mask(ids)
                out = self.text_encoder(
                    None,
                    attention_mask=mask,
                    embeds=embeds,
                    num_tokens=[int(mask.sum())],
                    intermediate_output=self.intermediate_output,
                    final_layer_norm_intermediate=False,
                )[1]
                known[line] = torch.stack((out[:, 0], out[:, 1], out[:, 2]), dim=1).movedim(1, 2).flatten(2)[0]
        return [known[line] for line in texts]
