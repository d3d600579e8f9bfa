"""The rooms of the package: who may import whom, read from the source with `ast`; a fault names its file and line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import seqgen

PACKAGE = Path(__file__).resolve().parents[1] / "seqgen"

# the rooms below each room; metrics may be used from any room above core and imports nothing of ours
BELOW = {
    "core": set(),
    "metrics": set(),
    "data": {"core", "metrics"},
    "nn": {"core", "metrics"},
    "models": {"core", "nn", "metrics"},
    "images": {"core", "nn", "metrics"},
    "engine": {"core", "data", "nn", "models", "images", "metrics"},
    "serve": {"core", "data", "nn", "models", "images", "metrics", "engine"},
    "cli": {"core", "data", "nn", "models", "images", "metrics", "engine", "serve"},
}
ENGINE = ["charts", "page", "folder", "stored", "run", "checkpoint", "likelihood", "filling", "generate"]
ENGINE += ["loading", "latent", "plots", "evaluate", "molecules", "augment", "cleaning", "curve", "compare"]
ENGINE += ["blind", "report", "progress", "track", "loop", "sweep", "derived", "mix", "refine", "judge"]
ENGINE += ["hugging_face", "card", "onnx_graph", "export"]
MODEL_MODULES = {"models", "images"}
TOP = {"", "__main__", "_version"}  # the package itself, and the files beside the rooms
PRINTS = {"cli", "__main__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "cloudpickle", "joblib"}


@dataclass(frozen=True)
class Import:
    """One imported module or name of ours, as a dotted path below `seqgen`, and where it stands."""

    target: str
    alias: str
    line: int
    at_import_time: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module below the package by its dotted name, the package itself as ""."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(body: list[ast.stmt], at_import_time: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement at any depth, and whether importing the module runs it."""
    for statement in body:
        yield statement, at_import_time
        inside = at_import_time and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
        for field in ("body", "orelse", "finalbody"):
            yield from statements(getattr(statement, field, []), inside and not (typing_only and field == "body"))
        for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from statements(part.body, inside)


def imported(tree: ast.Module, module: str, path: Path) -> Iterator[tuple[str, Import]]:
    """Every import as (first word of its absolute name, the import with its path below that word)."""
    home = ["seqgen", *module.split(".")] if module else ["seqgen"]
    if path.name != "__init__.py":
        home = home[:-1]
    for statement, at_import_time in statements(tree.body):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                root, _, target = alias.name.partition(".")
                yield root, Import(target, alias.asname or root, statement.lineno, at_import_time)
        elif isinstance(statement, ast.ImportFrom):
            base = home[: len(home) + 1 - statement.level] if statement.level else []
            base = [*base, *(statement.module or "").split(".")] if statement.module else base
            for alias in statement.names:
                root, *rest = [*base, alias.name]
                yield root, Import(".".join(rest), alias.asname or alias.name, statement.lineno, at_import_time)


def faults(package: Path) -> list[str]:
    """Every line that breaks a rule of the rooms, as "file:line: what is wrong"."""
    found = []
    known = modules(package)
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        room, _, name = module.partition(".")
        where = f"{package.name}/{path.relative_to(package)}"
        if room not in TOP and room not in BELOW:
            found.append(f"{where}:1: {room} is no room; say in tests/test_layers.py what it may import")
            continue
        other_modules = {}
        for root, one in imported(tree, module, path):
            line = f"{where}:{one.line}"
            if root in FORBIDDEN_MODULES:
                found.append(f"{line}: {root} can execute code when it loads")
            if root != "seqgen":
                continue
            their_room, _, rest = one.target.partition(".")
            their_module = next((m for m in (rest, rest.rpartition(".")[0]) if f"{their_room}.{m}" in known), "")
            if room in TOP or their_room == "_version":
                continue
            if their_room not in BELOW:
                if room != "cli":
                    found.append(f"{line}: {room} imports the package's public names")
            elif their_room != room and their_room not in BELOW[room]:
                found.append(f"{line}: {room} imports {their_room}")
            elif room == their_room == "engine" and their_module and name:
                if their_module not in ENGINE or name not in ENGINE:
                    found.append(
                        f"{line}: give engine.{name} and engine.{their_module} a place in the order of the engine"
                    )
                elif ENGINE.index(their_module) >= ENGINE.index(name):
                    found.append(f"{line}: engine.{name} imports engine.{their_module}, which stands after it")
            elif room == their_room and room in MODEL_MODULES and their_module not in ("", name):
                if rest == f"{their_module}.train_step":
                    found.append(f"{line}: {room}.{name} uses train_step of {their_room}.{their_module}")
                elif rest == their_module:
                    other_modules[one.alias] = f"{their_room}.{their_module}"
        for node in ast.walk(tree):
            line = f"{where}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and node.attr == "train_step":
                model_module = node.value.id if isinstance(node.value, ast.Name) else ""
                if model_module in other_modules:
                    found.append(f"{line}: {room}.{name} uses train_step of {other_modules[model_module]}")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"print", "sys.exit", "exit"} and room not in PRINTS:
                    found.append(f"{line}: {called} outside the command line")
                if called in {"eval", "exec", "torch.load", "torch.save"}:
                    found.append(f"{line}: {called} can execute what it reads")
    return found


