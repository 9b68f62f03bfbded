"""Audit of a run: verify that every kept pair was used exactly once in every full epoch.

The ledger records what the workers trained on. The audit covers its updates up to the newest
complete checkpoint, those that led to the current weights. The chain of the ledger must hold from
line to line and match the chain in each checkpoint. If the prepared corpus is available, pairs are
compared with the pairs of the corpus, target tokens with theirs, and updates with the schedule;
otherwise the number of pairs is compared with the manifest. Pairs of skipped updates count as used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from nmt.batching.schedule import Rows, Schedule
from nmt.checkpoint.format import read_info
from nmt.checkpoint.load import load_training_state
from nmt.checkpoint.run_directory import list_checkpoints, newest_complete
from nmt.config.experiment import Experiment
from nmt.config.files import restore
from nmt.corpus.prepared import open_prepared
from nmt.errors import CheckpointError, DataError
from nmt.training import ledger, run_manifest
from nmt.training.data import TrainingData, by_stage, make_schedule
from nmt.training.ledger import LedgerEntry
from nmt.training.run_manifest import RunManifest, RunStart

MAX_FINDINGS = 20
"""Number of findings that are listed; further ones are counted."""


@dataclass(frozen=True)
class WorkerSpan:
    """Consecutive updates with the same world size."""

    first: int
    last: int
    workers: int


@dataclass
class Audit:
    """Result of an audit."""

    run: str
    updates: int = 0
    """Updates of the newest complete checkpoint."""
    chain: str = ""
    """Chain of the ledger there, equal for two runs with the same pairs in the same updates."""
    pairs: int = 0
    """Pairs of an epoch."""
    updates_per_epoch: int = 0
    """Updates of an epoch of the first stage."""
    has_own_epochs: bool = False
    """True if a stage starts epochs of another length; epochs are not counted then."""
    full_epochs: int = 0
    pairs_after: int = 0
    """Pairs used in the epoch that is not full yet."""
    checkpoints: int = 0
    """Complete checkpoints whose chain was compared."""
    is_even: bool = True
    """True if an epoch has each pair once: no corpus has a weight, no stage its own epochs."""
    is_corpus_here: bool = False
    """True if pairs were compared with the prepared corpus and the schedule."""
    skipped: list[int] = field(default_factory=list)
    """Updates without an optimizer step: non-finite gradient, fp16 overflow included."""
    workers: list[WorkerSpan] = field(default_factory=list)
    starts: list[RunStart] = field(default_factory=list)
    num_findings: int = 0
    findings: list[str] = field(default_factory=list)
    """First MAX_FINDINGS contradictions."""

    @property
    def is_proven(self) -> bool:
        """True if there is no contradiction."""
        return not self.num_findings

    def add_finding(self, text: str) -> None:
        """Record a contradiction."""
        self.num_findings += 1
        if self.num_findings <= MAX_FINDINGS:
            self.findings.append(text)


def audit_run(run_dir: Path, prepared: Path | None = None) -> Audit:
    """Audit a run, finished or not.

    Args:
        run_dir: run directory.
        prepared: prepared corpus; None: the one of the run, if it is on this machine.

    Raises:
        NmtError: the run has no ledger or no complete checkpoint, or `prepared` is not its corpus.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such directory; name a run")
    # First: a prepared corpus has a manifest.json of its own, but no ledger.
    if not (run_dir / ledger.NAME).is_file():
        raise DataError(
            f"{run_dir}: {ledger.NAME} is missing, which a run writes before its first checkpoint; "
            "name the directory of a run"
        )
    manifest = run_manifest.read_run_manifest(run_dir)
    newest = newest_complete(run_dir)
    if newest is None:
        raise CheckpointError(f"{run_dir} has no complete checkpoint: nothing to audit yet")
    result = Audit(
        str(run_dir), read_info(newest).update, pairs=manifest.pairs,
        updates_per_epoch=manifest.updates_per_epoch, starts=manifest.starts,
    )  # fmt: skip
    experiment = restore(Experiment, manifest.experiment, str(run_dir / run_manifest.NAME))
    corpus = _open_corpus(manifest, experiment, prepared, result)
    entries = _LedgerReader(run_dir, result)
    _compare_epochs(entries, manifest, experiment, corpus, result)
    _compare_checkpoints(run_dir, entries.chains, result)
    return result


