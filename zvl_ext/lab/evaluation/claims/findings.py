"""The published findings one by one, in their order."""

from __future__ import annotations

import functools

from ..experiments import TEXT
from . import engines, layers, normalization, tokens, weight
from .claim import HOLDS, PARTLY, Claim

FINDINGS = (
    Claim(
        "At alpha 0.3 the reference dominates the prompt",
        f"similarity clearly over adherence ({HOLDS}); adherence clearly and by over 0.1 below the prompt alone's "
        f"({PARTLY}); for the recommended text or image setting",
        tokens.reference_dominates,
    ),
    Claim(
        "… and the sink explains it",
        "under global the image side has over half of an ordinary token at alpha 0.3, and sink_aware clearly raises "
        "adherence",
        tokens.dominance_by_sink,
    ),
    Claim(
        "Text positions give fewer artifacts than image positions",
        "distance, neither or unlike clearly higher for image positions, none clearly lower",
        tokens.text_has_fewer_artifacts,
    ),
    Claim(
        "Text positions at alpha 1 still give the prompt's subject",
        "the prompt's shape above 0.5 and clearly above image positions'",
        tokens.text_keeps_subject,
    ),
    Claim(
        "Image positions carry the style",
        "the reference's style clearly more often than with text positions",
        tokens.image_carries_style,
    ),
    Claim(
        "Layer -2 is best",
        "no layer is clearly nearer to real pictures, at any alpha measured",
        layers.penultimate_is_best,
    ),
    Claim(
        "Layer -8 is cleaner than -2",
        f"distance or neither clearly lower at layer {TEXT['hidden_layer']}, which is as deep as -8, and none clearly "
        "higher",
        layers.recommended_is_cleaner,
    ),
    Claim(
        "Early layers lose the specific",
        "layer -7 is clearly less similar to the reference than layer -2",
        layers.early_layers_lose_the_specific,
    ),
    Claim(
        "Image positions need per-dimension normalization",
        "neither or distance clearly lower than under global, none clearly higher",
        normalization.image_needs_per_dim,
    ),
    Claim(
        "… and the sink explains it",
        "sink_aware, which is one factor, clearly lowers neither as well; fully where per_dim is not clearly lower "
        "still",
        normalization.per_dim_by_sink,
    ),
    Claim(
        "Text positions do not need it",
        "neither and distance not clearly lower than under global",
        normalization.text_needs_no_per_dim,
    ),
    Claim(
        "Per-dimension spreads: text positions as the text encoder's, image positions not",
        "correlation over 0.99 for text, lower by 0.1 for image, an outlier over 10×",
        normalization.spreads_of_dimensions,
    ),
    Claim(
        "… and the sink explains the outliers",
        "without position 0 the worst ratio falls to less than a third",
        normalization.outliers_by_sink,
    ),
    Claim(
        "More alpha, more artifacts",
        "distance clearly higher at the highest alpha than at 0.3, text and image",
        tokens.more_alpha_more_artifacts,
    ),
    Claim(
        "The raw vision tower fails",
        f"similarity not above chance at alpha 1 ({HOLDS}); clearly less similar or further from real than the "
        f"language model's image positions ({PARTLY})",
        engines.raw_tower_fails,
    ),
    Claim(
        "Image positions alone or the whole sequence: hardly a difference",
        "adherence and similarity differ by less than 0.1",
        tokens.image_alone_or_all,
    ),
    Claim(
        "A trained adapter is better",
        "adherence at the same similarity clearly higher for some setting's best point, lower for none",
        engines.trained_adapter_is_better,
    ),
    Claim(
        "Splice is cleaner than blend",
        "distance or neither clearly lower at alpha 1, none clearly higher",
        engines.splice_is_cleaner,
    ),
    Claim(
        "Image dropout makes seeds differ",
        "diversity clearly higher for each share",
        engines.dropout_makes_seeds_differ,
    ),
    Claim(
        "Text positions hardly tell references apart",
        "with the reference exchanged, pictures move clearly less than with image positions, and less than half of how "
        "far two prompts' pictures are apart; for each engine and layer",
        weight.text_tokens_hardly_know_the_reference,
    ),
    Claim(
        "Merged rows keep the similarity",
        "at the fresh panel's weight, 2 × 2 neighbours as one keep 0.9 of the similarity",
        weight.merging_keeps_similarity,
    ),
    Claim(
        "Rows that count for what is gone keep the strength",
        "similarity not clearly lower than without dropout where they do, clearly lower where they do not; for each "
        "share",
        weight.rows_count_for_what_is_gone,
    ),
    Claim(
        "Blocks divide what they take over",
        "of early, middle and late blocks, one is clearly ahead of another in one of the reference's attributes, and "
        "that one in another attribute",
        functools.partial(weight.divides, part="blocks", values=("early", "middle", "late")),
    ),
    Claim(
        "Steps divide what they take over",
        "as above, of the first and the second half of the steps",
        functools.partial(weight.divides, part="steps", values=("0 to 0.5", "0.5 to 1")),
    ),
)
