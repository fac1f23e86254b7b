"""What engine splice reads anew and what it takes from before."""

import pytest
import tiny
import torch
from cases import BEFORE
from compare import assert_close, relative_error
from splicing import BEHIND_DEEPSTACK, spliced

from zvl_ext.conditioner import condition, extract
from zvl_ext.engines.sources import Text
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.qwen3vl import language
from zvl_ext.reference import open_reference

IMAGE_MODES = ["image", "image_no_markers"]


def test_the_same_prompt_again_makes_no_pass_and_another_prompt_does_not_look_again(
    sources, extractor, encoder, reference, text_of
):
    for prompt, looks, reads in (("a cat", 1, 1), ("a cat", 1, 1), ("a dog", 1, 2), ("", 1, 3), ("a cat", 1, 3)):
        condition(spliced(), reference, text_of(prompt), sources)
        assert (extractor.passes, encoder.passes) == (["image_tokens"] * looks, ["states"] * reads)


def test_whatever_comes_after_the_reading_makes_no_pass(sources, extractor, encoder, reference, text_of):
    for values in (
        {},
        {"alpha": 0.9},
        {"token_mode": "text"},
        {"length_match": "insert"},
        {"image_dropout": 0.5},
        {"reference_tokens": 256},
        {"scale_to_text": True, "normalization": "sink_aware"},
    ):
        condition(spliced(**values), reference, text_of(), sources)
    assert (extractor.passes, encoder.passes) == (["image_tokens"], ["states"])


@pytest.mark.parametrize("values", [{"positions": "mrope"}, {"system_prompt": "x"}, {"vl_prompt": "x"}])
def test_another_way_to_read_is_a_new_reading_of_the_same_look(values, sources, extractor, encoder, reference, text_of):
    first = extract(spliced(), reference, text_of(), sources).states
    other = extract(spliced(**values), reference, text_of(), sources).states
    assert not torch.equal(first, other)
    assert (extractor.passes, encoder.passes) == (["image_tokens"], ["states"] * 2)


@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_image_rows_alone_are_read_once_for_all_prompts(
    positions, mode, sources, reference, text_of, plain_sequential, plain_mrope
):
    wanted, modes = {"sequential": plain_sequential, "mrope": plain_mrope}[positions]("")
    texts = [text_of("a cat", emphasis=1.3), text_of("something else, longer"), text_of("")]
    chosen = spliced(positions=positions, token_mode=mode)
    with tiny.work() as done:
        for text in texts:
            assert_close(extract(chosen, reference, text, sources).states, wanted[-2][modes[mode]])
            condition(chosen, reference, text, sources)
    assert (done.encoded, done.looks) == (tiny.layers(0, 6, BEFORE), 1)


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_image_rows_are_read_anew_by_a_text_encoder_that_has_changed(mode, sources, encoder, reference, text_of):
    """No word of the prompt is read, so nothing of the prompt can tell: the text encoder's own state does."""
    for state, reads in (("", 1), ("a LoRA", 2), ("a LoRA", 2), ("", 2)):
        encoder.state = state
        extract(spliced(token_mode=mode), reference, text_of(), sources)
        assert encoder.passes == ["states"] * reads


@pytest.mark.parametrize("state", ["", "another for every picture"])
def test_where_the_prompt_is_read_its_embeddings_tell_of_a_change(state, sources, encoder, reference, text_of):
    extract(spliced(), reference, text_of(), sources)
    encoder.state = state
    extract(spliced(), reference, text_of(), sources)
    assert encoder.passes == ["states"]


DEPTHS = [
    [1, 2, 3, 4, 5, 6, 7],
    [7, 6, 5, 4, 3, 2, 1],
    [4, 1, 7, 2, 6, 3, 5],
    [2, 7, 3],
    [3, 5, 4, 6],
    [1, 7],
    [6, 7, 6, 1],
]


