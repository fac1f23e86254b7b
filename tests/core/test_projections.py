"""Projections: affine maps by hidden layer, in a file that is not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zvl_ext.projections import (
    ABOUT,
    FORMAT,
    MOST,
    Affine,
    Projection,
    projection_of,
    read_projection,
    write_projection,
)

TOLD = {
    "image_model": "Z-Image", "model": "Qwen3-VL-2B", "layers": "28", "fingerprint": "ab12", "method": "ridge",
    "texts": "100", "pictures": "20", "rows": "900", "explained": {"-2": 0.9},
    "seconds": "4", "command": "zvl fit projection",
}  # fmt: skip
GENERATOR = torch.Generator().manual_seed(3)
FIRST = torch.randn(4, generator=GENERATOR)
MAPS = {
    layer: Affine(torch.randn(6, 4, generator=GENERATOR), torch.randn(4, generator=GENERATOR)) for layer in (-2, -8)
}


def written(folder: Path, name: str = "mine", **told: Any) -> str:
    path = str(folder / f"{name}.safetensors")
    write_projection(path, MAPS, FIRST, {**TOLD, **told})
    return path


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.safetensors")
    wrote, got = write_projection(path, MAPS, FIRST, TOLD), read_projection(path)
    assert list(got.maps) == [-8, -2]
    assert all(torch.equal(a, b) for layer in MAPS for a, b in zip(got.maps[layer], MAPS[layer]))
    assert torch.equal(got.first, FIRST)
    assert (got.name, got.digest, got.hidden, got.width) == ("mine", wrote.digest, 6, 4)
    assert [name for name, _ in got.about] == list(ABOUT)
    assert (got.told("rows"), got.told("explained")) == ("900", '{"-2": 0.9}')


def test_its_digest_is_of_what_acts(tmp_path: Path) -> None:
    digest = read_projection(written(tmp_path)).digest
    assert read_projection(written(tmp_path, name="other", rows="3")).digest == digest
    (weight, bias), other = MAPS[-2], MAPS[-8]
    changed = [
        projection_of({-2: Affine(weight, bias + 1), -8: other}, FIRST),
        projection_of({-3: MAPS[-2], -8: other}, FIRST),
        projection_of({-2: MAPS[-2]}, FIRST),
        projection_of(MAPS, FIRST + 1),
    ]
    assert len({digest, *(each.digest for each in changed)}) == 5


def test_rows_go_through_their_own_layers_map_and_the_first_token_is_the_text_encoders() -> None:
    made, rows = projection_of(MAPS, FIRST), torch.randn(5, 6, generator=GENERATOR)
    for layer, (weight, bias) in MAPS.items():
        wanted = torch.tensor(rows.numpy() @ weight.numpy() + bias.numpy())
        assert torch.allclose(made.project(layer, rows), wanted, atol=1e-6)
        got = made.project(layer, rows, holds_first=True)
        assert torch.equal(got[0], FIRST)
        assert torch.allclose(got[1:], wanted[1:], atol=1e-6)


def test_what_it_is_not_for_is_refused(refused: Any) -> None:
    made = projection_of(MAPS, FIRST, "mine", TOLD)
    made.check(6, "tiny", "ab12", [-2, -8])
    projection_of(MAPS, FIRST).check(6, "tiny", "whatever", [-2])  # one that does not tell
    with refused("'mine' is for a Qwen3-VL whose states are 6 wide, and those of tiny are 7. Choose"):
        made.check(7, "tiny", "ab12", [-2])
    with refused("'mine' was fitted for Qwen3-VL-2B, and the weights of tiny are others. Choose"):
        made.check(6, "tiny", "cd34", [-2])
    with refused("has hidden layer -8, -2, not -6. Choose one that it has, or fit it with --layers=-6"):
        made.check(6, "tiny", "ab12", [-2, -6])
    made.check_width(4)
    with refused("makes rows 4 wide, and the image model takes 5"):
        made.check_width(5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first": None}, "it has no tensor first"),
        ({"-2.bias": None}, "it has no tensor -2.bias"),
        ({"-2.weight": torch.zeros(5, 4)}, r"-2.weight is float32 \[5, 4\]; float32 \[6, 4\] is needed"),
        ({"-2.bias": torch.zeros(6)}, r"-2.bias is float32 \[6\]"),
        ({"first": torch.zeros(1, 4)}, r"first is float32 \[1, 4\]"),
        ({"first": torch.zeros(())}, "first is float32"),
        ({"-2.weight": torch.zeros(6, 4, dtype=torch.float16)}, "-2.weight is float16"),
        ({"-2.weight": torch.full((6, 4), torch.nan)}, "-2.weight has values that are not finite"),
        ({"first": torch.full((4,), torch.inf)}, "first has values that are not finite"),
        ({"2.weight": torch.zeros(6, 4)}, "it has a tensor '2.weight'"),
        ({"-02.weight": torch.zeros(6, 4)}, "it has a tensor '-02.weight'"),
        ({"main": torch.zeros(2)}, "it has a tensor 'main'"),
        ({f"{-9 - i}.weight": torch.zeros(6, 4) for i in range(MOST)}
         | {f"{-9 - i}.bias": torch.zeros(4) for i in range(MOST)}, "it has 18 hidden layers; 1 to 16"),
        (dict.fromkeys(("-2.weight", "-2.bias", "-8.weight", "-8.bias")), "it has 0 hidden layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_tensors_that_are_no_maps_are_refused(tmp_path: Path, refused: Any, change: dict, said: str) -> None:
    path = written(tmp_path)
    tensors = {name: tensor for name, tensor in {**load_file(path), **change}.items() if tensor is not None}
    save_file(tensors, path, {"format": FORMAT})
    with refused(f"is no projection that can be used: {said}"):
        read_projection(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "is no projection. One is written by `zvl fit projection`"),
        ({"format": "zvl-profile-1"}, "is no projection"),
        ({"format": "zvl-projection-2"}, "is a projection of another version"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, refused: Any, metadata: dict, said: str) -> None:
    path = str(tmp_path / "x.safetensors")
    save_file({"first": FIRST}, path, metadata)
    with refused(said):
        read_projection(path)
    for content in (b"", b"PK\x03\x04", Path(path).read_bytes()[:-3]):
        Path(path).write_bytes(content)
        with refused("can't be read"):
            read_projection(path)


def test_what_is_not_finite_is_never_written(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "x.safetensors"
    with refused("is not written: -2.bias has values that are not finite"):
        write_projection(str(path), {-2: Affine(MAPS[-2].weight, torch.full((4,), torch.nan))}, FIRST, {})
    assert not path.exists()
    assert isinstance(projection_of(MAPS, FIRST), Projection)
