"""Resuming a run from its newest complete checkpoint, the same on all ranks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmt.checkpoint.format import TOKENIZER, read_info
from nmt.checkpoint.load import (
    load_checkpoint,
    load_config,
    load_counters,
    load_training_state,
)
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.run_directory import newest_complete
from nmt.config.experiment import Experiment
from nmt.config.files import differences, overrides_of
from nmt.corpus.manifest import DataDigests, read_manifest
from nmt.corpus.prepared import is_prepared, prepared_folder
from nmt.errors import CheckpointError, TrainingError
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.optimizer import learning_rate
from nmt.training.run_manifest import WarmStart
from nmt.training.state import Learner, TrainState
from nmt.training.warm_start import describe_warm_start, warm_start

RESUMABLE_CHANGES = (
    "training.updates", "training.learning_rate", "training.precision", "training.max_skipped",
    "training.log_every", "training.validate_every", "training.checkpoint_every",
    "training.keep_last", "training.patience",
    "decoding", "corpus.root", "corpus.tests", "corpus.prepared", "corpus.shard_pairs",
    "corpus.subword.tokenizer",  # the vocabulary itself is compared
)  # fmt: skip
"""Settings that may change between two starts of a run; a section stands for all its settings."""

_NONE_COMPLETE = (
    "no checkpoint of the run in {run} is complete; the newest: {newest}; to start over, give the "
    "experiment another name or move the run away"
)


def check_run(experiment: Experiment, run_dir: Path, *, same_dev: bool = False) -> None:
    """Check that an existing run can be resumed with an experiment and its prepared corpus.

    Args:
        experiment: the experiment.
        run_dir: run directory.
        same_dev: also refuse another dev set.

    Raises:
        TrainingError: settings or data differ that must not change, or no checkpoint is complete.
    """
    newest, _ = _newest_complete(run_dir)
    if newest is None:
        return
    stored = load_checkpoint(newest).experiment
    data = TrainState.of(load_counters(newest), newest).data
    # Without a digest of the dev set its change would not be noticed.
    resumable = RESUMABLE_CHANGES if data is None else (*RESUMABLE_CHANGES, "corpus.dev")
    for key, before, now in differences(stored, experiment):
        # With the dot: training.learning_rate does not stand for training.learning_rate_floor.
        if not f"{key}.".startswith(tuple(f"{each}." for each in resumable)):
            raise _refused_change(key, before, now, run_dir)
        # The decay of the average depends on both: another share would be left at the end.
        if key == "training.updates" and stored.training.init_share:
            raise _refused_change(key, before, now, run_dir, " and training.init_share")
    # A corpus that is not prepared is reported where it is opened.
    if data is not None and is_prepared(experiment):
        folder = prepared_folder(experiment)
        found = read_manifest(folder).data_digests()
        _check_data(data, found, folder, run_dir)
        if same_dev and data.dev != found.dev:
            raise TrainingError(
                f"the dev set of {folder} is not that of the run in {run_dir}: set it back, or "
                "give the experiment another name"
            )


def _refused_change(
    key: str, before: Any, now: Any, run_dir: Path, reason: str = ""
) -> TrainingError:
    [setting], [stored_setting] = (overrides_of({key: _set_only(value)}) for value in (now, before))
    return TrainingError(
        f"{setting}, but the run in {run_dir} was started with {stored_setting}{reason}: set it "
        "back to resume, or give the experiment another name"
    )


def _set_only(value: Any) -> Any:
    """Return a value with only those settings of list items, such as stages, that are set."""
    if not isinstance(value, list):
        return value
    return [
        {key: inner for key, inner in item.items() if inner not in (None, {})}
        if isinstance(item, dict)
        else item
        for item in value
    ]


def _check_data(before: DataDigests, now: DataDigests, folder: Path, run_dir: Path) -> None:
    if change := before.describe_change(now):
        raise TrainingError(
            f"{folder} is not the training data of the run in {run_dir}: {change}; set "
            "corpus.prepared to the corpus of the run, or give the experiment another name"
        )


@dataclass
class Resumed:
    """State that a run starts from, and notes about it for the log of rank 0."""

    state: TrainState
    """New if the run has no checkpoint."""
    skipped: list[str]
    """Error messages of newer checkpoints that are not complete."""
    notes: list[str] = field(default_factory=list)
    """Log lines about changes of settings and data."""
    has_new_dev_set: bool = False
    """True if the dev set is not that of the checkpoint."""
    is_scored: bool = True
    """False if the checkpoint has no dev BLEU, and none is pending."""
    warm_start: WarmStart | None = None
    """On rank 0 of a new run, what it took from training.init_from."""


def resume(
    learner: Learner, corpus: TrainingData, world: World, run_dir: Path, remote: RemoteRun | None
) -> Resumed:
    """Load the newest complete checkpoint, or in a new run the source of training.init_from.

    Collective: call on every rank.

    Args:
        learner: model and optimizer to fill.
        corpus: data of the run.
        world: ranks of the run.
        run_dir: run directory.
        remote: object store of the run; rank 0 downloads its logs. None: the run is local.

    Raises:
        TrainingError: no checkpoint is complete, the corpus is another one, or training.init_from
            cannot be used.
        CheckpointError: a file of the checkpoint has unexpected contents.
    """
    folder, skipped = _agree_on_newest(world, run_dir, remote)
    if remote is not None and world.is_main:
        remote.delete_unpublished()
        remote.download_logs()
    found = corpus.shards.manifest.data_digests()
    if folder is None:
        new = Resumed(TrainState(data=found), skipped)
        if learner.settings.init_from:
            new.warm_start = warm_start(learner, corpus.subword, world)
            new.notes = describe_warm_start(new.warm_start) if new.warm_start else []
        return new
    # Same settings can give another vocabulary if the raw text has changed.
    if read_info(folder).files[TOKENIZER].sha256 != corpus.subword.fingerprint:
        raise TrainingError(
            f"{corpus.shards.folder} has another vocabulary than the run in {run_dir}: set "
            "corpus.prepared to the corpus of the run, or give the experiment another name"
        )
    stored = load_training_state(folder)
    state = TrainState.of(stored.counters, folder)
    resumed = Resumed(state, skipped)
    before, now = load_config(folder), learner.experiment
    if note := describe_rate_change(before, now, state):
        resumed.notes.append(note)
    was, precision = before.training.precision, now.training.precision
    if precision != was:
        # Also with auto, which decides on each host.
        resumed.notes.append(
            f"warning: precision {was} -> {precision} | training.precision={was} keeps it"
        )
    if state.data is None:
        resumed.notes.append(
            "warning: the checkpoint has no digests of its data, as in earlier versions: "
            "assuming the same training data and dev set"
        )
    else:
        _check_data(state.data, found, corpus.shards.folder, run_dir)
        if state.data.dev != found.dev:
            state.forget_scores()
            resumed.has_new_dev_set = True
            resumed.notes.append(
                f"warning: another dev set than before update {state.update:,} | best dev BLEU, "
                "patience and plateau counters start again"
            )
    state.data = found
    pending = [update for update, _ in state.awaited]
    resumed.is_scored = read_info(folder).bleu is not None or state.update in pending
    learner.load(stored, folder)
    return resumed


def describe_rate_change(before: Experiment, now: Experiment, state: TrainState) -> str:
    """Describe a change of the learning rate of the next update; empty: it is the same.

    A schedule that depends on training.updates is stretched by more updates: at the end of a run
    the learning rate jumps from its floor back to a large value.
    """
    old, new = (
        learning_rate(state.update, each.training_at(state.update), state.halvings)
        for each in (before, now)
    )
    if f"{old:.1e}" == f"{new:.1e}":
        return ""
    keys = "training.updates", "training.learning_rate"
    changes = [
        f"{key} {was} -> {is_now}" for key, was, is_now in differences(before, now) if key in keys
    ]
    warning = "warning: " if new > 2 * old else ""
    return " | ".join([f"{warning}learning rate {old:.1e} -> {new:.1e}", *changes])


def _newest_complete(run_dir: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and the error messages of newer ones."""
    skipped: list[str] = []
    newest = newest_complete(run_dir, skipped.append)
    # A run without a complete checkpoint does not start over by itself: its first checkpoints would
    # prune those that can be restored from a copy, or that are on a disk that is not mounted.
    if newest is None and skipped:
        raise TrainingError(_NONE_COMPLETE.format(run=run_dir, newest=skipped[0]))
    return newest, skipped


