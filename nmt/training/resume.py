"""Where a run goes on: its newest good checkpoint, the same at all workers, or a refusal."""

from pathlib import Path

from nmt.checkpoint.format import TOKENIZER, read_info
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.run_directory import newest_complete
from nmt.config.experiment import Experiment
from nmt.config.files import differences
from nmt.errors import CheckpointError, TrainingError
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.state import TrainState

RESUMABLE_CHANGES = (
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


def check_run(experiment: Experiment, run_dir: Path) -> None:
    """Raise TrainingError where a run of this name was begun with settings that must not change."""
    newest, _ = _newest(run_dir)
    if newest is None:
        return
    begun = load_checkpoint(newest).experiment
    for key, was, now in differences(begun, experiment):
        if not key.startswith(RESUMABLE_CHANGES):
            raise TrainingError(
                f"{key} is {now}, but the run in {run_dir} was begun with {was}: give the "
                f"experiment another name, or set {key}={was} to go on with it"
            )


def _newest(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint, and why newer ones are passed over.

    Where all are damaged the run does not begin anew by itself: the first new checkpoints would
    push out what a person may still get back from a copy, or from a disk that is not mounted.
    """
    damaged: list[str] = []
    newest = newest_complete(run_dir, damaged.append)
    if newest is None and damaged:
        raise TrainingError(_NONE_WHOLE.format(run=run_dir, newest=damaged[0]))
    return newest, damaged


def _newest_of_all(
    world: World, run_dir: Path, remote: RemoteRun | None
) -> tuple[Path | None, list[str]]:
    """The same, at all workers; of a run in an object store it is good where each has read it."""
    if remote is not None:
        return _newest_in_store(world, remote)
    told: tuple[str, list[str], str] = ("", [], "")
    if world.is_main:
        try:
            newest, damaged = _newest(run_dir)
            told = (str(newest or ""), damaged, "")
        except TrainingError as error:
            told = ("", [], str(error))
    found, damaged, problem = world.all_gather(told)[0]
    if problem:
        raise TrainingError(problem)
    return Path(found) if found else None, damaged


def _newest_in_store(world: World, remote: RemoteRun) -> tuple[Path | None, list[str]]:
    damaged: list[str] = []
    for name in reversed(world.all_gather(remote.names() if world.is_main else [])[0]):
        folder, problem = None, ""
        try:
            folder = remote.pull(name)
        except CheckpointError as error:
            problem = str(error)
        problems = [each for each in world.all_gather(problem) if each]
        if not problems:
            return folder, damaged
        damaged.append(problems[0])
    if damaged:
        raise TrainingError(_NONE_WHOLE.format(run=remote.store.url(), newest=damaged[0]))
    return None, damaged


def resume(
    learner: Learner, corpus: TrainingData, world: World, run_dir: Path, remote: RemoteRun | None
) -> tuple[TrainState, list[str]]:
    """Load the newest good checkpoint at all workers, and what stands beside it at the first."""
    folder, damaged = _newest_of_all(world, run_dir, remote)
    if remote is not None and world.is_main:
        remote.delete_unpublished()
        remote.download_logs()
    if folder is None:
        return TrainState(), damaged
    tokenizer = read_info(folder).files[TOKENIZER]
    if tokenizer.sha256 != corpus.subword.fingerprint:
        raise TrainingError(
            f"the vocabulary of {corpus.shards.folder} is not the one that the run in {run_dir} "
            "was begun with: give the experiment another name, or set corpus.prepared to the "
            "folder that it was begun with"
        )
    state = load_training_state(folder)
    learner.load(state, folder)
    return TrainState.of(state.counters), damaged
