"""The measuring bench: the miniature family makes pictures from pairs, its classifier says what they show."""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import numpy as np
import torch
from PIL import Image

from ... import conditioner
from ...engines.sources import Text
from ...hosts.standalone import TEXT_LAYER, StandaloneTextEncoder
from ...mixing.normalize import NORMALIZATIONS, Target, normalize
from ...mixing.select import Rows, select
from ...mixing.statistics import compare
from ...options import Settings
from ...qwen3vl import language
from ...qwen3vl.vision import patches
from ...reference import Reference, open_reference
from ...sequence import build_sequence
from ..miniature import adapter, family, world
from ..miniature.measure import as_tensor, follows, frechet_distance, load_classifier, read, unlike_any
from ..miniature.world import JUDGED
from .experiments import TEXT, Row, pairs
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
                reference's)
            scene, by attribute, as text of 0 and 1; `unlike`, whether no value of some attribute fits, likewise;
            `cosine` of its features with the reference's, from the real pictures' mean; `distance` of its features to
            the nearest real picture's, in multiples of what is usual between real pictures. Of all: `frechet`, the
            distance to the real pictures. With several seeds `diversity` for each pair: the mean distance of features
            between its pictures, in the same unit.
        """
        if row.how == "captions":
            found = [understood(text) for text in self.captions[: row.pairs]]
            scenes = [pair.shown for pair in self.pairs[: row.pairs]]
            return {
                "right": {
                    name: _bits(said.get(name) == getattr(scene, name) for said, scene in zip(found, scenes))
                    for name in world.ATTRIBUTES
                }
            }
        if row.how == "statistics":
            return hidden_state_statistics(self, row.pairs)
        probabilities, features = read(self.classifier, self.pictures(row))
        numbers = [number for number in range(row.pairs) for _ in range(row.seeds)]
        asked, shown = (
            follows(probabilities, [getattr(self.pairs[n], name) for n in numbers]) for name in ("wanted", "shown")
        )
        seen = self._reference_features[numbers] - self.real.mean(0)
        cosine = torch.nn.functional.cosine_similarity(features - self.real.mean(0), seen, dim=1)
        distance = torch.cdist(features, self.real).amin(1) / self.usual_distance
        values = {
            "prompt": {name: _bits(asked[name] > SHOWN) for name in JUDGED},
            "reference": {name: _bits(shown[name] > SHOWN) for name in JUDGED},
            "unlike": _bits(unlike_any(probabilities)),
            "cosine": [round(float(c), 4) for c in cosine],
            "distance": [round(float(d), 4) for d in distance],
            "frechet": round(frechet_distance(features, self.real), 4),
        }
        if row.seeds > 1:
            groups = features.unflatten(0, (row.pairs, row.seeds))
            values["diversity"] = [round(float(torch.pdist(group).mean()) / self.usual_distance, 4) for group in groups]
        return values

    @functools.cached_property
    def _reference_features(self) -> torch.Tensor:
        return read(self.classifier, [reference.image for reference in self.references])[1]


def _bits(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)


def seed_of(number: int, k: int = 0) -> int:
    """The seed of a pair's k-th picture, the same in every row."""
    return 1000 * number + k


def understood(description: str) -> dict[str, str]:
    """The attributes that a description names, as far as it is well formed: `shape star, colour red` and so on."""
    found = (part.strip().partition(" ") for part in description.split(","))
    return {name: value for name, _, value in found if value in world.ATTRIBUTES.get(name, ())}


# Hidden states


@torch.inference_mode()
def hidden_state_statistics(bench: Bench, count: int) -> dict[str, Any]:
    """How the vision-language model's hidden states compare with the text embeddings, with and without position 0."""
    model, settings = bench.model, Settings.from_mapping(TEXT)
    texts = [model.text(pair.prompt) for pair in bench.pairs[:count]]
    checkpoint = model.extractor.checkpoint
    whole = language.load(checkpoint, torch.float32)
    module = whole.module.language_model
    module.embed_tokens = whole.embedding
    reader = StandaloneTextEncoder(module, "Qwen3-VL")
    drifted = [reader.hidden_states(reader.embed(list(text.ids)), TEXT_LAYER, None, None) for text in texts]
    result: dict[str, Any] = {
        "sink": {"text encoder": _sink([text.embeddings for text in texts]), "Qwen3-VL": _sink(drifted)},
        "drift": {
            "cosine": float(
                torch.cat(
                    [torch.cosine_similarity(a.embeddings[1:], b[1:], dim=1) for a, b in zip(texts, drifted)]
                ).mean()
            ),
            "correlation": compare(torch.cat([t.embeddings for t in texts]), torch.cat(drifted))["correlation"],
        },
        "compared": {},
        "share": {},
    }
    every, ordinary = torch.cat([t.embeddings for t in texts]), torch.cat([t.embeddings[1:] for t in texts])
    for layer in (TEXT_LAYER, settings.hidden_layer):
        picked: dict[str, list[Rows]] = {"text": [], "image_no_markers": []}
        for text, reference in zip(texts, bench.references):
            sequence = build_sequence(
                text.ids,
                checkpoint.grid(reference, settings.reference_tokens),
                model.encode,
                vision=checkpoint.vision_tokens,
            )
            states = whole.hidden_states(sequence, reference, settings.reference_tokens, [layer])[layer]
            for mode, rows in picked.items():
                rows.append(select(states, sequence, mode))
        for mode, name in (("text", "text positions"), ("image_no_markers", "image positions")):
            rows = picked[mode]
            first = 1 if rows[0].holds_first else 0
            result["compared"][f"{name}, layer {layer}"] = {
                "with position 0": _short(compare(every, torch.cat([r.states for r in rows]))),
                "without position 0": _short(compare(ordinary, torch.cat([r.states[first:] for r in rows]))),
            }
            if layer == settings.hidden_layer:
                result["share"][name] = _shares(rows, texts, model.statistics)
    return result


def _sink(states: list[torch.Tensor]) -> dict[str, float]:
    """The first token's norm against the median of the others, and what it does to the standard deviation of all
    values."""
    norms = [state.norm(dim=1) for state in states]
    first = torch.stack([n[0] for n in norms]).mean()
    others = torch.cat([n[1:] for n in norms]).median()
    with_first, without = torch.cat(states).std(), torch.cat([state[1:] for state in states]).std()
    return {
        "first": float(first),
        "others": float(others),
        "ratio": float(first / others),
        "std": float(with_first),
        "std without position 0": float(without),
    }


def _short(compared: dict[str, Any]) -> dict[str, Any]:
    return {
        key: compared[key]
        for key in ("text_std", "vl_std", "correlation", "median_ratio", "worst_ratio", "worst_dimensions", "outliers")
    }


def _shares(rows: list[Rows], texts: list[Text], statistics: Any) -> dict[str, float]:
    """By normalization: which share of an ordinary blended token is Qwen3-VL's at alpha 0.3, by the rows' sizes."""
    alpha, shares = 0.3, {}
    for name in NORMALIZATIONS:
        ratios = []
        for row, text in zip(rows, texts):
            scaled = normalize(row.states, name, Target(statistics, text.embeddings, row.holds_first))
            ordinary = scaled[1:] if row.holds_first else scaled
            ratios.append(float(ordinary.norm(dim=1).median() / text.embeddings[1:].norm(dim=1).median()))
        ratio = float(np.median(ratios))
        shares[name] = alpha * ratio / (alpha * ratio + 1 - alpha)
    return shares