def torch_at_import(package: Path, room: str) -> list[str]:
    """The lines that import torch when a module of `room` is imported, each with the module that leads there."""
    known = modules(package)
    found = []
    for start in (module for module in known if module.split(".")[0] == room):
        seen = set()
        waiting = [start]
        while waiting:
            module = waiting.pop()
            if module in seen or module not in known:
                continue
            seen.add(module)
            waiting.append(module.rpartition(".")[0])  # importing a.b runs a first
            path = known[module]
            for root, one in imported(ast.parse(path.read_text(encoding="utf-8")), module, path):
                if not one.at_import_time:
                    continue
                if root == "torch":
                    found.append(f"{package.name}/{path.relative_to(package)}:{one.line}: torch, imported by {start}")
                elif root == "seqgen":
                    waiting += [one.target, one.target.rpartition(".")[0]]
    return found


def undocumented(package: Path) -> list[str]:
    """Every public module, class, function and method without a docstring, as "file:line: name"."""
    found = []
    for path in modules(package).values():
        waiting = [("", ast.parse(path.read_text(encoding="utf-8")))]
        while waiting:
            prefix, node = waiting.pop()
            if not ast.get_docstring(node):
                line = getattr(node, "lineno", 1)
                found.append(f"{package.name}/{path.relative_to(package)}:{line}: {prefix or 'module'}")
            if isinstance(node, ast.Module | ast.ClassDef):
                waiting += [
                    (f"{prefix}.{inner.name}".lstrip("."), inner)
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                    and not inner.name.startswith("_")
                    and not any(ast.unparse(mark).endswith("overload") for mark in inner.decorator_list)
                ]
    return found


NO_VERBS = ("A", "An", "All", "Any", "Each", "Every", "How", "One", "Some", "The", "What", "Where", "Whether", "Which")


def without_verb(package: Path) -> list[str]:
    """Every public function or method whose docstring begins with an article or the like, as "file:line: word"."""
    found = []
    for path in modules(package).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            word = (ast.get_docstring(node) or " ").split(" ")[0]
            if word in NO_VERBS and not any("property" in ast.unparse(mark) for mark in node.decorator_list):
                found.append(f"{package.name}/{path.relative_to(package)}:{node.lineno}: {word}")
    return found


