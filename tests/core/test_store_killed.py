"""Writers that are killed leave nothing behind and nothing wrong. `support/killed.py` does it two hundred times."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_killed_writers_leave_nothing_behind_and_nothing_wrong(tmp_path, root):
    script = root / "tests" / "support" / "killed.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "15", "--folder", tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["wrong"], told["left"]) == (0, [])
    assert told["right"] > 20
    assert told["halves"] > 0, "some of them were writing"
    assert told["after"] <= told["limit"]
    assert told["most"] <= told["limit"] + 3 * 2**21 + 2**14  # and what each of three was just writing
