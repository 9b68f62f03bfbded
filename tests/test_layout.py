"""The house of DESIGN section 3: floors, doors, no circles, and nothing that P10 forbids.

Imports inside functions and under TYPE_CHECKING count like all others. The rules are functions of a
folder, so that they are also held against small trees that break them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nmt", "cluster", "tools")

FLOORS = {
    "errors": 0,
    "config": 1,
    "console": 1,
    "corpus": 2,
    "storage": 2,
    "batching": 3,
    "model": 3,
    "checkpoint": 4,
    "decoding": 5,
    "evaluation": 6,
    "training": 7,
    "report": 8,
    "jobs": 8,
    "planning": 8,
    "bench": 9,
    "cli": 10,
    "__main__": 11,
}
DOORS = {
    "yaml": ("nmt/config/",),
    "pydantic": ("nmt/config/",),
    "tokenizers": ("nmt/corpus/subword.py",),
    "pyarrow": ("nmt/corpus/shards.py", "nmt/storage.py"),
    "zstandard": ("nmt/corpus/io.py",),
    "sacrebleu": ("nmt/evaluation/",),
    "safetensors": ("nmt/checkpoint/",),
    "ray": ("nmt/jobs/", "cluster/"),
    "click": ("nmt/cli/", "cluster/", "tools/"),
    "tqdm": ("nmt/console.py",),
    "jinja2": ("nmt/report/",),
}
NO_TORCH = (
    "nmt/errors.py",
    "nmt/config/",
    "nmt/console.py",
    "nmt/corpus/",
    "nmt/storage.py",
    "tools/",
)
FORBIDDEN_IMPORTS = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
FORBIDDEN_CALLS = (
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "torch.load",
    "torch.save",
    "torch.distributed.all_gather_object",
    "torch.distributed.broadcast_object_list",
)
FORBIDDEN_ARGUMENTS = ("shell", "allow_pickle")
"""Of any call, where they are not plainly False."""


@dataclass(frozen=True)
class Module:
    """One file."""

    path: str
    """Below the root, with slashes."""
    tree: ast.Module
    modules: frozenset[str]
    """Dotted names of all modules of the house."""

    @cached_property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        """What has a floor: a file or a folder in nmt/; empty for the others."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "nmt" and len(parts) > 1 else ""

    @cached_property
    def imports(self) -> dict[str, str]:
        """Full dotted name of all that is imported, by the name that it has here."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
                    found[alias.name] = alias.name
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{base}.{alias.name}"
        return found

    @cached_property
    def house_imports(self) -> set[str]:
        """Modules of the house that this one imports."""
        found = set()
        for name in self.imports.values():
            parts = name.split(".")
            prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
            known = [prefix for prefix in prefixes if prefix in self.modules]
            if known and known[-1] not in (self.name, "nmt"):
                found.add(known[-1])
        return found

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """All calls, with the full dotted name of what is called where it has one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                top, dot, rest = ast.unparse(node.func).partition(".")
                yield self.imports.get(top, top) + dot + rest, node

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.path.endswith("/__init__.py")
        above = self.name.split(".")[: -node.level + is_package or None]
        return ".".join([*above, *([node.module] if node.module else [])])


def modules_of(root: Path) -> list[Module]:
    paths = [
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
    ]
    names = [path.removesuffix(".py").removesuffix("/__init__") for path in paths]
    known = frozenset(name.replace("/", ".") for name in names)
    return [Module(path, ast.parse((root / path).read_bytes()), known) for path in paths]


def broken_floors(modules: list[Module]) -> Iterator[str]:
    """A file imports only from floors below its own, and from its own room."""
    rooms = {module.name: module.room for module in modules}
    for module in modules:
        if module.room and module.room not in FLOORS:
            yield f"{module.path} is in a room without a floor: {module.room}"
            continue
        for name in sorted(module.house_imports):
            room = rooms[name]
            if module.name.startswith("nmt") and not name.startswith("nmt"):
                yield f"{module.path} imports {name}, which is not in nmt/"
            elif room in FLOORS and module.room and room != module.room:
                here, there = FLOORS[module.room], FLOORS[room]
                if there >= here:
                    yield f"{module.path} (floor {here}) imports {name} (floor {there})"


