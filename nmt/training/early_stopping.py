"""Decisions from dev BLEU: the best checkpoint, early stopping, schedule plateau.

Of equal dev BLEU the lower dev loss is better, because a dev BLEU of 0 does not show progress.

All ranks decide alike, in the order of the checkpoints: at once with shared validation, a fixed
number of validations later with asynchronous validation (`nmt.training.validation`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from nmt.checkpoint.run_directory import dev_score_key
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.meter import perplexity
from nmt.training.run_log import RunLogger
from nmt.training.state import TrainingClock, TrainState
from nmt.training.validation import AsyncValidator, Validation, validate


class DevScore(NamedTuple):
    """Validation scores used for model selection."""

    bleu: float
    """Dev BLEU, 0 to 100."""
    signature: str
    """sacreBLEU signature of dev BLEU."""
    dev_loss: float
    """Negative log-likelihood of the dev set, in nats per target token."""
    train_loss: float | None
    """Training loss of the last log line at the validation."""


class EarlyStopping:
    """Model selection: updates `TrainState` from dev scores, and logs them on rank 0."""

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        clock: TrainingClock,
        world: World,
        logger: RunLogger | None,
        validator: AsyncValidator | None,
    ) -> None:
        """Create on one rank.

        Args:
            logger: on rank 0.
            validator: pending scores, on rank 0.
        """
        self._experiment = experiment
        self._settings = experiment.training
        self._state = state
        self._clock = clock
        self._world = world
        self._logger = logger
        self._validator = validator

    @property
    def is_out_of_patience(self) -> bool:
        """True if training should stop early."""
        return 0 < self._settings.patience <= self._state.validations_without_gain

    def use_pending(self, update: int, known_at: int) -> None:
        """Use the pending scores up to an update, oldest first, until patience ends.

        Waits for scores that have not arrived. Collective: call on every rank.

        Args:
            known_at: updates done now.
        """
        awaited = self._state.awaited
        while awaited and awaited[0][0] <= update and not self.is_out_of_patience:
            scored, train_loss = awaited.pop(0)
            score = self._validator.wait(scored) if self._validator is not None else None
            found = self._world.all_gather(score)[0]
            if found is not None:
                bleu, signature, dev_loss = found
                warning = self._use(
                    scored, DevScore(bleu, signature, dev_loss, train_loss), known_at
                )
                if self._logger is not None and warning:
                    self._logger.log(warning)

    def validate(
        self, model: Seq2Seq, subword: Subword, dev: tuple[Sequence[str], Sequence[str]]
    ) -> Validation:
        """Score the weights as they are, and use the scores. Collective: call on every rank."""
        found = validate(model, subword, self._experiment, dev, self._world)
        state, halvings = self._state, self._state.halvings
        train_loss = state.fit.train_nll
        score = DevScore(found.bleu, found.signature, found.nll, train_loss)
        warning = self._use(state.update, score, state.update)
        if self._logger is None:
            return found
        self._logger.write_hyps(state.update, self._experiment.corpus.tgt, found.hyps)
        verdict = "best"
        if state.best_update != state.update:
            verdict = f"best {state.best_bleu:.2f} at update {state.best_update:,}"
        loss = "" if train_loss is None else f" | loss {train_loss:.3f}"
        self._logger.log_dev_score(
            f"update {state.update:,} | dev BLEU {found.bleu:.2f} ({verdict}) | dev loss "
            f"{found.nll:.3f}{loss}",
            found.signature,
            self._experiment.decoding.validation_beam,
        )
        if warning:
            self._logger.log(warning)
        if state.halvings > halvings:
            self._logger.log(
                f"update {state.update:,} | learning rate halved: no better dev BLEU in "
                f"training.plateau_patience={self._settings.plateau_patience} validations"
            )
        return found

    def _use(self, update: int, score: DevScore, known_at: int) -> str:
        """Compare with the best score so far and record it; return a warning, or ""."""
        state, settings = self._state, self._settings
        state.num_validations += 1
        key = dev_score_key(score.bleu, score.dev_loss)
        if state.best_bleu is None or key > dev_score_key(state.best_bleu, state.best_loss):
            state.best_bleu, state.best_update = score.bleu, update
            state.best_loss = score.dev_loss
            state.validations_without_gain = state.validations_of_plateau = 0
        else:
            state.validations_without_gain += 1
            state.validations_of_plateau += 1
        is_plateau = state.validations_of_plateau >= settings.plateau_patience
        if settings.schedule == "plateau" and is_plateau:
            state.halvings += 1
            state.validations_of_plateau = 0
        values = {
            "dev_bleu": score.bleu,
            "signature": score.signature,
            "dev_loss": score.dev_loss,
            "dev_ppl": perplexity(score.dev_loss),
            "loss": score.train_loss,
            "best_dev_bleu": state.best_bleu,
            "best_update": state.best_update,
            "train_s": self._clock.train_s(),
        }
        if self._logger is not None:
            self._logger.write("validation", update, values, known_at)
        warning = ""
        # Minimum risk training raises BLEU, not the likelihood of the references.
        if not self._experiment.training_at(update - 1).risk:
            warning = state.fit.judge(update, score.dev_loss, score.train_loss)
        if state.num_validations == 2 and score.bleu == 0:
            warning = (
                "warning: dev BLEU is still 0 in the second validation | check the translations "
                f"in dev/, and that corpus.tgt={self._experiment.corpus.tgt} is their language | "
                f"{score.signature}"
            )
        return warning
