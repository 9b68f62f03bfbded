"""The training loop, readable top to bottom.

Each worker runs `train` with its own `World`; nothing here knows who started it. An update is a
fixed list of micro-batches (`nmt.batching.schedule`): W workers take every W-th, the loss is
divided by the target tokens of the whole update, and dropout is seeded by (seed, update,
micro-batch), so the trajectory is that of one worker (P3). All that the next update depends on is
in the checkpoint, so stopping costs nothing but time (P4).
Updates have numbers from 0; logs, checkpoints and metrics count updates done.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Schedule, Update
from nmt.checkpoint.background import Writer
from nmt.checkpoint.bundle import TOKENIZER, read_info
from nmt.checkpoint.loading import load, load_training_state
from nmt.checkpoint.run import newest_good
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.config.files import differences
from nmt.corpus.sampling import Sampler
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.errors import TrainingError
from nmt.training import manifest
from nmt.training.care import Care, Lookout, Restart, unwritten
from nmt.training.fit import Fit
from nmt.training.learner import Learner
from nmt.training.ledger import Ledger
from nmt.training.memory import Split, add_gradient
from nmt.training.metrics import Journal, Meter, Totals, describe, perplexity
from nmt.training.optimizer import learning_rate
from nmt.training.pulse import Pulse
from nmt.training.validation import Validation, validate
from nmt.training.world import World

Why = Literal["finished", "stopped early", "interrupted"]
"""How a run ended."""

MAY_CHANGE = (
    "training.updates", "training.learning_rate", "training.precision", "training.max_skipped",
    "training.log_every", "training.validate_every", "training.checkpoint_every",
    "training.keep_last", "training.patience",
    "decoding", "corpus.root", "corpus.tests", "corpus.prepared", "corpus.shard_pairs",
)  # fmt: skip
"""Settings that a run may go on with although it began with others."""


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by; the same at every worker."""

    shards: Shards
    subword: Subword
    dev: tuple[Sequence[str], Sequence[str]]
    """Source lines and reference lines."""


@dataclass
class Progress:
    """How far a run is; the counters of a checkpoint."""

    update: int = 0
    """Updates done."""
    best_bleu: float | None = None
    """Best dev BLEU so far."""
    best_update: int = 0
    """Updates done when it was seen."""
    validations_without_gain: int = 0
    """Validations in a row since then."""
    halvings: int = 0
    """How often the learning rate of schedule plateau was halved."""
    validations_of_plateau: int = 0
    """Validations in a row without a gain since it was halved."""
    fit: Fit = field(default_factory=Fit)
    """How well training and dev set are known."""
    num_skipped: int = 0
    """Updates skipped because their gradient was not finite."""
    skipped_in_a_row: int = 0
    """The last of them without a good one between."""
    num_split: int = 0
    """Micro-batches that were split because memory ran out."""
    train_s: float = 0.0
    """Seconds of training and validation; time lost between stops is not counted."""
    since_log: Totals = field(default_factory=Totals)
    """What was counted since the last log line."""
    ledger: str = ""
    """Chain of the pair ledger: what all updates were trained on."""


