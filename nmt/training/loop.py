"""Training loop: `make_update` is one update, `train` a run.

Each worker calls `train` with its own `World`, whoever started it. An update is a fixed list of
micro-batches (`nmt.batching.schedule`), dealt to the ranks in turn. The loss is divided by the
target tokens of the whole update, and dropout is seeded by (seed, update, micro-batch): any number
of workers trains the same model up to summation order. Everything that the next update depends on
is in the checkpoint, so a resumed run equals one that was never stopped.

Updates are numbered from 0 in code; logs, checkpoints and metrics count updates done.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from nmt.batching.loader import Loader, MicroBatch, SamplerAt
from nmt.batching.schedule import Schedule, Update
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.errors import TrainingError
from nmt.model.seq2seq import num_parameters
from nmt.training import run_manifest
from nmt.training.data import TrainingData, check_workers, make_schedule
from nmt.training.distributed import World, derive_seed, gradient_sync
from nmt.training.early_stopping import EarlyStopping
from nmt.training.ledger import Ledger
from nmt.training.loss import compute_loss
from nmt.training.memory import find_split, is_out_of_memory, out_of_memory_in
from nmt.training.meter import Meter, UpdateStats
from nmt.training.optimizer import learning_rate, update_average
from nmt.training.precision import resolve_precision, slow_precision_warning
from nmt.training.resume import resume
from nmt.training.run_log import RunLogger, format_train_line
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
                loss = compute_loss(
                    learner.forward, model.output_weight, batch, settings, learner.dtype
                )
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
            update_average(learner.average, model, settings.ema_decay, update.number)
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
        TrainingError: there are more workers than micro-batches, the run has another vocabulary,
            all its checkpoints are corrupt, checkpoints cannot be written, a single pair does not
            fit in memory, or the gradient is not finite in several updates in a row.
        UpdateOutOfMemoryError: this rank ran out of memory; resume with twice the split factor.
    """
    check_workers(experiment, world.size)
    experiment = resolve_precision(experiment, world)
    sampler_at, schedule = make_schedule(experiment, corpus)
    learner = Learner(experiment, corpus.subword.num_pieces, world)
    state, corrupt = resume(learner, corpus, world, run_dir, remote)
    learner.set_loss_scale(state.scale)
    start, stored_split = state.update, state.split
    state.split = find_split(
        learner, experiment, schedule, world, start, max(stored_split, hooks.min_split)
    )
    learner.connect(world)
    ledger = Ledger(run_dir, start, state.ledger, world)
    with contextlib.ExitStack() as stack:
        logger = writer = validator = None
        if world.is_main:
            writer = AsyncCheckpointWriter(run_dir, experiment, corpus.subword.to_json(), remote)
            # Last of all: uploads the closed log files to the object store.
            stack.callback(writer.close)
            logger = RunLogger(run_dir, start, world.size, log)
            stack.callback(logger.close)
            stack.callback(writer.wait)
            run_manifest.add_start(
                run_dir, experiment, corpus.shards, schedule, world, start,
                origin or run_manifest.Origin.here(),
            )  # fmt: skip
            validator = AsyncValidator(
                scorer, writer, run_dir, experiment, corpus.dev, logger, remote
            )
            for problem in corrupt:
                logger.log(f"skipping a checkpoint: {problem}")
            logger.log(_start_line(experiment, schedule, learner, state, world))
            if warning := slow_precision_warning(experiment.training, world.device):
                logger.log(warning)
            if state.split > stored_split:
                _log_split(state, schedule, logger)
            validator.request_again([update for update, _ in state.awaited])
            logger.expect_restart(hooks.loss_reason, hooks.last_update, corrupt)
        run = _Run(
            experiment, corpus, sampler_at, schedule, world, hooks, should_stop, scorer, learner,
            state, ledger, logger, writer, validator,
        )  # fmt: skip
        reason = run.loop()
        if logger is not None:
            logger.end(_end_line(reason, state, experiment))
    return reason, state


