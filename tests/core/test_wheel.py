"""The package as `pip install` gets it: the wheel, built here without the network, holds what is needed, no more."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WEIGHTS = "zvl_ext/lab/miniature/weights/"
LEARNED = [f"zvl_ext/lab/miniature/{kind}/" for kind in ("profiles", "projections", "loras")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built in a copy: setuptools leaves a folder behind where it builds."""
    root, made = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("wheel")
    source = made / "source"
    shutil.copytree(root / "zvl_ext", source / "zvl_ext")  # __pycache__ and all: it must not get in
    for folder in ("scripts", "javascript", "tests/standin"):
        shutil.copytree(root / folder, source / folder)
    for file in root.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"  # what pip calls
    done = subprocess.run([sys.executable, "-c", build, made], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [built] = made.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def of_package(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python from outside the project, with the installed package only."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )


def test_it_holds_every_module_and_the_weights_and_nothing_else(wheel, root):
    package = root / "zvl_ext"
    modules = {path.relative_to(root).as_posix() for path in package.rglob("*.py")}
    brought = [
        {path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file()}
        for folder in (WEIGHTS, *LEARNED)
    ]
    assert all(brought)
    page = {f"zvl_ext/lab/sweep/report/page.{kind}" for kind in ("css", "js")}
    assert of_package(wheel) == modules | set().union(*brought) | page | {"zvl_ext/py.typed"}


def test_the_weights_are_whole(wheel, root):
    for name in of_package(wheel):
        if name.startswith(WEIGHTS):
            assert wheel.read(name) == (root / name).read_bytes(), name


def test_its_requirements_are_what_the_web_ui_brings(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    lines = wheel.read(metadata).decode().splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    always = {line for line in needed if "extra ==" not in line}
    assert always == {"torch", "transformers>=4.57", "safetensors", "pillow", "numpy"}
    assert "License-Expression: MIT" in lines
    assert "Requires-Python: >=3.10" in lines


def test_it_brings_the_command(wheel):
    [scripts] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert wheel.read(scripts).decode().split() == ["[console_scripts]", "zvl", "=", "zvl_ext.__main__:main"]


def test_the_command_answers_and_ends_with_a_status(installed):
    """What the script that pip writes does: `sys.exit(main())`."""
    script = "import sys; from zvl_ext.__main__ import main; sys.exit(main())"
    assert "alpha" in run(installed, "-c", script, "options").stdout
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run(installed, "-c", script, "blend")
    assert refused.value.returncode == 2


def test_the_demo_finds_its_weights_there(installed):
    script = "import zvl_ext.lab.miniature.family as f; print(f.WEIGHTS)"
    assert Path(run(installed, "-c", script).stdout.strip()) == installed / WEIGHTS