def train(
    experiment: Experiment,
    corpus: Corpus,
    world: World,
    run_dir: Path,
    say: Callable[[str], None] = lambda line: None,
    at_update: Callable[[int], bool] = lambda update: False,
    origin: manifest.Origin | None = None,
    care: Care = Care(),  # noqa: B008 it is frozen
) -> tuple[Why, Progress]:
    """Train, from the newest good checkpoint of the run if there is one.

    Args:
        run_dir: of this run alone, seen by all workers; the first worker writes.
        say: takes log lines; only the first worker's is used.
        at_update: told the updates done, at the first worker; True: make a checkpoint and stop.
        origin: of the command that started the workers; None: they started by themselves.
        care: what is known of losses, before and to come.

    Raises:
        TrainingError: a worker would have no share of an update, the run was begun with another
            vocabulary, no checkpoint of it is whole, checkpoints cannot be written, a pair does not
            fit into memory, or the gradient stays not finite.
    """
    settings = experiment.training
    check_workers(experiment, world.size)
    sampler, schedule = plan(experiment, corpus)
    learner = Learner(experiment, corpus.subword.num_pieces, world)
    progress, damaged = _resume(learner, corpus, world, run_dir)
    learner.align()
    journal, pulse, writer, restart = None, None, None, None
    if world.is_first:
        journal, pulse = Journal(run_dir, progress.update, say), Pulse(run_dir, world.size)
        writer = Writer(run_dir, experiment, corpus.subword.to_json())
    ledger = Ledger(run_dir, progress.update, progress.ledger, world)
    if journal:
        manifest.add_start(
            run_dir, experiment, corpus.shards, schedule, world, progress.update,
            origin or manifest.Origin.here(),
        )  # fmt: skip
        for complaint in damaged:
            journal.say(f"passing over a checkpoint: {complaint}")
        journal.say(_opening(experiment, schedule, learner, progress, world))
        if pulse and pulse.before is not None:
            restart = Restart(care, pulse.before, progress.update, world.size, "; ".join(damaged))
    why: Why = "finished"
    last = settings.updates
    if 0 < settings.patience <= progress.validations_without_gain:
        why, last = "stopped early", progress.update
    loader = Loader(
        corpus.shards,
        schedule,
        range(progress.update, last),
        rank=world.rank,
        num_workers=world.size,
        pin=world.device.type == "cuda",
        sampler=sampler,
    )
    clock = _Clock(progress)
    meter = Meter(progress.since_log)
    lookout = Lookout(world, care, at_update, journal, writer)
    has_ended = False
    try:
        for update, micro_batches, wait_s in _timed(loader):
            meter.wait_s += wait_s
            care.begin(update)
            learner.settings = experiment.training_at(update.number)
            learner.halvings = progress.halvings
            num_tgt_tokens = update.num_tgt_tokens
            if sampler is not None:
                # Cut anew, pairs have other tokens than were planned: ask all how many.
                mine = sum(len(m.batch.tgt_out) for m in micro_batches)
                num_tgt_tokens = int(world.sum([mine])[0])
            gradient = add_gradient(
                learner, update, micro_batches, num_tgt_tokens, experiment.seed, world
            )
            for batch, loss in gradient.parts:
                meter.count(batch, loss)
            for micro_batch in micro_batches:
                ledger.note(micro_batch)
            _tell_splits(gradient.splits, update, progress, journal)
            norm = learner.step(update.number)
            meter.end_update(norm)
            progress.update = done = update.number + 1
            ledger.end_update(done, is_skipped=not math.isfinite(norm))
            _watch(norm, update, progress, experiment, journal)
            if journal and pulse:
                pulse.beat(done)
                if restart is not None:
                    restart.tell(journal, done)
                    restart = None

            is_last = done == settings.updates
            if done % settings.log_every == 0 or is_last:
                values = meter.totals(world).summarise()
                meter = Meter()
                values["learning_rate"] = learning_rate(
                    update.number, learner.settings, learner.halvings
                )
                progress.fit.note(values["nll"])
                values["epoch"] = done / schedule.updates_per_epoch
                values["skipped"] = progress.num_skipped
                values["split"] = progress.num_split
                values["eta_s"] = clock.eta_s(settings.updates)
                values["train_s"] = clock.train_s()
                if journal:
                    journal.write("train", done, values)
                    journal.say(describe(done, values))
            validation = None
            if done % settings.validate_every == 0 or is_last:
                care.pause("validation")
                with meter.paused():
                    validation = validate(
                        learner.best_guess, corpus.subword, experiment, corpus.dev, world
                    )
                _judge(validation, progress, journal, clock, experiment)
                if settings.patience and progress.validations_without_gain >= settings.patience:
                    why = "stopped early"
            orders = lookout.ask(done)
            if orders.stop and why == "finished" and not is_last:
                why = "interrupted"
            is_best = validation is not None and progress.best_update == done
            is_end = is_last or why != "finished"
            if done % settings.checkpoint_every == 0 or is_best or is_end or orders.save:
                care.pause("checkpoint")
                progress.train_s = clock.train_s()
                progress.since_log = meter.totals(world)
                with meter.paused():
                    began = time.perf_counter()
                    try:
                        progress.ledger = ledger.write()
                    except OSError as error:
                        # At the first worker alone, who writes; without it no checkpoint is taken.
                        assert writer
                        writer.fail(error)
                    else:
                        _save(writer, learner, progress, validation)
                    if writer and (is_end or orders.hurry):
                        writer.wait()
                        lookout.save_s = time.perf_counter() - began
            if is_end or orders.unwritten:
                unwritten(writer, world, is_end, done, journal)
            if is_end:
                break
        has_ended = True
        if journal:
            journal.say(_closing(why, progress, settings))
    finally:
        loader.close()
        if writer:
            writer.wait()
        if journal and pulse:
            pulse.close(has_ended)
            journal.close()
    return why, progress


def check_workers(experiment: Experiment, num_workers: int) -> None:
    """Raise TrainingError where a worker would have no share of an update."""
    parts = experiment.batching.micro_batches
    if num_workers > parts:
        raise TrainingError(
            f"{num_workers} workers cannot share updates of {parts} micro-batches: ask for at most "
            f"{parts} workers, or set batching.micro_batches={num_workers} or more (a larger "
            "update)"
        )


