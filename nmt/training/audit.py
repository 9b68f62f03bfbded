"""Audit of a run: was each kept pair used exactly once in each full epoch?

It is answered from the ledger, which says what the workers trained on, up to the newest good
checkpoint: that is the surviving lineage. The chain of the ledger must hold from line to line and
lead to the chain in each checkpoint. Where the prepared corpus is here, the pairs are compared with
those that it holds, their target tokens with those that were trained on, and the updates with those
of the schedule; where it is not, with the number of pairs that the manifest tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from nmt.batching.loader import SamplerAt
from nmt.batching.schedule import Rows, Schedule
from nmt.checkpoint.format import read_info
from nmt.checkpoint.load import load_training_state
from nmt.checkpoint.run_directory import list_checkpoints, newest_complete
from nmt.config.experiment import Experiment
from nmt.config.files import restore
from nmt.corpus.prepared import open_prepared
from nmt.errors import CheckpointError, DataError
from nmt.training import ledger, run_manifest
from nmt.training.data import TrainingData, make_schedule
from nmt.training.ledger import LedgerEntry
from nmt.training.run_manifest import RunManifest, RunStart

MAX_FINDINGS = 20
"""More are counted, not told."""


@dataclass(frozen=True)
class WorkerSpan:
    """Updates in a row that were shared by the same number of workers."""

    first: int
    last: int
    workers: int


@dataclass
class Audit:
    """What the ledger of a run proves."""

    run: str
    updates: int = 0
    """Updates on the surviving lineage, by its newest good checkpoint."""
    chain: str = ""
    """Of the ledger there; equal in two runs that trained on the same pairs in the same updates."""
    pairs: int = 0
    """Pairs in an epoch."""
    updates_per_epoch: int = 0
    full_epochs: int = 0
    pairs_after: int = 0
    """Pairs used in the epoch that is under way."""
    checkpoints: int = 0
    """Good checkpoints whose chain was compared."""
    is_even: bool = True
    """Whether an epoch is to have each pair once: no corpus has a weight, no stage another one."""
    is_corpus_here: bool = False
    """Whether pairs were compared with the prepared corpus and with the schedule."""
    skipped: list[int] = field(default_factory=list)
    """Updates whose gradient was not finite."""
    workers: list[WorkerSpan] = field(default_factory=list)
    starts: list[RunStart] = field(default_factory=list)
    num_findings: int = 0
    findings: list[str] = field(default_factory=list)
    """What contradicts the promise; the first MAX_FINDINGS."""

    @property
    def is_proven(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.num_findings

    def find(self, what: str) -> None:
        """Note a contradiction."""
        self.num_findings += 1
        if self.num_findings <= MAX_FINDINGS:
            self.findings.append(what)


def audit_run(run_dir: Path, prepared: Path | None = None) -> Audit:
    """Audit a run, finished or not.

    Args:
        prepared: folder of the prepared corpus; None: the one that the run was trained on, if it is
            on this machine.

    Raises:
        NmtError: there is no run with a ledger and a good checkpoint here, or no corpus in the
            folder that was named.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: there is no such folder; name the folder of a run")
    about = run_manifest.read_run_manifest(run_dir)
    if not (run_dir / ledger.NAME).is_file():
        raise DataError(
            f"{run_dir}: no {ledger.NAME} here, so nobody knows what was trained on; runs write it "
            "before their first checkpoint"
        )
    newest = newest_complete(run_dir)
    if newest is None:
        raise CheckpointError(
            f"{run_dir} has no good checkpoint, so no update of it has survived yet"
        )
    found = Audit(
        str(run_dir), read_info(newest).update, pairs=about.pairs,
        updates_per_epoch=about.updates_per_epoch, starts=about.starts,
    )  # fmt: skip
    corpus = _open_corpus(about, prepared, found)
    entries = _Chained(run_dir, found)
    _compare_epochs(entries, about, corpus, found)
    _compare_checkpoints(run_dir, entries.chains, found)
    return found


class _Chained:
    """The entries of the surviving lineage, in order, as far as the ledger can be trusted."""

    def __init__(self, run_dir: Path, found: Audit) -> None:
        self._run_dir = run_dir
        self._found = found
        self.chains: dict[int, str] = {0: ""}
        """By updates done."""

    def __iter__(self) -> Iterator[tuple[LedgerEntry, Rows]]:
        found, done, chain = self._found, 0, ""
        try:
            for entry in ledger.read_ledger(self._run_dir):
                if entry.update > found.updates:
                    break
                if entry.update != done + 1:
                    found.find(_gap(done, entry.update))
                rows = ledger.unpack_rows(entry.rows)
                linked = ledger.chain_digest(
                    chain, entry.update, entry.tgt_tokens, entry.is_skipped, rows
                )  # fmt: skip
                if linked != entry.chain or len(rows) != entry.pairs:
                    found.find(f"update {entry.update:,}: its line is not what was written")
                done, chain = entry.update, entry.chain
                self.chains[done] = chain
                self._count(entry)
                yield entry, rows
        except (OSError, ValueError) as error:
            found.find(f"{ledger.NAME} cannot be read after update {done:,}: {error}")
        if done < found.updates:
            found.find(
                f"the ledger ends after update {done:,}, but the newest checkpoint has "
                f"{found.updates:,}"
            )
        found.chain = chain

    def _count(self, entry: LedgerEntry) -> None:
        workers = self._found.workers
        if workers and workers[-1].workers == entry.workers:
            workers[-1] = WorkerSpan(workers[-1].first, entry.update, entry.workers)
        else:
            workers.append(WorkerSpan(entry.update, entry.update, entry.workers))
        if entry.is_skipped:
            self._found.skipped.append(entry.update)


