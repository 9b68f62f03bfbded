"""State of a run: model and optimizer (`Learner`), and progress of training (`TrainState`)."""

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from nmt.batching.batch import Batch, make_batch
from nmt.checkpoint.format import OPTIMIZER, STATE, CheckpointState, recovery_hint
from nmt.checkpoint.tensor_files import load_weights
from nmt.config.experiment import Experiment
from nmt.config.settings import Count, Number, PositiveFloat, PositiveInt, parse_record
from nmt.corpus.manifest import DataDigests
from nmt.errors import CheckpointError
from nmt.model.gpu_precision import set_product_precision
from nmt.model.seq2seq import Seq2Seq, check_model_memory
from nmt.training.distillation import distillation_loss
from nmt.training.distributed import World, wrap_in_ddp
from nmt.training.loss import LossSums, compute_loss
from nmt.training.meter import MeterTotals
from nmt.training.optimizer import (
    freeze_parameters,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from nmt.training.precision import DTYPES

EndReason = Literal["finished", "stopped early", "interrupted"]
"""Reason why a call of `train` ended."""

TEACHER = "teacher"
"""Key of the optimizer state with the weights that distillation keeps to."""
MIN_RISE = 0.02
"""Relative rise of the dev loss over its minimum that is more than noise."""


@dataclass
class LossScale:
    """State of `torch.amp.GradScaler`, which keeps fp16 gradients in range.

    Micikevicius et al. 2018, section 3.2. The field names are keys of a checkpoint.
    """

    value: PositiveFloat = 2.0**16
    """Factor of the loss."""
    good_updates: Count = 0
    """Updates without overflow since it changed; 2,000 double it."""


class Learner:
    """Model, moving average, optimizer and loss scale; equal on all ranks.

    `nmt.training.loop.make_update` trains it.
    """

    def __init__(self, experiment: Experiment, vocab_size: int, world: World) -> None:
        self.experiment = experiment
        self.settings = experiment.training
        """Settings of the current stage."""
        self.device = world.device
        # On a GPU the host holds the initial weights only; else also gradients and moments.
        num_copies = 4 + bool(self.settings.ema_decay) + self.settings.keeps_importance
        num_copies += experiment.distils
        num_copies = num_copies if world.device.type == "cpu" else 1
        check_model_memory(experiment.model, vocab_size, num_copies)
        set_product_precision(self.settings.precision, world.device)
        torch.manual_seed(experiment.seed)
        self.model: Seq2Seq = Seq2Seq(experiment.model, vocab_size).to(world.device)
        freeze_parameters(self.model, self.settings.freeze)
        self.forward: nn.Module = self.model
        """Module to call in training: the model, in DistributedDataParallel after `connect`."""
        self.average: Seq2Seq | None = None
        """Exponential moving average of the weights, in evaluation mode."""
        self.teacher: Seq2Seq | None = None
        """Model that distillation keeps to, the initial one; None: no distillation."""
        if self.settings.ema_decay:
            self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.dtype = DTYPES[self.settings.precision]
        """Dtype of matrix products in the forward pass; weights and gradients are fp32."""
        self.scaler = torch.amp.GradScaler(
            world.device.type, enabled=self.settings.precision == "fp16"
        )

    def share_weights(self, world: World) -> None:
        """Take the weights of rank 0. Collective: call on every rank, before the memory trial.

        Hosts of different types may initialise weights with different last bits. These are also
        the first collectives of NCCL, which allocates its buffers outside torch: after a trial that
        has filled the memory it would fail.
        """
        for model in (self.model, self.average):
            for parameter in model.parameters() if model is not None else ():
                world.broadcast(parameter.data)
        world.warm_up_all_reduce(self.model.output_weight)
        if self.experiment.distils and self.teacher is None:
            self._set_teacher(self.average or self.model)

    def connect(self, world: World) -> None:
        """All-reduce gradients from now on. Collective: call on every rank."""
        if world.size == 1:
            return
        self.forward = wrap_in_ddp(self.model, world)
        # DDP rebuilds its buckets once, after its first backward. Two passes without pairs, whose
        # gradients are 0, bring that before the first update: so a resumed run adds gradients in
        # the order of a run that was never stopped.
        self.model.train()
        nothing = make_batch([]).to(self.device)
        for _ in range(2):
            loss = compute_loss(self.forward, self.model, nothing, self.settings, self.dtype)
            loss.smoothed.backward()  # type: ignore[no-untyped-call]
            self.model.zero_grad(set_to_none=True)

    def set_stage(self, update: int) -> None:
        """Apply the settings of update `update`, counted from 0."""
        self.settings = self.experiment.training_at(update)
        config = self.experiment.model_at(update)
        if config != self.model.config:
            self.model.set_dropout(config)

    def _set_teacher(self, model: Seq2Seq) -> Seq2Seq:
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        return self.teacher

    def distil(self, batch: Batch, scale: float) -> LossSums:
        """Return the loss of keeping the initial distribution on a batch, times `scale`.

        Without dropout, as in the teacher: the loss is 0 at the start.
        """
        assert self.teacher is not None
        config = self.model.config
        self.model.set_dropout(config.without_dropout())
        loss = distillation_loss(self.forward, self.model, self.teacher, batch, scale, self.dtype)
        self.model.set_dropout(config)
        return loss

    @property
    def eval_model(self) -> Seq2Seq:
        """Model for validation, in evaluation mode: the average, or the weights without one."""
        return self.average if self.average is not None else self.model.eval()

    @property
    def loss_scale(self) -> LossScale:
        """State of the loss scale; the initial one in fp32 and bf16, which have none."""
        if not self.scaler.is_enabled():
            return LossScale()
        state = self.scaler.state_dict()
        return LossScale(state["scale"], state["_growth_tracker"])

    def set_loss_scale(self, scale: LossScale) -> None:
        """Restore the state of the loss scale; ignored in fp32 and bf16."""
        if self.scaler.is_enabled():
            values = {"scale": scale.value, "_growth_tracker": scale.good_updates}
            self.scaler.load_state_dict(self.scaler.state_dict() | values)

    def state(self, update: int, counters: dict[str, object]) -> CheckpointState:
        """Return the content of a checkpoint after `update` updates."""
        average = self.average.state_dict() if self.average is not None else None
        moments = optimizer_tensors(self.optimizer, self.model)
        if self.teacher is not None:
            teacher = self.teacher.named_parameters()
            moments |= {f"{TEACHER}/{name}": parameter.data for name, parameter in teacher}
        return CheckpointState(update, self.model.state_dict(), average, moments, counters)

    def load(self, state: CheckpointState, where: Path) -> None:
        """Restore weights, average and optimizer of a checkpoint, bit for bit.

        Args:
            where: the checkpoint, for error messages.

        Raises:
            CheckpointError: weights or optimizer are those of another model.
        """
        load_weights(self.model, state.weights, where)
        if self.average is not None:
            load_weights(self.average, state.average or state.weights, where)
        prefix = f"{TEACHER}/"
        kept = {
            key.removeprefix(prefix): tensor
            for key, tensor in state.optimizer.items()
            if key.startswith(prefix)
        }
        moments = {key: each for key, each in state.optimizer.items() if not key.startswith(prefix)}
        try:
            if kept:
                load_weights(self._set_teacher(self.model), kept, where)
            load_optimizer_tensors(self.optimizer, self.model, moments)
        except ValueError as error:
            raise CheckpointError(
                f"{where / OPTIMIZER} does not belong to the weights: {error}; "
                f"{recovery_hint(where)}"
            ) from None


@dataclass
class OverfittingMonitor:
    """Comparison of training loss and dev loss over the validations of a run.

    Both are negative log-likelihoods in nats per target token without label smoothing. The training
    loss is that of the last log line, with dropout, so it starts above the dev loss. Overfitting is
    a dev loss that rises while the training loss falls. The field names are keys of a checkpoint.
    """

    train_nll: Number | None = None
    """Training loss of the last log line."""
    lowest_nll: Number | None = None
    """Lowest dev loss so far."""
    lowest_update: Count = 0
    """Updates done at the lowest dev loss."""
    train_nll_then: Number | None = None
    """Training loss at the lowest dev loss."""
    is_open: bool = False
    """True if overfitting has been reported since the lowest dev loss."""

    def note(self, train_loss: float | None) -> None:
        """Record the training loss of a log line; None: all its updates were skipped."""
        if train_loss is not None:
            self.train_nll = train_loss

    def judge(self, update: int, dev_loss: float, train_loss: float | None) -> str:
        """Compare a validation with the lowest dev loss so far.

        Args:
            update: updates done at the validation.
            train_loss: `train_nll` at that time.

        Returns:
            A warning where overfitting starts; otherwise an empty string.
        """
        if self.lowest_nll is None or dev_loss < self.lowest_nll:
            self.lowest_nll, self.lowest_update = dev_loss, update
            self.train_nll_then, self.is_open = train_loss, False
            return ""
        if train_loss is None or self.train_nll_then is None or self.is_open:
            return ""
        has_risen = dev_loss > (1 + MIN_RISE) * self.lowest_nll
        if not has_risen or train_loss >= self.train_nll_then:
            return ""
        self.is_open = True
        return (
            f"warning: overfitting since update {self.lowest_update:,} | dev loss "
            f"{self.lowest_nll:.3f} -> {dev_loss:.3f} | loss {self.train_nll_then:.3f} -> "
            f"{train_loss:.3f} | remedies: model.dropout, training.subword_dropout, stages with "
            "rdrop, training.patience"
        )


@dataclass
class TrainState:
    """Progress of a run; the field names are the keys of `counters` in a checkpoint.

    Every field has a default, which a checkpoint of an earlier version without it gets.
    """

    update: Count = 0
    """Updates done."""
    best_bleu: Number | None = None
    """Best dev BLEU so far, 0 to 100."""
    best_update: Count = 0
    """Updates done at the best dev BLEU."""
    best_loss: Number | None = None
    """Dev loss at the best dev BLEU; decides between equal ones."""
    num_validations: Count = 0
    """Validations used for model selection."""
    validations_without_gain: Count = 0
    """Consecutive validations without a better dev BLEU."""
    halvings: Count = 0
    """Halvings of the learning rate by schedule plateau."""
    validations_of_plateau: Count = 0
    """Validations in a row without a better dev BLEU since the last halving."""
    fit: OverfittingMonitor = field(default_factory=OverfittingMonitor)
    num_skipped: Count = 0
    """Updates skipped because their gradient was not finite, without `num_overflows`."""
    skipped_in_a_row: Count = 0
    """Consecutive skipped updates up to the last update."""
    num_overflows: Count = 0
    """Updates skipped because fp16 gradients overflowed at a loss scale that was too high."""
    scale: LossScale = field(default_factory=LossScale)
    split: PositiveInt = 1
    """Parts that each micro-batch is cut into to fit in memory; never falls within a run."""
    train_s: Number = 0.0
    """Seconds of training and validation; time between a stop and the resume is not counted."""
    since_log: MeterTotals = field(default_factory=MeterTotals)
    """Totals since the last log line."""
    awaited: list[tuple[Count, Number | None]] = field(default_factory=list)
    """Validations with pending scores, oldest first: updates done, training loss."""
    ledger: str = ""
    """Hash chain of the pair ledger."""
    data: DataDigests | None = None
    """Digests of the training data and the dev set; None: not stored by earlier versions."""

    @classmethod
    def of(cls, counters: dict[str, object], where: Path = Path("checkpoint")) -> "TrainState":
        """Create from the counters of a checkpoint; those that other versions had are ignored.

        Args:
            counters: values by field name.
            where: the checkpoint, for error messages.

        Raises:
            CheckpointError: a counter has another type.
        """
        try:
            return parse_record(cls, counters)
        except ValueError as error:
            raise CheckpointError(
                f"{where / STATE} was not written by nmt: {error}; {recovery_hint(where)}"
            ) from None

    def forget_scores(self) -> None:
        """Restart model selection, early stopping and schedule plateau: the dev set is another."""
        self.best_bleu, self.best_loss, self.best_update, self.awaited = None, None, 0, []
        self.validations_without_gain = self.validations_of_plateau = 0
        self.fit = OverfittingMonitor(train_nll=self.fit.train_nll)


class TrainingClock:
    """Training time of a run over all its starts, and an estimate of the time left."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._first_update = state.update
        self._before_s = state.train_s
        self._started = time.perf_counter()

    def train_s(self) -> float:
        """Return the seconds of training so far."""
        return self._before_s + time.perf_counter() - self._started

    def eta_s(self, num_updates: int) -> float:
        """Return the seconds left until `num_updates`, at the mean speed since this start."""
        pace = (time.perf_counter() - self._started) / (self._state.update - self._first_update)
        return pace * (num_updates - self._state.update)
