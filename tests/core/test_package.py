"""The house: which room stands on which, what imports what, what that costs, and that names are unique."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from zvl_ext.options import OPTIONS

# The rooms from bottom to top. A room is a module beside zvl_ext/__init__.py, or a folder with all that is in it.
# Imports go to the same floor or to a lower one, wherever in a file they stand. `__init__` is zvl_ext/__init__.py, the
# version. A new room is put into this table on purpose, as low as it can be.
FLOORS = (
    ("__init__", "errors", "outside", "intervals"),
    ("pictures", "regions", "sequence", "hidden_layers"),
    (
        "reference",
        "declaration",
        "presets",
        "options",
        "attention",
        "attention_shares",
        "weighting",
        "output",
        "entry",
        "folder",
        "tensor_files",
        "learned",
        "profiles",
        "projections",
        "loras",
        "factors",
    ),
    ("image_models", "texts", "framing", "conditioning", "conditioning_file", "measures"),
    ("mixing", "qwen3vl", "store"),
    ("engines",),
    ("budget",),
    ("conditioner", "effects", "preview", "beginning", "alone", "caption", "analysis"),
    ("hosts",),
    ("fit",),
    ("webui",),
    ("lab",),
    ("commands",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WEB_UI = {"modules", "modules_forge", "backend", "launch"}  # the host's own packages
HEAVY = ("torch", "transformers", "gradio", "numpy", "PIL", "safetensors", "tokenizers", "diffusers")
LATE = {
    "transformers",
    "tokenizers",
    "diffusers",
    "matplotlib",
    "accelerate",
    "peft",
    "skimage",
    "distributed",
    "pyarrow",
}  # seconds each
UNPICKLES = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
FETCHES = {"requests", "urllib", "urllib3", "http", "httpx", "aiohttp", "ftplib", "socket", "huggingface_hub"}
# The only module that asks another machine for something: web UIs whose addresses the user gives on the command line.
ASKS = {"zvl_ext.lab.sweep.targets.webui"}
# The only module that opens a port: the demonstration's page, on this machine alone.
SERVERS = {"zvl_ext.webui.page"}
# Reads the tokenizer's folder that it has just written itself.
READS_ITS_OWN_FOLDER = {"zvl_ext.lab.training.publish"}


# --- what is read from the files


def module_of(file: Path, package: Path) -> str:
    parts = (package.name, *file.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PACKAGE = Path(__file__).resolve().parents[2] / "zvl_ext"
FILES = {module_of(file, PACKAGE): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in FILES.items()}


def room(module: str) -> str:
    return (*module.split("."), "__init__")[1]


def imports(tree: ast.AST, module: str, is_package: bool, modules: set[str]) -> set[str]:
    """Full names of what is imported anywhere below a node, also in functions and for type checkers alone.

    `from x import y` is the module x.y where there is one among `modules`, otherwise x.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
            source = ".".join([*up, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= (names & modules) | ({source} if names - modules else set())
    return found


def imports_of(module: str, tree: ast.AST | None = None) -> set[str]:
    """The same of one of this package's modules, or of a part of it."""
    return imports(tree or TREES[module], module, FILES[module].name == "__init__.py", set(FILES))


def outside(module: str) -> set[str]:
    """The top-level packages other than zvl_ext that a module imports anywhere."""
    return {name.partition(".")[0] for name in IMPORTS[module]} - {"zvl_ext"}


def run_at_once(tree: ast.AST) -> Iterator[ast.stmt]:
    """The imports that are made when a file is imported: not those in functions, not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from run_at_once(ast.Module(node.orelse, []))
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from run_at_once(node)


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    """The last part of a called name, and the call."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id, node


IMPORTS = {module: imports_of(module) for module in FILES}
INSIDE = {module: found & set(FILES) for module, found in IMPORTS.items()}  # the graph of this package's modules

SAMPLE = """
import torch.nn, zvl_ext.errors
from . import __version__, options
from ..errors import ZvlError
if TYPE_CHECKING:
    from .deep import nothing
else:
    import numpy
def function():
    from zvl_ext.hosts import forge
    import gradio as gr
class Class:
    from ... import outer
    def method(self):
        import PIL.Image
"""


def test_imports_are_found_wherever_they_stand():
    """Otherwise the tests below would prove nothing."""
    tree = ast.parse(SAMPLE)
    among = {"zvl_ext.errors", "zvl_ext.webui.inner.options", "zvl_ext.webui.errors", "zvl_ext.hosts.forge"}
    assert imports(tree, "zvl_ext.webui.inner.part", False, among) == {
        "torch.nn",
        "zvl_ext.errors",
        "zvl_ext.webui.inner",
        "zvl_ext.webui.inner.options",
        "zvl_ext.webui.errors",
        "zvl_ext.webui.inner.deep",
        "numpy",
        "zvl_ext.hosts.forge",
        "gradio",
        "zvl_ext",
        "PIL.Image",
    }
    assert "zvl_ext.webui.deep" in imports(tree, "zvl_ext.webui", True, among)
    at_once = {ast.unparse(node).split()[1] for node in run_at_once(tree)}
    assert at_once == {"torch.nn,", ".", "..errors", "numpy", "..."}


def test_this_packages_files_are_read():
    assert {"zvl_ext", "zvl_ext.errors", "zvl_ext.engines", "zvl_ext.mixing.blend"} <= set(FILES)
    assert "zvl_ext.hosts.standalone" in INSIDE["zvl_ext.commands.extract"], "imported in a function"
    assert "zvl_ext.errors" in INSIDE["zvl_ext.reference"]
    assert sum(map(len, INSIDE.values())) > len(FILES)


# --- rooms


def test_every_module_is_in_a_room_and_every_room_has_modules():
    rooms = {room(module) for module in FILES}
    assert (rooms - set(FLOOR), set(FLOOR) - rooms) == (set(), set())


def test_no_module_imports_itself_by_way_of_others():
    try:
        graphlib.TopologicalSorter(INSIDE).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_imports_go_to_the_same_floor_or_to_a_lower_one():
    up = [
        f"{module} imports {other}"
        for module, others in INSIDE.items()
        for other in sorted(others)
        if FLOOR.get(room(other), 0) > FLOOR.get(room(module), 0)  # a room without a floor: the first test tells
    ]
    assert up == []


def test_nothing_that_is_imported_from_this_package_is_missing():
    missing = {name for found in IMPORTS.values() for name in found if name.startswith("zvl_ext")} - set(FILES)
    assert missing == set()


def test_the_lab_is_imported_by_commands_alone():
    importers = {room(module) for module, others in INSIDE.items() if any(room(other) == "lab" for other in others)}
    assert importers - {"lab"} == {"commands"}


def test_only_the_modules_of_a_host_import_it():
    importers = {module for module in FILES if outside(module) & WEB_UI}
    assert importers
    assert [module for module in sorted(importers) if not module.startswith("zvl_ext.hosts.forge")] == []


def test_only_hosts_and_the_web_uis_own_room_import_gradio():
    importers = {room(module) for module in FILES if "gradio" in outside(module)}
    assert importers == {"hosts", "webui"}


CORE = [module for module in FILES if FLOOR.get(room(module), 0) < FLOOR["hosts"]]


@pytest.mark.parametrize("module", CORE, ids=lambda module: module.removeprefix("zvl_ext."))
def test_the_core_knows_neither_a_host_nor_gradio(module):
    assert not outside(module) & {"gradio", "diffusers", *WEB_UI}
    assert not {name for name in INSIDE[module] if room(name) in ("hosts", "webui", "lab", "commands", "__main__")}


def test_the_package_imports_itself_relatively():
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("zvl_ext")], module
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not node.module.startswith("zvl_ext"), module


# --- what a start costs


def loaded_by(modules: Sequence[str], root: Path) -> dict[str, set[str]]:
    """Top-level packages that each module brings into memory, imported one after the other in a fresh interpreter."""
    script = (
        "import importlib, json, sys\nfound = {}\n"
        f"for name in {list(modules)!r}:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    found[name] = sorted({each.partition('.')[0] for each in set(sys.modules) - before})\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    return {name: set(packages) for name, packages in json.loads(done.stdout).items()}


def assert_without(packages: Iterable[str], modules: Sequence[str], root: Path) -> None:
    """None of the modules brings one of the packages, whatever was imported before it."""
    found = {name: loaded & set(packages) for name, loaded in loaded_by(modules, root).items()}
    assert list(found) == list(modules)
    assert {name: brought for name, brought in found.items() if brought} == {}


LIGHT = (
    "zvl_ext", "zvl_ext.errors", "zvl_ext.sequence", "zvl_ext.declaration", "zvl_ext.presets", "zvl_ext.options",
    "zvl_ext.store", "zvl_ext.caption", "zvl_ext.mixing", "zvl_ext.qwen3vl", "zvl_ext.engines", "zvl_ext.budget",
    "zvl_ext.hosts", "zvl_ext.webui", "zvl_ext.webui.settings", "zvl_ext.lab", "zvl_ext.commands", "zvl_ext.__main__",
)  # fmt: skip
WITHOUT_TORCH = (
    "zvl_ext.reference", "zvl_ext.sequence", "zvl_ext.qwen3vl.config", "zvl_ext.qwen3vl.files",
    "zvl_ext.qwen3vl.checkpoint", "zvl_ext.webui.axes", "zvl_ext.webui.host", "zvl_ext.webui.infotext",
    "zvl_ext.lab.demo",
)  # fmt: skip
WITHOUT_TRANSFORMERS = (
    "zvl_ext.qwen3vl.language", "zvl_ext.conditioner", "zvl_ext.hosts.standalone", "zvl_ext.lab.benchmark.run",
    "zvl_ext.lab.evaluation.run",
)  # fmt: skip


def test_what_a_module_brings_is_found(root):
    found = loaded_by(("json.tool", "zvl_ext.mixing.normalize"), root)
    assert "argparse" in found["json.tool"]
    assert "torch" in found["zvl_ext.mixing.normalize"]


def test_a_start_that_does_not_generate_loads_nothing_heavy(root):
    assert_without(HEAVY, LIGHT, root)


def test_references_sequences_and_headers_do_not_need_torch(root):
    assert_without(("torch", "transformers", "gradio"), WITHOUT_TORCH, root)


def test_transformers_is_imported_on_first_use_only(root):
    assert_without(("transformers", "gradio", "tokenizers"), WITHOUT_TRANSFORMERS, root)


def test_no_import_of_a_module_imports_what_takes_seconds():
    """Also of those that need a web UI to be imported at all."""
    for module, tree in TREES.items():
        found = imports_of(module, ast.Module(list(run_at_once(tree)), []))
        assert not {name.partition(".")[0] for name in found} & LATE, module


# --- what is trusted


def test_weights_are_never_unpickled_and_nothing_is_fetched():
    for module, file in FILES.items():
        assert not outside(module) & (UNPICKLES | (set() if module in ASKS else FETCHES)), module
        text = file.read_text(encoding="utf-8")
        assert "torch.load" not in text, module
        assert "allow_pickle" not in text, module


def test_models_are_read_from_this_machines_files():
    for module in set(FILES) - READS_ITS_OWN_FOLDER:
        for name, call in calls(module):
            if name == "from_pretrained":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert words.get("local_files_only") == "True", f"{module}: {ast.unparse(call)}"


def test_only_the_page_opens_a_port():
    assert {module for module in FILES if any(name == "launch" for name, _ in calls(module))} == SERVERS


# --- names


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