@dataclass(frozen=True)
class _AuditedCorpus:
    """The prepared corpus, where it is here."""

    schedule: Schedule
    sampler_at: SamplerAt
    tgt_lengths: Rows
    """Target tokens of each row as it was prepared, EOS counted."""


def _open_corpus(about: RunManifest, prepared: Path | None, found: Audit) -> _AuditedCorpus | None:
    folder = prepared or Path(about.prepared)
    if prepared is None and not folder.is_dir():
        return None
    experiment = restore(Experiment, about.experiment, run_manifest.NAME)
    corpus = experiment.corpus.model_copy(update={"prepared": str(folder)})
    experiment = experiment.model_copy(update={"corpus": corpus})
    shards, subword = open_prepared(experiment)
    if run_manifest.corpus_sha256(shards) != about.corpus_sha256:
        if prepared is None:
            return None
        raise DataError(
            f"{prepared} is not the corpus that the run was trained on: name the folder that "
            f"{about.prepared} was"
        )
    found.is_corpus_here = True
    sampler_at, schedule = make_schedule(experiment, TrainingData(shards, subword, ([], [])))
    return _AuditedCorpus(schedule, sampler_at, shards.tgt_lengths.astype(np.int64) + 1)


def _compare_epochs(
    entries: _Chained, about: RunManifest, corpus: _AuditedCorpus | None, found: Audit
) -> None:
    """Read all updates, and look at the pairs of one epoch after the other."""
    size = about.updates_per_epoch
    experiment = restore(Experiment, about.experiment, run_manifest.NAME)
    has_one_schedule = not any(stage.has_own_epochs for stage in experiment.stages)
    # Else an epoch has some pairs more than once, others not: what an update has tells it all then.
    is_even = has_one_schedule and all(text.weight == 1 for text in experiment.corpus.train)
    found.is_even = is_even
    for epoch, updates in groupby(entries, key=lambda each: (each[0].update - 1) // size):
        rows, owners = [], []
        for entry, of_update in updates:
            rows.append(of_update)
            owners.append(np.full(len(of_update), entry.update))
            if corpus is not None:
                _compare_update(entry, of_update, corpus, found)
        is_full = len(rows) == size
        used = np.concatenate(rows)
        if is_even:
            _compare_pairs(f"epoch {epoch + 1:,}", used, np.concatenate(owners), found)
        if not is_full:
            found.pairs_after = len(used)
            continue
        found.full_epochs += 1
        if not is_even:
            if has_one_schedule and len(used) != about.pairs:
                found.find(
                    f"epoch {epoch + 1:,}: {len(used):,} pairs were used, but an epoch has "
                    f"{about.pairs:,}"
                )
        elif corpus is not None:
            if len(missing := np.setdiff1d(corpus.schedule.rows, used)):
                found.find(f"epoch {epoch + 1:,}: {_some(missing)} not used")
            if len(unknown := np.setdiff1d(used, corpus.schedule.rows)):
                found.find(f"epoch {epoch + 1:,}: {_some(unknown)} not kept, but used")
        elif len(np.unique(used)) != about.pairs:
            found.find(
                f"epoch {epoch + 1:,}: {len(np.unique(used)):,} pairs were used, but an epoch has "
                f"{about.pairs:,}"
            )


def _compare_pairs(epoch: str, used: Rows, owners: Rows, found: Audit) -> None:
    """No pair twice in an epoch, whether it is full or not."""
    values, counts = np.unique(used, return_counts=True)
    for row in values[counts > 1]:
        where = ", ".join(f"{owner:,}" for owner in owners[used == row])
        found.find(f"{epoch}: pair {row:,} was used more than once, in updates {where}")


def _compare_update(entry: LedgerEntry, rows: Rows, corpus: _AuditedCorpus, found: Audit) -> None:
    planned = corpus.schedule.update(entry.update - 1)
    if not np.array_equal(np.sort(np.concatenate(planned.micro_batches)), rows):
        found.find(f"update {entry.update:,}: its pairs are not those of the schedule")
    elif corpus.sampler_at(entry.update - 1) is None:
        expected = int(corpus.tgt_lengths[rows].sum())
        if entry.tgt_tokens != expected:
            found.find(
                f"update {entry.update:,}: {entry.tgt_tokens:,} target tokens were trained on, but "
                f"its pairs have {expected:,}"
            )


def _compare_checkpoints(run_dir: Path, chains: dict[int, str], found: Audit) -> None:
    for folder in list_checkpoints(run_dir):
        try:
            state = load_training_state(folder)
        except CheckpointError:
            continue  # Damaged: nothing goes on from it.
        if "ledger" not in state.counters or state.update > found.updates:
            continue
        found.checkpoints += 1
        if state.counters["ledger"] != chains.get(state.update):
            found.find(f"{folder.name}: its chain is not that of the ledger")


def _gap(done: int, update: int) -> str:
    """What is wrong where that update follows `done` updates."""
    if update <= done:
        return f"update {update:,} stands in the ledger again"
    if update == done + 2:
        return f"update {done + 1:,} is not in the ledger"
    return f"updates {done + 1:,} to {update - 1:,} are not in the ledger"


def _some(rows: Rows) -> str:
    shown = ", ".join(f"{row:,}" for row in rows[:5])
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return f"pair{'s' * (len(rows) > 1)} {shown}{more} {'were' if len(rows) > 1 else 'was'}"
