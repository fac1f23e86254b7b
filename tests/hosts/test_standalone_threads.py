"""Threads that share models and a store: each gets the result that it would have got alone."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import tiny
import torch
from compare import hooks
from published import research
from splicing import spliced

from zvl_ext.conditioner import extract
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.hosts.standalone_text import StandaloneTextEncoder
from zvl_ext.reference import open_reference
from zvl_ext.store import Disk, Store

JOBS = [
    (make(hidden_layer=layer, **more), picture, prompt)
    for make, layer, more in (
        (research, -2, {"token_mode": "all", "scale_to_text": False}),
        (research, -4, {"token_mode": "text", "scale_to_text": False}),
        (spliced, -2, {"positions": "mrope"}),
        (spliced, -5, {"positions": "sequential"}),
    )
    for picture in (0, 1)
    for prompt in ("a cat", "a dog in the rain")
]


@pytest.mark.parametrize("kept", ["in one store", "each for itself"])
def test_each_thread_gets_what_it_gets_alone(kept, sources, checkpoint, text_encoder, text_of, tmp_path):
    references = [open_reference(tiny.picture(96, 64, seed=seed)) for seed in (0, 1)]
    texts = {prompt: text_of(prompt) for _, _, prompt in JOBS}
    sources = replace(
        sources, extractor=StandaloneExtractor(checkpoint), text_encoder=StandaloneTextEncoder(text_encoder, "tiny")
    )

    def read(job, store):
        settings, picture, prompt = job
        return extract(settings, references[picture], texts[prompt], replace(sources, store=store)).states

    alone = [read(job, Store()) for job in JOBS]
    own = hooks(text_encoder)  # transformers 5 leaves some
    shared = Store(disk=Disk(str(tmp_path), 10**8))
    wrong, start = [], threading.Barrier(4)

    def work(offset: int) -> None:
        start.wait()
        for i in range(len(JOBS)):
            at = (i * 5 + offset * 4) % len(JOBS)
            if not torch.equal(read(JOBS[at], shared if kept == "in one store" else Store()), alone[at]):
                wrong.append(JOBS[at])

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert hooks(text_encoder) == own
    for store in (shared, Store(disk=Disk(str(tmp_path), 10**8))):  # what is kept is right as well
        assert all(torch.equal(read(job, store), states) for job, states in zip(JOBS, alone))
