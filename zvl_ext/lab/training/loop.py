"""What every stage shares: the training loop with its state on disk, and drawn pictures as tensors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ..miniature import world
from ..miniature.measure import as_tensor

IGNORE = -100  # a label that the loss leaves out
LOGGED = 50  # steps to a line of the log


@dataclass(frozen=True)
class Recipe:
    """How a stage trains.

    Attributes:
        steps: In all, over every run of the stage.
        matrices: Muon's learning rate, for weights of two dimensions; 0 leaves them to AdamW.
        rest: AdamW's, for all others, embeddings among them.
        average_decay: Of the exponential moving average, for each step.
        weight_decay: Of both optimizers.
    """

    steps: int
    matrices: float
    rest: float
    average_decay: float = 0.998
    weight_decay: float = 0.01


class Training:
    """One stage's loop: two optimizers, an exponential moving average, a log, and a state on disk.

    Args:
        name: The stage's, and its files'.
        model: Trained in place; the moving average is in the state on disk.
        work: The folder of the training's state.
    """

    def __init__(self, name: str, model: nn.Module, work: str, recipe: Recipe):
        self.model, self.recipe, self.step = model, recipe, 0
        self.path = os.path.join(work, f"{name}.safetensors")
        self.log = os.path.join(work, f"{name}.jsonl")
        self.parameters = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = {key: parameter.detach().clone() for key, parameter in self.parameters.items()}
        self._resume()
        muon = [key for key in self.parameters if recipe.matrices and self._is_matrix(key)]
        rest = [parameter for key, parameter in self.parameters.items() if key not in muon]
        decay = recipe.weight_decay
        adamw = torch.optim.AdamW(rest, lr=recipe.rest, betas=(0.9, 0.98), weight_decay=decay)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, recipe.rest)]
        if muon:
            matrices = [self.parameters[key] for key in muon]
            optimizer = torch.optim.Muon(matrices, lr=recipe.matrices, weight_decay=decay)
            self.optimizers.append((optimizer, recipe.matrices))

    def _is_matrix(self, key: str) -> bool:
        """Whether Muon takes a weight: its rows are no entries of a table."""
        return self.parameters[key].ndim == 2 and "embed" not in key and "pad_token" not in key

    def _resume(self) -> None:
        if not os.path.isfile(self.path):
            return
        state = load_file(self.path)
        self.step = int(state.pop("step"))
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(state[f"model.{key}"])
                self.average[key].copy_(state[f"average.{key}"])

    def _save(self) -> None:
        tensors = {f"model.{key}": parameter.detach().contiguous() for key, parameter in self.parameters.items()}
        tensors |= {f"average.{key}": tensor.contiguous() for key, tensor in self.average.items()}
        save_file({**tensors, "step": torch.tensor(self.step)}, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def run(self, loss_of: Callable[[], tuple[torch.Tensor, dict[str, float]]], minutes: float) -> None:
        """Train for at most so many minutes."""
        start = saved = time.monotonic()
        first, seen = self.step, 0
        sums: dict[str, float] = {}
        while self.step < self.recipe.steps and time.monotonic() - start < 60 * minutes:
            warm = min(1.0, (self.step - first + 1) / 50)
            scale = warm * min(1.0, (self.recipe.steps - self.step) / (0.25 * self.recipe.steps))
            for optimizer, rate in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * scale
            loss, parts = loss_of()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            for optimizer, _ in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            decay = min(self.recipe.average_decay, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
            for key, value in {"loss": float(loss.detach()), **parts}.items():
                sums[key] = sums.get(key, 0.0) + value
            seen += 1
            if self.step % LOGGED == 0:
                line = {
                    "step": self.step,
                    "minutes": round((time.monotonic() - start) / 60, 2),
                    **{k: round(v / seen, 5) for k, v in sums.items()},
                }
                with open(self.log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
                sums, seen = {}, 0
            if time.monotonic() - saved > 60:
                self._save()
                saved = time.monotonic()
        self._save()


def pictures(scenes: list[world.Scene], rng: np.random.Generator) -> torch.Tensor:
    """Drawn scenes as float [batch, 3, SIZE, SIZE] in -1..1."""
    return as_tensor([Image.fromarray(world.draw(scene, int(rng.integers(2**31)))) for scene in scenes])


def scenes(rng: np.random.Generator, count: int, held_out: bool | None = False) -> list[world.Scene]:
    return [world.random_scene(rng, held_out) for _ in range(count)]


def pad(sequences: list[list[int]], value: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=value)


def averaged(name: str, model: nn.Module, work: str, prefix: str = "") -> nn.Module:
    """A model with the moving average of a finished stage, frozen.

    Args:
        prefix: Of the part of the stage's model that is wanted; empty for all of it.
    """
    path = os.path.join(work, f"{name}.safetensors")
    if not os.path.isfile(path):
        raise SystemExit(f"{path} is missing. Run the stage {name} first.")
    prefix = f"average.{prefix}"
    weights = {key.removeprefix(prefix): tensor for key, tensor in load_file(path).items() if key.startswith(prefix)}
    missing, unknown = model.load_state_dict(weights, strict=False)
    state = model.state_dict()
    loaded = {state[key].data_ptr() for key in weights if key in state}
    tied = {key for key, value in state.items() if value.data_ptr() in loaded}
    if unknown or set(missing) - tied:
        raise SystemExit(f"{path} does not fit: {unknown or missing}. Delete it and train the stage {name} again.")
    return model.eval().requires_grad_(False)
