"""The measuring bench: the miniature family makes pictures from pairs, its classifier says what they show."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from ... import conditioner
from ...mixing.select import Rows
from ...options import Settings
from ...qwen3vl.vision import patches
from ...reference import Reference, open_reference
from ...sequence import build_sequence
from ..miniature import adapter, family, world
from ..miniature.measure import as_tensor, follows, frechet_distance, load_classifier, read, unlike_any
from ..miniature.world import JUDGED
from .experiments import Row, pairs
from .hidden_states import hidden_state_statistics
from .table import SHOWN

BATCH = 32
REAL = 1000  # drawings that stand for the world's real pictures
CAPTION_TOKENS = 48


class Bench:
    """The miniature family with its measuring instruments, and the pairs that it is measured on."""

    def __init__(self, weights: str, count: int):
        self.model = family.load(weights)
        self.model.text = functools.lru_cache(maxsize=None)(self.model.text)  # every row has the same prompts
        self.classifier = load_classifier(weights)
        self.adapter = adapter.load(self.model.pipeline.transformer, weights)
        self.folder = os.path.join(weights, "qwen3-vl")
        self.pairs = pairs(count)

    @functools.cached_property
    def references(self) -> list[Reference]:
        return [open_reference(Image.fromarray(world.draw(pair.shown, pair.drawing))) for pair in self.pairs]

    @functools.cached_property
    def real(self) -> torch.Tensor:
        """Features of real pictures of all combinations, [REAL, features]."""
        rng = np.random.default_rng(99)
        drawn = [Image.fromarray(world.draw(world.random_scene(rng, None), 10**7 + i)) for i in range(REAL)]
        return read(self.classifier, drawn)[1]

    @functools.cached_property
    def usual_distance(self) -> float:
        """The median distance of a real picture's features to the nearest other's."""
        distances = torch.cdist(self.real, self.real)
        return float(distances.fill_diagonal_(torch.inf).amin(1).median())

    @functools.cached_property
    def image_tokens(self) -> list[torch.Tensor]:
        """The vision tower's tokens of each reference, [N, hidden]."""
        size = Settings().reference_tokens
        return [self.model.extractor.image_tokens(reference, size)[0] for reference in self.references]

    # Captions

    @functools.cached_property
    def captions(self) -> list[str]:
        """What the miniature Qwen3-VL says about each reference, word by word the most probable."""
        from transformers import Qwen3VLForConditionalGeneration

        model = Qwen3VLForConditionalGeneration.from_pretrained(self.folder, local_files_only=True).float().eval()
        checkpoint, encode = self.model.extractor.checkpoint, self.model.encode
        grid = (family.GRID, family.GRID)
        sequence = build_sequence(self.model.text("").ids, grid, encode, vision=checkpoint.vision_tokens)
        (end,) = encode("<|im_end|>")
        inside = torch.zeros(1, len(sequence.ids), dtype=torch.long)
        inside[:, sequence.image_start : sequence.image_end] = 1
        said: list[str] = []
        for start in range(0, len(self.references), BATCH):
            shown = self.references[start : start + BATCH]
            count = len(shown)
            inputs = {
                "input_ids": torch.tensor([sequence.ids] * count),
                "attention_mask": torch.ones(count, len(sequence.ids), dtype=torch.long),
                "pixel_values": torch.cat(
                    [patches(reference.image, family.PATCH, family.MERGE)[0] for reference in shown]
                ),
                "image_grid_thw": torch.tensor([[1, family.GRID * family.MERGE, family.GRID * family.MERGE]] * count),
            }
            if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # transformers 5
                inputs["mm_token_type_ids"] = inside.expand(count, -1)
            model.model.rope_deltas = None
            output = model.generate(
                **inputs, max_new_tokens=CAPTION_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end
            )
            said += [self._decode(row[len(sequence.ids) :].tolist(), end) for row in output]
        return said

    def _decode(self, ids: list[int], end: int) -> str:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(os.path.join(self.folder, "tokenizer.json"))
        return tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)

    def prompt(self, row: Row, number: int) -> str:
        """The text that a row's picture of a pair is asked for with."""
        pair = self.pairs[number]
        prompt = pair.half if row.half else pair.prompt
        if row.how != "caption":
            return prompt
        said = self.captions[number]
        found = understood(said)
        scene = world.Scene(**({name: values[0] for name, values in world.ATTRIBUTES.items()} | found))
        sentence = world.caption(scene, np.random.default_rng(pair.drawing), frozenset(found))
        return {"sentence": f"{prompt}, {sentence}", "list": f"{prompt}, {said}", "alone": sentence}[
            row.values["written"]
        ]

    # Pictures

    def conditioning(self, row: Row, number: int, seed: int) -> torch.Tensor:
        prompt = self.prompt(row, number)
        if row.how == "settings":
            return self.model.condition(Settings.from_mapping(row.values), self.references[number], prompt, seed)
        text = self.model.text(prompt).embeddings
        if row.how == "tower":
            settings, tokens = Settings.from_mapping(row.values), self.image_tokens[number]
            image = torch.ones(len(tokens), dtype=torch.bool)
            return conditioner.mix(settings, text, Rows(tokens, ~image, image, 0), self.model.statistics)
        return text

    def pictures(self, row: Row) -> list[Image.Image]:
        """A row's pictures, pair by pair and within a pair seed by seed."""
        places = [(number, k) for number in range(row.pairs) for k in range(row.seeds)]
        if row.how in ("real", "autoencoder"):
            drawn = [
                Image.fromarray(world.draw(self.pairs[number].wanted, 2 * 10**6 + 1000 * number + k))
                for number, k in places
            ]
            return self._through_autoencoder(drawn) if row.how == "autoencoder" else drawn
        rows = [self.conditioning(row, number, seed_of(number, k)) for number, k in places]
        # Conditionings of like length share a batch: the image model pads them to a multiple of 32 tokens.
        order = sorted(range(len(places)), key=lambda i: -(-len(rows[i]) // 32))
        made: dict[int, Image.Image] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            numbers = [places[i][0] for i in batch]
            made.update(
                zip(batch, self._generate(row, [rows[i] for i in batch], [seed_of(*places[i]) for i in batch], numbers))
            )
        return [made[i] for i in range(len(places))]

    def _generate(self, row: Row, rows: list[torch.Tensor], seeds: list[int], numbers: list[int]) -> list[Image.Image]:
        if row.how == "img2img":
            return self._img2img(rows, seeds, [self.references[n].image for n in numbers], row.values["strength"])
        if row.how == "adapter":
            tokens = torch.stack([self.image_tokens[n] for n in numbers])
            with (
                torch.inference_mode(),
                self.adapter.attached(self.model.pipeline.transformer, tokens, row.values["scale"]),
            ):
                return self.model.generate(rows, seeds, **family.SAMPLING, batch=len(rows))
        return self.model.generate(rows, seeds, **family.SAMPLING, batch=len(rows))

    @torch.inference_mode()
    def _img2img(
        self, rows: list[torch.Tensor], seeds: list[int], images: list[Image.Image], strength: float
    ) -> list[Image.Image]:
        from diffusers import ZImageImg2ImgPipeline

        pipeline = ZImageImg2ImgPipeline(**self.model.pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        empty = self.model.text("").embeddings
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline(
            prompt_embeds=rows,
            negative_prompt_embeds=[empty] * len(rows),
            image=images,
            strength=strength,
            generator=generators,
            num_inference_steps=family.SAMPLING["steps"],
            guidance_scale=family.SAMPLING["guidance"],
        ).images

    @torch.inference_mode()
    def _through_autoencoder(self, drawn: list[Image.Image]) -> list[Image.Image]:
        vae = self.model.pipeline.vae
        decoded = torch.cat(
            [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in as_tensor(drawn).split(BATCH)]
        )
        values = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(picture) for picture in values]

    # Measures

    def measure(self, row: Row) -> dict[str, Any]:
        """A row's measurements.

        Returns:
            For each picture, pair by pair: `prompt` and `reference`, whether it shows the value of the prompt's (the
            reference's) scene, by attribute, as text of 0 and 1; `unlike`, whether no value of some attribute fits,
            likewise; `cosine` of its features with the reference's, from the real pictures' mean; `distance` of its
            features to the nearest real picture's, in multiples of what is usual between real pictures. Of all:
            `frechet`, the distance to the real pictures. With several seeds `diversity` for each pair: the mean
            distance of features between its pictures, in the same unit.
        """
        if row.how == "captions":
            return {"right": self._captions_right(row.pairs)}
        if row.how == "statistics":
            prompts = [pair.prompt for pair in self.pairs[: row.pairs]]
            return hidden_state_statistics(self.model, prompts, self.references)
        probabilities, features = read(self.classifier, self.pictures(row))
        numbers = [number for number in range(row.pairs) for _ in range(row.seeds)]
        asked, shown = (
            follows(probabilities, [getattr(self.pairs[n], name) for n in numbers]) for name in ("wanted", "shown")
        )
        seen = self._reference_features[numbers] - self.real.mean(0)
        cosine = torch.nn.functional.cosine_similarity(features - self.real.mean(0), seen, dim=1)
        distance = torch.cdist(features, self.real).amin(1) / self.usual_distance
        values = {
            "prompt": {name: _zeros_and_ones(asked[name] > SHOWN) for name in JUDGED},
            "reference": {name: _zeros_and_ones(shown[name] > SHOWN) for name in JUDGED},
            "unlike": _zeros_and_ones(unlike_any(probabilities)),
            "cosine": [round(float(c), 4) for c in cosine],
            "distance": [round(float(d), 4) for d in distance],
            "frechet": round(frechet_distance(features, self.real), 4),
        }
        if row.seeds > 1:
            groups = features.unflatten(0, (row.pairs, row.seeds))
            values["diversity"] = [round(float(torch.pdist(group).mean()) / self.usual_distance, 4) for group in groups]
        return values

    def _captions_right(self, count: int) -> dict[str, str]:
        """By attribute, of which references the caption names the right value."""
        found = [understood(text) for text in self.captions[:count]]
        scenes = [pair.shown for pair in self.pairs[:count]]
        return {
            name: _zeros_and_ones(said.get(name) == getattr(scene, name) for said, scene in zip(found, scenes))
            for name in world.ATTRIBUTES
        }

    @functools.cached_property
    def _reference_features(self) -> torch.Tensor:
        return read(self.classifier, [reference.image for reference in self.references])[1]


def _zeros_and_ones(values: Iterable[Any]) -> str:
    return "".join("1" if value else "0" for value in values)


def seed_of(number: int, k: int = 0) -> int:
    """The seed of a pair's k-th picture, the same in every row."""
    return 1000 * number + k


def understood(description: str) -> dict[str, str]:
    """The attributes that a description names, as far as it is well formed: `shape star, colour red` and so on."""
    found = (part.strip().partition(" ") for part in description.split(","))
    return {name: value for name, _, value in found if value in world.ATTRIBUTES.get(name, ())}
