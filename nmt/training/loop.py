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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Schedule, Update
from nmt.checkpoint.background import Writer
from nmt.checkpoint.bundle import TOKENIZER, read_info
from nmt.checkpoint.loading import load, load_training_state
from nmt.checkpoint.remote import Remote
from nmt.checkpoint.run import newest_good
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.config.files import differences
from nmt.corpus.sampling import Sampler
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.errors import BundleError, TrainingError
from nmt.training import manifest
from nmt.training.care import Care, Lookout, Restart, unwritten
from nmt.training.judging import Judge
from nmt.training.late import LateScores, Scorer
from nmt.training.learner import Learner
from nmt.training.ledger import Ledger
from nmt.training.memory import Split, add_gradient, seed_of
from nmt.training.metrics import Journal, Meter, describe
from nmt.training.optimizer import learning_rate
from nmt.training.progress import Clock, Progress
from nmt.training.pulse import Pulse
from nmt.training.validation import Validation
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

_NONE_WHOLE = (
    "no checkpoint of the run in {run} is whole; the newest: {newest}; to train from the start "
    "instead, give the experiment another name or move that folder away"
)


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by; the same at every worker."""

    shards: Shards
    subword: Subword
    dev: tuple[Sequence[str], Sequence[str]]
    """Source lines and reference lines."""


def train(
    experiment: Experiment,
    corpus: Corpus,
    world: World,
    run_dir: Path,
    say: Callable[[str], None] = lambda line: None,
    at_update: Callable[[int], bool] = lambda update: False,
    origin: manifest.Origin | None = None,
    care: Care = Care(),  # noqa: B008 it is frozen
    remote: Remote | None = None,
    scorer: Scorer | None = None,
) -> tuple[Why, Progress]:
    """Train, from the newest good checkpoint of the run if there is one.

    Args:
        run_dir: of this run alone, seen by all workers; the first worker writes.
        say: takes log lines; only the first worker's is used.
        at_update: told the updates done, at the first worker; True: make a checkpoint and stop.
        origin: of the command that started the workers; None: they started by themselves.
        care: what is known of losses, before and to come.
        remote: the run in an object store, of which run_dir is the copy here; None: it is the run.
        scorer: scores checkpoints elsewhere; None: the workers share each validation.

    Raises:
        TrainingError: a worker would have no share of an update, the run was begun with another
            vocabulary, no checkpoint of it is whole, checkpoints cannot be written, a pair does not
            fit into memory, or the gradient stays not finite.
    """
    settings = experiment.training
    check_workers(experiment, world.size)
    sampler, schedule = plan(experiment, corpus)
    learner = Learner(experiment, corpus.subword.num_pieces, world)
    progress, damaged = _resume(learner, corpus, world, run_dir, remote)
    learner.connect()
    journal, pulse, writer, late, restart = None, None, None, None, None
    if world.is_first:
        journal, pulse = Journal(run_dir, progress.update, say), Pulse(run_dir, world.size)
        writer = Writer(run_dir, experiment, corpus.subword.to_json(), remote)
        late = LateScores(scorer, writer, run_dir, experiment, corpus.dev, journal, remote)
    ledger = Ledger(run_dir, progress.update, progress.ledger, world)
    if journal:
        manifest.add_start(
            run_dir, experiment, corpus.shards, schedule, world, progress.update,
            origin or manifest.Origin.here(),
        )  # fmt: skip
        for complaint in damaged:
            journal.say(f"passing over a checkpoint: {complaint}")
        journal.say(_opening(experiment, schedule, learner, progress, world))
        if late:
            late.ask_again([update for update, _ in progress.awaited])
        # The file may be on a host that is gone; what was heard of its workers is not.
        before = (pulse.before if pulse else None) or care.last
        if before is not None:
            restart = Restart(care, before, progress.update, world.size, "; ".join(damaged))
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
    clock = Clock(progress)
    meter = Meter(progress.since_log)
    judge = Judge(experiment, progress, clock, world, journal)
    behind = scorer.behind * settings.validate_every if scorer else 0
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
            is_validation = done % settings.validate_every == 0 or is_last
            if late:
                late.collect()
            if is_validation or judge.is_due(done - behind):
                care.pause("validation")
                with meter.paused():
                    judge.judge_late(late, done - behind, known_at=done)
                    if scorer is None and is_validation:
                        validation = judge.judge_now(learner.best_guess, corpus.subword, corpus.dev)
                if scorer is not None and is_validation:
                    progress.awaited.append((done, progress.fit.train_nll))
                if judge.is_out_of_patience:
                    why = "stopped early"
            orders = lookout.ask(done)
            if orders.stop and why == "finished" and not is_last:
                why = "interrupted"
            is_best = validation is not None and progress.best_update == done
            is_scored = is_validation and scorer is not None
            is_end = is_last or why != "finished"
            is_wanted = is_best or is_scored or is_end or orders.save
            if done % settings.checkpoint_every == 0 or is_wanted:
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
                        _save(writer, learner, progress, validation, late)
                    if writer and (is_end or orders.hurry):
                        writer.wait()
                        lookout.save_s = time.perf_counter() - began
            if is_end or orders.unwritten:
                unwritten(writer, world, is_end, done, journal)
            if is_end:
                break
        if why == "finished":
            # Known at no update: who goes on from the last checkpoint judges these when it is due.
            care.pause("validation")
            judge.judge_late(late, last, known_at=last + 1)
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
        if writer:
            writer.close()
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
    batching, corpora = experiment.batching, corpus.shards.corpora
    weights = {text.name: text.weight for text in experiment.corpus.train}
    first, later = list(weights.values()), []
    for stage in experiment.stages:
        if stage.weights:
            weights |= stage.weights
            seed = seed_of(experiment.seed, stage.from_update, 0)
            shares = list(weights.values())
            schedule = Schedule(src, tgt, batching, seed, corpora, shares)
            later.append((stage.from_update, schedule))
    return sampler, Schedule(src, tgt, batching, experiment.seed, corpora, first, later)


def _newest(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint, and why newer ones are passed over.

    Where all are damaged the run does not begin anew by itself: the first new checkpoints would
    push out what a person may still get back from a copy, or from a disk that is not mounted.
    """
    damaged: list[str] = []
    newest = newest_good(run_dir, damaged.append)
    if newest is None and damaged:
        raise TrainingError(_NONE_WHOLE.format(run=run_dir, newest=damaged[0]))
    return newest, damaged


