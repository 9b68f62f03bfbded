"""Layout of the code: layers, owners of libraries, names, docstrings (nmt/README.md)."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.layout_rules import (
    LAYERS,
    Module,
    duplicate_names,
    foreign_libraries,
    import_cycles,
    long_functions,
    missing_docstrings,
    package_code,
    private_ray_imports,
    read_modules,
    unsafe_code,
    upward_imports,
    vague_docstrings,
)

ROOT = Path(__file__).resolve().parents[1]
GUARANTEES = (
    "One code path", "Pure schedule", "World-size independence", "Exact resume",
    "Self-contained checkpoints", "Line in, line out", "Batch-invariant translation",
    "Bounded memory", "Actionable errors", "Safe by default", "Honest numbers",
)  # fmt: skip

Rule = Callable[[list[Module]], Iterator[str]]
RULES: list[Rule] = [
    upward_imports,
    foreign_libraries,
    private_ray_imports,
    import_cycles,
    unsafe_code,
    package_code,
    missing_docstrings,
    vague_docstrings,
    duplicate_names,
    long_functions,
]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    """All modules of the project, parsed once."""
    return read_modules(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_follows_the_layout(rule: Rule, modules: list[Module]) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    assert list(rule(modules)) == []


def test_docstrings_of_tests_name_their_subject() -> None:
    assert list(vague_docstrings(read_modules(ROOT, ("tests",)))) == []


def test_every_layer_exists(modules: list[Module]) -> None:
    assert {module.layer for module in modules} - {""} == set(LAYERS)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_every_guarantee_is_documented_and_tested(guarantee: str) -> None:
    readme = (ROOT / "nmt" / "README.md").read_text(encoding="utf-8")
    assert guarantee.lower() in readme.lower()
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    cited = re.compile(rf"{guarantee} \(nmt/README\.md, Guarantees\)", re.IGNORECASE)
    assert any(cited.search(text) for text in tests)


def test_test_names_are_short() -> None:
    names = [
        (match, path.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for match in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert [(name, path) for name, path in names if len(name) > 60] == []


VALID = {
    "nmt/__init__.py": '"""Public API."""\nfrom nmt.model import lstm\n',
    "nmt/errors.py": '"""Errors."""\n',
    "nmt/config/__init__.py": '"""Settings."""\n',
    "nmt/config/files.py": '"""Files."""\nimport yaml\nfrom nmt.errors import NmtError\n',
    "nmt/model/__init__.py": '"""Network."""\n',
    "nmt/model/lstm.py": '"""Layers."""\nimport torch\nfrom nmt.config import files\n',
    "nmt/model/seq2seq.py": '"""Model."""\nfrom nmt.model import lstm\nyaml.safe_load(x)\nm.eval()',
    "nmt/cli/__init__.py": '"""Verbs."""\n',
    "nmt/cli/main.py": '"""Main."""\nimport nmt\ndef _f():\n    from nmt.model.seq2seq import S\n',
    "cluster/submit.py": '"""Jobs."""\nimport ray\nfrom nmt.cli import main\nrun(x, shell=False)\n',
}


def violations(tmp_path: Path, changed: dict[str, str]) -> list[str]:
    for path, text in (VALID | changed).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    modules = read_modules(tmp_path)
    return [line for rule in RULES for line in rule(modules)]


def test_a_valid_tree_has_no_violations(tmp_path: Path) -> None:
    assert violations(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("path", "text", "violation"),
    [
        (
            "nmt/config/files.py",
            "from nmt.model.lstm import LSTM",
            "nmt/config/files.py imports nmt.model.lstm, which is in a higher layer",
        ),
        (
            "nmt/config/files.py",
            "def f():\n    import nmt.model.seq2seq as s",
            "nmt/config/files.py imports nmt.model.seq2seq, which is in a higher layer",
        ),
        (
            "nmt/config/files.py",
            "if TYPE_CHECKING:\n    from nmt.cli import main",
            "nmt/config/files.py imports nmt.cli.main, which is in a higher layer",
        ),
        (
            "nmt/model/lstm.py",
            "from ..cli.main import main",
            "nmt/model/lstm.py imports nmt.cli.main, which is in a higher layer",
        ),
        (
            "nmt/console.py",
            "import nmt.config.files",
            "nmt/console.py imports nmt.config.files, which is in a higher layer",
        ),
        (
            "nmt/model/lstm.py",
            "import cluster.submit",
            "nmt/model/lstm.py imports cluster.submit, which is not in nmt/",
        ),
        ("nmt/plugins.py", "", "nmt/plugins.py: plugins is not a layer"),
        ("nmt/model/lstm.py", "import yaml", "nmt/model/lstm.py imports yaml"),
        (
            "nmt/model/lstm.py",
            "def f():\n    from ray.train import report",
            "nmt/model/lstm.py imports ray",
        ),
        (
            "cluster/submit.py",
            "from ray._private import worker",
            "cluster/submit.py imports ray._private.worker",
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
            '"""Network."""\nfrom nmt.model.lstm import LSTM\n',
            "nmt/model/__init__.py is not one docstring",
        ),
        ("nmt/model/__init__.py", "", "nmt/model/__init__.py is not one docstring"),
        ("nmt/model/lstm.py", "import torch", "nmt/model/lstm.py has no docstring"),
        (
            "nmt/model/lstm.py",
            '"""Layers."""\nclass Layer:\n    """One layer."""\n    def run(self):\n        ...\n        return 1\n',  # noqa: E501
            "nmt/model/lstm.py, line 4: run has no docstring",
        ),
        (
            "nmt/model/lstm.py",
            '"""Layers."""\nX = 1\n"""What is multiplied."""\n',
            "nmt/model/lstm.py, line 3: What is multiplied.",
        ),
        (
            "nmt/config/lstm.py",
            '"""Settings of a layer."""\n',
            "lstm.py occurs in nmt/config/lstm.py and nmt/model/lstm.py",
        ),
        (
            "nmt/model/seq2seq.py",
            '"""Model."""\nclass A:\n    """A."""\nclass A:\n    """Again."""\n',
            "A occurs in nmt/model/seq2seq.py and nmt/model/seq2seq.py",
        ),
        (
            "nmt/model/seq2seq.py",
            '"""Model."""\ndef _long():\n' + "    x = 1\n" * 61,
            "nmt/model/seq2seq.py, line 2: _long has 61 lines",
        ),
    ],
)
def test_each_rule_finds_its_violation(
    path: str, text: str, violation: str, tmp_path: Path
) -> None:
    assert violation in violations(tmp_path, {path: text})
