"""`fit lora`: from the folder of pictures to a LoRA that reads reference rows."""

from __future__ import annotations

from ..errors import ZvlError
from ..loras import write_lora
from .about import about
from .adapters import Adapters, Form
from .gathering import Told, Wish, begin
from .loop import run
from .report import Gain, Reading, gain, reading


def fit_lora(wish: Wish, form: Form, out: str, anyway: bool, told: Told) -> tuple[Gain, Reading]:
    """Learn a LoRA, and write it where it reads references better than the image model does without.

    Args:
        out: The file.
        anyway: Whether it is written where nothing was gained, too.

    Raises:
        ZvlError: something can't be read, does not fit or can't be written; the loss is no number any more; or nothing
            was gained.
    """
    import torch

    from .weights import best_single

    crew, told, material, judge = begin(wish, told, form)
    schedule, saying = wish.schedule, material.saying
    weight = best_single(judge, material.compared_on)
    told.say(f"Without a LoRA, the best weight is {weight:g}.")
    without, single = (judge.losses(saying, weight=each) for each in (0.0, weight))
    learner = Adapters(judge, material.learned, material.deciding, schedule, form)
    progress, best = run(learner, schedule, material.folder, crew, told.steps)
    pairs = learner.use(best)
    learned, alone = judge.losses(saying), judge.losses(saying, weight=0.0)
    found = gain(saying.examples, without, single, weight, learned)
    read = reading(saying.examples, without - single, alone - learned)
    for line in (*found.lines(), read.line()):
        told.say(line)
    if not ((found.clear and read.clear) or anyway):
        raise ZvlError(
            "Nothing was gained in reading references, so nothing is written. More pictures, or captions that say "
            "more, may help; --anyway writes the file all the same."
        )
    if crew.first:
        kind = torch.bfloat16 if material.model.dtype == torch.bfloat16 else torch.float16  # as LoRAs are shared
        halved = {layer: (down.to(kind), up.to(kind)) for layer, (down, up) in pairs.items()}
        said = about(wish, material, progress)
        own = {"base_model": said["image_model"], "rank": str(form.rank), "alpha": f"{form.alpha:g}"}
        gained = {"layers": form.layers, "gained": found.told() | read.told()}
        write_lora(out, halved, form.alpha, said | own | gained)
        told.say(f"{out} is written. It is meant for weight {wish.settings.weight:g}, curve {wish.settings.curve}.")
    return found, read