class _LedgerReader:
    """Iterates over the entries up to the newest complete checkpoint and verifies their chain."""

    def __init__(self, run_dir: Path, result: Audit) -> None:
        self._run_dir = run_dir
        self._result = result
        self.chains: dict[int, str] = {0: ""}
        """Chain by updates done."""

    def __iter__(self) -> Iterator[tuple[LedgerEntry, Rows]]:
        result, done, chain = self._result, 0, ""
        try:
            for entry in ledger.read_ledger(self._run_dir):
                # Later updates are trained again after a resume.
                if entry.update > result.updates:
                    break
                if entry.update != done + 1:
                    result.add_finding(_describe_gap(done, entry.update))
                rows = ledger.unpack_rows(entry.rows)
                expected = ledger.chain_digest(
                    chain, entry.update, entry.tgt_tokens, entry.is_skipped, rows
                )  # fmt: skip
                if expected != entry.chain or len(rows) != entry.pairs:
                    result.add_finding(f"update {entry.update:,}: the entry was changed")
                # Continue from the stored chain: one changed entry is one finding.
                done, chain = entry.update, entry.chain
                self.chains[done] = chain
                self._count(entry)
                yield entry, rows
        except (OSError, ValueError) as error:
            result.add_finding(f"{ledger.NAME} cannot be read after update {done:,}: {error}")
        if done < result.updates:
            result.add_finding(
                f"the ledger ends after update {done:,}, but the newest checkpoint has "
                f"{result.updates:,}"
            )
        result.chain = chain

    def _count(self, entry: LedgerEntry) -> None:
        spans = self._result.workers
        if spans and spans[-1].workers == entry.workers:
            spans[-1] = WorkerSpan(spans[-1].first, entry.update, entry.workers)
        else:
            spans.append(WorkerSpan(entry.update, entry.update, entry.workers))
        if entry.is_skipped:
            self._result.skipped.append(entry.update)


@dataclass(frozen=True)
class _AuditedCorpus:
    """Prepared corpus of the run with its schedule."""

    schedule: Schedule
    has_drawn_tokens_at: Callable[[int], bool]
    """True for updates, counted from 0, whose number of target tokens is drawn."""
    tgt_lengths: Rows
    """Target tokens of each row, EOS included."""


def _open_corpus(
    manifest: RunManifest, experiment: Experiment, prepared: Path | None, result: Audit
) -> _AuditedCorpus | None:
    """Open the prepared corpus of the run; None: it is not on this machine."""
    folder = prepared or Path(manifest.prepared)
    if prepared is None and not folder.is_dir():
        return None
    experiment = experiment.with_settings("corpus", prepared=str(folder))
    shards, subword = open_prepared(experiment)
    shards.verify(again=True)
    if run_manifest.corpus_sha256(shards) != manifest.corpus_sha256:
        if prepared is None:
            return None
        raise DataError(
            f"{prepared} is not the corpus of the run: name the one that was at {manifest.prepared}"
        )
    result.is_corpus_here = True
    _, schedule = make_schedule(experiment, TrainingData(shards, subword, ([], [])))
    has_drawn_tokens_at = by_stage(
        experiment, lambda each: bool(each.subword_dropout or each.subword_sampling or each.reverse)
    )
    return _AuditedCorpus(schedule, has_drawn_tokens_at, shards.tgt_lengths.astype(np.int64) + 1)


