"""Contents of run directories: metrics, evaluations, comparisons and corpus statistics.

Files are only read, so that a report can be made while a run is training. They may come from
elsewhere: each is checked against a typed schema, and a note names what is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.run_directory import dev_score_key
from nmt.config.experiment import Experiment
from nmt.config.files import restore
from nmt.config.settings import Count, NaturalFloat, Number, parse_record
from nmt.corpus.manifest import CorpusInfo, read_manifest
from nmt.errors import DataError, NmtError
from nmt.evaluation.comparison import SystemComparison
from nmt.evaluation.failures import FailureReport
from nmt.evaluation.test_sets import file_name
from nmt.model.seq2seq import num_parameters
from nmt.training import run_manifest
from nmt.training.run_log import METRICS, read_records
from nmt.training.run_manifest import find_prepared

Tree = dict[str, Any]
"""JSON object."""
T = TypeVar("T")


@dataclass(frozen=True)
class StoredScore:
    """Score of one metric in *.metrics.json."""

    name: str
    score: Number
    signature: str
    confidence_var: Number | None = None
    """Half width of the 95 % interval."""
    label: str = ""
    """Description of an extra; empty for a score to report."""


@dataclass(frozen=True)
class StoredSlice:
    """Scores of one slice in *.metrics.json; field names are those of the file."""

    kind: str
    slice: str
    segments: Count
    BLEU: NaturalFloat
    chrF2: NaturalFloat  # noqa: N815


@dataclass(frozen=True)
class StoredEvaluation:
    """Contents of *.metrics.json, which `nmt evaluate` writes for each test set."""

    test_set: str
    checkpoint: str
    segments: Count
    scores: list[StoredScore]
    extras: list[StoredScore] = field(default_factory=list)
    slices: list[StoredSlice] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: FailureReport | None = None


@dataclass(frozen=True)
class StoredComparison:
    """Contents of *.comparison.json, which `nmt evaluate --baseline` writes for each test set."""

    comparison: str
    """Name of the test set."""
    baseline: str
    segments: Count
    test: Literal["bs", "ar", "none"]
    trials: Count
    systems: list[SystemComparison]


@dataclass(frozen=True, eq=False)
class Run:
    """Contents of a run directory; missing parts are empty."""

    name: str
    """Name of the folder, with as many parent folders as needed to be unique."""
    folder: Path
    records: list[Tree]
    """Records of metrics.jsonl, with current key names."""
    evaluations: list[StoredEvaluation]
    comparisons: list[StoredComparison]
    checkpoint: Checkpoint | None
    """Best checkpoint."""
    num_parameters: int
    """Parameters of the model, tied ones counted once; 0 if there is no model."""
    num_updates: int
    """training.updates of the last start; 0 if unknown."""
    corpora: list[CorpusInfo]
    notes: list[str]
    """Missing and unreadable parts, and changes that make values incomparable."""

    def records_of(self, kind: str) -> list[Tree]:
        """Return the records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    @cached_property
    def events(self) -> list[Tree]:
        """All records except training log and validations: restarts, skipped updates."""
        return [each for each in self.records if each["kind"] not in ("train", "validation")]

    @property
    def last(self) -> Tree:
        """Training or validation record of the last update; empty if there is none."""
        logged = [each for each in self.records if each["kind"] in ("train", "validation")]
        # Asynchronous validations are recorded some updates later. Of equal ones the newer record.
        return max(reversed(logged), key=lambda each: each["update"], default={})

    @property
    def dev_set_since(self) -> int:
        """Updates done when the dev set changed last; 0 if it did not."""
        return max((each["update"] for each in self.records_of("dev_set")), default=0)

    @property
    def best(self) -> Tree | None:
        """Validation with the best dev_bleu on the newest dev set; dev_loss breaks ties."""
        validations = self.records_of("validation")
        current = [each for each in validations if each["update"] > self.dev_set_since]
        return max(
            current,
            key=lambda each: dev_score_key(each["dev_bleu"], each["dev_loss"]),
            default=None,
        )

    def read_text(self, test_set: str, suffix: str) -> list[str] | None:
        """Return the lines that `nmt evaluate` wrote for a test set; None if there are none."""
        path = self.folder / "evaluation" / f"{file_name(test_set)}.{suffix}"
        try:
            # Only a line feed ends a line, as in `nmt evaluate`.
            return path.read_bytes().decode().split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run directories and give each run a unique name.

    Raises:
        DataError: a folder is not a run directory or is given twice.
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
    # Whatever is missing or unreadable, the report shows the rest, and a note.
    notes: list[str] = []
    records, unreadable = read_records(folder)
    if unreadable:
        notes.append(
            f"{METRICS}: {len(unreadable):,} unreadable record{'s' * (len(unreadable) > 1)} left "
            f"out, first in line {unreadable[0]}"
        )
    checkpoint, size = None, 0
    try:
        checkpoint = load_checkpoint(folder)
        size = num_parameters(checkpoint.model())
    except (NmtError, OSError) as error:
        notes.append(f"model not loaded: {error}")
    corpora = _read_corpora(checkpoint, notes) if checkpoint is not None else []
    results = folder / "evaluation"
    evaluations = _read_results(results, "metrics.json", StoredEvaluation, notes)
    comparisons = _read_results(results, "comparison.json", StoredComparison, notes)
    num_updates = _read_num_updates(folder, checkpoint)
    run = Run(
        name, folder, records, evaluations, comparisons, checkpoint, size, num_updates, corpora,
        notes,
    )  # fmt: skip
    if run.dev_set_since:
        notes.append(
            f"another dev set since update {run.dev_set_since:,}: dev_bleu and dev_loss before and "
            "after it are not comparable; the best dev_bleu is that of the newest dev set"
        )
    return run


def _read_num_updates(folder: Path, checkpoint: Checkpoint | None) -> int:
    """Return training.updates of the last start; 0 if unknown."""
    try:
        stored = run_manifest.read_run_manifest(folder).experiment
        return restore(Experiment, stored, str(folder / run_manifest.NAME)).training.updates
    except NmtError:
        # A run of a version without manifests; it may have been extended since its best checkpoint.
        return checkpoint.experiment.training.updates if checkpoint is not None else 0


def _read_corpora(checkpoint: Checkpoint, notes: list[str]) -> list[CorpusInfo]:
    """Return the statistics of the prepared corpus of a checkpoint."""
    prepared = find_prepared(checkpoint.path, checkpoint.experiment)
    try:
        manifest = read_manifest(prepared)
    except NmtError as error:
        notes.append(f"prepared corpus not read: {error}")
        return []
    if checkpoint.info.dev not in ("", manifest.data_digests().dev):
        notes.append(f"the dev set of {prepared} is not the one that the model was scored with")
    return manifest.corpora


def _read_results(folder: Path, suffix: str, kind: type[T], notes: list[str]) -> list[T]:
    """Return the contents of result files, sorted by name; add a note for each unreadable one."""
    results = []
    for path in sorted(folder.glob(f"*.{suffix}")):
        try:
            results.append(parse_record(kind, path.read_bytes()))
        except (ValueError, OSError) as error:
            notes.append(f"evaluation/{path.name} left out: {error}; run `nmt evaluate` again")
    return results
