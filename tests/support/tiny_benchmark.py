"""A size at which the benchmark takes seconds."""

from __future__ import annotations

from zvl_ext.lab.benchmark import size as sizes

TINY = sizes.Size(
    "tiny",
    "tiny",
    {
        "vocab_size": 700,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "deepstack_visual_indexes": [0, 1, 2]},
    {
        "dim": 48,
        "n_heads": 3,
        "n_kv_heads": 3,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "axes_dims": [4, 6, 6],
        "cap_feat_dim": 64,
    },
    layer=-3,
    layers=(-2, -3, -5),
    references=(16, 64),
    latents=16,
)


def quiet(line: str) -> None:
    """Hears of the benchmark's progress and says nothing."""
