"""Rules of the layout in nmt/README.md, and measures of the code base.

Each rule takes the modules of a folder and yields violations, so that the tests can also apply it
to small trees that break it. Imports inside functions and under TYPE_CHECKING count like all
others.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDERS = ("nmt", "cluster", "tools")

LAYERS = (
    "errors", "console", "config", "storage", "corpus", "model", "batching", "checkpoint",
    "decoding", "evaluation", "training", "report", "planning", "serving", "jobs", "api", "bench",
    "cli", "__main__",
)  # fmt: skip
"""Packages and modules of nmt/, lowest first: each imports only from those before it."""

OWNERS = {
    "yaml": ("nmt/config/",),
    "pydantic": ("nmt/config/",),
    "tokenizers": ("nmt/corpus/subword.py",),
    "pyarrow": ("nmt/corpus/shards.py", "nmt/storage.py"),
    "zstandard": ("nmt/corpus/io.py",),
    "fasttext": ("nmt/corpus/language_id.py",),
    "ftfy": ("nmt/corpus/repairs.py",),
    "unicode_rbnf": ("nmt/corpus/numerals.py",),
    "sacrebleu": ("nmt/evaluation/",),
    "safetensors": ("nmt/checkpoint/",),
    "onnx": ("nmt/model/",),
    "ctranslate2": ("nmt/bench/ctranslate2_peer.py",),
    "onnxruntime": ("nmt/decoding/onnx_engine.py",),
    "ray": ("nmt/jobs/", "cluster/"),
    "click": ("nmt/cli/", "cluster/", "tools/"),
    "tqdm": ("nmt/console.py",),
    "jinja2": ("nmt/report/",),
    "starlette": ("nmt/serving/",),
    "uvicorn": ("nmt/serving/",),
}
"""Modules that may import a third-party library."""

WITHOUT_TORCH = (
    "nmt/__init__.py", "nmt/errors.py", "nmt/config/", "nmt/console.py", "nmt/corpus/",
    "nmt/serving/", "nmt/storage.py", "nmt/model/host_memory.py", "nmt/model/mkl.py", "tools/",
    *(f"nmt/decoding/{name}.py" for name in (
        "beam_search", "candidates", "constraints", "exported_model", "graph_cache", "hypotheses",
        "interface", "onnx_engine", "output_formats", "placeholders", "preprocess", "requests",
        "sampling", "scoring", "translation", "translator",
    )),
)  # fmt: skip
WITH_TORCH = ("tools/gpu_check.py",)
"""Exception from it."""
PRIVATE_RAY = ("nmt/jobs/ray_internals.py",)
"""The module that may use private APIs of Ray."""
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
"""Keyword arguments of any call that must be absent or literally False."""
VAGUE_OPENING = re.compile(r"\s*(What|Whether|Why|How|Of|As|None)\b")
"""Docstrings that open with a stand-in for a noun."""


@dataclass(frozen=True)
class Module:
    """One Python file."""

    path: str
    """Relative to the root, with slashes."""
    source: str
    modules: frozenset[str]
    """Dotted names of all modules of the project."""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def layer(self) -> str:
        """Module or package directly in nmt/; empty for nmt/__init__.py and other folders."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "nmt" and len(parts) > 1 else ""

    @cached_property
    def imports(self) -> dict[str, str]:
        """Full dotted name of each import, by its local name."""
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
    def internal_imports(self) -> set[str]:
        """Modules of the project that this one imports."""
        found = set()
        for name in self.imports.values():
            parts = name.split(".")
            prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
            known = [prefix for prefix in prefixes if prefix in self.modules]
            if known and known[-1] not in (self.name, "nmt"):
                found.add(known[-1])
        return found

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """All calls, with the full dotted name of the function where it has one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                top, dot, rest = ast.unparse(node.func).partition(".")
                yield self.imports.get(top, top) + dot + rest, node

    def docstrings(self) -> Iterator[tuple[int, str]]:
        """Line and text of all docstrings, those of attributes included."""
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            for item in body if isinstance(body, list) else ():
                if is_docstring(item):
                    yield item.lineno, item.value.value

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.path.endswith("/__init__.py")
        above = self.name.split(".")[: -node.level + is_package or None]
        return ".".join([*above, *([node.module] if node.module else [])])


def is_docstring(node: ast.stmt) -> bool:
    """Return True for a string that stands alone, below a definition or an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def rank(layer: str) -> int:
    """Position of a layer; the folders beside nmt/ come last."""
    return LAYERS.index(layer) if layer in LAYERS else len(LAYERS)


def read_modules(root: Path, folders: tuple[str, ...] = FOLDERS) -> list[Module]:
    """Parse all Python files of some folders below `root`."""
    paths = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
    ]
    names = [path.removesuffix(".py").removesuffix("/__init__") for path in paths]
    known = frozenset(name.replace("/", ".") for name in names)
    return [Module(path, (root / path).read_text(encoding="utf-8"), known) for path in paths]


