"""Set-up. The web UI runs `python install.py` with no argument: that installs nothing and only checks.

python install.py                                  check, in the web UI's folder, that it can run Z-Image VL
python install.py test [pytest's arguments]        make a virtual environment beside this file and run the test suite
python install.py test --transformers 4.57.6       the same with that release; the default is the newest
python install.py demo [arguments]                 make one for the demo and write its contact sheet; arguments as of
                                                   python -m zvl_ext demo
python install.py demo --ui                        open a page with the web UI's accordion
python install.py remove                           delete these environments again
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
import venv

from zvl_ext.hosts.family import without_qwen3vl, without_zimage

ROOT = os.path.dirname(os.path.abspath(__file__))
PACKAGES = ("torch", "safetensors", "pillow", "numpy", "diffusers")
TESTING = ("pytest", "pytest-cov", "pytest-xdist", "hypothesis", "gguf", "setuptools>=77")  # a test builds the wheel
SWEEPS = ("scikit-image", "dask", "distributed", "pyarrow")  # what sweeps can measure and write with, and go to
FITTING = ("accelerate", "peft")
# The web UI's gradio, with a transformers that takes the same huggingface-hub. gradio leaves its own requirements open,
# but does not work with newer releases of these two.
PANEL = ("gradio==4.40.0", "fastapi<0.113", "pydantic<2.11")
BESIDE_PANEL = "4.57.6"
NOTES = (".pytest_cache", ".hypothesis")  # folders that the tests leave


def check() -> None:
    """Say in one line what is in the way, and change nothing: the packages are the web UI's.

    The web UI runs this in its own Python and its own folder.
    """
    if reason := without_zimage(os.getcwd()) or without_qwen3vl():
        print(f"Z-Image VL: {reason}")


def environment(name: str, *packages: str) -> str:
    """A virtual environment of the project's own with the given packages; returns its Python.

    What has been installed is noted in it: a second run installs nothing.
    """
    folder = os.path.join(ROOT, name)
    python = os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
    note, wanted = os.path.join(folder, "zvl-packages.txt"), "\n".join(sorted(packages))
    if os.path.exists(python) and os.path.exists(note):
        with open(note, encoding="utf-8") as file:
            if set(wanted.splitlines()) <= set(file.read().splitlines()):
                return python
    print(
        f"Installing into {folder}: some minutes and gigabytes, once. python install.py remove deletes it.", flush=True
    )
    if not os.path.exists(python):
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", *packages], check=True)
    with open(note, "w", encoding="utf-8") as file:
        file.write(wanted)
    print(f"Installed: {_size(folder) / 1e9:.1f} GB in {folder}", flush=True)
    return python


def _size(folder: str) -> int:
    """The bytes of all files below a folder."""
    paths = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(path).st_size for path in paths)


def remove() -> int:
    """Delete the environments that `test` and `demo` have made, and what pytest has noted."""
    for folder in sorted(glob.glob(os.path.join(glob.escape(ROOT), ".venv-*"))):
        if os.path.isfile(os.path.join(folder, "pyvenv.cfg")) and not os.path.islink(folder):
            print(f"Removing {folder}: {_size(folder) / 1e9:.1f} GB", flush=True)
            shutil.rmtree(folder)
    for name in NOTES:
        shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)
    return 0


def test(release: str | None, arguments: list[str]) -> int:
    versioned = f"transformers=={release}" if release else "transformers>=4.57"
    packages = [*PACKAGES, *TESTING, *SWEEPS, *FITTING, versioned]
    if release and release.startswith("4."):
        packages += PANEL  # transformers 5 needs another huggingface-hub: the panel is tested beside transformers 4
    python = environment(f".venv-test-{release or 'newest'}", *packages)
    workers = ["-n", str(min(os.cpu_count() or 1, 4))]  # each takes 2 GB at most; an -n of the user's own comes later
    return subprocess.run([python, "-m", "pytest", *workers, *arguments], cwd=ROOT).returncode


def demo(arguments: list[str]) -> int:
    """The demo in an environment of its own, the same with and without the page. Nothing is fetched when it runs."""
    packages = [*PACKAGES, "accelerate", f"transformers=={BESIDE_PANEL}", *(PANEL if "--ui" in arguments else ())]
    python = environment(".venv-demo", *packages)
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ROOT}  # files are named from where the user is
    return subprocess.run([python, "-m", "zvl_ext", "demo", *arguments], env=offline).returncode


def main() -> int:
    if len(sys.argv) == 1:
        check()
        return 0
    if sys.argv[1] == "demo":
        return demo(sys.argv[2:])
    if sys.argv[1:] == ["remove"]:
        return remove()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("test", "demo", "remove"))
    parser.add_argument("--transformers", metavar="RELEASE")
    arguments, rest = parser.parse_known_args()
    return test(arguments.transformers, rest)


if __name__ == "__main__":
    sys.exit(main())