def check_run(experiment: Experiment, run_dir: Path) -> None:
    """Raise TrainingError where a run of this name was begun with settings that must not change."""
    newest, _ = _newest(run_dir)
    if newest is None:
        return
    begun = load(newest).experiment
    for key, was, now in differences(begun, experiment):
        if not key.startswith(MAY_CHANGE):
            raise TrainingError(
                f"{key} is {now}, but the run in {run_dir} was begun with {was}: give the "
                f"experiment another name, or set {key}={was} to go on with it"
            )


class _Clock:
    """Seconds of training over all parts of a run, and what is left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._first_update = progress.update
        self._before_s = progress.train_s
        self._started = time.perf_counter()

    def train_s(self) -> float:
        return self._before_s + time.perf_counter() - self._started

    def eta_s(self, num_updates: int) -> float:
        pace = (time.perf_counter() - self._started) / (self._progress.update - self._first_update)
        return pace * (num_updates - self._progress.update)


def _timed(loader: Loader) -> Iterator[tuple[Update, list[MicroBatch], float]]:
    """The loader's items with the seconds that each was waited for."""
    asked = time.perf_counter()
    for update, micro_batches in loader:
        yield update, micro_batches, time.perf_counter() - asked
        asked = time.perf_counter()


def plan(experiment: Experiment, corpus: Corpus) -> tuple[Sampler | None, Schedule]:
    """The schedule, and what cuts its pairs anew where that is asked for."""
    sampler = None
    src, tgt = corpus.shards.src_lengths, corpus.shards.tgt_lengths
    if experiment.training.subword_dropout:
        sampler = Sampler(corpus.subword, experiment.training.subword_dropout, experiment.seed)
        src, tgt = sampler.planned(corpus.shards, experiment.batching.max_length)
    weights = [text.weight for text in experiment.corpus.train]
    shares = (corpus.shards.corpora, weights)
    return sampler, Schedule(src, tgt, experiment.batching, experiment.seed, *shares)