@pytest.mark.parametrize("order", DEPTHS, ids=str)
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_grid_over_layers_runs_each_layer_once_in_any_order(
    positions, order, sources, reference, text_of, plain_sequential, plain_mrope
):
    text = text_of()
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions](text.prompt)
    sources.every_layer = True
    tokens = BEFORE + len(text.ids) - 3
    with tiny.work() as done:
        for depth in order:
            got = extract(spliced(hidden_layer=depth - 8, positions=positions), reference, text, sources).states
            if positions == "sequential" or depth - 8 in BEHIND_DEEPSTACK:
                assert_close(got, wanted[depth])
    assert done.encoded == tiny.layers(0, max(order), tokens)
    assert done.looks == 1


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_deeper_layer_goes_on_from_the_one_that_is_kept(
    positions, sources, reference, text_of, plain_sequential, plain_mrope
):
    """Also where the kept one is among those that DeepStack adds to."""
    text = text_of()
    wanted, _ = {"sequential": plain_sequential, "mrope": plain_mrope}[positions](text.prompt)
    tokens = BEFORE + len(text.ids) - 3
    with tiny.work() as done:
        extract(spliced(positions=positions, hidden_layer=-6), reference, text, sources)
        assert_close(
            extract(spliced(positions=positions, hidden_layer=-4), reference, text, sources).states, wanted[-4]
        )
        assert_close(
            extract(spliced(positions=positions, hidden_layer=-1), reference, text, sources).states, wanted[-1]
        )
        assert done.encoded == tiny.layers(0, 7, tokens)
        extract(spliced(positions=positions, hidden_layer=-5), reference, text, sources)
    assert done.encoded == tiny.layers(0, 7, tokens) + tiny.layers(2, 3, tokens), "from layer -6 on"
    assert done.looks == 1


def test_without_a_grid_over_layers_only_the_layers_asked_for_are_kept(sources, reference, text_of):
    for layer in (-6, -4):
        extract(spliced(hidden_layer=layer), reference, text_of(), sources)
    kept = [set(bundle) for bundle, _ in sources.store._kept.values()]
    assert kept == [{"tokens"}, {"2", "4"}]


@pytest.mark.parametrize("change", ["picture", "size", "precision"])
def test_another_picture_size_or_precision_is_a_new_look(change, sources, extractor, reference, text_of):
    extract(spliced(), reference, text_of(), sources)
    values = {"reference_tokens": 8} if change == "size" else {}
    if change == "precision":
        extractor.precision = "cuda:0 torch.bfloat16"
    elif change == "picture":
        reference = open_reference(tiny.picture(160, 96, seed=1))
    extract(spliced(**values), reference, text_of(), sources)
    assert extractor.passes == ["image_tokens"] * 2


def test_emphasis_is_a_new_reading(sources, encoder, reference, text_of):
    for emphasis in (1.0, 1.1, 1.0):
        extract(spliced(), reference, text_of(emphasis=emphasis), sources)
    assert encoder.passes == ["states"] * 2


@pytest.mark.parametrize("vl_prompt", ["{prompt}", "the style"])
def test_a_text_encoder_that_has_changed_under_the_same_name_is_not_served_stale(
    vl_prompt, sources, tokenizer, reference, text_of
):
    """As with a LoRA on the text encoder: the same file, the same prompt, the same input embeddings, other outputs."""
    text = text_of()
    stale = extract(spliced(vl_prompt=vl_prompt), reference, text, sources).states
    changed = tiny.make_text_encoder(tokenizer)
    changed.layers[2].mlp.down_proj.weight.mul_(1.5)
    sources.text_encoder = StandaloneTextEncoder(changed, sources.text_encoder.identity)
    told = Text(text.prompt, text.ids, tiny.plain_text_states(changed, text.inputs)[-2], text.inputs)
    assert relative_error(extract(spliced(vl_prompt=vl_prompt), reference, told, sources).states, stale) > 0.01


def test_splice_never_loads_qwen3_vls_language_model(checkpoint, sources, reference, text_of, monkeypatch, get_tensor):
    monkeypatch.setattr(language, "load", lambda *args: pytest.fail("the whole model was loaded"))
    sources.extractor = StandaloneExtractor(checkpoint)
    for positions in ("sequential", "mrope"):
        for prompt in ("a cat", "a dog"):
            condition(spliced(positions=positions), reference, text_of(prompt), sources)
    assert set(get_tensor) == {stored.key for name, stored in checkpoint.tensors.items() if name.startswith("visual.")}
