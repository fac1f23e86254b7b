"""Several processes that learn together, as `accelerate launch` and torch's own launcher start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from learning import SHORT, Alone, Quadratic

from zvl_ext.fit.loop import run
from zvl_ext.fit.state import Folder

SUPPORT = Path(__file__).resolve().parents[1] / "support"
MEMBER = """
import sys
import torch
from learning import Quadratic, SHORT
from zvl_ext.fit.crew import Crew
from zvl_ext.fit.loop import run
from zvl_ext.fit.state import Folder

torch.set_num_threads(1)
crew = Crew(cpu=True)
progress, best = run(Quadratic(), SHORT, Folder(sys.argv[1] + str(crew.rank), "k"), crew, lambda progress: None)
print(crew.rank, crew.count, progress.losses, {name: each.tolist() for name, each in best.items()})
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def two(tmp_path: Path, root: Path) -> list[str]:
    """What two processes say that learn the same together; their folders are `state0` and `state1`."""
    pytest.importorskip("accelerate")
    port = free_port()
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(tmp_path / "state")],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(root), str(SUPPORT)]), "MASTER_ADDR": "127.0.0.1"}
            | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [member.communicate(timeout=120) for member in members]
    assert [member.returncode for member in members] == [0, 0], said
    return [out.strip() for out, _ in said]


def test_two_processes_learn_what_one_does_and_the_first_alone_writes(two: list[str], tmp_path: Path) -> None:
    progress, best = run(Quadratic(), SHORT, Folder(str(tmp_path / "alone"), "k"), Alone(), lambda progress: None)
    learned = f"{progress.losses} { {name: each.tolist() for name, each in best.items()} }"
    assert two == [f"{rank} 2 {learned}" for rank in range(2)]
    state, own = ((tmp_path / name / "state.safetensors").read_bytes() for name in ("state0", "alone"))
    assert state == own
    assert not list((tmp_path / "state1").iterdir())