def upward_imports(modules: list[Module]) -> Iterator[str]:
    """A module imports only from lower layers and from its own package."""
    layers = {module.name: module.layer for module in modules}
    for module in modules:
        if module.name == "nmt":
            continue  # the public API imports lazily from every layer
        if module.layer and module.layer not in LAYERS:
            yield f"{module.path}: {module.layer} is not a layer"
            continue
        for name in sorted(module.internal_imports):
            layer = layers[name]
            if module.name.startswith("nmt") and not name.startswith("nmt"):
                yield f"{module.path} imports {name}, which is not in nmt/"
            elif layer in LAYERS and LAYERS.index(layer) > rank(module.layer):
                yield f"{module.path} imports {name}, which is in a higher layer"


def foreign_libraries(modules: list[Module]) -> Iterator[str]:
    """A third-party library is imported by its owner alone; lower layers do without torch."""
    for module in modules:
        for library in sorted({name.partition(".")[0] for name in module.imports.values()}):
            if library in OWNERS and not module.path.startswith(OWNERS[library]):
                yield f"{module.path} imports {library}"
            is_plain = module.path.startswith(WITHOUT_TORCH) and module.path not in WITH_TORCH
            if library == "torch" and is_plain:
                yield f"{module.path} imports torch"


def private_ray_imports(modules: list[Module]) -> Iterator[str]:
    """Private APIs of Ray are used in one module."""
    for module in modules:
        for name in sorted(set(module.imports.values())):
            parts = name.split(".")
            is_private = parts[0] == "ray" and any(part.startswith("_") for part in parts)
            if is_private and module.path not in PRIVATE_RAY:
                yield f"{module.path} imports {name}"


def import_cycles(modules: list[Module]) -> Iterator[str]:
    """No module imports itself through others."""
    imports = {module.name: sorted(module.internal_imports) for module in modules}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            cycle = path[path.index(name) :]
            first = cycle.index(min(cycle))
            cycle = cycle[first:] + cycle[:first]
            yield " imports ".join([*cycle, cycle[0]])
        elif name not in done:
            for other in imports[name]:
                yield from visit(other, [*path, name])
            done.add(name)

    for name in imports:
        if name != "nmt":
            yield from visit(name, [])


def unsafe_code(modules: list[Module]) -> Iterator[str]:
    """No pickle, no evaluated text, no shell."""
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


def package_code(modules: list[Module]) -> Iterator[str]:
    """`__init__.py` of a package is one docstring; that of nmt is the public API."""
    for module in modules:
        is_package = module.path.endswith("/__init__.py") and module.name != "nmt"
        if is_package and [is_docstring(node) for node in module.tree.body] != [True]:
            yield f"{module.path} is not one docstring"


def missing_docstrings(modules: list[Module]) -> Iterator[str]:
    """Modules and public names have docstrings, methods that implement an interface aside."""
    for module in modules:
        if ast.get_docstring(module.tree) is None:
            yield f"{module.path} has no docstring"
        for node in module.tree.body:
            yield from _undocumented(node, module.path)


def _undocumented(node: ast.stmt, path: str) -> Iterator[str]:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return
    if ast.get_docstring(node) is None and ast.unparse(node.body[-1]) != "...":
        yield f"{path}, line {node.lineno}: {node.name} has no docstring"
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
        if bases <= {"Protocol", "Generic", "NamedTuple"}:
            for inner in node.body:
                yield from _undocumented(inner, path)


def vague_docstrings(modules: list[Module]) -> Iterator[str]:
    """A docstring opens with a verb in the imperative or with a noun phrase."""
    for module in modules:
        for line, text in module.docstrings():
            if VAGUE_OPENING.match(text):
                yield f"{module.path}, line {line}: {text.strip().splitlines()[0]}"


def duplicate_names(modules: list[Module]) -> Iterator[str]:
    """No two modules share a name, verbs of the command line aside, nor two top-level classes."""
    files, classes = defaultdict(list), defaultdict(list)
    for module in modules:
        last = module.path.rpartition("/")[2]
        if not last.startswith("__") and not module.path.startswith(("nmt/cli/", "tools/")):
            files[last].append(module.path)
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(module.path)
    for names in (files, classes):
        for name, paths in sorted(names.items()):
            if len(paths) > 1:
                yield f"{name} occurs in {' and '.join(paths)}"


def long_functions(modules: list[Module]) -> Iterator[str]:
    """A function has at most 60 lines of code, docstring, signature and comments aside."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
                if length > 60:
                    yield f"{module.path}, line {node.lineno}: {node.name} has {length} lines"


def count_lines(modules: list[Module]) -> Counter[str]:
    """Count code lines (docstrings, comments and blanks aside) and comment lines."""
    counts: Counter[str] = Counter()
    for module in modules:
        documented: set[int] = set()
        for node in ast.walk(module.tree):
            body = getattr(node, "body", None)
            for item in body if isinstance(body, list) else ():
                if is_docstring(item):
                    documented |= set(range(item.lineno, (item.end_lineno or 0) + 1))
        for number, line in enumerate(module.source.splitlines(), start=1):
            text = line.strip()
            if text.startswith("#"):
                counts["comments"] += 1
            elif text and number not in documented:
                counts["code"] += 1
                counts["comments"] += "  # " in line
    return counts