@dataclass
class _Run:
    """One rank of a run."""

    experiment: Experiment
    corpus: TrainingData
    sampler_at: SamplerAt
    schedule: Schedule
    world: World
    hooks: RunHooks
    should_stop: Callable[[int], bool]
    scorer: CheckpointScorer | None
    learner: Learner
    state: TrainState
    ledger: Ledger
    logger: RunLogger | None
    """On rank 0, as are the next two."""
    writer: AsyncCheckpointWriter | None
    validator: AsyncValidator | None
    pending: list[UpdateStats] = field(default_factory=list)
    """Updates that meter and ledger have not counted yet."""

    def __post_init__(self) -> None:
        behind = self.scorer.behind if self.scorer is not None else 0
        self.num_updates_behind = behind * self.experiment.training.validate_every
        """Updates between an asynchronous validation and the use of its scores."""
        self.clock = TrainingClock(self.state)
        self.meter = Meter(self.state.since_log)
        self.stopping = EarlyStopping(
            self.experiment, self.state, self.clock, self.world, self.logger, self.validator
        )
        self.control = StopControl(
            self.world, self.hooks, self.should_stop, self.logger, self.writer
        )

    def loop(self) -> EndReason:
        """Make the updates that are left, and after each one what is due."""
        settings, state, stopping = self.experiment.training, self.state, self.stopping
        stage_starts = {stage.from_update for stage in self.experiment.stages}
        reason: EndReason = "stopped early" if stopping.is_out_of_patience else "finished"
        last = state.update if stopping.is_out_of_patience else settings.updates
        self.learner.set_stage(state.update)
        with contextlib.closing(self.open_loader(range(state.update, last))) as loader:
            wait_started = time.perf_counter()
            for update, micro_batches in loader:
                self.meter.wait_s += time.perf_counter() - wait_started
                self.hooks.on_update(update)
                if update.number in stage_starts:
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
                if stats.is_skipped:
                    self.handle_skipped(update, stats)
                else:
                    state.skipped_in_a_row = 0
                if self.logger is not None:
                    self.logger.heartbeat(state.update)

                is_last = state.update == settings.updates
                if state.update % settings.log_every == 0 or is_last:
                    self.log(update)
                is_validation = state.update % settings.validate_every == 0 or is_last
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
                is_scored = is_validation and self.scorer is not None
                is_wanted = is_best or is_scored or is_end or decision.save
                if state.update % settings.checkpoint_every == 0 or is_wanted:
                    self.save(validation, is_urgent=is_end or decision.is_urgent)
                if is_end or decision.has_write_failed:
                    self.control.check_written(state.update, is_end)
                if is_end:
                    break
                wait_started = time.perf_counter()
            if reason == "finished":
                # A run that resumes from the last checkpoint uses these scores in its own order.
                self.hooks.on_pause("validation")
                stopping.use_pending(last, known_at=last + 1)
        return reason

    def open_loader(self, updates: range) -> Loader:
        """Return the micro-batches of this rank."""
        return Loader(
            self.corpus.shards,
            self.schedule,
            updates,
            rank=self.world.rank,
            num_workers=self.world.size,
            pin=self.world.device.type == "cuda",
            sampler_at=self.sampler_at,
        )

    def count_tgt_tokens(self, update: Update, micro_batches: Sequence[MicroBatch]) -> int:
        """Return the target tokens of an update over all ranks."""
        settings = self.learner.settings
        if not (settings.subword_dropout or settings.subword_sampling):
            return update.num_tgt_tokens
        # Sampled segmentations have other numbers of tokens than the schedule planned with.
        count = sum(len(each.batch.tgt_out) for each in micro_batches)
        return int(self.world.all_reduce([count])[0])

    def handle_skipped(self, update: Update, stats: UpdateStats) -> None:
        """Count and log an update without a finite gradient. Collective: call on every rank.

        Raises:
            TrainingError: training.max_skipped updates in a row had none. Overflows of fp16, whose
                loss is finite, do not count while the loss scale can fall.
        """
        state, training = self.state, self.experiment.training
        if self.learner.scaler.is_enabled():
            loss = self.world.all_reduce([sum(float(each.smoothed) for each in stats.losses)])[0]
            scale = self.learner.loss_scale.value
            if math.isfinite(loss) and scale >= 1:
                state.num_overflows += 1
                if self.logger is not None:
                    self.logger.write("overflow", state.update, {"loss_scale": scale})
                    self.logger.log(
                        f"update {state.update:,} skipped | fp16 gradient overflow | loss scale "
                        f"lowered to {scale:,g}"
                    )
                return
        state.num_skipped += 1
        state.skipped_in_a_row += 1
        rows = sorted(int(row) for part in update.micro_batches for row in part)
        if self.logger is not None:
            self.logger.write("skipped", state.update, {"gnorm": str(stats.gnorm), "pairs": rows})
            self.logger.log(
                f"update {state.update:,} skipped | gnorm {stats.gnorm} | pairs {rows[0]} to "
                f"{rows[-1]}, all {len(rows)} in metrics.jsonl"
            )
        if state.skipped_in_a_row >= training.max_skipped:
            raise TrainingError(
                f"the gradient of {training.max_skipped} updates in a row was not finite, the last "
                f"one update {state.update}: lower training.learning_rate "
                f"({training.learning_rate}) or use training.precision=fp32; repeat the command to "
                "resume from the last checkpoint"
            )

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
        values["ep"] = state.update / self.schedule.updates_per_epoch
        values["skipped"] = state.num_skipped
        values["overflows"] = state.num_overflows
        values["split"] = state.split
        values["eta_s"] = self.clock.eta_s(self.experiment.training.updates)
        values["train_s"] = self.clock.train_s()
        if self.logger is not None:
            self.logger.write("train", state.update, values)
            self.logger.log(format_train_line(state.update, values))

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
                found = self.stopping.validate(model, subword, dev)
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
                if self.writer is not None:
                    self.write_checkpoint(self.writer, validation)
            if is_urgent:
                if self.writer is not None:
                    self.writer.wait()
                self.control.save_s = time.perf_counter() - started

    def write_checkpoint(
        self, writer: AsyncCheckpointWriter, validation: Validation | None
    ) -> None:
        """Start to write a checkpoint on rank 0, and request its score where it is pending."""
        state = self.state
        content = self.learner.state(state.update, asdict(state))
        pending = [update for update, _ in state.awaited]
        if validation is not None:
            writer.write(content, validation.bleu, validation.signature, pending)
        elif state.update in pending and self.validator is not None:
            writer.write(content, pending=pending, on_complete=self.validator.request)
        else:
            writer.write(content, pending=pending)