def _agree_on_newest(
    world: World, run_dir: Path, remote: RemoteRun | None
) -> tuple[Path | None, list[str]]:
    """Return the result of `_newest_complete` of rank 0 on every rank."""
    if remote is not None:
        return _agree_on_newest_remote(world, remote)
    answer: tuple[str, list[str], str] = ("", [], "")
    if world.is_main:
        try:
            newest, skipped = _newest_complete(run_dir)
            answer = (str(newest or ""), skipped, "")
        except TrainingError as error:
            # Sent to all ranks: if rank 0 raised alone, the others would wait for it.
            answer = ("", [], str(error))
    path, skipped, problem = world.all_gather(answer)[0]
    if problem:
        raise TrainingError(problem)
    return Path(path) if path else None, skipped


def _agree_on_newest_remote(world: World, remote: RemoteRun) -> tuple[Path | None, list[str]]:
    """Download the newest checkpoint that every rank finds complete."""
    skipped: list[str] = []
    # Rank 0 lists: a checkpoint uploaded meanwhile must not split the ranks.
    for name in reversed(world.all_gather(remote.names() if world.is_main else [])[0]):
        folder, problem = None, ""
        try:
            folder = remote.pull(name)
        except CheckpointError as error:
            problem = str(error)
        # A disk of one host may be full: a checkpoint counts if all ranks have it.
        problems = [each for each in world.all_gather(problem) if each]
        if not problems:
            return folder, skipped
        skipped.append(problems[0])
    if skipped:
        raise TrainingError(_NONE_COMPLETE.format(run=remote.store.url(), newest=skipped[0]))
    return None, skipped
