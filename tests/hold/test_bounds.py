"""What bounds the generated inputs does bound them."""

import time

import pytest
from bounds import bounded


def test_a_hang_is_a_failure() -> None:
    with pytest.raises(TimeoutError), bounded(seconds=1):
        time.sleep(3)


def test_a_gigabyte_too_much_is_a_failure() -> None:
    with pytest.raises(MemoryError), bounded(memory=2**28):
        bytearray(2**30)


def test_the_limits_end_with_the_block() -> None:
    with bounded(seconds=1, memory=2**28):
        pass
    time.sleep(1.1)
    assert len(bytearray(2**30)) == 2**30
