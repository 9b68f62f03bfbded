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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Update
from nmt.checkpoint.background import Writer
from nmt.checkpoint.remote import Remote
from nmt.config.experiment import Experiment
from nmt.training import manifest
from nmt.training.care import Care, Lookout, Restart, unwritten
from nmt.training.judging import Judge
from nmt.training.late import LateScores, Scorer
from nmt.training.learner import Learner
from nmt.training.ledger import Ledger
from nmt.training.memory import add_gradient
from nmt.training.metrics import Journal, Meter, describe
from nmt.training.optimizer import learning_rate
from nmt.training.plan import Corpus, check_workers, plan
from nmt.training.progress import Clock, Progress
from nmt.training.pulse import Pulse
from nmt.training.resuming import resume
from nmt.training.telling import Why, closing, opening, tell_skipped, tell_splits
from nmt.training.validation import Validation
from nmt.training.world import World


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
    progress, damaged = resume(learner, corpus, world, run_dir, remote)
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
        journal.say(opening(experiment, schedule, learner, progress, world))
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
            tell_splits(gradient.splits, update, progress, journal)
            norm = learner.step(update.number)
            meter.end_update(norm)
            progress.update = done = update.number + 1
            ledger.end_update(done, is_skipped=not math.isfinite(norm))
            tell_skipped(norm, update, progress, experiment, journal)
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
            journal.say(closing(why, progress, settings))
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


def _timed(loader: Loader) -> Iterator[tuple[Update, list[MicroBatch], float]]:
    """The loader's items with the seconds that each was waited for."""
    asked = time.perf_counter()
    for update, micro_batches in loader:
        yield update, micro_batches, time.perf_counter() - asked
        asked = time.perf_counter()


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
