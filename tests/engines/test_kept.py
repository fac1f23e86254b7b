"""What comes from disk is used only where it is of its kind's form; otherwise it is read anew, and replaced."""

from __future__ import annotations

import pytest
import torch
from published import research
from splicing import spliced

from zvl_ext.conditioner import extract
from zvl_ext.errors import ZvlError
from zvl_ext.store import Disk, Store

ENGINES = {
    "blend": research(token_mode="all", scale_to_text=False, hidden_layer=-2),
    "splice": spliced(),
    "splice, mrope": spliced(positions="mrope"),
}


def nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


CHANGES = {
    "not finite": nan,
    "infinite": lambda tensor: tensor / 0.0,
    "another dtype": lambda tensor: tensor.half(),
    "whole numbers": lambda tensor: tensor.long(),
    "a row less": lambda tensor: tensor[..., :-1, :].contiguous(),
    "a column more": lambda tensor: torch.nn.functional.pad(tensor, (0, 1)),
    "nothing": lambda tensor: tensor[:0],
    "a scalar": lambda tensor: torch.tensor(1.0),
    "one dimension more": lambda tensor: tensor[None],
}
BUNDLES = {
    **{
        change: lambda bundle, of=function: {name: of(tensor) for name, tensor in bundle.items()}
        for change, function in CHANGES.items()
    },
    "another name": lambda bundle: {"x" + name: tensor for name, tensor in bundle.items()},
    "empty": lambda bundle: {},
    "one more": lambda bundle: bundle | {"x": torch.zeros(3)},
}


class Remembering(Disk):
    def __init__(self, folder: str):
        super().__init__(folder, 10**8)
        self.put_in: dict = {}

    def put(self, key, bundle):
        self.put_in[key] = bundle
        super().put(key, bundle)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", BUNDLES)
def test_a_bundle_that_was_exchanged_on_disk_is_read_anew(change, engine, sources, reference, text_of, tmp_path):
    disk = Remembering(str(tmp_path))
    sources.store = Store(disk=disk)
    wanted = extract(ENGINES[engine], reference, text_of(), sources).states
    good = dict(disk.put_in)
    for key, bundle in good.items():
        Disk(disk.folder, disk.limit).put(key, BUNDLES[change](bundle))  # a whole file, checksum and all
    sources.store = Store(disk=disk)
    assert torch.equal(extract(ENGINES[engine], reference, text_of(), sources).states, wanted)
    for key in good if engine == "blend" else [k for k in good if k[0] == "splice"]:
        assert all(torch.equal(disk.get(key)[name], tensor) for name, tensor in good[key].items()), "replaced"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_bundle_from_disk_is_used(engine, sources, extractor, encoder, reference, text_of, tmp_path):
    sources.store = Store(disk=Disk(str(tmp_path), 10**8))
    wanted = extract(ENGINES[engine], reference, text_of(), sources).states
    extractor.passes.clear()
    encoder.passes.clear()
    sources.store = Store(disk=Disk(str(tmp_path), 10**8))
    assert torch.equal(extract(ENGINES[engine], reference, text_of(), sources).states, wanted)
    assert extractor.passes + encoder.passes == []


def test_a_look_that_is_not_finite_is_refused_and_not_kept(sources, extractor, reference, text_of):
    real = extractor.part.image_tokens
    extractor.image_tokens = lambda *args: nan(real(*args))
    with pytest.raises(ZvlError, match="not finite"):
        extract(spliced(), reference, text_of(), sources)
    assert sources.store.size == 0
    del extractor.image_tokens
    assert extract(spliced(), reference, text_of(), sources).states.isfinite().all()


def test_states_of_a_grid_that_are_not_finite_are_not_kept(sources, encoder, reference, text_of):
    real = encoder.part.states
    encoder.states = lambda *args: {k: nan(v) if k == 3 else v for k, v in real(*args).items()}
    sources.every_layer = True
    assert extract(spliced(hidden_layer=-2), reference, text_of(), sources).states.isfinite().all()
    with pytest.raises(ZvlError, match="not finite"):
        extract(spliced(hidden_layer=-5), reference, text_of(), sources)  # of seven layers, the third
    assert all(t.isfinite().all() for bundle, _ in sources.store._kept.values() for t in bundle.values())


def test_behind_the_last_layer_a_lora_is_another_text_encoder(sources, encoder, reference, text_of):
    """The prompt's embeddings are of the layer before it, so they can't tell."""
    for state, passes in (("", 1), ("a LoRA", 2), ("a LoRA", 2), ("", 2)):
        encoder.state = state
        extract(spliced(hidden_layer=-1), reference, text_of(), sources)
        assert encoder.passes == ["states"] * passes
    extract(spliced(hidden_layer=-2), reference, text_of(), sources)
    assert len(encoder.passes) == 3
