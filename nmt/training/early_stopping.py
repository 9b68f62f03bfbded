"""What follows from dev BLEU: the best checkpoint so far, a halved learning rate, early stopping.

Decided in the order of the checkpoints, the same at all workers: at once where they share the
validation, and a fixed number of validations later where scores come late (`validation`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.metrics import perplexity
from nmt.training.run_log import AnyRecords
from nmt.training.state import TrainingClock, TrainState
from nmt.training.validation import Validation, validate


class DevScore(NamedTuple):
    """What is decided by."""

    bleu: float
    """0 to 100."""
    signature: str
    nll: float
    """Nats for each true token of the dev set."""
    train_nll: float | None
    """The same of training, when the weights were those."""


class EarlyStopping:
    """Keeps `TrainState` up to date; the first worker's writes down what it finds."""

    def __init__(
        self,
        experiment: Experiment,
        progress: TrainState,
        clock: TrainingClock,
        world: World,
        records: AnyRecords,
    ) -> None:
        self._experiment = experiment
        self._settings = experiment.training
        self._progress = progress
        self._clock = clock
        self._world = world
        self._records = records

    @property
    def is_out_of_patience(self) -> bool:
        """Whether training should stop early."""
        return 0 < self._settings.patience <= self._progress.validations_without_gain

    def is_due(self, needed: int) -> bool:
        """Whether the score of a checkpoint up to that update is still to be judged."""
        return bool(self._progress.awaited) and self._progress.awaited[0][0] <= needed

    def judge_late(self, needed: int, known_at: int) -> None:
        """Judge what is due, oldest first, until patience ends; waits for scores to come.

        Args:
            known_at: updates after which a run that goes on knows this.
        """
        while self.is_due(needed) and not self.is_out_of_patience:
            update, train_nll = self._progress.awaited.pop(0)
            found = self._world.all_gather(self._records.late_score(update))[0]
            if found is not None:
                bleu, signature, nll = found
                warning = self._judge(update, DevScore(bleu, signature, nll, train_nll), known_at)
                if warning:
                    self._records.say(warning)

    def judge_now(
        self, model: Seq2Seq, subword: Subword, dev: tuple[Sequence[str], Sequence[str]]
    ) -> Validation:
        """Have all workers score the weights as they are, judge that, and say it."""
        found = validate(model, subword, self._experiment, dev, self._world)
        progress, halvings = self._progress, self._progress.halvings
        update, fit = progress.update, progress.fit
        score = DevScore(found.bleu, found.signature, found.nll, fit.train_nll)
        warning = self._judge(update, score, update)
        self._records.keep_hyps(update, self._experiment.corpus.tgt, found.hyps)
        beam = self._experiment.decoding.validation_beam
        verdict = f"best {progress.best_bleu:.2f} at update {progress.best_update:,}"
        if progress.best_update == update:
            verdict = "the best so far"
        self._records.say(
            f"update {update:,}: dev BLEU {found.bleu:.2f} ({verdict}), beam {beam}, "
            f"{fit.describe(found.nll)}, {found.signature}"
        )
        if warning:
            self._records.say(warning)
        if progress.halvings > halvings:
            self._records.say(
                f"update {update:,}: dev BLEU has not risen: learning rate halved "
                f"(training.plateau_patience is {self._settings.plateau_patience})"
            )
        return found

    def _judge(self, update: int, score: DevScore, known_at: int) -> str:
        """Compare with the best so far, and record it; a warning of over-fitting, or nothing."""
        progress, settings = self._progress, self._settings
        if progress.best_bleu is None or score.bleu > progress.best_bleu:
            progress.best_bleu, progress.best_update = score.bleu, update
            progress.validations_without_gain = progress.validations_of_plateau = 0
        else:
            progress.validations_without_gain += 1
            progress.validations_of_plateau += 1
        is_plateau = progress.validations_of_plateau >= settings.plateau_patience
        if settings.schedule == "plateau" and is_plateau:
            progress.halvings += 1
            progress.validations_of_plateau = 0
        values = {
            "bleu": score.bleu,
            "signature": score.signature,
            "nll": score.nll,
            "perplexity": perplexity(score.nll),
            "train_nll": score.train_nll,
            "best_bleu": progress.best_bleu,
            "best_update": progress.best_update,
            "train_s": self._clock.train_s(),
        }
        self._records.write("validation", update, values, known_at)
        return progress.fit.judge(update, score.nll, score.train_nll)
