"""An analysis without a web UI, for the demo's page and the command line: one picture is made for the attention."""

from __future__ import annotations

import dataclasses

from ..analysis.measuring import Analysis, Told, analysed
from ..attention_shares import AttentionShares
from ..conditioner import condition_units, projected_by, unit_of, units_of
from ..conditioning import Conditioning
from ..errors import ZvlError, in_one_line
from .standalone import Request, Weights

UNSEEN = "The references have no rows of their own with these settings, so there is no attention of theirs to measure."


def analyse_with(
    weights: Weights, request: Request, number: int = 1, attention: bool = True, on_step: Told = lambda *told: None
) -> Analysis:
    """Analyse a reference.

    Args:
        request: The first of its seeds is that of the picture.
        number: Which of the references.
        attention: Whether a picture is made with all of them, to measure the attention they get.

    Raises:
        ZvlError: with one line for the user.
    """
    with in_one_line():
        model, settings = weights.model, weights.fitted(request.settings)
        size = request.sampling["size"]
        if number not in settings.units:
            raise ZvlError(f"There is no reference {number} to analyse. Drop a picture there first.")
        unit, text = unit_of(number, settings.units[number], size), model.text(request.prompt)
        unit = dataclasses.replace(unit, projection=projected_by(settings, request.projection))
        encoder = model.encoder_statistics(lambda done, of: on_step("measuring the text encoder, prompt", done, of))
        found = analysed(unit, text, model.sources_for(settings), encoder, on_step)
        if not attention:
            return found
        units = units_of(settings, size, **request.learned)
        sources = model.sources_for(settings)
        made = condition_units(units, [text], sources)[0](request.seeds[0]) if units else Conditioning(text.embeddings)
        if not (made.owners > 0).any():
            return dataclasses.replace(found, note=UNSEEN)
        shares = AttentionShares()
        guidance = request.sampling["guidance"]
        against = [model.condition_units(units, request.negative, request.seeds[0], negative=True)] if guidance else []
        model.generate(
            [made], request.seeds[:1], **request.sampling, negative=against, shares=shares,
            on_step=lambda done, of: on_step("making a picture, step", done, of),
        )  # fmt: skip
        return dataclasses.replace(found, shares=shares)
