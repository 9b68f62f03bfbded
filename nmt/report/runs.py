"""Contents of run directories: metrics, evaluations, comparisons and corpus statistics.

Files are only read, so that a report can be made while a run is training.
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
"""JSON object."""
METRICS = "metrics.jsonl"
EVALUATION = {"test_set", "checkpoint", "segments", "scores"}
"""Required keys of *.metrics.json."""
COMPARISON = {"comparison", "baseline", "segments", "test", "trials", "systems"}
"""Required keys of *.comparison.json."""


@dataclass(frozen=True, eq=False)
class Run:
    """Contents of a run directory; missing parts are empty."""

    name: str
    """Name of the folder, with as many parent folders as needed to be unique."""
    folder: Path
    records: list[Tree]
    """Records of metrics.jsonl, with current key names."""
    evaluations: list[Tree]
    """Results of `nmt evaluate`, one per test set."""
    comparisons: list[Tree]
    """Results of `nmt compare`, one per test set."""
    checkpoint: Checkpoint | None
    """Best checkpoint."""
    corpora: list[CorpusInfo]
    notes: list[str]
    """Reasons for missing parts."""

    def records_of(self, kind: str) -> list[Tree]:
        """Return the records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    @cached_property
    def events(self) -> list[Tree]:
        """All records except training log and validations: restarts, skipped updates."""
        return [each for each in self.records if each["kind"] not in ("train", "validation")]

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once; 0 if there is no model."""
        return num_parameters(self.checkpoint.model()) if self.checkpoint else 0

    @property
    def last(self) -> Tree:
        """Newest training or validation record; empty if there is none."""
        logged = [each for each in self.records if each["kind"] in ("train", "validation")]
        return logged[-1] if logged else {}

    @property
    def best(self) -> Tree | None:
        """Validation with the highest dev_bleu."""
        return max(self.records_of("validation"), key=lambda each: each["dev_bleu"], default=None)

    def read_text(self, test_set: str, suffix: str) -> list[str] | None:
        """Return the lines that `nmt evaluate` wrote for a test set; None if there are none."""
        path = self.folder / "evaluation" / f"{file_name(test_set)}.{suffix}"
        if not path.is_file():
            return None
        return path.read_text(encoding="utf-8").split("\n")[:-1]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run directories and give each run a unique name.

    Raises:
        DataError: a folder is not a run directory or is given twice, or a file is corrupt.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise DataError(f"{folder} is given twice: name each run once")
        if not (path / METRICS).is_file():
            raise DataError(
                f"{folder} is not a run directory: it has no {METRICS}; name a folder written by "
                "`nmt train`"
            )
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    # Add parent folders to all names until they differ.
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _read(folder: Path, name: str) -> Run:
    # Without a checkpoint or prepared corpus the report shows the rest, and a note.
    checkpoint, corpora, notes = None, [], []
    try:
        checkpoint = load_checkpoint(folder)
    except (CheckpointError, OSError) as error:
        notes.append(f"model not loaded: {error}")
    else:
        try:
            corpora = read_manifest(Path(checkpoint.experiment.prepared)).corpora
        except NmtError as error:
            notes.append(f"prepared corpus not read: {error}")
    results = folder / "evaluation"
    evaluations = _read_results(results, "metrics.json", EVALUATION, "nmt evaluate")
    comparisons = _read_results(results, "comparison.json", COMPARISON, "nmt compare")
    records = _read_records(folder / METRICS)
    return Run(name, folder, records, evaluations, comparisons, checkpoint, corpora, notes)


def _read_records(path: Path) -> list[Tree]:
    """Return the records of metrics.jsonl; unlike in a running job, a corrupt line is an error."""
    records = []
    # Without the last line: a run may be writing it now, or was killed while it did.
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            is_record = isinstance(record, dict) and {"kind", "update"} <= record.keys()
        except ValueError:
            is_record = False
        if not is_record:
            raise DataError(f"{path}, line {number}: corrupt: not a record of a run; remove it")
        records.append(with_current_names(record))
    return records


def _read_results(folder: Path, suffix: str, keys: set[str], command: str) -> list[Tree]:
    """Return the JSON objects that a command has written, sorted by file name."""
    results = []
    for path in sorted(folder.glob(f"*.{suffix}")):
        try:
            result = json.loads(path.read_bytes())
        except ValueError:
            result = None
        if not (isinstance(result, dict) and keys <= result.keys()):
            raise DataError(f"{path}: corrupt: not written by `{command}`; run `{command}` again")
        results.append(result)
    return results
