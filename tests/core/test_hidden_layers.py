"""Layers by list: what a text means, and the mean of states."""

import pytest
import torch

from zvl_ext.errors import ZvlError
from zvl_ext.hidden_layers import MOST, hidden_layers, layer_mix
from zvl_ext.options import Settings


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-8", {-8: 1.0}),
        ("-8:0.25", {-8: 1.0}),
        ("-8:0.7, -2:0.3", {-8: 0.7, -2: 0.3}),
        ("-8 : 7;-2:3 ", {-8: 0.7, -2: 0.3}),
        ("-8:3, -2", {-8: 0.75, -2: 0.25}),
        ("-8:1.5, -2:-0.5", {-8: 1.5, -2: -0.5}),
        ("-36:.5,-1:+.5", {-36: 0.5, -1: 0.5}),
        ("-8:0, -2", {-2: 1.0}),
    ],
)
def test_shares_add_up_to_one(text, wanted):
    assert dict(layer_mix(text)) == pytest.approx(wanted)
    assert sum(share for _, share in layer_mix(text)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ",", "-8,", "8", "0", "-37", "-8:", "-8:a", "-8:nan", "-8:inf", "-8:1e3", "-8:9", "-8 -2", "early",
        "-8:0", "-8:1, -2:-1", "-8:1, -2:-1.5", "-8, -8", "−8", "-٨", "-8:0.1:0.2",
        ",".join(f"-{k}" for k in range(1, MOST + 2)),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ZvlError, match=r"-8:0\.7, -2:0\.3") as caught:
        layer_mix(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def states() -> dict[int, torch.Tensor]:
    return {layer: torch.randn(5, 3, generator=torch.Generator().manual_seed(-layer)) for layer in (-8, -6, -2)}


IMAGE = torch.tensor([False, True, True, False, False])


def test_the_mean_of_each_kind_of_rows():
    settings = Settings.from_mapping({"layer_mix": "-8:3, -2", "image_layers": "-6:2, -2:-1", "token_mode": "all"})
    layers, given = hidden_layers(settings), states()
    assert layers.every == (-8, -6, -2)
    made = layers.mixed(given, IMAGE)
    assert torch.allclose(made[~IMAGE], (0.75 * given[-8] + 0.25 * given[-2])[~IMAGE])
    assert torch.allclose(made[IMAGE], (2 * given[-6] - given[-2])[IMAGE])


@pytest.mark.parametrize(
    "values", [{"hidden_layer": -8}, {"layer_mix": "-8:0.3"}, {"layer_mix": "-8", "image_layers": "-8:2"}]
)
def test_one_layer_is_its_states_themselves(values):
    layers, given = hidden_layers(Settings.from_mapping({"hidden_layer": -2, **values})), states()
    assert layers.every == (-8,)
    assert layers.mixed(given, IMAGE) is given[-8]


def test_an_image_layer_alone_leaves_the_other_rows():
    given = states()
    made = hidden_layers(Settings.from_mapping({"hidden_layer": -2, "image_layers": "-6"})).mixed(given, IMAGE)
    assert torch.equal(made, torch.where(IMAGE[:, None], given[-6], given[-2]))


@pytest.mark.parametrize(
    ("mode", "every"), {"text": (-8,), "image": (-6,), "image_no_markers": (-6,), "all": (-8, -6)}.items()
)
def test_a_layer_of_tokens_that_are_not_taken_is_not_needed(mode, every):
    settings = Settings.from_mapping({"hidden_layer": -8, "image_layers": "-6", "token_mode": mode})
    assert hidden_layers(settings).every == every


@pytest.mark.parametrize("name", ["layer_mix", "image_layers"])
def test_a_refusal_names_the_option(name):
    with pytest.raises(ZvlError, match=f"^Z-Image VL: {name}: The layers' weights must add up to more than 0"):
        Settings.from_mapping({name: "-8:0"})
