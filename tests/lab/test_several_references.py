"""Several references, regions and negative references on the shipped weights: each does what it is for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from zvl_ext.conditioner import Unit, units_of
from zvl_ext.lab.evaluation.experiments import Pair, pairs
from zvl_ext.lab.miniature import family, measure, world
from zvl_ext.options import Settings
from zvl_ext.reference import Reference, open_reference

PAIRS = 16


class Scene:
    """The shipped family with pairs of a prompt and two references, which contradict each other in everything."""

    def __init__(self) -> None:
        family.be_quiet()
        self.model = family.load(family.WEIGHTS)
        self.classifier = measure.load_classifier(family.WEIGHTS)
        rng = np.random.default_rng(5)
        self.pairs = pairs(PAIRS)
        self.second = [self._other(pair, rng) for pair in self.pairs]

    @staticmethod
    def _other(pair: Pair, rng: np.random.Generator) -> world.Scene:
        while True:
            scene = world.contradicting(pair.shown, rng)
            if all(getattr(scene, name) != getattr(pair.wanted, name) for name in world.JUDGED):
                return scene

    @staticmethod
    def reference(scene: world.Scene, drawing: int) -> Reference:
        return open_reference(Image.fromarray(world.draw(scene, drawing)))

    def units(self, pair: int, **values: Any) -> list[Unit]:
        """The references of one pair, with settings of theirs; the second where anything is said of it."""
        settings = Settings.from_mapping({"preset": "Balanced", "merge": 1, **values})
        own = self.pairs[pair]
        references = {"reference": self.reference(own.shown, own.drawing)}
        if any(name.endswith("_2") for name in values):
            references["reference_2"] = self.reference(self.second[pair], own.drawing + 77)
        layer = family.layer_at_same_depth(settings.hidden_layer)
        tokens = family.GRID**2
        settings = dataclasses.replace(settings, **references, hidden_layer=layer, reference_tokens=tokens)
        return units_of(settings, family.SAMPLING["size"])

    def pictures(self, prompts: list[str], units: list[list[Unit]]) -> list[Image.Image]:
        made = [self.model.condition_units(own, prompt, i) for i, (prompt, own) in enumerate(zip(prompts, units))]
        against = [self.model.condition_units(own, "", i, negative=True) for i, own in enumerate(units)]
        longest = sorted(range(len(made)), key=lambda i: len(made[i]))  # captions of one length share a batch
        out: list[Any] = [None] * len(made)
        for i in range(0, len(longest), 8):
            part = longest[i : i + 8]
            drawn = self.model.generate(
                [made[j] for j in part], part, **family.SAMPLING, batch=8, negative=[against[j] for j in part]
            )
            for j, picture in zip(part, drawn):
                out[j] = picture
        return out

    def likeness(self, pictures: list[Image.Image], scenes: list[world.Scene]) -> float:
        """The share of the scenes' attributes that the classifier sees."""
        seen = measure.follows(measure.read(self.classifier, pictures)[0], scenes)
        return float(torch.stack(list(seen.values())).mean())

    @property
    def prompts(self) -> list[str]:
        return [pair.prompt for pair in self.pairs]

    @property
    def first(self) -> list[world.Scene]:
        return [pair.shown for pair in self.pairs]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_the_stronger_reference_is_ahead(scene: Scene) -> None:
    for weights, ahead in (((1.0, 0.3), 1), ((0.3, 1.0), -1)):
        units = [scene.units(i, weight=weights[0], weight_2=weights[1]) for i in range(PAIRS)]
        pictures = scene.pictures(scene.prompts, units)
        likeness = [scene.likeness(pictures, scenes) for scenes in (scene.first, scene.second)][::ahead]
        assert likeness[0] > 1.8 * likeness[1], likeness


def test_two_regions_stay_apart(scene: Scene) -> None:
    """Of each half's pixels at least twice as many have its own reference's background as the other's."""
    units = [scene.units(i, weight=2.0, region="left", weight_2=2.0, region_2="right") for i in range(PAIRS)]
    pictures = scene.pictures(scene.prompts, units)
    names = world.ATTRIBUTES["background"]
    colours = np.array([world._RGB[name] for name in names])
    share = np.zeros((2, 2))  # [half, reference]
    for picture, first, second in zip(pictures, scene.first, scene.second):
        pixels = np.asarray(picture, dtype=float) / 255
        for half, part in enumerate((pixels[:, :36], pixels[:, 44:])):  # the border itself belongs to nobody
            nearest = np.linalg.norm(part.reshape(-1, 1, 3) - colours, axis=-1).argmin(1)
            for which, shown in enumerate((first, second)):
                share[half, which] += np.mean(nearest == names.index(shown.background)) / PAIRS
    assert share[0, 0] > 2 * share[0, 1], share
    assert share[1, 1] > 2 * share[1, 0], share


def test_a_negative_reference_is_avoided_and_the_prompt_kept(scene: Scene) -> None:
    """What the prompt leaves open does not come as in the negative reference, which shows what came by itself."""
    halves = [pair.half for pair in scene.pairs]
    plain = scene.pictures(halves, [[] for _ in halves])
    read = measure.read(scene.classifier, plain)[0]
    shown = [
        world.Scene(*(world.ATTRIBUTES[name][int(read[name][i].argmax())] for name in world.ATTRIBUTES))
        for i in range(PAIRS)
    ]
    scene.pairs = [dataclasses.replace(pair, shown=other) for pair, other in zip(scene.pairs, shown)]
    pictures = scene.pictures(halves, [scene.units(i, weight=0.1, negative=True) for i in range(PAIRS)])

    def shares(made: list[Image.Image]) -> tuple[float, float]:
        """Of the open attributes as before, of the named ones as the prompt says."""
        probabilities = measure.read(scene.classifier, made)[0]
        before = measure.follows(probabilities, shown)
        wanted = measure.follows(probabilities, [pair.wanted for pair in scene.pairs])
        still = [float(before[n][i]) for i, p in enumerate(scene.pairs) for n in world.JUDGED if n not in p.said]
        kept = [float(wanted[n][i]) for i, p in enumerate(scene.pairs) for n in p.said]
        return float(np.mean(still)), float(np.mean(kept))

    (still, kept), (avoided, kept_then) = shares(plain), shares(pictures)
    assert avoided < 0.5 * still, (still, avoided)
    assert kept_then > 0.75 * kept, (kept, kept_then)
