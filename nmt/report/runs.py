"""What a run has left in its folder: its metrics, evaluations, comparisons and corpus.

Only files are read, so a report of a run that goes on can be made while it does.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.corpus.manifest import CorpusInfo, read_manifest
from nmt.errors import CheckpointError, DataError, NmtError
from nmt.evaluation.test_sets import file_name
from nmt.model.seq2seq import num_parameters
from nmt.training.run_log import with_current_names

Tree = dict[str, Any]
"""An object as JSON has it."""
METRICS = "metrics.jsonl"
EVALUATION = {"test_set", "checkpoint", "segments", "scores"}
"""Keys of a *.metrics.json."""
COMPARISON = {"comparison", "baseline", "segments", "test", "trials", "systems"}
"""Keys of a *.comparison.json."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run; what is not there is empty."""

    name: str
    """Of its folder, or as much of the path as it takes to tell it from the others."""
    folder: Path
    records: list[Tree]
    """Lines of metrics.jsonl."""
    evaluations: list[Tree]
    """Of each test set, what `nmt evaluate` found."""
    comparisons: list[Tree]
    """Of each test set, the differences to a baseline."""
    bundle: Checkpoint | None
    """The checkpoint that was best on the dev set."""
    corpora: list[CorpusInfo]
    notes: list[str]
    """Why something is not there."""

    def of_kind(self, kind: str) -> list[Tree]:
        """The records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    @cached_property
    def events(self) -> list[Tree]:
        """Restarts, skipped updates: all but lines of the training log and validations."""
        return [each for each in self.records if each["kind"] not in ("train", "validation")]

    @property
    def num_parameters(self) -> int:
        """Of the model, tied ones counted once; 0: not known."""
        return num_parameters(self.bundle.model()) if self.bundle else 0

    @property
    def last(self) -> Tree:
        """The newest line of the training log or validation; empty: there is none."""
        logged = [each for each in self.records if each["kind"] in ("train", "validation")]
        return logged[-1] if logged else {}

    @property
    def best(self) -> Tree | None:
        """The validation with the best dev BLEU."""
        return max(self.of_kind("validation"), key=lambda each: each["dev_bleu"], default=None)

    def text_of(self, test_set: str, ending: str) -> list[str] | None:
        """Lines that `nmt evaluate` kept of a test set, in its folder; None: not there."""
        path = self.folder / "evaluation" / f"{file_name(test_set)}.{ending}"
        if not path.is_file():
            return None
        return path.read_text(encoding="utf-8").split("\n")[:-1]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """All runs, each with a name of its own.

    Raises:
        DataError: a folder is not that of a run, or one of its files is damaged.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise DataError(f"{folder} is given twice; once is enough")
        if not (path / METRICS).is_file():
            raise DataError(
                f"{folder} is no run: it has no {METRICS}; name a folder that `nmt train` wrote"
            )
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _read(folder: Path, name: str) -> Run:
    bundle, corpora, notes = None, [], []
    try:
        bundle = load_checkpoint(folder)
    except (CheckpointError, OSError) as error:
        notes.append(f"its model cannot be loaded: {error}")
    else:
        try:
            corpora = read_manifest(Path(bundle.experiment.prepared)).corpora
        except NmtError as error:
            notes.append(f"its prepared corpus cannot be read: {error}")
    results = folder / "evaluation"
    evaluations = [_object(path, EVALUATION) for path in sorted(results.glob("*.metrics.json"))]
    comparisons = [_object(path, COMPARISON) for path in sorted(results.glob("*.comparison.json"))]
    records = _records(folder / METRICS)
    return Run(name, folder, records, evaluations, comparisons, bundle, corpora, notes)


def _records(path: Path) -> list[Tree]:
    """All whole lines: the last one may be torn, or be written just now."""
    records = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            is_ours = isinstance(record, dict) and {"kind", "update"} <= record.keys()
        except ValueError:
            is_ours = False
        if not is_ours:
            raise DataError(
                f"{path}, line {number}: damaged: it is no record of a run; remove the line"
            )
        records.append(with_current_names(record))
    return records


def _object(path: Path, keys: set[str]) -> Tree:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not (isinstance(found, dict) and keys <= found.keys()):
        raise DataError(f"{path}: damaged: it is not what `nmt evaluate` wrote; run that again")
    return found
