"""Training loop: `make_update` is one update, `train` a run.

Each worker calls `train` with its own `World`. An update is a fixed list of micro-batches
(`nmt.batching.schedule`), dealt to the ranks in turn. The loss is divided by the target tokens of
the whole update, and dropout is seeded by (seed, update, micro-batch): any number of workers trains
the same model up to summation order. Everything that the next update depends on is in the
checkpoint, so a resumed run equals one that was never stopped.

Updates are numbered from 0 in code; logs, checkpoints and metrics count updates done.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Update
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.write import check_space
from nmt.config.experiment import Experiment
from nmt.evaluation.scores import check_dev_set
from nmt.model.seq2seq import num_parameters
from nmt.training import run_manifest
from nmt.training.data import (
    TrainingData,
    check_workers,
    make_noise,
    make_reversal,
    make_schedule,
    make_switchout,
    set_source_limit,
)
from nmt.training.distributed import World, derive_seed, gradient_sync
from nmt.training.early_stopping import EarlyStopping
from nmt.training.ledger import Ledger
from nmt.training.loss import compute_loss
from nmt.training.memory import find_split, is_out_of_memory, out_of_memory_in
from nmt.training.meter import Meter, UpdateStats
from nmt.training.optimizer import learning_rate, update_average
from nmt.training.precision import resolve_precision, slow_precision_warning
from nmt.training.resume import resume
from nmt.training.run_log import RunLogger, format_end_line, format_start_line, format_train_line
from nmt.training.state import EndReason, Learner, TrainingClock, TrainState
from nmt.training.stop_control import RunHooks, StopControl
from nmt.training.validation import AsyncValidator, CheckpointScorer, Validation


def make_update(
    learner: Learner,
    state: TrainState,
    update: Update,
    micro_batches: Sequence[MicroBatch],
    num_tgt_tokens: int,
) -> UpdateStats:
    """Make one optimizer step. Collective: call on every rank.

    Where the gradient is not finite the weights stay as they are: the gradient norm is the same on
    all ranks, so all skip together.

    Args:
        micro_batches: those of this rank.
        num_tgt_tokens: target tokens of all ranks, by which the loss is divided.
    """
    model, optimizer, settings = learner.model, learner.optimizer, learner.settings
    model.train()
    losses = []
    for micro_batch in micro_batches:
        torch.manual_seed(derive_seed(learner.experiment.seed, update.number, micro_batch.index))
        parts = micro_batch.batch.split(state.split)
        for part in parts:
            is_last = micro_batch is micro_batches[-1] and part is parts[-1]
            batch = part.to(learner.device)
            with gradient_sync(learner.forward, is_last):
                if micro_batch.distillation:
                    loss = learner.distil(batch, micro_batch.distillation)
                else:
                    loss = compute_loss(learner.forward, model, batch, settings, learner.dtype)
                # The scaler multiplies fp16 losses only; fp32 and bf16 need no loss scale.
                learner.scaler.scale(loss.smoothed / num_tgt_tokens).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
    learner.scaler.unscale_(optimizer)
    # The one value of an update that the CPU waits for.
    gnorm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf))
    if math.isfinite(gnorm):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update.number, settings, state.halvings)
        learner.scaler.step(optimizer)
        if learner.average is not None:
            update_average(learner.average, model, optimizer, update.number, settings)
    learner.scaler.update()
    model.zero_grad(set_to_none=True)
    return UpdateStats(
        update.number + 1,
        losses,
        gnorm,
        src_tokens=sum(int(each.batch.src_lengths.sum()) for each in micro_batches),
        tgt_tokens=sum(len(each.batch.tgt_out) for each in micro_batches),
        positions=sum(each.batch.num_padded for each in micro_batches),
        rows=[each.rows for each in micro_batches],
        is_skipped=not math.isfinite(gnorm),
    )


def train(
    experiment: Experiment,
    corpus: TrainingData,
    world: World,
    run_dir: Path,
    log: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[int], bool] = lambda update: False,
    origin: run_manifest.Origin | None = None,
    hooks: RunHooks = RunHooks(),  # noqa: B008 it is frozen
    remote: RemoteRun | None = None,
    scorer: CheckpointScorer | None = None,
) -> tuple[EndReason, TrainState]:
    """Train, from the newest complete checkpoint of the run if there is one.

    Collective: call on every rank.

    Args:
        run_dir: directory of this run, shared by all workers; rank 0 writes.
        log: called with each log line, on rank 0.
        should_stop: called on rank 0 with the updates done; True: save a checkpoint and stop.
        origin: command that started the workers; None: this process.
        remote: the run in an object store, with run_dir as its local copy; None: run_dir only.
        scorer: scores checkpoints elsewhere; None: the workers share each validation.

    Raises:
        ConfigError, DataError: the dev set cannot be scored.
        TrainingError: there are more workers than micro-batches, the run has another vocabulary,
            all its checkpoints are corrupt, checkpoints cannot be written, a single pair does not
            fit in memory, or the gradient is not finite in several updates in a row.
        UpdateOutOfMemoryError: this rank ran out of memory; resume with twice the split factor.
    """
    check_workers(experiment, world.size)
    # On every rank: hosts can differ in what is installed.
    check_dev_set(experiment.corpus.tgt, corpus.dev[1])
    experiment = set_source_limit(resolve_precision(experiment, world), corpus.shards)
    run = _Run(experiment, corpus, world, run_dir, hooks, remote, scorer)
    with contextlib.ExitStack() as stack:
        if world.is_main:
            run.open_files(stack, log, origin or run_manifest.Origin.here())
        reason = run.loop(should_stop)
        run.control.close()
        if run.logger is not None:
            run.logger.end(format_end_line(reason, run.state, experiment.training))
    return reason, run.state


class _Run:
    """One rank of a run."""

    logger: RunLogger | None = None
    """On rank 0, as are the next two."""
    writer: AsyncCheckpointWriter | None = None
    validator: AsyncValidator | None = None

    def __init__(
        self,
        experiment: Experiment,
        corpus: TrainingData,
        world: World,
        run_dir: Path,
        hooks: RunHooks,
        remote: RemoteRun | None,
        scorer: CheckpointScorer | None,
    ) -> None:
        self.experiment, self.corpus, self.world, self.run_dir = experiment, corpus, world, run_dir
        self.hooks, self.remote, self.scorer = hooks, remote, scorer
        behind = scorer.behind if scorer is not None else 0
        self.stage_starts = {stage.from_update for stage in experiment.stages}
        self.num_updates_behind = behind * experiment.training.validate_every
        """Updates between an asynchronous validation and the use of its scores."""
        self.sampler_at, self.schedule = make_schedule(experiment, corpus)
        self.learner = Learner(experiment, corpus.subword.num_pieces, world)
        self.resumed = resume(self.learner, corpus, world, run_dir, remote)
        self.state = self.resumed.state
        self.learner.set_loss_scale(self.state.scale)
        self.learner.share_weights(world)
        self.stored_split = self.state.split
        self.state.split = find_split(
            self.learner, experiment, self.schedule, world, self.state.update,
            max(self.stored_split, hooks.min_split),
        )  # fmt: skip
        self.learner.connect(world)
        self.ledger = Ledger(run_dir, self.state.update, self.state.ledger, world)
        self.pending: list[UpdateStats] = []
        """Updates that meter and ledger have not counted yet."""

    def open_files(
        self, stack: contextlib.ExitStack, log: Callable[[str], None], origin: run_manifest.Origin
    ) -> None:
        """Open the files of the run on rank 0, and log its start."""
        experiment, state, run_dir = self.experiment, self.state, self.run_dir
        tokenizer = self.corpus.subword.to_json()
        self.writer = AsyncCheckpointWriter(run_dir, experiment, tokenizer, self.remote)
        # Last of all: it uploads the closed log files to the object store.
        stack.callback(self.writer.close)
        self.logger = logger = RunLogger(run_dir, state.update, self.world.size, log)
        stack.callback(logger.close)
        stack.callback(self.writer.wait)
        self.validator = AsyncValidator(
            self.scorer, self.writer, run_dir, experiment, self.corpus.dev, logger, self.remote,
            self.world.device,
        )  # fmt: skip
        run_manifest.add_start(
            run_dir, experiment, self.corpus.shards, self.schedule, self.world, state.update,
            origin, self.resumed.warm_start,
        )  # fmt: skip
        # Weights, two moments of AdamW, the average, importance and teacher, in fp32.
        num_copies = 3 + (self.learner.average is not None) + experiment.training.keeps_importance
        num_copies += experiment.distils
        size = num_parameters(self.learner.model)
        check_space(run_dir / "checkpoints", 4 * num_copies * size)
        for problem in self.resumed.skipped:
            logger.log(f"skipping a checkpoint: {problem}")
        for note in self.resumed.notes:
            logger.log(note)
        if self.resumed.has_new_dev_set:
            # Reports do not compare dev scores across it.
            logger.write("dev_set", state.update, {"why": "another dev set"})
        if num_frozen := size - num_parameters(self.learner.model, trained_only=True):
            patterns = ", ".join(experiment.training.freeze)
            logger.log(f"frozen: {num_frozen:,} of {size:,} parameters | {patterns}")
        logger.log(format_start_line(experiment, self.schedule, size, state.update, self.world))
        updates = experiment.training.updates
        if late := [s.from_update for s in experiment.stages if s.from_update >= updates]:
            logger.log(
                f"warning: training.updates={updates} ends before the stages from update "
                f"{', '.join(f'{start:,}' for start in late)}"
            )
        if warning := slow_precision_warning(experiment.training, self.world.device):
            logger.log(warning)
        if state.split > self.stored_split:
            num_pairs, length = self.schedule.largest
            values = {"split": state.split, "pairs": num_pairs, "length": length}
            logger.write("split", state.update, values)
            logger.log(
                f"split factor {state.split} | the largest micro-batch, {num_pairs:,} pairs x "
                f"{length:,} tokens, exceeds memory"
            )
        self.validator.request_again([update for update, _ in state.awaited])
        skipped = self.resumed.skipped
        logger.expect_restart(self.hooks.loss_reason, self.hooks.last_update, skipped)

    def loop(self, should_stop: Callable[[int], bool]) -> EndReason:
        """Run the remaining updates; log, validate and save checkpoints where due."""
        settings, state = self.experiment.training, self.state
        self.clock, self.meter = TrainingClock(state), Meter(state.since_log)
        self.stopping = stopping = EarlyStopping(
            self.experiment, state, self.clock, self.world, self.logger, self.validator
        )
        self.control = StopControl(self.world, self.hooks, should_stop, self.logger, self.writer)
        self.repeat_validation()
        reason: EndReason = "stopped early" if stopping.is_out_of_patience else "finished"
        last = state.update if stopping.is_out_of_patience else settings.updates
        self.learner.set_stage(state.update)
        with contextlib.closing(self.open_loader(range(state.update, last))) as loader:
            wait_started = time.perf_counter()
            for update, micro_batches in loader:
                self.meter.wait_s += time.perf_counter() - wait_started
                self.hooks.on_update(update)
                if update.number in self.stage_starts:
                    self.learner.set_stage(update.number)
                num_tgt_tokens = self.count_tgt_tokens(update, micro_batches)
                try:
                    stats = make_update(self.learner, state, update, micro_batches, num_tgt_tokens)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    number, rank = update.number + 1, self.world.rank
                    raise out_of_memory_in(number, rank, state.split, self.schedule) from error
                state.update = stats.update
                # Counted at the next log line or checkpoint.
                self.pending.append(stats)
                state.skipped_in_a_row *= stats.is_skipped
                if stats.is_skipped:
                    self.control.handle_skipped(update, stats, self.learner, state)
                if self.logger is not None:
                    self.logger.heartbeat(state.update)

                is_last = state.update == settings.updates
                if state.update % settings.log_every == 0 or is_last:
                    self.log(update)
                is_validation = self.is_validation_due()
                validation = None
                if is_validation or self.is_score_due():
                    validation = self.validate(is_validation)
                    if stopping.is_out_of_patience:
                        reason = "stopped early"
                decision = self.control.decide(state.update)
                if decision.stop and not is_last and reason == "finished":
                    reason = "interrupted"
                is_end = is_last or reason != "finished"
                is_best = validation is not None and state.best_update == state.update
                # A validation elsewhere reads the weights from a checkpoint.
                is_wanted = is_best or is_end or decision.save or (is_validation and self.scorer)
                if state.update % settings.checkpoint_every == 0 or is_wanted:
                    self.save(validation, is_urgent=is_end or decision.is_urgent)
                if is_end or decision.has_write_failed:
                    self.control.check_written(state.update, is_end)
                if is_end:
                    break
                wait_started = time.perf_counter()
            if reason == "finished":
                self.use_last_scores(last)
        return reason

    def use_last_scores(self, last: int) -> None:
        """Wait for the pending scores of a finished run. Collective: call on every rank."""
        self.hooks.on_pause("validation")
        # A run that resumes from the last checkpoint uses these scores in its own order.
        self.stopping.use_pending(last, known_at=last + 1)

    def open_loader(self, updates: range) -> Loader:
        """Return the micro-batches of this rank."""
        world, is_pinned = self.world, self.world.device.type == "cuda"
        return Loader(
            self.corpus.shards, self.schedule, updates, rank=world.rank, num_workers=world.size,
            pin=is_pinned, sampler_at=self.sampler_at,
            noise=make_noise(self.experiment, self.corpus),
            switch_at=make_switchout(self.experiment, self.corpus),
            reversal_at=make_reversal(self.experiment, self.corpus),
            distillation=[text.distillation for text in self.experiment.corpus.train],
        )  # fmt: skip

    def count_tgt_tokens(self, update: Update, micro_batches: Sequence[MicroBatch]) -> int:
        """Return the target tokens of an update over all ranks."""
        settings = self.learner.settings
        if not (settings.subword_dropout or settings.subword_sampling or settings.reverse):
            return update.num_tgt_tokens
        # Sampled segmentations and reversed pairs have other numbers of tokens than planned.
        count = sum(len(each.batch.tgt_out) for each in micro_batches)
        return int(self.world.all_reduce([count])[0])

    def count_pending(self) -> None:
        """Count the updates since the last log line or checkpoint."""
        for stats in self.pending:
            self.meter.add(stats)
            self.ledger.add(stats.update, stats.rows, stats.tgt_tokens, stats.is_skipped)
        self.pending.clear()

    def log(self, update: Update) -> None:
        """Log the updates since the last log line. Collective: call on every rank."""
        learner, state = self.learner, self.state
        if self.validator is not None:
            self.validator.collect()
        self.count_pending()
        values = self.meter.totals(self.world).summary()
        self.meter = Meter()
        state.fit.note(values["loss"])
        values["lr"] = learning_rate(update.number, learner.settings, state.halvings)
        values["ep"] = self.schedule.epochs_at(state.update)
        values["skipped"] = state.num_skipped
        values["overflows"] = state.num_overflows
        values["split"] = state.split
        values["eta_s"] = self.clock.eta_s(self.experiment.training.updates)
        values["train_s"] = self.clock.train_s()
        if self.logger is not None:
            self.logger.write("train", state.update, values)
            self.logger.log(format_train_line(state.update, values))

    def is_validation_due(self) -> bool:
        """Return True if the weights are validated after this update; the last always are."""
        done, settings = self.state.update, self.experiment.training
        return done % settings.validate_every == 0 or done >= settings.updates

    def repeat_validation(self) -> None:
        """Validate the checkpoint if its validation failed. Collective: call on every rank."""
        is_scored = self.world.all_gather(self.resumed.is_scored)[0]
        if not is_scored and self.is_validation_due():
            self.save(self.validate(is_due=True), is_urgent=True)
            is_end = self.state.update >= self.experiment.training.updates
            self.control.check_written(self.state.update, is_end)

    def is_score_due(self) -> bool:
        """Return True if a pending score is to be used after this update."""
        awaited = self.state.awaited
        return bool(awaited) and awaited[0][0] <= self.state.update - self.num_updates_behind

    def validate(self, is_due: bool) -> Validation | None:
        """Validate if due, and use pending scores that are due. Collective: call on every rank.

        Returns:
            Scores of a validation that the ranks shared.
        """
        found, done = None, self.state.update
        self.hooks.on_pause("validation")
        with self.meter.paused():
            self.stopping.use_pending(done - self.num_updates_behind, known_at=done)
            if is_due and self.scorer is None:
                model, subword, dev = self.learner.eval_model, self.corpus.subword, self.corpus.dev
                try:
                    found = self.stopping.validate(model, subword, dev)
                except Exception:
                    self.save_unscored()
                    raise
        if is_due and self.scorer is not None:
            self.state.awaited.append((done, self.state.fit.train_nll))
        return found

    def save(self, validation: Validation | None, is_urgent: bool) -> None:
        """Start to write a checkpoint. Collective: call on every rank.

        Args:
            validation: scores of the current weights, if known.
            is_urgent: wait until the checkpoint is written.
        """
        self.hooks.on_pause("checkpoint")
        state = self.state
        self.count_pending()
        state.train_s = self.clock.train_s()
        state.since_log = self.meter.totals(self.world)
        if self.learner.scaler.is_enabled():
            state.scale = self.learner.loss_scale
        with self.meter.paused():
            started = time.perf_counter()
            try:
                state.ledger = self.ledger.write()
            except OSError as error:
                # Without its ledger no checkpoint is written; only rank 0 writes the file.
                if self.writer is None:
                    raise
                self.writer.record_error(error)
            else:
                self.write_checkpoint(validation)
            if is_urgent and self.writer is not None:
                self.writer.wait()
                self.control.save_s = time.perf_counter() - started

    def save_unscored(self) -> None:
        """Write a checkpoint whose validation failed. Collective: call on every rank."""
        # The error of the validation is the cause, also of a checkpoint that cannot be written.
        with contextlib.suppress(Exception):
            self.save(None, is_urgent=True)
            if self.writer and self.logger and not self.writer.take_error():
                self.logger.log(f"update {self.state.update:,} | validation failed | saved")

    def write_checkpoint(self, validation: Validation | None) -> None:
        """Start to write a checkpoint on rank 0, and request its score where it is pending."""
        state = self.state
        if self.writer is None or self.validator is None:
            return
        content = self.learner.state(state.update, asdict(state))
        pending = [update for update, _ in state.awaited]
        if validation is not None:
            scores = validation.bleu, validation.signature, validation.nll
            self.writer.write(content, *scores, pending)
        elif state.update in pending:
            self.writer.write(content, pending=pending, on_complete=self.validator.request)
        else:
            self.writer.write(content, pending=pending)