def broken_doors(modules: list[Module]) -> Iterator[str]:
    """A foreign library comes in through one door."""
    for module in modules:
        for library in sorted({name.partition(".")[0] for name in module.imports.values()}):
            if library in DOORS and not module.path.startswith(DOORS[library]):
                yield f"{module.path} imports {library}"
            if library == "torch" and module.path.startswith(NO_TORCH):
                yield f"{module.path} imports torch"


def circles(modules: list[Module]) -> Iterator[str]:
    """No module imports itself over others."""
    imports = {module.name: sorted(module.house_imports) for module in modules}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            circle = path[path.index(name) :]
            first = circle.index(min(circle))
            circle = circle[first:] + circle[:first]
            yield " imports ".join([*circle, circle[0]])
        elif name not in done:
            for other in imports[name]:
                yield from visit(other, [*path, name])
            done.add(name)

    for name in imports:
        yield from visit(name, [])


def forbidden(modules: list[Module]) -> Iterator[str]:
    """P10."""
    for module in modules:
        for name in sorted(set(module.imports.values())):
            if name.partition(".")[0] in FORBIDDEN_IMPORTS:
                yield f"{module.path} imports {name}"
        for called, node in module.calls():
            if called in FORBIDDEN_CALLS:
                yield f"{module.path}, line {node.lineno}: calls {called}"
            for keyword in node.keywords:
                is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in FORBIDDEN_ARGUMENTS and not is_off:
                    yield f"{module.path}, line {node.lineno}: passes {keyword.arg}"


def busy_packages(modules: list[Module]) -> Iterator[str]:
    """An __init__.py is a sentence: names are imported from their owner."""
    for module in modules:
        if module.path.endswith("/__init__.py"):
            body = module.tree.body
            if ast.get_docstring(module.tree) is None or len(body) > 1:
                yield f"{module.path} is more, or less, than a docstring"


def silent_names(modules: list[Module]) -> Iterator[str]:
    """A docstring on each file and each public name, but on methods of which another class tells.

    What has no body, such as the calls of a protocol that is one call, says all in its signature.
    """
    for module in modules:
        if ast.get_docstring(module.tree) is None:
            yield f"{module.path} has no docstring"
        for node in module.tree.body:
            yield from _silent(node, module.path)


def _silent(node: ast.stmt, where: str) -> Iterator[str]:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return
    if ast.get_docstring(node) is None and ast.unparse(node.body[-1]) != "...":
        yield f"{where}, line {node.lineno}: {node.name} has no docstring"
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
        if bases <= {"Protocol", "Generic", "NamedTuple"}:
            for inner in node.body:
                yield from _silent(inner, where)


