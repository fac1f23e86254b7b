"""What is kept between pictures, in memory, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Store:
    """A bounded memory.

    Values are shared, never copied: nobody writes into what comes out of here.

    Args:
        limit: Bytes to keep at most. One larger value is not kept at all.
        size: Bytes of a value; tensors know theirs.
    """

    def __init__(self, limit: int = 256 * 2**20, size: Callable[[Any], int] = lambda value: value.nbytes):
        self.limit = limit
        self._size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return sum(map(self._size, self._kept.values()))

    def get(self, key: Hashable) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._kept.pop(key, None)
            if self._size(value) > self.limit:
                return
            while self._kept and self.size + self._size(value) > self.limit:
                self._kept.popitem(last=False)
            self._kept[key] = value

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
