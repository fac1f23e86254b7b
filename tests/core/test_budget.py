"""How many tokens the conditioning gets: never more than the limit, never fewer than there is room for. And the memory
it takes."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from published import research
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from zvl_ext.budget import (
    MAX_TOKENS,
    STEP_COST,
    dropped,
    inserted_tokens,
    language_depth,
    read_together,
    step_cost,
    token_budget,
    weight_bytes,
    working_bytes,
)
from zvl_ext.conditioner import condition
from zvl_ext.engines.sources import Text
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.qwen3vl import language, vision
from zvl_ext.qwen3vl.checkpoint import Checkpoint, Stored
from zvl_ext.qwen3vl.passes import Pass
from zvl_ext.reference import open_reference

ROOT = Path(__file__).parents[2]
MARKERS = {"image": 2, "image_no_markers": 0, "all": 2}


def inserting(**values) -> Settings:
    chosen = {"token_mode": "all", "length_match": "insert", "reference_tokens": 1024, "hidden_layer": -2}
    return research(**(chosen | values))


class Blind:
    """An extractor that looks at nothing: states of the right shape, at any size, at once."""

    precision = "none"

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def extend(self, sequences, reference, tokens, depth, prefix=None, tails=None):
        def ones(count):
            kept = torch.ones(depth, 1, count, 1)
            return Pass(torch.ones(depth + 1, count, self.checkpoint.hidden_size), kept, kept) if count else None

        assert all((self.checkpoint.grid(reference, tokens),) == sequence.grids for sequence in sequences)
        return ones(sequences[0].fork), [ones(len(sequence.ids) - sequence.fork) for sequence in sequences]


@pytest.fixture
def long_text(encode):
    """A prompt of exactly n tokens, template included."""

    def make(n: int) -> Text:
        ids = encode("<|im_start|>user\n") + encode("a") * n
        return Text("a" * n, tuple(ids[:n]), torch.ones(n, 64))

    return make


@pytest.fixture
def large():
    """A reference of 1024 image tokens."""
    return open_reference(tiny.picture(1024, 1024))


# --- arithmetic


@pytest.mark.parametrize("mode", BY_NAME["token_mode"].choices)
@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
def test_only_insert_with_image_rows_makes_the_conditioning_longer(length_match, mode):
    got = inserted_tokens(inserting(token_mode=mode, length_match=length_match), 256)
    assert got == (256 + MARKERS[mode] if length_match == "insert" and mode != "text" else 0)


@pytest.mark.parametrize(("dropout", "stay"), [(0.0, 576), (0.75, 144), (0.85, 87), (0.95, 29), (0.99, 6)])
@pytest.mark.parametrize("mode", MARKERS)
def test_what_dropout_leaves_out_is_not_counted(mode, dropout, stay):
    assert inserted_tokens(inserting(token_mode=mode, image_dropout=dropout), 576) == stay + MARKERS[mode]


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("mode", MARKERS)
def test_the_budget_is_the_largest_that_keeps_the_limit(mode, dropout):
    settings = inserting(token_mode=mode, image_dropout=dropout)
    for text_tokens in (1, 8, 300, 512, 900, 990, MAX_TOKENS - 3):
        budget = token_budget(settings, text_tokens)
        # A reference may become fewer tokens than its budget, by its shape, so all of them have to fit.
        assert max(inserted_tokens(settings, images) for images in range(1, budget + 1)) <= MAX_TOKENS - text_tokens
        assert budget == 1024 or inserted_tokens(settings, budget + 1) > MAX_TOKENS - text_tokens


@pytest.mark.parametrize("reference_tokens", [4, 256, 576])
def test_a_reference_that_fits_keeps_its_size(reference_tokens):
    assert token_budget(inserting(reference_tokens=reference_tokens), 400) == reference_tokens


@pytest.mark.parametrize(
    "values", [{"token_mode": "text"}, {"length_match": "interpolate"}, {"length_match": "truncate"}]
)
@pytest.mark.parametrize("text_tokens", [10, 999, 1000, 5000])
def test_where_nothing_is_inserted_there_is_no_limit(values, text_tokens):
    assert token_budget(inserting(**values), text_tokens) == 1024


@pytest.mark.parametrize(("mode", "most"), [("all", 997), ("image", 997), ("image_no_markers", 999)])
def test_a_prompt_that_leaves_no_room_for_one_image_token_is_refused_with_its_length(mode, most, refused):
    assert token_budget(inserting(token_mode=mode), most) == 1
    for text_tokens in (most + 1, 1000, 1001, 5000):
        with refused(rf"The prompt has {text_tokens} tokens; .* {MAX_TOKENS}\. Shorten it, or use token mode text"):
            token_budget(inserting(token_mode=mode), text_tokens)


# --- in the pipeline


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("mode", MARKERS)
def test_the_whole_conditioning_never_has_more_tokens_than_the_limit(
    mode, dropout, checkpoint, sources, said, large, long_text
):
    sources.extractor = Blind(checkpoint)
    settings = inserting(token_mode=mode, image_dropout=dropout, normalization="sink_aware")
    for n in (10, 400, 900, 960, 997):
        said.clear()
        got = condition(settings, large, long_text(n), sources)
        images = len(got) - n - MARKERS[mode]
        assert images >= 1
        assert len(got) <= MAX_TOKENS
        if said:
            fewer = checkpoint.grid(large, token_budget(settings, n))
            assert said == [
                f"Z-Image VL: the reference was reduced from 1024 to {fewer[0] * fewer[1]} tokens, so that the "
                "conditioning has no more than 1000."
            ]
            assert images == fewer[0] * fewer[1] - dropped(settings, fewer[0] * fewer[1])
        else:
            assert images == 1024 - dropped(settings, 1024)
        assert bool(said) == (n + MARKERS[mode] + 1024 - dropped(settings, 1024) > MAX_TOKENS)


@pytest.mark.parametrize("size", [(32, 32 * 200), (32 * 200, 32), (200, 6000), (3000, 40)])
def test_narrow_references_keep_the_limit_too(size, checkpoint, sources, long_text):
    sources.extractor = Blind(checkpoint)
    reference = open_reference(tiny.picture(*size))
    for n in (700, 850, 980, 997):
        assert (
            n + 2
            < len(condition(inserting(normalization="sink_aware"), reference, long_text(n), sources))
            <= MAX_TOKENS
        )


def test_a_small_reference_is_not_reduced_and_nothing_is_said(checkpoint, sources, said, reference, long_text):
    """The setting allows 1024 tokens and there is no room for them, but this picture has 15."""
    sources.extractor = Blind(checkpoint)
    assert len(condition(inserting(normalization="sink_aware"), reference, long_text(950), sources)) == 967
    assert said == []


def test_a_text_of_its_own_does_not_count_only_the_prompts_tokens_are_conditioned_on(
    checkpoint, sources, said, reference, long_text
):
    sources.extractor = Blind(checkpoint)
    settings = dataclasses.replace(
        inserting(normalization="sink_aware"), vl_prompt="a " * 1200, system_prompt="b " * 300
    )
    assert len(condition(settings, reference, long_text(20), sources)) == 37
    assert said == []


def test_the_reduction_is_the_same_for_engine_splice_and_the_tower_sees_the_reduced_picture(
    sources, extractor, said, large, text_of
):
    text = text_of("a very long prompt " * 40)
    room = MAX_TOKENS - len(text.ids) - 2
    assert 100 < room < 900
    settings = inserting(engine="splice", scale_to_text=False, alpha=1.0)
    got = condition(settings, large, text, sources)
    rows, columns = extractor.checkpoint.grid(large, room)
    assert len(got) == len(text.ids) + 2 + rows * columns <= MAX_TOKENS
    assert extractor.passes == ["image_tokens"]
    assert len(said) == 1
    assert f"from 1024 to {rows * columns} tokens" in said[0]


def test_a_prompt_that_fills_the_limit_is_refused_before_a_pass(
    sources, extractor, encoder, reference, long_text, refused
):
    for engine in ("blend", "splice"):
        with refused("The prompt has 998 tokens"):
            condition(inserting(engine=engine, normalization="sink_aware"), reference, long_text(998), sources)
    assert (extractor.passes, encoder.passes) == ([], [])


# --- what it costs


@pytest.mark.parametrize(("added", "percent"), [(0, 0), (256, 7), (576, 16), (1024, 29)])
def test_added_tokens_cost_what_was_counted(added, percent):
    assert step_cost(added) == percent


def test_every_added_token_costs_more():
    costs = [step_cost(added) for added in range(2001)]
    assert all(low < high for low, high in pairwise(costs))
    assert all(high - low < 0.1 for low, high in pairwise(costs))  # no jump anywhere, also not behind the last point


def test_the_points_that_were_counted_are_in_order():
    assert all(a < b and p < q for (a, p), (b, q) in pairwise(STEP_COST))


# --- memory

# Qwen3-VL-4B's numbers, counted from its published shapes: the vision tower, one layer's matrices, their rows and its
# norms.
TOWER, MATRICES, ROWS, NORMS, WIDTH = 415_347_712, 100_925_440, 30_720, 5_376, 2_560
EIGHTH_LAST = {"engine": "blend", "hidden_layer": -8}  # 29 layers


def qwen3vl_4b(fp8=()):
    """Qwen3-VL-4B as a checkpoint of shapes, from transformers' own class; tensors below the given prefixes are stored
    in fp8."""
    text = {
        "vocab_size": 151936,
        "hidden_size": WIDTH,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_scaling": {"rope_type": "default"},
    }
    tower = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "out_hidden_size": WIDTH,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    with torch.device("meta"):
        built = Qwen3VLModel(transformers.Qwen3VLConfig(text_config=text, vision_config=tower))
    stored = {
        n: Stored("x", n, tuple(p.shape), "F8_E4M3" if n.startswith(fp8) and p.ndim > 1 else "BF16")
        for n, p in built.named_parameters()
    }
    return Checkpoint("x", "x", {"text_config": text, "vision_config": tower}, stored, {})


@pytest.fixture(scope="module")
def full():
    return qwen3vl_4b()


def test_blend_holds_the_tower_the_layers_that_run_and_the_last_norm(full):
    held = weight_bytes(full, research(**EIGHTH_LAST))
    assert held == 2 * (TOWER + 29 * (MATRICES + NORMS) + WIDTH) == 6_684_687_872
    assert weight_bytes(full, research(**EIGHTH_LAST), itemsize=4) == 2 * held
    assert weight_bytes(full, research(hidden_layer=-1)) == 2 * (full.parameters - 151936 * WIDTH), (
        "all but the input embedding"
    )


@pytest.mark.parametrize(("layer", "depth"), [(-1, 36), (-2, 35), (-8, 29), (-36, 1)])
def test_every_layer_that_runs_takes_the_same(full, layer, depth):
    assert language_depth(research(hidden_layer=layer), 36) == depth
    assert weight_bytes(full, research(hidden_layer=layer)) == 2 * (TOWER + depth * (MATRICES + NORMS) + WIDTH)


def test_a_layer_that_does_not_exist_is_as_far_as_the_model_goes():
    assert language_depth(research(hidden_layer=-36), 28) == 0
    assert language_depth(Settings(hidden_layer=3), 28) == 28


def test_splice_holds_the_tower_alone(full):
    for values in ({}, {"hidden_layer": -1}, {"storage": "fp8"}):
        assert weight_bytes(full, research(engine="splice", **values)) == 2 * TOWER


@pytest.mark.parametrize(
    ("storage", "stored"), [("fp8", ()), ("auto", ("language_model.layers.",)), ("auto", ("",)), ("fp8", ("",))]
)
def test_fp8_takes_a_byte_for_a_number_of_a_layers_matrices_and_a_scale_for_each_row(storage, stored):
    """In whatever else a file has fp8, it is brought to the dtype that is computed in."""
    held = weight_bytes(qwen3vl_4b(stored), research(**EIGHTH_LAST, storage=storage))
    assert held == 2 * (TOWER + WIDTH + 29 * NORMS) + 29 * (MATRICES + 4 * ROWS)


@pytest.mark.parametrize("storage", BY_NAME["storage"].choices)
@pytest.mark.parametrize("layer", [-1, -4])
def test_what_is_counted_for_blend_is_what_is_loaded(checkpoint, storage, layer):
    settings = research(hidden_layer=layer, storage=storage)
    model = language.load(checkpoint, torch.bfloat16, language_depth(settings, checkpoint.layers), storage)
    assert sum(t.nbytes for t in model.module.state_dict().values()) == weight_bytes(checkpoint, settings)


def test_what_is_counted_for_splice_is_what_is_loaded(checkpoint):
    tower = vision.load(checkpoint, torch.float32)
    assert sum(t.nbytes for t in tower.state_dict().values()) == weight_bytes(
        checkpoint, research(engine="splice"), itemsize=4
    )


def test_the_pages_name_what_is_counted(full):
    def needed(checkpoint, settings):
        return f"{(weight_bytes(checkpoint, settings) + working_bytes(settings.reference_tokens)) / 2**30:.1f} GiB"

    in_fp8 = qwen3vl_4b(("language_model.layers.",))
    splice, fp8, blend = needed(full, Settings()), needed(in_fp8, research()), needed(full, research())
    assert re.findall(r"^\| ([\d.]+ GiB)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M) == [
        splice,
        fp8,
        blend,
    ]
    page = (ROOT / ".github" / "docs" / "weights.md").read_text(encoding="utf-8")
    said = re.search(
        r"blend needs ([\d.]+ GiB) at layer -8.*?,\s([\d.]+ GiB)\s.*?fp8 file, splice ([\d.]+ GiB)", page, re.S
    )
    assert said
    assert said.groups() == (blend, fp8, splice)


def test_a_pass_needs_more_for_every_token():
    assert working_bytes(0) == 2**30 // 4
    assert working_bytes(1024) == 2**30 * 3 // 4


def test_in_turn_all_references_are_read_in_one_pass():
    several = inserting(reference="x", reference_2="y", reference_4="z")
    assert read_together(several) == read_together(inserting(combine="in turn")) == 1024
    assert read_together(dataclasses.replace(several, combine="in turn")) == 3 * 1024
