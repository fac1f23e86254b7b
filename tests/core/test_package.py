"""The package as a whole: what importing it costs, what imports what, and that names are unique."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from zvl_ext.options import OPTIONS

HEAVY = ("torch", "transformers", "gradio", "numpy", "PIL", "safetensors", "tokenizers", "diffusers")
ROOM = Path(__file__).resolve().parents[2] / "zvl_ext"
CORE = sorted(
    path.stem for path in ROOM.glob("*.py") if not path.stem.startswith("__")
)  # all modules that are in no subfolder


def loaded_by(statement: str, root: Path) -> set[str]:
    """Top-level packages in memory after a statement in a fresh interpreter."""
    script = f"import sys\n{statement}\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "module", ["zvl_ext", "zvl_ext.options", "zvl_ext.errors", "zvl_ext.__main__", "zvl_ext.hosts"]
)
def test_a_start_that_does_not_generate_loads_nothing_heavy(module, root):
    assert not loaded_by(f"import {module}", root) & set(HEAVY)


@pytest.mark.parametrize(
    "module", ["zvl_ext.reference", "zvl_ext.sequence", "zvl_ext.qwen3vl.files", "zvl_ext.qwen3vl.checkpoint"]
)
def test_references_sequences_and_headers_do_not_need_torch(module, root):
    assert not loaded_by(f"import {module}", root) & {"torch", "transformers", "gradio"}


@pytest.mark.parametrize("module", ["zvl_ext.qwen3vl.language", "zvl_ext.conditioner", "zvl_ext.hosts.standalone"])
def test_transformers_is_imported_on_first_use_only(module, root):
    assert not loaded_by(f"import {module}", root) & {"transformers", "gradio", "tokenizers"}


def imports(file: Path) -> set[str]:
    """Modules a file imports anywhere, relative ones as `.name` and `..name`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            found |= {dots + node.module} if node.module else {dots + alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_neither_a_host_nor_gradio(name, root):
    forbidden = ("gradio", "modules", "backend", "diffusers", "zvl_ext", ".hosts", ".webui", ".__main__")
    assert not [each for each in imports(root / "zvl_ext" / f"{name}.py") if each.startswith(forbidden)]


def test_weights_are_never_unpickled_and_nothing_is_fetched(root):
    for name in (*CORE, "__main__", "hosts/standalone"):
        used = {each.partition(".")[0] for each in imports(root / "zvl_ext" / f"{name}.py")}
        assert not used & {
            "pickle",
            "shelve",
            "marshal",
            "requests",
            "urllib",
            "http",
            "httpx",
            "socket",
            "huggingface_hub",
        }, name
        assert "torch.load" not in (root / "zvl_ext" / f"{name}.py").read_text(encoding="utf-8"), name


@pytest.mark.parametrize("what", ["name", "label", "infotext", "axis"])
def test_names_are_unique(what):
    values = Counter(value.casefold() for option in OPTIONS if (value := getattr(option, what)))
    assert [value for value, count in values.items() if count > 1] == []


def test_infotext_keys_can_be_written_and_read_back():
    """The web UI splits the parameters at commas and colons, and other extensions have keys of their own."""
    keys = [option.infotext for option in OPTIONS if option.infotext]
    assert all(key.startswith("ZVL ") and not set(key) & set(',:"\n') for key in keys)
    assert not any(key == key.strip() + " " for key in keys)


def test_option_names_are_names_on_the_command_line_and_in_python():
    assert all(option.name.isidentifier() and option.name == option.name.lower() for option in OPTIONS)


def test_the_version_is_one_that_tools_can_read():
    import re

    import zvl_ext

    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\w+)?", zvl_ext.__version__)
