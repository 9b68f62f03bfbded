"""Late scores: dev BLEU of checkpoints that are scored elsewhere while training goes on.

A score is a fact about its checkpoint: it is written down when it comes, in whatever order. What
follows from it, the best so far and early stopping, is decided in the order of the checkpoints and
at updates fixed by number alone: `behind` validations later, where training waits for a score that
has not come. So a run that was stopped and resumed decides as one that was not, whatever the clock
says (P4), and the best checkpoint is the one that validation shared over the workers finds; early
stopping ends the run that many validations later.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nmt.checkpoint.background import Writer
from nmt.checkpoint.bundle import name_of
from nmt.checkpoint.loading import load
from nmt.checkpoint.remote import Remote
from nmt.checkpoint.writing import write_score
from nmt.config.experiment import Experiment
from nmt.errors import BundleError, StorageError
from nmt.training.metrics import Journal
from nmt.training.validation import Validation, validate
from nmt.training.world import World


class Scorer(Protocol):
    """Scores checkpoints elsewhere."""

    behind: int
    """Validations after which a score is needed, 1 or more."""

    def ask(self, update: int, folder: Path) -> None:
        """Begin to score a checkpoint that is whole; from any thread."""

    def arrived(self) -> list[tuple[int, Validation | str]]:
        """Scores that have come since the last call, or why there is none; does not wait."""

    def wait(self) -> None:
        """Until one more has come."""


class LateScores:
    """The first worker's book of scores that are to come."""

    def __init__(
        self,
        scorer: Scorer | None,
        writer: Writer,
        run_dir: Path,
        experiment: Experiment,
        dev: tuple[Sequence[str], Sequence[str]],
        journal: Journal,
        remote: Remote | None,
    ) -> None:
        """Args: scorer: None: what was to come when the run was stopped is scored here."""
        self._scorer = scorer
        self._writer = writer
        self._run_dir = run_dir
        self._experiment = experiment
        self._dev = dev
        self._journal = journal
        self._remote = remote
        self._asked: set[int] = set()
        self._scores: dict[int, tuple[float, str, float] | None] = {}

    def ask(self, folder: Path) -> None:
        """Have a checkpoint scored that is whole; from any thread."""
        update = int(folder.name.removeprefix("update-"))
        if self._scorer is not None:
            self._asked.add(update)
            self._scorer.ask(update, folder)

    def ask_again(self, updates: Sequence[int]) -> None:
        """After a start: what was to come when the run was stopped."""
        for update in updates:
            # One that is damaged has its line when its score is due.
            with contextlib.suppress(BundleError):
                self.ask(self._folder(update))

    def collect(self) -> None:
        """Write down the scores that have come; does not wait."""
        for update, found in self._scorer.arrived() if self._scorer else ():
            self._asked.discard(update)
            if isinstance(found, str):
                self._journal.say(
                    f"update {update:,}: its validation task was lost ({found}): scored here"
                )
                self._score_here(update)
            else:
                self._write_down(update, found)

    def wait(self, update: int) -> tuple[float, str, float] | None:
        """BLEU, signature and loss of a checkpoint, when they have come; None: it is damaged."""
        # A checkpoint that is being written will be asked for when it is whole.
        self._writer.wait()
        self.collect()
        while update not in self._scores:
            if update not in self._asked or self._scorer is None:
                self._score_here(update)
            else:
                self._scorer.wait()
                self.collect()
        return self._scores.pop(update)

    def _score_here(self, update: int) -> None:
        try:
            bundle = load(self._folder(update))
        except BundleError as error:
            self._journal.say(f"update {update:,} has no dev BLEU: {error}")
            self._scores[update] = None
            return
        world, model = World(), bundle.model()
        found = validate(model, bundle.subword, self._experiment, self._dev, world)
        self._write_down(update, found)

    def _write_down(self, update: int, found: Validation) -> None:
        self._scores[update] = (found.bleu, found.signature, found.nll)
        try:
            write_score(self._folder(update), found.bleu, found.signature)
        except (BundleError, StorageError) as error:
            self._journal.say(f"update {update:,}: its score is not beside it: {error}")
        self._journal.keep_hyps(update, self._experiment.corpus.tgt, found.hyps)
        self._journal.say(
            f"update {update:,}: dev BLEU {found.bleu:.2f}, scored beside training, beam "
            f"{self._experiment.decoding.validation_beam}, dev loss {found.nll:.3f} nats/token, "
            f"{found.signature}"
        )

    def _folder(self, update: int) -> Path:
        folder = self._run_dir / "checkpoints" / name_of(update)
        if self._remote is not None and not folder.exists():
            return self._remote.pull(folder.name)
        return folder