def _newest(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint, and why newer ones are passed over.

    Where all are damaged the run does not begin anew by itself: the first new checkpoints would
    push out what a person may still get back from a copy, or from a disk that is not mounted.
    """
    damaged: list[str] = []
    newest = newest_good(run_dir, damaged.append)
    if newest is None and damaged:
        raise TrainingError(
            f"no checkpoint of the run in {run_dir} is whole; the newest: {damaged[0]}; to train "
            "from the start instead, give the experiment another name or move that folder away"
        )
    return newest, damaged


def _resume(
    learner: Learner, corpus: Corpus, world: World, run_dir: Path
) -> tuple[Progress, list[str]]:
    """Load the newest good checkpoint, as the first worker sees it, at all workers."""
    told: tuple[str, list[str], str] = ("", [], "")
    if world.is_first:
        try:
            newest, damaged = _newest(run_dir)
            told = (str(newest or ""), damaged, "")
        except TrainingError as error:
            told = ("", [], str(error))
    found, damaged, problem = world.gather(told)[0]
    if problem:
        raise TrainingError(problem)
    if not found:
        return Progress(), damaged
    folder = Path(found)
    tokenizer = read_info(folder).files[TOKENIZER]
    if tokenizer.sha256 != corpus.subword.fingerprint:
        raise TrainingError(
            f"the vocabulary of {corpus.shards.folder} is not the one that the run in {run_dir} "
            "was begun with: give the experiment another name, or set corpus.prepared to the "
            "folder that it was begun with"
        )
    state = load_training_state(folder)
    learner.load(state, folder)
    since_log = Totals(**state.counters.pop("since_log", {}))
    fit = Fit(**state.counters.pop("fit", {}))
    return Progress(**state.counters, since_log=since_log, fit=fit), damaged


def _watch(
    norm: float,
    update: Update,
    progress: Progress,
    experiment: Experiment,
    journal: Journal | None,
) -> None:
    """Count an update that was skipped, name its pairs, and stop the run after a few in a row."""
    if math.isfinite(norm):
        progress.skipped_in_a_row = 0
        return
    progress.num_skipped += 1
    progress.skipped_in_a_row += 1
    rows = sorted(int(row) for part in update.micro_batches for row in part)
    if journal:
        journal.write("skipped", progress.update, {"grad_norm": str(norm), "pairs": rows})
        journal.say(
            f"update {progress.update:,} skipped: its gradient is not finite ({norm}); "
            f"pairs {rows[0]} to {rows[-1]}, all {len(rows)} in metrics.jsonl"
        )
    limit = experiment.training.max_skipped
    if progress.skipped_in_a_row >= limit:
        raise TrainingError(
            f"{limit} updates in a row had a gradient that is not finite, the last one update "
            f"{progress.update}: lower training.learning_rate "
            f"({experiment.training.learning_rate}) or use training.precision=fp32; "
            "the same command then goes on from the last good checkpoint"
        )


def _judge(
    validation: Validation,
    progress: Progress,
    journal: Journal | None,
    clock: _Clock,
    experiment: Experiment,
) -> None:
    """Compare a validation with the best so far, and write it down."""
    is_best = progress.best_bleu is None or validation.bleu > progress.best_bleu
    if is_best:
        progress.best_bleu, progress.best_update = validation.bleu, progress.update
        progress.validations_without_gain = progress.validations_of_plateau = 0
    else:
        progress.validations_without_gain += 1
        progress.validations_of_plateau += 1
    settings = experiment.training
    is_plateau = progress.validations_of_plateau >= settings.plateau_patience
    if settings.schedule == "plateau" and is_plateau:
        progress.halvings += 1
        progress.validations_of_plateau = 0
    warning = progress.fit.judge(progress.update, validation.nll)
    if not journal:
        return
    values = {
        "bleu": validation.bleu,
        "signature": validation.signature,
        "nll": validation.nll,
        "perplexity": perplexity(validation.nll),
        "train_nll": progress.fit.train_nll,
        "best_bleu": progress.best_bleu,
        "best_update": progress.best_update,
        "train_s": clock.train_s(),
    }
    journal.write("validation", progress.update, values)
    journal.keep_hyps(progress.update, experiment.corpus.tgt, validation.hyps)
    beam = experiment.decoding.validation_beam
    verdict = f"best {progress.best_bleu:.2f} at update {progress.best_update:,}"
    if is_best:
        verdict = "the best so far"
    journal.say(
        f"update {progress.update:,}: dev BLEU {validation.bleu:.2f} ({verdict}), beam {beam}, "
        f"{progress.fit.describe(validation.nll)}, {validation.signature}"
    )
    if warning:
        journal.say(warning)
    if settings.schedule == "plateau" and is_plateau:
        journal.say(
            f"update {progress.update:,}: dev BLEU has not risen: learning rate halved "
            f"(training.plateau_patience is {settings.plateau_patience})"
        )


def _save(
    writer: Writer | None, learner: Learner, progress: Progress, validation: Validation | None
) -> None:
    """Begin to write a checkpoint at the first worker."""
    if writer is None:
        return
    state = learner.state(progress.update, asdict(progress))
    if validation is None:
        writer.write(state)
    else:
        writer.write(state, validation.bleu, validation.signature)


def _tell_splits(
    splits: list[Split], update: Update, progress: Progress, journal: Journal | None
) -> None:
    progress.num_split += len(splits)
    for split in splits if journal else ():
        assert journal
        journal.write("split", update.number + 1, split._asdict())
        journal.say(
            f"update {update.number + 1:,}: worker {split.worker} ran out of memory over "
            f"micro-batch {split.micro_batch}, {split.num_pairs:,} pairs in {split.positions:,} "
            "positions; the update is made again with it in two halves"
        )


def _opening(
    experiment: Experiment,
    schedule: Schedule,
    learner: Learner,
    progress: Progress,
    world: World,
) -> str:
    left_out = f", {schedule.num_left_out:,} longer ones left out" if schedule.num_left_out else ""
    start = f"going on after update {progress.update:,}" if progress.update else "from the start"
    return (
        f"{learner.num_parameters:,} parameters, {experiment.training.precision}, "
        f"{world.size} worker{'s' * (world.size > 1)} on {world.device.type}; "
        f"{schedule.num_pairs:,} pairs{left_out}; {schedule.updates_per_epoch:,} updates an epoch, "
        f"{experiment.training.updates / schedule.updates_per_epoch:.1f} epochs in all; {start}"
    )


def _closing(why: Why, progress: Progress, settings: TrainingConfig) -> str:
    best = ""
    if progress.best_bleu is not None:
        best = f"; best dev BLEU {progress.best_bleu:.2f} at update {progress.best_update:,}"
    skipped = f"; {progress.num_skipped} updates skipped" if progress.num_skipped else ""
    minutes = progress.train_s / 60
    reason = ""
    if why == "stopped early":
        reason = (
            f"; why: {progress.validations_without_gain} validations in a row brought no better "
            f"dev BLEU (training.patience is {settings.patience})"
        )
    return (
        f"{why} after {progress.update:,} of {settings.updates:,} updates, {minutes:.1f} minutes "
        f"of training{best}{skipped}{reason}"
    )
