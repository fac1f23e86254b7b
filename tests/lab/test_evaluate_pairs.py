"""What the evidence draws: the world of its pictures, the pairs, and the table of experiments."""

from __future__ import annotations

import numpy as np
import pytest
from wording import named

from zvl_ext.lab.evaluation import experiments
from zvl_ext.lab.evaluation.experiments import QUICK, Plan
from zvl_ext.lab.miniature import world
from zvl_ext.options import Settings
from zvl_ext.presets import PRESETS

# --- the world


def test_a_caption_names_exactly_what_it_shall_mention():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene, mention = world.random_scene(rng, None), world.random_mention(rng)
        found = named(world.caption(scene, rng, mention))
        assert found == {name: {getattr(scene, name)} if name in mention else set() for name in world.ATTRIBUTES}


def test_what_captions_leave_out_varies_evenly():
    rng = np.random.default_rng(0)
    mentions = [world.random_mention(rng) for _ in range(4000)]
    partly = [mention for mention in mentions if 0 < len(mention & set(world.JUDGED)) < 4]
    shares = [sum(name in mention for mention in partly) / len(partly) for name in world.JUDGED]
    assert max(shares) - min(shares) < 0.08
    assert 0.05 < sum(not mention for mention in mentions) / len(mentions) < 0.11


def test_a_drawing_is_a_function_of_scene_and_seed():
    scene = world.Scene("star", "red", "navy", "striped")
    first = world.draw(scene, 1)
    assert first.dtype == np.uint8
    assert first.shape == (world.SIZE, world.SIZE, 3)
    assert np.array_equal(first, world.draw(scene, 1))
    assert not np.array_equal(first, world.draw(scene, 2))


def test_every_value_is_drawn_differently():
    base = world.Scene("star", "red", "navy", "flat")
    for name, values in world.ATTRIBUTES.items():
        drawn = {world.draw(replaced(base, name, value), 0).tobytes() for value in values}
        assert len(drawn) == len(values)


def replaced(scene: world.Scene, name: str, value: str) -> world.Scene:
    return world.Scene(**{each: value if each == name else getattr(scene, each) for each in world.ATTRIBUTES})


def test_the_split_is_fixed_and_near_a_tenth():
    scenes = [world.Scene(s, c, b, t) for s in world.ATTRIBUTES["shape"] for c in world.ATTRIBUTES["colour"]
              for b in world.ATTRIBUTES["background"] for t in world.ATTRIBUTES["style"]]  # fmt: skip
    held = [scene for scene in scenes if scene.held_out]
    assert len(scenes) == 1920
    assert len(held) == 187
    assert all(
        replaced(held[0], "place", place).held_out for place in world.ATTRIBUTES["place"]
    )  # size and place have no say
    for name in world.JUDGED:  # no value is only ever held out, or never
        for value in world.ATTRIBUTES[name]:
            of_value = [scene for scene in scenes if getattr(scene, name) == value]
            assert 0 < sum(scene.held_out for scene in of_value) < len(of_value) / 2


# --- pairs and the table of experiments


def test_pairs_contradict_each_other_and_are_held_out():
    for pair in experiments.pairs(60):
        assert pair.wanted.held_out
        assert pair.shown.held_out
        assert all(getattr(pair.wanted, name) != getattr(pair.shown, name) for name in world.JUDGED)
        full, half = named(pair.prompt), named(pair.half)
        assert full == {
            name: {getattr(pair.wanted, name)} if name in world.JUDGED else set() for name in world.ATTRIBUTES
        }
        assert half == {name: {getattr(pair.wanted, name)} if name in pair.said else set() for name in world.ATTRIBUTES}
        assert len(pair.said) == 2


def test_more_pairs_begin_with_the_same_ones():
    assert experiments.pairs(30)[:10] == experiments.pairs(10)


@pytest.mark.parametrize("plan", [Plan(), QUICK])
def test_every_row_has_settings_that_exist_and_its_own_place(plan):
    rows = experiments.experiments(plan)
    for row in rows:
        if row.how in ("settings", "tower"):
            settings = Settings.from_mapping(row.values)
            assert -8 <= settings.hidden_layer <= -1
    assert len({(row.part, row.name, row.alpha) for row in rows}) == len(rows)


def test_presets_are_measured_as_they_are_but_for_the_depth():
    for name, preset in experiments.PRESET_NAMES.items():
        curve = experiments.CURVES[name]
        assert {**curve, "hidden_layer": 0} == {**PRESETS[preset], "hidden_layer": 0}
