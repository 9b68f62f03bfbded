"""All that learns and must survive a stop: weights, their moving average, the optimizer."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from nmt.batching.batch import Batch, make_batch
from nmt.checkpoint.format import CheckpointState
from nmt.checkpoint.load import load_weights
from nmt.config.experiment import Experiment
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.training.distributed import GradientAllReduce, World
from nmt.training.loss import LossSums, cross_entropy, r_drop
from nmt.training.optimizer import (
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    update_average,
)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """A model in training at one worker; all workers' learners stay equal."""

    def __init__(self, experiment: Experiment, vocab_size: int, world: World) -> None:
        self._experiment = experiment
        self.settings = experiment.training
        """Of the update that is made now."""
        self.halvings = 0
        """How often the learning rate of schedule plateau was halved."""
        self.scale = 1.0
        """What the loss counts in backward."""
        self._world = world
        torch.manual_seed(experiment.seed)
        self.model: Seq2Seq = Seq2Seq(experiment.model, vocab_size).to(world.device)
        self._average = None
        if self.settings.ema_decay:
            self._average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._optimizer = make_optimizer(self.model, self.settings)
        self._dtype = _DTYPES[self.settings.precision]
        self._gradients = GradientAllReduce(self.model, world)

    def connect(self) -> None:
        """Work with the other workers from now on; all must ask.

        The first worker's weights are taken: hosts of two kinds may initialise by other last bits.
        """
        for model in (self.model, self._average):
            for parameter in model.parameters() if model is not None else ():
                self._world.broadcast(parameter.data)
        self._gradients.connect(lambda: self._add(make_batch([]), 1, True))

    def begin(self, number: int, halvings: int, scale: float = 1.0) -> None:
        """Work with the settings of update `number`, from 0, from now on."""
        self.settings, self.halvings = self._experiment.training_at(number), halvings
        self.scale = scale
        config = self._experiment.model_at(number)
        if config != self.model.config:
            self.model.set_dropout(config)

    def backward(self, batch: Batch, num_tgt_tokens: int, is_my_last: bool) -> LossSums:
        """Add a micro-batch's share of the gradient of an update with that many target tokens.

        Args:
            is_my_last: of this worker in this update; gradients are sent while it goes on.
        """
        return self._add(batch, num_tgt_tokens, is_my_last)

    def rehearse(self, batch: Batch) -> None:
        """Forward and backward that leave no trace, to see whether memory suffices."""
        try:
            self._add(batch, 1, False)
        finally:
            self.forget()

    def share(self, has_failed: bool = False) -> int:
        """Sum the gradients of all workers, who all must ask; returns how many have failed."""
        return self._gradients.finish(has_failed)

    def forget(self) -> None:
        """Drop the gradient of the update under way."""
        self._gradients.clear()

    def step(self, number: int) -> float:
        """Turn the shared gradient into update `number`, from 0; its norm before clipping.

        Where the norm is not finite nothing is changed: it is the same at all workers, so all skip
        together.
        """
        parameters = list(self.model.parameters())
        if self.scale != 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scale)
        limit = self.settings.clip_norm or float("inf")
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(number, self.settings, self.halvings)
            self._optimizer.step()
            if self._average is not None:
                update_average(self._average, self.model, self.settings.ema_decay, number)
        self.forget()
        return norm

    @property
    def best_guess(self) -> Seq2Seq:
        """What validation uses, in evaluation mode: the average where there is one."""
        if self._average is not None:
            return self._average
        return self.model.eval()

    @property
    def num_parameters(self) -> int:
        """Trained numbers, tied ones counted once."""
        return num_parameters(self.model)

    def state(self, update: int, counters: dict[str, object]) -> CheckpointState:
        """What a checkpoint holds after that many updates."""
        average = self._average.state_dict() if self._average is not None else None
        moments = optimizer_tensors(self._optimizer, self.model)
        return CheckpointState(update, self.model.state_dict(), average, moments, counters)

    def load(self, state: CheckpointState, where: Path) -> None:
        """Go on from a checkpoint's state, bit for bit; `where` it came from is for messages."""
        load_weights(self.model, state.weights, where)
        if self._average is not None:
            load_weights(self._average, state.average or state.weights, where)
        load_optimizer_tensors(self._optimizer, self.model, state.optimizer)

    def _add(self, batch: Batch, num_tgt_tokens: int, is_my_last: bool) -> LossSums:
        self.model.train()
        with self._gradients.sending(is_my_last):
            loss = self._loss(batch.to(self._world.device))
            (loss.smoothed * (self.scale / num_tgt_tokens)).backward()  # type: ignore[no-untyped-call]
        return loss

    def _loss(self, batch: Batch) -> LossSums:
        if self.settings.rdrop:
            batch = batch.repeat()
        is_cast = self._dtype != torch.float32
        with torch.autocast(self._world.device.type, self._dtype, enabled=is_cast):
            hidden: Tensor = self._gradients.model(
                batch.src, batch.src_lengths, batch.tgt_in, batch.real
            )
        weight, smoothing = self.model.output_weight, self.settings.label_smoothing
        if self.settings.rdrop:
            alpha = self.settings.rdrop
            return r_drop(hidden, weight, batch.tgt_out, smoothing, alpha, self._dtype)
        return cross_entropy(hidden, weight, batch.tgt_out, smoothing, self._dtype)
