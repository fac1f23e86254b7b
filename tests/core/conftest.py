"""What the tests of this room share."""

import pytest

from zvl_ext.store import Disk


@pytest.fixture
def disk(tmp_path) -> Disk:
    return Disk(str(tmp_path / "data" / "cache"), 100_000)