RULES = [broken_floors, broken_doors, circles, forbidden, busy_packages, silent_names]
Rule = Callable[[list[Module]], Iterator[str]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_as_designed(rule: Rule) -> None:
    """P10, DESIGN 3."""
    assert list(rule(modules_of(ROOT))) == []


@pytest.mark.parametrize("number", range(1, 12))
def test_every_promise_has_a_test_that_names_it(number: int) -> None:
    """DESIGN 2."""
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    assert any(re.search(rf'""".*\bP{number}\b', text) for text in tests)


def test_every_room_is_there() -> None:
    assert {module.room for module in modules_of(ROOT)} - {""} == set(FLOORS)


# The rules can be broken.

GOOD = {
    "nmt/__init__.py": '"""Nmt."""\n',
    "nmt/errors.py": '"""Errors."""\n',
    "nmt/config/__init__.py": '"""Settings."""\n',
    "nmt/config/files.py": '"""Files."""\nimport yaml\nfrom nmt.errors import NmtError\n',
    "nmt/model/__init__.py": '"""The network."""\n',
    "nmt/model/lstm.py": '"""Layers."""\nimport torch\nfrom nmt.config import files\n',
    "nmt/model/seq2seq.py": '"""All."""\nfrom nmt.model import lstm\nyaml.safe_load(x)\nm.eval()',
    "nmt/cli/__init__.py": '"""Verbs."""\n',
    "nmt/cli/main.py": '"""Main."""\nimport nmt\ndef _f():\n    from nmt.model.seq2seq import S\n',
    "cluster/submit.py": '"""Jobs."""\nimport ray\nfrom nmt.cli import main\nrun(x, shell=False)\n',
}


def complaints(tmp_path: Path, broken: dict[str, str]) -> list[str]:
    for path, text in (GOOD | broken).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    modules = modules_of(tmp_path)
    return [line for rule in RULES for line in rule(modules)]


def test_a_good_house_has_no_complaints(tmp_path: Path) -> None:
    assert complaints(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        (
            "nmt/config/files.py",
            "from nmt.model.lstm import LSTM",
            "nmt/config/files.py (floor 1) imports nmt.model.lstm (floor 3)",
        ),
        (
            "nmt/config/files.py",
            "def f():\n    import nmt.model.seq2seq as s",
            "nmt/config/files.py (floor 1) imports nmt.model.seq2seq (floor 3)",
        ),
        (
            "nmt/config/files.py",
            "if TYPE_CHECKING:\n    from nmt.cli import main",
            "nmt/config/files.py (floor 1) imports nmt.cli.main (floor 10)",
        ),
        (
            "nmt/model/lstm.py",
            "from ..cli.main import main",
            "nmt/model/lstm.py (floor 3) imports nmt.cli.main (floor 10)",
        ),
        (
            "nmt/console.py",
            "import nmt.config.files",
            "nmt/console.py (floor 1) imports nmt.config.files (floor 1)",
        ),
        (
            "nmt/model/lstm.py",
            "import cluster.submit",
            "nmt/model/lstm.py imports cluster.submit, which is not in nmt/",
        ),
        ("nmt/plugins.py", "", "nmt/plugins.py is in a room without a floor: plugins"),
        ("nmt/model/lstm.py", "import yaml", "nmt/model/lstm.py imports yaml"),
        (
            "nmt/model/lstm.py",
            "def f():\n    from ray.train import report",
            "nmt/model/lstm.py imports ray",
        ),
        ("nmt/config/files.py", "from torch.nn import Module", "nmt/config/files.py imports torch"),
        (
            "nmt/model/lstm.py",
            "from . import seq2seq",
            "nmt.model.lstm imports nmt.model.seq2seq imports nmt.model.lstm",
        ),
        ("nmt/model/lstm.py", "import pickle as p", "nmt/model/lstm.py imports pickle"),
        ("nmt/model/lstm.py", "x = eval('1')", "nmt/model/lstm.py, line 1: calls eval"),
        (
            "nmt/config/files.py",
            "from yaml import load as l\nl(x)",
            "nmt/config/files.py, line 2: calls yaml.load",
        ),
        (
            "nmt/config/files.py",
            "import os\nos.system('')",
            "nmt/config/files.py, line 2: calls os.system",
        ),
        (
            "nmt/model/lstm.py",
            "import torch as t\nt.load(x)",
            "nmt/model/lstm.py, line 2: calls torch.load",
        ),
        (
            "nmt/model/lstm.py",
            "import torch.distributed as dist\ndist.all_gather_object(a, b)",
            "nmt/model/lstm.py, line 2: calls torch.distributed.all_gather_object",
        ),
        (
            "cluster/submit.py",
            "import subprocess\nsubprocess.run(x, shell=True)",
            "cluster/submit.py, line 2: passes shell",
        ),
        (
            "nmt/model/__init__.py",
            '"""The network."""\nfrom nmt.model.lstm import LSTM\n',
            "nmt/model/__init__.py is more, or less, than a docstring",
        ),
        ("nmt/model/__init__.py", "", "nmt/model/__init__.py is more, or less, than a docstring"),
        ("nmt/model/lstm.py", "import torch", "nmt/model/lstm.py has no docstring"),
        (
            "nmt/model/lstm.py",
            '"""Layers."""\nclass Layer:\n    """One."""\n    def run(self):\n        return 1\n',
            "nmt/model/lstm.py, line 4: run has no docstring",
        ),
    ],
)
def test_a_broken_house_is_told(path: str, text: str, complaint: str, tmp_path: Path) -> None:
    assert complaint in complaints(tmp_path, {path: text})
