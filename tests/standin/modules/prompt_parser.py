"""Prompts with schedules ([a:b:0.5]) and parts (a AND b :0.7) to conditioning."""

import re
from collections import namedtuple

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])
_EDIT = re.compile(r"\[([^\[\]:]*):([^\[\]:]*):([\d.]+)\]")


class SdConditioning(list):
    """The prompts of a batch, with what the model may want to know about the picture."""

    def __init__(
        self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None, distilled_cfg_scale=None
    ):
        super().__init__(prompts)
        given = {
            "is_negative_prompt": is_negative_prompt,
            "width": width,
            "height": height,
            "distilled_cfg_scale": distilled_cfg_scale,
        }
        inherited = (
            vars(prompts if copy_from is None else copy_from)
            if isinstance(copy_from or prompts, SdConditioning)
            else {}
        )
        vars(self).update({name: value or inherited.get(name, value) for name, value in given.items()})


def schedule(prompt, steps):
    """[(last step, text)] of a prompt, for edits with a fraction, or a number of steps, at the end."""

    def place(number):
        return int(float(number) * steps) if "." in number else int(number)

    ends = sorted({min(place(m[3]), steps) for m in _EDIT.finditer(prompt)} - {0} | {steps})
    return [(end, _EDIT.sub(lambda m, end=end: m[1] if end <= place(m[3]) else m[2], prompt)) for end in ends]


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    """For every prompt the list of its scheduled conds. The model is asked once per different prompt."""
    known = {}
    for prompt in prompts:
        if prompt not in known:
            ends, texts = zip(*schedule(prompt, hires_steps or steps))
            conds = model.get_learned_conditioning(SdConditioning(texts, copy_from=prompts))
            known[prompt] = [ScheduledPromptConditioning(end, conds[i]) for i, end in enumerate(ends)]
    return [known[prompt] for prompt in prompts]


class ComposableScheduledPromptConditioning:
    def __init__(self, schedules, weight=1.0):
        self.schedules, self.weight = schedules, weight


class MulticondLearnedConditioning:
    def __init__(self, shape, batch):
        self.shape, self.batch = shape, batch


def weighted(part):
    """(text, weight) of one part of a prompt: a number behind its last colon is the weight."""
    text, _, number = part.rpartition(":")
    try:
        return text.rstrip(), float(number)
    except ValueError:
        return part.rstrip(), 1.0


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    """The same with AND: the parts of all prompts are encoded together, the weights stay beside them."""
    split = [[weighted(part) for part in re.split(r"\bAND\b", prompt)] for prompt in prompts]
    parts = list(dict.fromkeys(text for line in split for text, _ in line))
    conds = dict(
        zip(parts, get_learned_conditioning(model, SdConditioning(parts, copy_from=prompts), steps, hires_steps))
    )
    return MulticondLearnedConditioning(
        (len(prompts),), [[ComposableScheduledPromptConditioning(conds[t], w) for t, w in line] for line in split]
    )


def at_step(schedules, step):
    """The first entry that holds for a step; the first of all where none does."""
    return next((entry for entry in schedules if step <= entry.end_at_step), schedules[0]).cond


def stack_conds(tensors):
    """Rows of several prompts as one tensor; the shorter ones repeat their last row."""
    longest = max(map(len, tensors))
    import torch  # the web UI has it by then; loading this module is to need nothing heavy

    return torch.stack([torch.cat([rows, rows[-1:].expand(longest - len(rows), -1)]) for rows in tensors])


def reconstruct_cond_batch(c, current_step):
    import torch  # the web UI has it by then; loading this module is to need nothing heavy

    return torch.stack([at_step(schedules, current_step) for schedules in c])


def reconstruct_multicond_batch(c, current_step):
    """For each prompt its parts as (place, weight), and what stands at these places [places, rows, hidden]."""
    order, tensors = [], []
    for parts in c.batch:
        order.append([(len(tensors) + i, part.weight) for i, part in enumerate(parts)])
        tensors += [at_step(part.schedules, current_step) for part in parts]
    return order, stack_conds(tensors)
