"""Several layers at once, in both engines, against plain transformers."""

import pytest
import tiny
import torch
from cases import TOKENS
from compare import assert_close
from published import research
from splicing import spliced

from zvl_ext.conditioner import condition, extract
from zvl_ext.errors import ZvlError

BARE = {"scale_to_text": False}  # no statistics of the text encoder are needed
MIXES = {"layer_mix": "-3:0.7, -2:0.3", "image_layers": "-4:1.5, -1:-0.5"}


def wanted(by_layer: tuple[torch.Tensor, ...], modes: dict[str, list[int]]) -> torch.Tensor:
    """Of token mode all."""
    rows = 0.7 * by_layer[-3] + 0.3 * by_layer[-2]
    block = modes["image"]
    rows[block] = (1.5 * by_layer[-4] - 0.5 * by_layer[-1])[block]
    return rows[modes["all"]]


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_splice(positions, sources, reference, text_of, plain_sequential, plain_mrope):
    settings = spliced(positions=positions, token_mode="all", **MIXES)
    by_layer, modes = {"sequential": plain_sequential, "mrope": plain_mrope}[positions]("a cat")
    assert_close(extract(settings, reference, text_of("a cat"), sources).states, wanted(by_layer, modes))


def test_blend(sources, reference, text_of, model, tokenizer):
    settings = research(token_mode="all", reference_tokens=TOKENS, **MIXES)
    pixels = tiny.plain_pixels(tiny.picture(160, 96), TOKENS)
    ids, modes = tiny.plain_ids(tokenizer, "a cat", int(pixels["image_grid_thw"].prod()) // 4)
    by_layer = tiny.plain_hidden_states(model, ids, pixels, modes["image_no_markers"])
    assert_close(extract(settings, reference, text_of("a cat"), sources).states, wanted(by_layer, modes))


@pytest.mark.parametrize("engine", ["blend", "splice"])
def test_all_layers_come_from_one_run_and_are_kept(engine, sources, extractor, encoder, reference, text_of):
    settings = {"engine": engine, "token_mode": "all", "alpha": 0.5, "reference_tokens": TOKENS, **BARE}
    condition(research(**settings, **MIXES), reference, text_of(), sources)
    passes = extractor.passes + encoder.passes
    for values in (MIXES, {"layer_mix": "-2"}, {"hidden_layer": -3}, {"image_layers": "-4"}):
        layer = {"hidden_layer": -2, **values}
        condition(research(**{**settings, **layer}), reference, text_of(), sources)
    assert extractor.passes + encoder.passes == passes


@pytest.mark.parametrize("engine", ["blend", "splice"])
def test_one_layer_in_the_list_is_the_hidden_layer_bit_for_bit(engine, sources, reference, text_of):
    settings = {"engine": engine, "token_mode": "all", "alpha": 0.5, "reference_tokens": TOKENS, **BARE}
    plain = condition(research(**settings, hidden_layer=-3), reference, text_of(), sources)
    for values in ({"layer_mix": "-3"}, {"layer_mix": "-3:0.2", "image_layers": "-3:7"}):
        listed = condition(research(**settings, hidden_layer=-2, **values), reference, text_of(), sources)
        assert torch.equal(plain, listed)


@pytest.mark.parametrize("engine", ["blend", "splice"])
@pytest.mark.parametrize("name", MIXES)
def test_a_layer_that_the_model_lacks_is_refused(engine, name, sources, reference, text_of, extractor, encoder):
    settings = research(engine=engine, token_mode="all", reference_tokens=TOKENS, **BARE, **{name: "-2, -30"})
    with pytest.raises(ZvlError, match="-30"):
        condition(settings, reference, text_of(), sources)
    assert extractor.passes + encoder.passes == []