def _start_line(
    experiment: Experiment, schedule: Schedule, learner: Learner, state: TrainState, world: World
) -> str:
    """Describe a start: model, hardware, data, and where it resumes."""
    pairs = f"{schedule.num_pairs:,} pairs"
    if schedule.num_left_out:
        pairs += f" ({schedule.num_left_out:,} longer ones left out)"
    epochs = experiment.training.updates / schedule.updates_per_epoch
    parts = [
        f"{num_parameters(learner.model):,} parameters",
        experiment.training.precision,
        f"{world.size} worker{'s' * (world.size > 1)} on {world.device.type}",
        pairs,
        f"{schedule.updates_per_epoch:,} updates per epoch",
        f"{epochs:.1f} epochs",
        f"resumed from update {state.update:,}" if state.update else "new run",
    ]
    if world.size > 1 and world.gradient_dtype != torch.float32:
        parts.insert(3, "gradients in bf16")
    return " | ".join(parts)


def _log_split(state: TrainState, schedule: Schedule, logger: RunLogger) -> None:
    """Log a split factor that the trial or a restart has raised."""
    num_pairs, length = schedule.largest
    logger.write(
        "split", state.update, {"split": state.split, "pairs": num_pairs, "length": length}
    )
    logger.log(
        f"split factor {state.split} | the largest micro-batch, {num_pairs:,} pairs x {length:,} "
        "tokens, exceeds memory"
    )


def _end_line(reason: EndReason, state: TrainState, experiment: Experiment) -> str:
    """Describe the end of a run, its progress and its best score."""
    training = experiment.training
    parts = [
        f"{reason} after {state.update:,} of {training.updates:,} updates",
        f"{state.train_s / 60:.1f} minutes of training",
    ]
    if state.best_bleu is not None:
        parts.append(f"best dev BLEU {state.best_bleu:.2f} at update {state.best_update:,}")
    if state.num_skipped:
        parts.append(f"{state.num_skipped} updates skipped")
    if state.num_overflows:
        parts.append(f"{state.num_overflows} overflows")
    if reason == "stopped early":
        parts.append(
            f"{state.validations_without_gain} validations without a better dev BLEU "
            f"(training.patience={training.patience})"
        )
    return " | ".join(parts)