def _newest_of_all(
    world: World, run_dir: Path, remote: Remote | None
) -> tuple[Path | None, list[str]]:
    """The same, at all workers; of a run in an object store it is good where each has read it."""
    if remote is not None:
        return _newest_in_store(world, remote)
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
    return Path(found) if found else None, damaged


def _newest_in_store(world: World, remote: Remote) -> tuple[Path | None, list[str]]:
    damaged: list[str] = []
    for name in reversed(world.gather(remote.names() if world.is_first else [])[0]):
        folder, problem = None, ""
        try:
            folder = remote.pull(name)
        except BundleError as error:
            problem = str(error)
        problems = [each for each in world.gather(problem) if each]
        if not problems:
            return folder, damaged
        damaged.append(problems[0])
    if damaged:
        raise TrainingError(_NONE_WHOLE.format(run=remote.store.url(), newest=damaged[0]))
    return None, damaged


def _resume(
    learner: Learner, corpus: Corpus, world: World, run_dir: Path, remote: Remote | None
) -> tuple[Progress, list[str]]:
    """Load the newest good checkpoint at all workers, and what stands beside it at the first."""
    folder, damaged = _newest_of_all(world, run_dir, remote)
    if remote is not None and world.is_first:
        remote.forget_others()
        remote.restore()
    if folder is None:
        return Progress(), damaged
    tokenizer = read_info(folder).files[TOKENIZER]
    if tokenizer.sha256 != corpus.subword.fingerprint:
        raise TrainingError(
            f"the vocabulary of {corpus.shards.folder} is not the one that the run in {run_dir} "
            "was begun with: give the experiment another name, or set corpus.prepared to the "
            "folder that it was begun with"
        )
    state = load_training_state(folder)
    learner.load(state, folder)
    return Progress.of(state.counters), damaged


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


def _save(
    writer: Writer | None,
    learner: Learner,
    progress: Progress,
    validation: Validation | None,
    late: LateScores | None,
) -> None:
    """Begin to write a checkpoint at the first worker, and to score it if that is awaited."""
    if writer is None or late is None:
        return
    state = learner.state(progress.update, asdict(progress))
    awaited = [update for update, _ in progress.awaited]
    if validation is not None:
        writer.write(state, validation.bleu, validation.signature, awaited)
    elif progress.update in awaited:
        writer.write(state, awaited=awaited, then=late.ask)
    else:
        writer.write(state, awaited=awaited)


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