def device_defaults(package: Path, public: set[str]) -> list[str]:
    """Every default of a `device` that is not "auto" at a public entry point, as "file:line: what is wrong".

    A default is a device that somebody forgot to pass on: on a GPU machine that is a tensor on the wrong side.
    """
    found = []
    for module, path in modules(package).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            defaults: list[ast.expr | None] = []
            name = ""
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                name = getattr(node, "name", "")
                arguments = node.args
                positional = [*arguments.posonlyargs, *arguments.args]
                pairs = [*zip(reversed(positional), reversed(arguments.defaults), strict=False)]
                pairs += [(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d]
                defaults = [default for argument, default in pairs if argument.arg == "device"]
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "device":
                defaults = [node.value]
            for default in defaults:
                entry = module.startswith("cli.") or module == "core.config" or name in public
                if default is not None and not (entry and ast.unparse(default) == "'auto'"):
                    line = f"{package.name}/{path.relative_to(package)}:{node.lineno}"
                    found.append(f"{line}: device has the default {ast.unparse(default)}")
    return found


def test_every_import_goes_down():
    assert faults(PACKAGE) == []


def test_the_command_line_does_not_import_torch():
    assert torch_at_import(PACKAGE, "cli") == []
    script = (
        "import importlib, pkgutil, sys, seqgen, seqgen.cli\n"
        "for m in pkgutil.walk_packages(seqgen.cli.__path__, 'seqgen.cli.'): importlib.import_module(m.name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_device_has_a_default_below_the_public_entry_points():
    assert device_defaults(PACKAGE, set(seqgen.__all__)) == []


@pytest.mark.parametrize(
    ("source", "default"),
    [
        ("class A:\n    device: str = 'cpu'", "'cpu'"),
        ("\ndef f(x, *, device='auto', y=1): ...", "'auto'"),
        ("\ndef load(device=None): ...", "None"),
    ],
)
def test_a_default_device_is_named_with_its_line(package, source, default):
    plant(package, "core/a.py", source)
    assert device_defaults(package, {"load"}) == [f"seqgen/core/a.py:2: device has the default {default}"]


def test_a_public_entry_point_may_choose_the_device(package):
    plant(package, "engine/run.py", "def load(a, device='auto'): ...\ndef f(device): ...\ndef g(a=1, *, device): ...")
    plant(package, "cli/a.py", "def f(device='auto'): ...")
    assert device_defaults(package, {"load"}) == []


def test_public_names_have_docstrings():
    assert undocumented(PACKAGE) == []


def test_docstrings_of_public_functions_begin_with_a_verb():
    assert without_verb(PACKAGE) == []


def test_a_docstring_without_a_verb_is_named_with_its_line(package):
    plant(package, "core/a.py", '\ndef f():\n    """The rows."""\n\n\ndef g():\n    """Return the rows."""\n')
    assert without_verb(package) == ["seqgen/core/a.py:2: The"]


PLANTED = [
    ("core/a.py", "import seqgen.data.text", "seqgen/core/a.py:1: core imports data"),
    ("data/a.py", "\nfrom seqgen.nn import rnn", "seqgen/data/a.py:2: data imports nn"),
    ("data/a.py", "from ..nn import rnn", "seqgen/data/a.py:1: data imports nn"),
    ("models/a.py", "from seqgen.data.text import read_lines", "seqgen/models/a.py:1: models imports data"),
    ("models/a.py", "from seqgen import images", "seqgen/models/a.py:1: models imports images"),
    ("nn/a.py", "def f():\n    from seqgen.engine import loop", "seqgen/nn/a.py:2: nn imports engine"),
    ("metrics/a.py", "from seqgen.core import rng", "seqgen/metrics/a.py:1: metrics imports core"),
    ("engine/a.py", "import seqgen.cli", "seqgen/engine/a.py:1: engine imports cli"),
    ("core/a.py", "from seqgen import train", "seqgen/core/a.py:1: core imports the package's public names"),
    ("extra/a.py", "", "seqgen/extra/a.py:1: extra is no room; say in tests/test_layers.py what it may import"),
    (
        "engine/generate.py",
        "from seqgen.engine import run, loop",
        "seqgen/engine/generate.py:1: engine.generate imports engine.loop, which stands after it",
    ),
    (
        "engine/run.py",
        "from .checkpoint import save",
        "seqgen/engine/run.py:1: engine.run imports engine.checkpoint, which stands after it",
    ),
    (
        "models/a.py",
        "from seqgen.models import lm as language\nlanguage.Model\nlanguage.train_step",
        "seqgen/models/a.py:3: models.a uses train_step of models.lm",
    ),
    (
        "models/a.py",
        "from seqgen.models.lm import Model, train_step",
        "seqgen/models/a.py:1: models.a uses train_step of models.lm",
    ),
    ("core/a.py", "x = 1\nprint(x)", "seqgen/core/a.py:2: print outside the command line"),
    ("core/a.py", "import torch\ntorch.load('x')", "seqgen/core/a.py:2: torch.load can execute what it reads"),
    ("core/a.py", "import pickle", "seqgen/core/a.py:1: pickle can execute code when it loads"),
]
ALLOWED = [
    ("core/a.py", "from seqgen.core import rng\nfrom seqgen import _version\nfrom seqgen._version import __version__"),
    ("data/a.py", "from seqgen.core import rng\nfrom seqgen.metrics import bleu\nimport torch.nn"),
    ("models/a.py", "from seqgen.models import lm\nlm.Model\nfrom seqgen.models.lm import Model, Config"),
    ("models/lm.py", "def train_step(): ..."),
    ("engine/loop.py", "from seqgen.engine import checkpoint, run\nfrom seqgen.engine.run import Settings\nrun.x"),
    ("cli/a.py", "import seqgen\nprint(seqgen.train)\nfrom seqgen import engine"),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small copy of the rooms, without a fault."""
    root = tmp_path / "seqgen"
    for name in ("core/rng", "data/text", "nn/rnn", "models/lm", "engine/run", "engine/checkpoint", "engine/loop"):
        plant(root, f"{name}.py", "")
    return root


def plant(root: Path, name: str, source: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    for folder in (path.parent, root):
        (folder / "__init__.py").touch()


@pytest.mark.parametrize(("name", "source", "fault"), PLANTED)
def test_a_planted_fault_is_named_with_its_line(package, name, source, fault):
    plant(package, name, source)
    assert fault in faults(package)


@pytest.mark.parametrize(("name", "source"), ALLOWED)
def test_what_the_design_allows_is_no_fault(package, name, source):
    plant(package, name, source)
    assert faults(package) == []


def test_torch_behind_the_command_line_is_named_with_its_line(package):
    plant(package, "cli/train.py", "import typer\nfrom seqgen.core.rng import seed\n")
    assert torch_at_import(package, "cli") == []
    plant(package, "core/rng.py", "\nimport torch\n")
    assert torch_at_import(package, "cli") == ["seqgen/core/rng.py:2: torch, imported by cli.train"]
    plant(package, "cli/train.py", "def train():\n    from seqgen.core.rng import seed\n")
    assert torch_at_import(package, "cli") == []
    plant(package, "cli/train.py", "if TYPE_CHECKING:\n    from seqgen.core.rng import seed\n")
    assert torch_at_import(package, "cli") == []


def test_a_missing_docstring_is_named_with_its_line(package):
    plant(package, "core/a.py", '"""A module."""\n\nclass Big:\n    """A class."""\n    def small(self): ...\n')
    assert "seqgen/core/a.py:5: Big.small" in undocumented(package)
