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
from ...conditioning import Conditioning
from ...declaration import LEARNED
from ...hosts.standalone_attention import weighted
from ...hosts.standalone_lora import added_loras
from ...loras import Named
from ...mixing.select import Rows
from ...options import Settings
from ...qwen3vl.vision import patches
from ...reference import Reference, open_reference
from ...sequence import build_sequence
from ..miniature import adapter, family, learned, world
from ..miniature.measure import as_tensor, follows, frechet_distance, load_classifier, read, unlike_any
from ..miniature.world import JUDGED
from .experiments import CAPTION
from .hidden_states import hidden_state_statistics
from .row_changes import ROW_CHANGES
from .rows import Row, pairs
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
        self._plain_pictures: dict[str, list[Image.Image]] = {}

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

        model = (
            Qwen3VLForConditionalGeneration.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
            .float()
            .eval()
        )
        checkpoint, encode = self.model.extractor.checkpoint, self.model.encode
        grid = (family.GRID, family.GRID)
        sequence = build_sequence(self.model.text("").ids, grid, encode, vision=checkpoint.vision_tokens)
        (end,) = encode("<|im_end|>")
        inside = torch.zeros(1, len(sequence.ids), dtype=torch.long)
        inside[:, sequence.images] = 1
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
        prompt = row.prompt(self.pairs[number])
        if row.how != "caption":
            return prompt
        said, sentence = self.captions[number], self.sentence(number)
        return {"sentence": f"{prompt}, {sentence}", "list": f"{prompt}, {said}", "alone": sentence}[
            row.values["written"]
        ]

    def sentence(self, number: int) -> str:
        """What Qwen3-VL says about a pair's reference, worded as prompts are."""
        found = understood(self.captions[number])
        scene = world.Scene(**({name: values[0] for name, values in world.ATTRIBUTES.items()} | found))
        return world.caption(scene, np.random.default_rng(self.pairs[number].drawing), frozenset(found))

    # Pictures

    def conditioning(self, row: Row, number: int, seed: int, shown: int | None = None) -> Conditioning | torch.Tensor:
        """What a row gives the image model for a pair.

        Args:
            shown: The number of another pair, whose reference is taken.
        """
        prompt = self.prompt(row, number)
        values = row.values.get("settings") if row.how == "img2img" else row.values
        if row.how in ("settings", "swap", "img2img") and values:
            if CAPTION in values.get("vl_prompt", ""):
                values = values | {"vl_prompt": values["vl_prompt"].replace(CAPTION, self.sentence(number))}
            reference, settings = self.references[number if shown is None else shown], Settings.from_mapping(values)
            if row.change:
                return self._changed(row.change, settings, reference, prompt)
            acting = {kind: _read(kind, getattr(settings, kind)) for kind in LEARNED if getattr(settings, kind)}
            return self.model.condition(settings, reference, prompt, seed, **acting)
        text = self.model.text(prompt).embeddings
        if row.how == "tower":
            settings, tokens = Settings.from_mapping(row.values), self.image_tokens[number]
            image = torch.ones(len(tokens), dtype=torch.bool)
            return conditioner.mix(settings, text, Rows(tokens, ~image, image, 0), self.model.statistics)
        return text

    def _changed(self, change: str, settings: Settings, reference: Reference, prompt: str) -> Conditioning:
        """The conditioning with something done to the reference's rows."""
        text, sources = self.model.text(prompt), self.model.sources_for(settings)
        rows, neutral = (conditioner.extract(settings, each, text, sources) for each in (reference, self._neutral))
        changed = ROW_CHANGES[change](rows, text.embeddings[1:].float(), neutral)
        return conditioner.mixed(settings, text.embeddings, changed, None)

    @functools.cached_property
    def _neutral(self) -> Reference:
        """A reference that shows nothing: grey all over."""
        return open_reference(Image.new("RGB", self.references[0].image.size, (127, 127, 127)))

    def pictures(self, row: Row) -> list[Image.Image]:
        """A row's pictures, pair by pair and within a pair seed by seed."""
        places = [(number, k) for number in row.numbers for k in range(row.seeds)]
        if row.how in ("real", "autoencoder"):
            drawn = [
                Image.fromarray(world.draw(self.pairs[number].wanted, 2 * 10**6 + 1000 * number + k))
                for number, k in places
            ]
            return self._through_autoencoder(drawn) if row.how == "autoencoder" else drawn
        return self._sampled(row, places, [self.conditioning(row, n, seed_of(n, k)) for n, k in places])

    def _sampled(
        self, row: Row, places: list[tuple[int, int]], rows: list[Conditioning | torch.Tensor]
    ) -> list[Image.Image]:
        """A picture from each conditioning, each of a pair and a seed.

        Batches are made as it is fastest: but for the last bits a picture is a function of its own conditioning and
        seed.
        """
        # Conditionings of like length share a batch: the image model pads them to a multiple of 32 tokens.
        order = sorted(range(len(places)), key=lambda i: -(-len(rows[i]) // 32))
        made: dict[int, Image.Image] = {}
        loras = [Named(learned.files("lora")[row.lora])] if row.lora else []
        with added_loras(self.model.pipeline, loras):
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                numbers, seeds = [places[i][0] for i in batch], [seed_of(*places[i]) for i in batch]
                made.update(zip(batch, self._generate(row, [rows[i] for i in batch], seeds, numbers)))
        return [made[i] for i in range(len(places))]

    def _generate(
        self, row: Row, rows: list[Conditioning | torch.Tensor], seeds: list[int], numbers: list[int]
    ) -> list[Image.Image]:
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
        self,
        rows: list[Conditioning | torch.Tensor],
        seeds: list[int],
        images: list[Image.Image],
        strength: float,
    ) -> list[Image.Image]:
        from diffusers import ZImageImg2ImgPipeline

        pipeline = ZImageImg2ImgPipeline(**self.model.pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        empty = self.model.text("").embeddings
        steps = family.SAMPLING["steps"]
        wanted = [each if isinstance(each, Conditioning) else Conditioning(each) for each in rows]
        with weighted(pipeline.transformer, wanted, steps - int(steps - steps * strength)):
            return pipeline(
                prompt_embeds=[each.rows for each in wanted],
                negative_prompt_embeds=[empty] * len(rows),
                image=images,
                strength=strength,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=steps,
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
            features to the nearest real picture's, in multiples of what is usual between real pictures; of the
            product's settings `moved`, its mean pixel distance (0 to 255) to the picture of the prompt alone. Of all:
            `frechet`, the distance to the real pictures. With several seeds `diversity` for each pair: the mean
            distance of features between its pictures, in the same unit.
        """
        if row.how == "captions":
            return {"right": self._captions_right(row.pairs)}
        if row.how == "statistics":
            prompts = [pair.prompt for pair in self.pairs[: row.pairs]]
            return hidden_state_statistics(self.model, prompts, self.references)
        if row.how == "swap":
            return self._swapped(row)
        pictures = self.pictures(row)
        probabilities, features = read(self.classifier, pictures)
        numbers = [number for number in row.numbers for _ in range(row.seeds)]
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
        if row.how == "settings" and row.seeds == 1:
            plain = self._plain(row)
            values["moved"] = [round(pixel_distance(*both), 6) for both in zip(pictures, plain)]
        if row.seeds > 1:
            groups = features.unflatten(0, (row.pairs, row.seeds))
            values["diversity"] = [round(float(torch.pdist(group).mean()) / self.usual_distance, 4) for group in groups]
        return values

    def _plain(self, row: Row) -> list[Image.Image]:
        """The pictures of a row's prompts alone, drawn once for all rows of the same pairs.

        Not taken from a longer row's: in a batch of others the last bits of a picture differ.
        """
        alone = Row("", "", "prompt", {}, row.pairs, row.half, names=row.names, first=row.first)
        if alone.key not in self._plain_pictures:
            self._plain_pictures[alone.key] = self.pictures(alone)
        return self._plain_pictures[alone.key]

    def _swapped(self, row: Row) -> dict[str, Any]:
        """What exchanging the reference does, for each pair: the prompt and the noise stay.

        Returns:
            `states`: how far the conditioning's rows move, but for the first, as a share of their size; `pictures`:
            how far the pictures do, mean pixel distance; `moved`: how far the picture with the pair's own reference is
            from that of the prompt alone; `others`: how far two prompts' pictures are from each other. And
            `recognized`: of which pairs the picture is nearer to its own reference than to the other, by the
            classifier's features.
        """
        places = [(number, 0) for number in range(row.pairs)]
        others = [(number + 1) % row.pairs for number in range(row.pairs)]
        rows = [
            [self.conditioning(row, number, seed_of(number), shown) for (number, _), shown in zip(places, which)]
            for which in (range(row.pairs), others)
        ]
        states = [_relative_distance(_rows_of(a)[1:], _rows_of(b)[1:]) for a, b in zip(*rows)]
        own, other = (self._sampled(row, places, each) for each in rows)
        plain = self._plain(row)
        real = self.real.mean(0)
        features, references = read(self.classifier, own)[1] - real, self._reference_features - real
        near, far = (
            torch.cosine_similarity(features, references[which], dim=1) for which in (list(range(row.pairs)), others)
        )
        return {
            "states": [round(distance, 4) for distance in states],
            "pictures": [round(pixel_distance(*both), 4) for both in zip(own, other)],
            "moved": [round(pixel_distance(*both), 4) for both in zip(own, plain)],
            "others": [round(pixel_distance(plain[n], plain[other]), 4) for n, other in enumerate(others)],
            "recognized": _zeros_and_ones(near > far),
        }

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


@functools.lru_cache(maxsize=4)
def _read(kind: str, name: str) -> Any:
    return learned.READERS[kind](learned.files(kind)[name])


def pixel_distance(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures' values, 0 to 255."""
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


def _rows_of(conditioning: Conditioning | torch.Tensor) -> torch.Tensor:
    return conditioning.rows if isinstance(conditioning, Conditioning) else conditioning


def _relative_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far apart rows are, as a share of their size; each row counts alike."""
    size = (a.norm(dim=1) * b.norm(dim=1)).sqrt().clamp_min(1e-6)
    return float(((a - b).norm(dim=1) / size).mean())


def _zeros_and_ones(values: Iterable[Any]) -> str:
    return "".join("1" if value else "0" for value in values)


def seed_of(number: int, k: int = 0) -> int:
    """The seed of a pair's k-th picture, the same in every row."""
    return 1000 * number + k


def understood(description: str) -> dict[str, str]:
    """The attributes that a description names, as far as it is well formed: `shape star, colour red` and so on."""
    found = (part.strip().partition(" ") for part in description.split(","))
    return {name: value for name, _, value in found if value in world.ATTRIBUTES.get(name, ())}
