"""Set-up. The web UI runs `python install.py` with no argument: that installs nothing and only checks.

python install.py                                  check that the web UI's transformers knows Qwen3-VL
python install.py test [pytest's arguments]        make a virtual environment beside this file and run the test suite
python install.py test --transformers 4.57.6       the same with that release; the default is the newest
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import venv

ROOT = os.path.dirname(os.path.abspath(__file__))
NEEDED = (4, 57)


def check() -> None:
    """Say in one line what is missing, and change nothing: the packages are the web UI's."""
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        print("Z-Image VL: transformers is not installed; it needs 4.57 or newer. Update the web UI.")
        return
    if tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2]) < NEEDED:
        print(f"Z-Image VL: transformers {version} does not know Qwen3-VL; it needs 4.57 or newer. Update the web UI.")


def environment(name: str, *packages: str) -> str:
    """A virtual environment of the project's own with the given packages; returns its Python."""
    folder = os.path.join(ROOT, name)
    python = os.path.join(folder, "Scripts", "python.exe") if os.name == "nt" else os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"Making {folder}", flush=True)
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages], check=True)
    return python


def test(release: str | None, arguments: list[str]) -> int:
    packages = ["torch", "safetensors", "pillow", "numpy", "pytest", f"transformers=={release}" if release else "transformers>=4.57"]
    if release and release.startswith("4."):
        # The web UI's gradio needs a huggingface-hub that transformers 5 does not: the panel is tested beside transformers 4.
        packages.append("gradio==4.40.0")
    python = environment(f".venv-test-{release or 'newest'}", *packages)
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


def main() -> int:
    if len(sys.argv) == 1:
        check()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("test",))
    parser.add_argument("--transformers", metavar="RELEASE")
    arguments, rest = parser.parse_known_args()
    return test(arguments.transformers, rest)


if __name__ == "__main__":
    sys.exit(main())
