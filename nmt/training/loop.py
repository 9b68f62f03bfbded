"""The training loop, readable top to bottom.

Each worker runs `train` with its own `World`; nothing here knows who started it. An update is a
fixed list of micro-batches (`nmt.batching.schedule`): W workers take every W-th, the loss is
divided by the target tokens of the whole update, and dropout is seeded by (seed, update,
micro-batch), so the trajectory is that of one worker (P3). All that the next update depends on is
in the checkpoint, so stopping costs nothing but time (P4).
Updates have numbers from 0; logs, checkpoints and metrics count updates done.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.batching.loader import Loader, MicroBatch, SamplerAt
from nmt.batching.schedule import Schedule, Update
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.training import run_manifest
from nmt.training.data import TrainingData, check_workers, make_schedule
from nmt.training.distributed import World
from nmt.training.early_stopping import EarlyStopping
from nmt.training.learner import Learner
from nmt.training.ledger import Ledger
from nmt.training.memory import Gradient, add_gradient, rehearse
from nmt.training.metrics import Meter, describe
from nmt.training.optimizer import learning_rate
from nmt.training.precision import resolve_precision
from nmt.training.resume import resume
from nmt.training.run_log import AnyRecords, NoRecords, RunLogger
from nmt.training.state import EndReason, TrainingClock, TrainState
from nmt.training.stop_control import RunHooks, StopControl, check_written
from nmt.training.telling import (
    closing,
    opening,
    tell_precision,
    tell_rehearsal,
    tell_scale,
    tell_skipped,
    tell_splits,
)
from nmt.training.validation import CheckpointScorer, Validation


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
    """Train, from the newest good checkpoint of the run if there is one.

    Args:
        run_dir: of this run alone, seen by all workers; the first worker writes.
        log: takes log lines; only the first worker's is used.
        should_stop: told the updates done, at the first worker; True: make a checkpoint and stop.
        origin: of the command that started the workers; None: they started by themselves.
        hooks: what is known of losses, before and to come.
        remote: the run in an object store, of which run_dir is the copy here; None: it is the run.
        scorer: scores checkpoints elsewhere; None: the workers share each validation.

    Raises:
        TrainingError: a worker would have no share of an update, the run was begun with another
            vocabulary, no checkpoint of it is whole, checkpoints cannot be written, a pair does not
            fit into memory, or the gradient stays not finite.
    """
    check_workers(experiment, world.size)
    experiment = resolve_precision(experiment, world)
    sampler_at, schedule = make_schedule(experiment, corpus)
    learner = Learner(experiment, corpus.subword.num_pieces, world)
    progress, damaged = resume(learner, corpus, world, run_dir, remote)
    num_fitting = rehearse(learner, experiment, schedule, progress.update)
    learner.connect()
    ledger = Ledger(run_dir, progress.update, progress.ledger, world)
    records: AnyRecords = NoRecords()
    if world.is_main:
        begun = progress.update
        records = RunLogger(experiment, corpus, run_dir, begun, world.size, log, remote, scorer)
        run_manifest.add_start(
            run_dir, experiment, corpus.shards, schedule, world, begun,
            origin or run_manifest.Origin.here(),
        )  # fmt: skip
        for complaint in damaged:
            records.say(f"passing over a checkpoint: {complaint}")
        records.say(opening(experiment, schedule, learner, progress, world))
        tell_precision(experiment.training, world, records)
        tell_rehearsal(num_fitting, schedule, records)
        records.ask_again(progress)
        records.after_loss(hooks.loss_reason, hooks.last_update, damaged)
    run = _Run(
        experiment, corpus, sampler_at, schedule, world, hooks, should_stop, scorer, learner,
        progress, ledger, records,
    )  # fmt: skip
    with records:
        why = run.loop()
        records.end(closing(why, progress, experiment.training))
    return why, progress


@dataclass
class _Run:
    """One worker's part of a run; its methods are the steps of an update, in their order."""

    experiment: Experiment
    corpus: TrainingData
    sampler_at: SamplerAt
    schedule: Schedule
    world: World
    hooks: RunHooks
    should_stop: Callable[[int], bool]
    scorer: CheckpointScorer | None
    learner: Learner
    progress: TrainState
    ledger: Ledger
    records: AnyRecords

    def __post_init__(self) -> None:
        self.clock = TrainingClock(self.progress)
        self.meter = Meter(self.progress.since_log)
        self.judge = EarlyStopping(
            self.experiment, self.progress, self.clock, self.world, self.records
        )
        self.lookout = StopControl(self.world, self.hooks, self.should_stop, self.records)

    def loop(self) -> EndReason:
        """Make the updates that are left, and after each what is due then."""
        settings, progress, judge = self.experiment.training, self.progress, self.judge
        why: EndReason = "stopped early" if judge.is_out_of_patience else "finished"
        last = progress.update if judge.is_out_of_patience else settings.updates
        with contextlib.closing(self.open_loader(range(progress.update, last))) as loader:
            for update, micro_batches, wait_s in _timed(loader):
                self.learn(update, micro_batches, wait_s)
                done = progress.update
                is_last = done == settings.updates
                is_validation = done % settings.validate_every == 0 or is_last
                if done % settings.log_every == 0 or is_last:
                    self.log(update)
                found = self.validate(is_validation)
                orders = self.lookout.ask(done)
                if judge.is_out_of_patience:
                    why = "stopped early"
                elif orders.stop and not is_last:
                    why = "interrupted"
                is_end = is_last or why != "finished"
                is_best = found is not None and progress.best_update == done
                is_scored = is_validation and self.scorer is not None
                is_wanted = is_best or is_scored or is_end or orders.save
                if done % settings.checkpoint_every == 0 or is_wanted:
                    self.save(found, is_urgent=is_end or orders.hurry)
                if is_end or orders.unwritten:
                    check_written(self.records, self.world, is_end, done)
                if is_end:
                    break
            if why == "finished":
                # Known at no update: who goes on from the last checkpoint judges these in time.
                self.hooks.on_pause("validation")
                judge.judge_late(last, known_at=last + 1)
        return why

    def open_loader(self, updates: range) -> Loader:
        """This worker's micro-batches of those updates."""
        return Loader(
            self.corpus.shards,
            self.schedule,
            updates,
            rank=self.world.rank,
            num_workers=self.world.size,
            pin=self.world.device.type == "cuda",
            sampler_at=self.sampler_at,
        )

    def learn(self, update: Update, micro_batches: Sequence[MicroBatch], wait_s: float) -> None:
        """Add up the gradient of an update over all workers, and make the step."""
        learner, progress, meter = self.learner, self.progress, self.meter
        meter.wait_s += wait_s
        self.hooks.on_update(update)
        num_tgt_tokens = update.num_tgt_tokens
        if self.sampler_at(update.number) is not None:
            # Cut anew, pairs have other tokens than were planned: ask all how many.
            mine = sum(len(m.batch.tgt_out) for m in micro_batches)
            num_tgt_tokens = int(self.world.all_reduce([mine])[0])
        while True:
            scale = progress.scale.value if self.is_scaled else 1.0
            learner.begin(update.number, progress.halvings, scale)
            gradient = add_gradient(
                learner, update, micro_batches, num_tgt_tokens, self.experiment.seed, self.world
            )
            norm = learner.step(update.number)
            if math.isfinite(norm) or not self.lower_scale(update, gradient):
                break
        for batch, loss in gradient.parts:
            meter.count(batch, loss)
        for micro_batch in micro_batches:
            self.ledger.record(micro_batch)
        tell_splits(gradient.splits, update, progress, self.records)
        meter.end_update(norm)
        progress.update = update.number + 1
        self.ledger.end_update(progress.update, is_skipped=not math.isfinite(norm))
        tell_skipped(norm, update, progress, self.experiment, self.records)
        if math.isfinite(norm) and self.is_scaled:
            progress.scale.end_update()
        self.records.beat(progress.update)

    @property
    def is_scaled(self) -> bool:
        """Whether these numbers need a scale of the loss."""
        return self.experiment.training.precision == "fp16"

    def lower_scale(self, update: Update, gradient: Gradient) -> bool:
        """Halve the scale if it is why a gradient is not finite; all workers must ask."""
        if not self.is_scaled or self.progress.scale.value <= 1:
            return False
        mine = sum(float(loss.smoothed.detach()) for _, loss in gradient.parts)
        if not math.isfinite(self.world.all_reduce([mine])[0]):
            return False
        self.progress.scale.lower()
        tell_scale(self.progress.scale.value, update, self.records)
        return True

    def log(self, update: Update) -> None:
        """Write down what all workers have counted since the last log line."""
        learner, progress = self.learner, self.progress
        values = self.meter.totals(self.world).summarise()
        self.meter = Meter()
        values["learning_rate"] = learning_rate(update.number, learner.settings, learner.halvings)
        progress.fit.note(values["nll"])
        values["epoch"] = progress.update / self.schedule.updates_per_epoch
        values["skipped"] = progress.num_skipped
        values["split"] = progress.num_split
        values["eta_s"] = self.clock.eta_s(self.experiment.training.updates)
        values["train_s"] = self.clock.train_s()
        self.records.write("train", progress.update, values)
        self.records.say(describe(progress.update, values))

    def validate(self, is_due: bool) -> Validation | None:
        """Score these weights if that is due, and judge all scores that are.

        Returns:
            What the workers found together; None where scores come late.
        """
        found, done = None, self.progress.update
        behind = self.scorer.behind * self.experiment.training.validate_every if self.scorer else 0
        self.records.collect()
        if not is_due and not self.judge.is_due(done - behind):
            return None
        self.hooks.on_pause("validation")
        with self.meter.paused():
            self.judge.judge_late(done - behind, known_at=done)
            if is_due and self.scorer is None:
                model, subword, dev = self.learner.best_guess, self.corpus.subword, self.corpus.dev
                found = self.judge.judge_now(model, subword, dev)
        if is_due and self.scorer is not None:
            self.progress.awaited.append((done, self.progress.fit.train_nll))
        return found

    def save(self, found: Validation | None, is_urgent: bool) -> None:
        """Begin to write a checkpoint.

        Args:
            found: the score of its weights, if they have one.
            is_urgent: go on only when it is on the disk.
        """
        self.hooks.on_pause("checkpoint")
        self.progress.train_s = self.clock.train_s()
        self.progress.since_log = self.meter.totals(self.world)
        with self.meter.paused():
            began = time.perf_counter()
            try:
                self.progress.ledger = self.ledger.write()
            except OSError as error:
                # At the first worker alone, who writes; without it no checkpoint is taken.
                self.records.fail(error)
            else:
                self.records.save(self.learner, self.progress, found)
            if is_urgent:
                self.records.wait()
                self.lookout.save_s = time.perf_counter() - began


def _timed(loader: Loader) -> Iterator[tuple[Update, list[MicroBatch], float]]:
    """The loader's items with the seconds that each was waited for."""
    asked = time.perf_counter()
    for update, micro_batches in loader:
        yield update, micro_batches, time.perf_counter() - asked
        asked = time.perf_counter()
