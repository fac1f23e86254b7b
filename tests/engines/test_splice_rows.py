"""The conditioning that is made of a spliced sequence, row by row."""

import pytest
import torch
from compare import relative_error
from splicing import spliced

from zvl_ext.conditioner import condition, extract
from zvl_ext.options import BY_NAME

# token mode -> length match -> rows, for n prompt tokens and 15 image tokens; row 0 is the prompt's own, the rest is
# matched
COUNTS = {
    "text": {"interpolate": lambda n: n, "truncate": lambda n: n, "insert": lambda n: n},
    "image": {"interpolate": lambda n: n, "truncate": lambda n: 1 + min(n - 1, 17), "insert": lambda n: n + 17},
    "image_no_markers": {
        "interpolate": lambda n: n,
        "truncate": lambda n: 1 + min(n - 1, 15),
        "insert": lambda n: n + 15,
    },
    "all": {"interpolate": lambda n: n, "truncate": lambda n: n, "insert": lambda n: n + 17},
}
SHORT, LONG = "a cat", "a photo of a cat in the rain at night, seen from below"
KEPT = [
    {"engine": "splice", "scale_to_text": False},
    {"engine": "splice", "scale_to_text": True, "normalization": "sink_aware"},
    {"engine": "blend", "scale_to_text": True, "normalization": "sink_aware"},
]


def test_the_two_prompts_are_shorter_and_longer_than_the_picture(text_of):
    assert len(text_of(SHORT).ids) - 1 < 15 < 17 < len(text_of(LONG).ids) - 1


@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: f"{kept['engine']}, {kept.get('normalization', 'none')}")
def test_row_0_is_the_prompts_own_bit_for_bit_and_the_rest_is_counted(
    kept, mode, length_match, sources, reference, text_of
):
    for prompt in (SHORT, LONG):
        text = text_of(prompt)
        for alpha, blend_mode in ((0.3, "linear"), (1.0, "linear"), (0.5, "slerp"), (0.5, "adain_per_dim")):
            got = condition(
                spliced(token_mode=mode, length_match=length_match, alpha=alpha, blend_mode=blend_mode, **kept),
                reference,
                text,
                sources,
            )
            assert got.shape == (COUNTS[mode][length_match](len(text.ids)), text.embeddings.shape[1])
            assert torch.equal(got[0], text.embeddings[0])
            assert not torch.equal(got, text.embeddings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_row_0_is_kept_in_half_precision_too(dtype, sources, reference, text_of):
    text = text_of(dtype=dtype)
    got = condition(spliced(length_match="insert", alpha=1.0), reference, text, sources)
    assert got.dtype == dtype
    assert torch.equal(got[0], text.embeddings[0])


def test_engine_blend_with_another_normalization_blends_row_0_like_any_other(sources, reference, text_of):
    """As the research defines it."""
    text = text_of()
    for length_match in ("interpolate", "insert"):
        got = condition(spliced(engine="blend", length_match=length_match, alpha=0.3), reference, text, sources)
        assert relative_error(got[0], text.embeddings[0]) > 0.01


@pytest.mark.parametrize("length_match", BY_NAME["length_match"].choices)
@pytest.mark.parametrize("mode", COUNTS)
def test_alpha_0_is_the_prompt_bit_for_bit_and_makes_no_pass(
    mode, length_match, sources, extractor, encoder, reference, text_of
):
    text = text_of()
    got = condition(spliced(token_mode=mode, length_match=length_match, alpha=0.0), reference, text, sources)
    assert torch.equal(got, text.embeddings)
    assert (extractor.passes, encoder.passes) == ([], [])


@pytest.mark.parametrize("engine", ["splice", "blend"])
def test_with_insert_the_rows_are_head_block_and_rest_in_this_order(engine, sources, reference, text_of):
    """Without normalization, alpha 1: what comes out is what was read, in its own order, but for row 0."""
    text = text_of()
    chosen = spliced(engine=engine, length_match="insert", alpha=1.0)
    got = condition(chosen, reference, text, sources)
    read = extract(chosen, reference, text, sources)
    assert read.image.nonzero().flatten().tolist() == list(range(4, 19))
    assert torch.equal(got[1:], read.states[1:])


@pytest.mark.parametrize("mode", ["image", "image_no_markers"])
def test_with_insert_and_image_rows_alone_the_prompts_rows_stay_as_they_are(mode, sources, reference, text_of):
    text = text_of()
    for alpha in (0.3, 1.0):
        chosen = spliced(token_mode=mode, length_match="insert", alpha=alpha)
        got = condition(chosen, reference, text, sources)
        block = extract(chosen, reference, text, sources).states
        assert torch.equal(got, torch.cat([text.embeddings[:3], block, text.embeddings[3:]]))


@pytest.mark.parametrize(
    "normalized", [{"scale_to_text": False}, {"scale_to_text": True, "normalization": "sink_aware"}]
)
@pytest.mark.parametrize("engine", ["splice", "blend"])
def test_with_insert_alpha_moves_the_prompts_rows_linearly_and_the_image_rows_not_at_all(
    engine, normalized, sources, reference, text_of
):
    text = text_of()
    own = torch.tensor([*range(3), *range(20, 20 + len(text.ids) - 3)])
    chosen = {"engine": engine, "length_match": "insert", **normalized}
    full = condition(spliced(alpha=1.0, **chosen), reference, text, sources)
    for alpha in (0.01, 0.3, 0.75):
        got = condition(spliced(alpha=alpha, **chosen), reference, text, sources)
        mixed = alpha * full[own] + (1 - alpha) * text.embeddings
        assert torch.equal(got[own][1:], mixed[1:])
        assert torch.equal(got[3:20], full[3:20])


@pytest.mark.parametrize("mode", ["image", "image_no_markers", "all"])
@pytest.mark.parametrize(("dropout", "stay"), [(0.5, 8), (0.75, 4), (0.99, 1)])
def test_dropout_leaves_out_its_share_of_the_image_rows_by_the_pictures_seed(
    mode, dropout, stay, sources, encoder, reference, text_of
):
    text = text_of()
    chosen = spliced(token_mode=mode, length_match="insert", alpha=1.0, image_dropout=dropout)
    first, again, other = (condition(chosen, reference, text, sources, seed) for seed in (1, 1, 3))
    assert len(first) == len(text.ids) + stay + {"image": 2, "image_no_markers": 0, "all": 2}[mode]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert encoder.passes == ["states"]  # another seed is no new pass
