"""The processes that learn together, through accelerate: one on its own, or as many as `accelerate launch` starts."""

from __future__ import annotations

import atexit
import contextlib
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError

if TYPE_CHECKING:
    import torch


class Crew:
    """This process among those that learn.

    Args:
        cpu: Whether the CPU is to be used where there is an accelerator.

    Attributes:
        rank: Which of them this is, from 0; the first one alone speaks and writes.
        count: How many they are.
        device: The one that is this process' own, as torch names it.
        bf16: Whether `accelerate` was told to compute in bfloat16.

    Raises:
        ZvlError: accelerate is not there.
    """

    def __init__(self, cpu: bool = False):
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ZvlError(
                "Fitting needs accelerate, which is not there. Install it with: python -m pip install --no-deps "
                "accelerate psutil"
            ) from error
        self._accelerator: Any = Accelerator(cpu=cpu)
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.device = str(self._accelerator.device)
        self.bf16: bool = self._accelerator.mixed_precision == "bf16"
        if self.count > 1:  # however it ends: threads of the group that outlive it abort the process
            atexit.register(self._accelerator.end_training)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def own(self, count: int) -> range:
        """Which of that many things are this process' own."""
        return range(self.rank, count, self.count)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in each of them."""
        if self.count == 1:
            return tensor
        whole: torch.Tensor = self._accelerator.reduce(tensor.to(self.device), reduction="sum")
        return whole.to(tensor.device)

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """The context that the image model runs in: as `accelerate` was told."""
        context: contextlib.AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def together(self) -> None:
        """Go on once all processes have come here."""
        self._accelerator.wait_for_everyone()