def _compare_epochs(
    entries: _LedgerReader,
    manifest: RunManifest,
    experiment: Experiment,
    corpus: _AuditedCorpus | None,
    result: Audit,
) -> None:
    """Read all entries and check the pairs of one epoch after the other."""
    size = manifest.updates_per_epoch
    has_one_schedule = not any(stage.has_own_epochs for stage in experiment.stages)
    result.has_own_epochs = not has_one_schedule
    # With weights an epoch has some pairs more than once and others not at all: only the comparison
    # of updates with the schedule is meaningful then.
    result.is_even = has_one_schedule and all(text.weight == 1 for text in experiment.corpus.train)
    for epoch, updates in groupby(entries, key=lambda each: (each[0].update - 1) // size):
        name = f"epoch {epoch + 1:,}"
        rows, owners = [], []
        for entry, entry_rows in updates:
            rows.append(entry_rows)
            owners.append(np.full(len(entry_rows), entry.update))
            if corpus is not None:
                _compare_update(entry, entry_rows, corpus, result)
        used = np.concatenate(rows)
        if result.is_even:
            _find_repeated(name, used, np.concatenate(owners), result)
        # The last epoch may not be full: only repeated pairs can be wrong in it.
        if len(rows) < size:
            result.pairs_after = len(used) if has_one_schedule else 0
            continue
        result.full_epochs += has_one_schedule
        if result.is_even and corpus is not None:
            _compare_rows(name, used, corpus.schedule.rows, result)
        elif has_one_schedule:
            num_used = len(np.unique(used)) if result.is_even else len(used)
            if num_used != manifest.pairs:
                result.add_finding(f"{name}: {num_used:,} pairs used, expected {manifest.pairs:,}")


def _find_repeated(epoch: str, used: Rows, owners: Rows, result: Audit) -> None:
    """Report pairs used more than once in an epoch, full or not."""
    values, counts = np.unique(used, return_counts=True)
    repeated = values[counts > 1]
    result.num_findings += len(repeated[MAX_FINDINGS:])
    # Only those that are listed: the search takes time in proportion to the epoch.
    for row in repeated[:MAX_FINDINGS]:
        updates = ", ".join(f"{owner:,}" for owner in owners[used == row])
        result.add_finding(f"{epoch}: pair {row:,} used more than once, in updates {updates}")


def _compare_rows(epoch: str, used: Rows, expected: Rows, result: Audit) -> None:
    """Report pairs of the corpus that a full epoch lacks, and pairs that it should not have."""
    if len(missing := np.setdiff1d(expected, used)):
        result.add_finding(f"{epoch}: not used: {_list_pairs(missing)}")
    if len(unknown := np.setdiff1d(used, expected)):
        result.add_finding(f"{epoch}: used, but not part of an epoch: {_list_pairs(unknown)}")


def _compare_update(entry: LedgerEntry, rows: Rows, corpus: _AuditedCorpus, result: Audit) -> None:
    """Compare an entry with the schedule and its target tokens with the corpus."""
    planned = corpus.schedule.update(entry.update - 1)
    if not np.array_equal(np.sort(np.concatenate(planned.micro_batches)), rows):
        result.add_finding(f"update {entry.update:,}: its pairs are not those of the schedule")
    elif not corpus.has_drawn_tokens_at(entry.update - 1):
        expected = int(corpus.tgt_lengths[rows].sum())
        if entry.tgt_tokens != expected:
            result.add_finding(
                f"update {entry.update:,}: {entry.tgt_tokens:,} target tokens, expected "
                f"{expected:,}"
            )


def _compare_checkpoints(run_dir: Path, chains: dict[int, str], result: Audit) -> None:
    """Compare the chain in each complete checkpoint with the ledger."""
    for folder in list_checkpoints(run_dir):
        try:
            state = load_training_state(folder)
        except CheckpointError:
            continue  # Corrupt: no run is resumed from it.
        # Checkpoints of versions before the ledger have no chain.
        if "ledger" not in state.counters or state.update > result.updates:
            continue
        result.checkpoints += 1
        if state.counters["ledger"] != chains.get(state.update):
            result.add_finding(f"{folder.name}: its hash chain differs from the ledger")


def _describe_gap(done: int, update: int) -> str:
    """Describe an entry that does not follow the one before it."""
    if update <= done:
        return f"update {update:,} is in the ledger twice"
    if update == done + 2:
        return f"update {done + 1:,} is not in the ledger"
    return f"updates {done + 1:,} to {update - 1:,} are not in the ledger"


def _list_pairs(rows: Rows) -> str:
    shown = ", ".join(f"{row:,}" for row in rows[:5])
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return f"pair{'s' * (len(rows) > 1)} {shown}{more}"
