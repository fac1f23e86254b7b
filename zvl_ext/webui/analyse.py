"""A reference and a prompt analysed by the models that the web UI holds, while no picture of the user's is made."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import torch

from ..analysis.layers import EncoderStatistics, bundle, encoder_statistics, of_bundle
from ..analysis.measuring import Analysis, analysed
from ..analysis.wanted import Wanted
from ..conditioner import unit_of
from ..engines.sources import Sources, TextEncoder, digest_of
from ..errors import ZvlError, in_one_line
from ..hosts import forge, forge_encoder, forge_files
from ..hosts.forge_extractor import ForgeExtractor
from ..image_models import NAMES
from ..mixing.prompts import REFERENCE_PROMPTS
from ..options import Settings
from ..sequence import Encode, Template
from .analyse_attention import attention_of
from .engine import Recorder
from .kept import KEEPER


def analysed_here(settings: Settings, asked: Wanted, number: int = 1) -> Analysis:
    """Analyse a reference when no picture is being made; until then it waits. Interrupt and Skip end it, too.

    The web UI's image model is loaded where it is not, as for a picture.

    Raises:
        ZvlError: with one line for the user.
        Stopped: it was ended.
    """
    with in_one_line():
        checkpoint = forge_files.checkpoint(settings.model)
        if number not in settings.units:
            raise ZvlError(f"There is no reference {number} to analyse. Drop a picture there first.")
        unit = unit_of(number, settings.units[number], asked.shape)

        def told(what: str, done: int = 0, of: int = 1) -> None:
            forge.check_interrupted()
            asked.on_step(what, done, of)
            forge.show_progress(f"Z-Image VL: {what}" + (f" {done + 1} of {of}" if of > 1 else ""))

        with forge.job("Z-Image VL"), torch.no_grad():
            told("loading the image model")
            engine = forge.loaded_engine()
            model = forge.image_model(engine)
            if model is None:
                raise ZvlError(f"Only {NAMES} can be analysed. Choose a checkpoint of it first.")
            encode, encoder = forge_encoder.encoder(engine, model), forge_encoder.ForgeTextEncoder(engine)

            def on_prompt(done: int) -> None:
                told("measuring the text encoder, prompt", done, len(REFERENCE_PROMPTS))

            def measured() -> EncoderStatistics:
                return _measured(encoder, encode, model.template, on_prompt)

            # What an engine tells its predictor with a prompt is about a picture, and none is made here.
            with forge_encoder.told(engine, on=False):
                prompt = forge.prompts_of([forge.plain_prompt(asked.prompt)], asked.shape)
                recorder = Recorder(engine)
                recorder.get_learned_conditioning(prompt)
                (text,) = recorder.texts.values()
                layers = KEEPER.measured(engine, ("layers", forge_encoder.text_state(engine)), measured)
            deep = settings.changed({"hidden_layer": -1, "layer_mix": "", "image_layers": ""})
            extractor = ForgeExtractor(checkpoint, deep, KEEPER.residence)
            sources = Sources(extractor, encode, lambda: layers.at((-2,)).whole, encoder, KEEPER.store, model=model)
            found = dataclasses.replace(analysed(unit, text, sources, layers, told), note=extractor.note)
            if not asked.attention:
                return found
            told("making a picture")
            shares, note = attention_of(settings, dataclasses.replace(asked, on_step=told), engine)
            return dataclasses.replace(found, shares=shares, note=" ".join(filter(None, (found.note, note))))


def _measured(
    encoder: TextEncoder, encode: Encode, template: Template, on_prompt: Callable[[int], None]
) -> EncoderStatistics:
    """The text encoder's statistics by layer, from the store where it has them of the same text encoder: what it makes
    of the first prompt names it with all that is put on it."""
    rows = encoder.embed(list(encode(template.text.format(REFERENCE_PROMPTS[0]))))
    last = encoder.hidden_states(rows, -1, None, None)
    key = ("layers", digest_of(last), hashlib.sha256("\n".join(REFERENCE_PROMPTS).encode()).hexdigest())
    kept = KEEPER.store.get(key)
    found = None if kept is None else of_bundle(kept, encoder.layers, last.shape[1])
    if found is None:
        found = encoder_statistics(encoder, encode, template, REFERENCE_PROMPTS, on_prompt)
        KEEPER.store.put(key, bundle(found))
    return found
