"""The web UI that the contract tests run in; importing this module enters it.

Without further ado that is the stand-in in tests/standin. If the environment variable ZVL_HOST names the folder of an
installed Forge Neo, the same tests run against its own modules, in its own Python:

    ZVL_HOST=/path/to/webui /path/to/webui/venv/bin/python -m pytest tests

Its models and settings are not touched: it gets an empty data folder, which is deleted at the end.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "standin"
REAL = os.environ.get("ZVL_HOST", "")

# What the launcher is told, each in the words of every web UI that has it. A web UI ends at a flag it does not know.
_ARGUMENTS = (
    "--cpu",
    "--always-cpu",
    "--fp32-text-enc",  # the comparisons with plain transformers are made in that precision
    "--clip-in-fp32",
    "--skip-torch-cuda-test",
    "--skip-python-version-check",
    "--skip-version-check",
    "--skip-install",
    "--skip-prepare-environment",
    "--no-hashing",
)


def _enter_standin() -> None:
    sys.path.insert(0, str(STANDIN))


def _known(host: str) -> list[str]:
    """Those of the arguments that a web UI declares: read in its sources, since what parses them does so when it is
    imported."""
    sources = [Path(host, *parts) for parts in (("modules", "cmd_args.py"), ("backend", "args.py"))]
    declared = "".join(source.read_text("utf-8") for source in sources if source.exists())
    return [argument for argument in _ARGUMENTS if f'"{argument}"' in declared]


def _enter_real(host: str) -> None:
    """What its own launcher does, up to the point where models and the page would be made."""
    data = tempfile.mkdtemp(prefix="zvl-host-")
    atexit.register(shutil.rmtree, data, ignore_errors=True)
    os.makedirs(os.path.join(data, "extensions"))
    os.symlink(ROOT, os.path.join(data, "extensions", "z-image-vl"))
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    sys.path.insert(0, str(Path(host).resolve()))
    kept, sys.argv = sys.argv, ["launch.py", *_known(host), "--data-dir", data]
    try:
        from modules_forge.initialization import initialize_forge

        initialize_forge()
        from modules import initialize

        initialize.imports()
        from modules import extensions, sd_samplers, shared

        sd_samplers.set_samplers()
        extensions.list_extensions()
        if folder := getattr(shared.opts, "temp_dir", ""):
            os.makedirs(folder, exist_ok=True)
        shared.opts.data["grid_save"] = False
        shared.opts.data["disabled_extensions"] = [e.name for e in extensions.extensions if e.is_builtin]
    finally:
        sys.argv = kept


def load_scripts() -> None:
    """Load the web UI's own scripts and this extension's, and call what they registered, as before the page is
    built."""
    from modules import script_callbacks, scripts

    if REAL:
        scripts.load_scripts()
    else:
        import importlib.util

        data = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
        scripts.scripts_data.clear()
        script_callbacks.before_ui.clear()
        for path, name in ((STANDIN / "scripts" / "xyz_grid.py", "Script"), (ROOT / "scripts" / "zvl.py", "ZImageVL")):
            if name == "ZImageVL" and importlib.util.find_spec("gradio") is None:
                continue  # the plot's tests do without the panel
            spec = importlib.util.spec_from_file_location(path.name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            scripts.scripts_data.append(data(getattr(module, name), str(path), str(path.parents[1]), module))
    script_callbacks.before_ui_callback()


if "modules" not in sys.modules:
    _enter_real(REAL) if REAL else _enter_standin()
