"""What every stage shares: the training loop with its state on disk, and drawn pictures as tensors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ..miniature import world
from ..miniature.measure import as_tensor

IGNORE = -100  # a label that the loss leaves out
LOGGED = 50  # steps to a line of the log


class Training:
    """One stage's loop: two optimizers, an exponential moving average, a log, and a state on disk.

    Args:
        name: The stage's, and its files'.
        model: Trained in place; the moving average is in the state on disk.
        steps: In all, over every run of this stage.
        matrices: Muon's learning rate, for weights of two dimensions.
        rest: AdamW's, for all others, embeddings among them.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        work: str,
        steps: int,
        matrices: float,
        rest: float,
        decay: float = 0.998,
        weight_decay: float = 0.01,
    ):
        self.model, self.steps, self.decay, self.step = model, steps, decay, 0
        self.path = os.path.join(work, f"{name}.safetensors")
        self.log = os.path.join(work, f"{name}.jsonl")
        self.parameters = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = {key: parameter.detach().clone() for key, parameter in self.parameters.items()}
        self._resume()
        muon = [
            p
            for key, p in self.parameters.items()
            if p.ndim == 2 and "embed" not in key and "pad_token" not in key and matrices
        ]
        others = [p for p in self.parameters.values() if not any(p is m for m in muon)]
        self.optimizers = [(torch.optim.AdamW(others, lr=rest, betas=(0.9, 0.98), weight_decay=weight_decay), rest)]
        if muon:
            self.optimizers.append((torch.optim.Muon(muon, lr=matrices, weight_decay=weight_decay), matrices))

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
        first, sums, seen = self.step, {}, 0
        while self.step < self.steps and time.monotonic() - start < 60 * minutes:
            warm = min(1.0, (self.step - first + 1) / 50)
            scale = warm * min(1.0, (self.steps - self.step) / (0.25 * self.steps))
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
            decay = min(self.decay, (self.step + 1) / (self.step + 10))
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
    """A model with the moving average of a finished stage, frozen; with a prefix, of the part of the stage's model by
    that name."""
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
