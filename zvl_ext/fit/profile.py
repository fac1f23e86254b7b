"""`fit weights`: from the folder of pictures to a profile."""

from __future__ import annotations

from ..errors import ZvlError
from ..profiles import write_profile
from .about import about
from .gathering import Told, Wish, begin
from .loop import run
from .report import Gain, gain

TOGETHER = 1e-3  # of the loss: a head may be three times another where that gains a thousandth of it


def fit_weights(wish: Wish, out: str, anyway: bool, told: Told) -> Gain:
    """Learn one log-weight for each head, and write them where they are better than one weight.

    Args:
        out: The file.
        anyway: Whether it is written where nothing was gained, too.

    Raises:
        ZvlError: something can't be read, does not fit or can't be written; the loss is no number any more; or nothing
            was gained.
    """
    from .weights import HeadWeights, best_single, centred

    crew, told, material, judge = begin(wish, told)
    schedule = wish.schedule
    weight = best_single(judge, material.compared_on)
    told.say(f"The best weight for all heads alike is {weight:g}.")
    learner = HeadWeights(judge, material.learned, material.deciding, schedule, TOGETHER)
    progress, best = run(learner, schedule, material.folder, crew, told.steps)
    tables = centred(best)
    # A profile is multiplied with a weight, as the single one is one: each is compared at its best.
    own = best_single(judge, material.compared_on, tables)
    found = gain(
        material.saying.examples,
        judge.losses(material.saying, weight=0.0),
        judge.losses(material.saying, weight=weight),
        weight,
        judge.losses(material.saying, tables, own),
    )
    for line in found.lines():
        told.say(line)
    if not (found.clear or anyway):
        raise ZvlError(
            f"Nothing was gained over one weight of {weight:g}, so nothing is written. More pictures, or captions that "
            "say more, may help; --anyway writes the file all the same."
        )
    if crew.first:
        said = about(wish, material, progress) | {"gained": found.told()}
        write_profile(out, tables["main"].cpu(), tables["refiner"].cpu(), said)
        told.say(f"{out} is written. It is meant for weight {wish.settings.weight:g}, curve {wish.settings.curve}.")
    return found
