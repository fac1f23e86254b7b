"""What goes into the image model beside the picture, and how several of it become one batch."""

import math

import torch


def fitted(tensor, count):
    """A tensor for a batch of that many: repeated, or cut off."""
    return tensor.repeat(-(-count // len(tensor)), *[1] * (tensor.ndim - 1))[:count]


class Condition:
    def __init__(self, cond):
        self.cond = cond

    def _copy_with(self, cond):
        return self.__class__(cond)

    def process_cond(self, batch_size, device, **kwargs):
        return self._copy_with(fitted(self.cond, batch_size).to(device))

    def can_concat(self, other):
        return self.cond.shape == other.cond.shape

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)])


class ConditionCrossAttn(Condition):
    """Rows for attention [batch, rows, hidden]. Two lengths go together where few repetitions make them alike."""

    def can_concat(self, other):
        ours, theirs = self.cond.shape, other.cond.shape
        together = math.lcm(ours[1], theirs[1]) // min(ours[1], theirs[1]) <= 4
        return ours == theirs or ((ours[0], ours[2]) == (theirs[0], theirs[2]) and together)

    def concat(self, others):
        conds = [self.cond, *(other.cond for other in others)]
        longest = math.lcm(*(cond.shape[1] for cond in conds))
        return torch.cat([cond.repeat(1, longest // cond.shape[1], 1) for cond in conds])


def compile_conditions(cond):
    return None if cond is None else [{"cross_attn": cond, "model_conds": {"c_crossattn": ConditionCrossAttn(cond)}}]


def compile_weighted_conditions(cond, weights):
    """One entry for the first parts of all prompts, one for the second parts, and so on; its weight is the last
    prompt's."""
    return [
        {**compile_conditions(cond[[place for place, _ in part]])[0], "strength": part[-1][1]} for part in zip(*weights)
    ]
