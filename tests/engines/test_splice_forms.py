"""Engine splice with a file that holds the vision tower alone; engine blend with the same file is one line."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from splicing import spliced
from tiny import ggufs

from zvl_ext.conditioner import check_layer, extract
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.qwen3vl.files import open_checkpoint


@pytest.fixture(params=["safetensors", "mmproj"])
def tower(request, model, tokenizer, tmp_path):
    state = tiny.inner_state(model)
    if request.param == "safetensors":
        kept = {name: value for name, value in state.items() if name.startswith("visual.")}
        return open_checkpoint(
            str(tiny.save_single(kept, tmp_path / "t.safetensors", metadata=tiny.config_metadata(model.config)))
        )
    pytest.importorskip("gguf")
    ggufs.save_mmproj(state, model.config, tmp_path / "t.gguf", "F32")
    opened = open_checkpoint(str(tmp_path / "t.gguf"))
    # The tiny tokenizer has numbers of its own for the special tokens; a real mmproj is always used with Qwen3's.
    return dataclasses.replace(opened, config=opened.config | tiny.token_ids(tokenizer))


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_the_states_are_those_of_the_whole_model(positions, tower, sources, reference, text_of):
    text = text_of()
    wanted = extract(spliced(positions=positions), reference, text, sources).states
    sources.extractor = StandaloneExtractor(tower)
    assert torch.equal(extract(spliced(positions=positions), reference, text, sources).states, wanted)


def test_blend_is_refused_before_anything_runs(tower, sources, reference, text_of, refused, get_tensor):
    sources.extractor = StandaloneExtractor(tower)
    for ask in (check_layer, lambda settings, sources: extract(settings, reference, text_of(), sources)):
        with refused(r"^t\.(safetensors|gguf) has no language model: it serves engine splice.*For engine blend get"):
            ask(spliced(engine="blend"), sources)
    assert get_tensor == {}
