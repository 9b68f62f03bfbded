"""What is kept of a run while it trains: its log, its pulse, its checkpoints, its late scores.

The first worker keeps all of it, in the folder of the run; the others make the same calls, and
nothing happens. Which of the two a worker is, is asked once, where the records are opened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nmt.checkpoint.background import Writer
from nmt.checkpoint.remote import Remote
from nmt.config.experiment import Experiment
from nmt.training.late import LateScores, Scorer
from nmt.training.learner import Learner
from nmt.training.metrics import Journal
from nmt.training.plan import Corpus
from nmt.training.progress import Progress
from nmt.training.pulse import Beat, Pulse, Restart
from nmt.training.validation import Validation


class Records:
    """The first worker's; a context that is left when training has ended, or broken off."""

    def __init__(
        self,
        experiment: Experiment,
        corpus: Corpus,
        run_dir: Path,
        update: int,
        num_workers: int,
        say: Callable[[str], None],
        remote: Remote | None,
        scorer: Scorer | None,
    ) -> None:
        """Go on after that many updates.

        Args:
            say: also gets the lines of the log.
            remote: the run in an object store, of which run_dir is the copy here.
            scorer: scores checkpoints elsewhere.
        """
        self._journal = Journal(run_dir, update, say)
        self._pulse = Pulse(run_dir, num_workers)
        self._writer = Writer(run_dir, experiment, corpus.subword.to_json(), remote)
        self._late = LateScores(
            scorer, self._writer, run_dir, experiment, corpus.dev, self._journal, remote
        )
        self._restart: Restart | None = None
        self._update = update
        self._num_workers = num_workers
        self._has_ended = False

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.wait()
        self._pulse.close(self._has_ended)
        self._journal.close()
        # Last: what goes up into an object store is all of the above.
        self._writer.close()

    def after_loss(self, why: str, heard: Beat | None, damaged: Sequence[str]) -> None:
        """Find out whether workers before these were lost; what that has cost is told later.

        Args:
            why: they were, as far as it is known.
            heard: the last update that they were heard of.
            damaged: newer checkpoints that were passed over, and why.
        """
        # The file may be on a host that is gone; what was heard of its workers is not.
        before = self._pulse.before or heard
        if before is not None:
            self._restart = Restart(
                why, before, heard, self._update, self._num_workers, "; ".join(damaged)
            )

    def say(self, line: str) -> None:
        """As `Journal.say`."""
        self._journal.say(line)

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None:
        """As `Journal.write`."""
        self._journal.write(kind, update, values, known_at)

    def keep_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None:
        """As `Journal.keep_hyps`."""
        self._journal.keep_hyps(update, language, hyps)

    def beat(self, update: int) -> None:
        """So many updates are done; after the first one, what a loss before it has cost."""
        self._pulse.beat(update)
        if self._restart is not None:
            self._restart.tell(self._journal, update)
            self._restart = None

    def save(self, learner: Learner, progress: Progress, validation: Validation | None) -> None:
        """Begin to write a checkpoint, and to have it scored where its score is awaited."""
        state = learner.state(progress.update, asdict(progress))
        awaited = [update for update, _ in progress.awaited]
        if validation is not None:
            self._writer.write(state, validation.bleu, validation.signature, awaited)
        elif progress.update in awaited:
            self._writer.write(state, awaited=awaited, then=self._late.ask)
        else:
            self._writer.write(state, awaited=awaited)

    def fail(self, error: OSError) -> None:
        """A checkpoint could not be begun."""
        self._writer.fail(error)

    def wait(self) -> None:
        """Until the checkpoint that was begun is on the disk."""
        self._writer.wait()

    @property
    def has_failed(self) -> bool:
        """Whether there is a problem with a checkpoint that nobody was told."""
        return self._writer.has_failed

    def problem(self) -> tuple[str, int]:
        """Why a checkpoint could not be written, told once, and how many in a row could not."""
        return self._writer.problem(), self._writer.failures

    def ask_again(self, progress: Progress) -> None:
        """After a start: have those scored whose scores were to come when the run was stopped."""
        self._late.ask_again([update for update, _ in progress.awaited])

    def collect(self) -> None:
        """Write down the late scores that have come; does not wait."""
        self._late.collect()

    def late_score(self, update: int) -> tuple[float, str, float] | None:
        """As `LateScores.wait`."""
        return self._late.wait(update)

    def end(self, line: str) -> None:
        """Training has ended by itself: its last line."""
        self._has_ended = True
        self._journal.say(line)


class NoRecords:
    """The other workers'."""

    has_failed = False

    def __enter__(self) -> "NoRecords":
        return self

    def __exit__(self, *error: object) -> None: ...

    def say(self, line: str) -> None: ...

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None: ...

    def keep_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None: ...

    def beat(self, update: int) -> None: ...

    def save(self, learner: Learner, progress: Progress, validation: Validation | None) -> None: ...

    def fail(self, error: OSError) -> None:
        """Who writes nothing has no disk that could be full: this is another error."""
        raise error

    def wait(self) -> None: ...

    def problem(self) -> tuple[str, int]:
        """None, and none."""
        return "", 0

    def collect(self) -> None: ...

    def late_score(self, update: int) -> None: ...

    def end(self, line: str) -> None: ...


AnyRecords = Records | NoRecords
"""What a worker has of them."""
