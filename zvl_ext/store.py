"""What is kept between pictures, in memory, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch


class Store:
    """A bounded memory of tensors.

    Tensors are shared, never copied: nobody writes into what comes out of here.

    Args:
        limit: Bytes to keep at most. One larger tensor is not kept at all.
    """

    def __init__(self, limit: int = 256 * 2**20):
        self.limit = limit
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self._kept.values())

    def get(self, key: Hashable) -> torch.Tensor | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        with self._lock:
            self._kept.pop(key, None)
            if tensor.nbytes > self.limit:
                return
            while self._kept and self.size + tensor.nbytes > self.limit:
                self._kept.popitem(last=False)
            self._kept[key] = tensor

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


class Recent:
    """The last few things, by name.

    Args:
        count: How many to keep.
    """

    def __init__(self, count: int):
        self.count = count
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, name: str) -> Any:
        return self._kept.get(name)

    def put(self, name: str, value: Any) -> None:
        self._kept[name] = value
        self._kept.move_to_end(name)
        while len(self._kept) > self.count:
            self._kept.popitem(last=False)
