"""Tiny training runs with injected failures, in this process or in several."""

import errno
import json
import math
import multiprocessing as std_multiprocessing
import os
import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import multiprocessing

from nmt.batching.batch import Batch
from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Update
from nmt.checkpoint import write
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.format import CheckpointState
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.errors import NmtError
from nmt.model import seq2seq
from nmt.storage import ObjectStore
from nmt.training import distributed, loop, memory
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.loss import LossSums, compute_loss
from nmt.training.state import EndReason, Learner, TrainState
from nmt.training.stop_control import RunHooks
from nmt.training.validation import Validation, validate

NOUNS = [("dog", "Hund"), ("cat", "Kater"), ("bird", "Vogel"), ("man", "Mann"), ("fish", "Fisch")]
ADJECTIVES = [("red", "rote"), ("small", "kleine"), ("old", "alte")]
VERBS = [("sleeps", "schläft"), ("sees the moon", "sieht den Mond"), ("laughs", "lacht")]
PAIRS = [
    (f"the {adjective} {noun} {verb}.", f"der {alt} {nomen} {tut}.")
    for noun, nomen in NOUNS
    for adjective, alt in ADJECTIVES
    for verb, tut in VERBS
]
SETTINGS = """
name: toy
seed: 3
corpus:
  src: en
  tgt: de
  root: {folder}
  prepared: {folder}/prepared
  train: [{{name: train, src: train.en, tgt: train.de}}]
  dev: {{name: dev, src: dev.en, tgt: dev.de}}
  cleaning: {{leaks: false, source_leaks: false}}
  subword: {{vocab_size: 320}}
batching: {{max_tokens: 60, max_length: 40, micro_batches: 3, window: 20}}
model:
  width: 8
  heads: 2
  encoder_layers: 1
  decoder_layers: 2
  ffn_width: 12
  dropout: 0.2
  embedding_dropout: 0.1
  attention_dropout: 0.1
  word_dropout: 0.1
training:
  updates: 20
  warmup_updates: 5
  ema_decay: 0.9
  log_every: 4
  validate_every: 10
  checkpoint_every: 10
decoding: {{max_length_ratio: 1, max_length_extra: 2}}
"""
INGREDIENTS = [
    "training.subword_dropout=0.2",
    "training.switchout=1.0",
    "training.reverse=0.3",
    "corpus.train.0.weight=1.5",
    "corpus.train.0.noise={upper_case: 0.2, title_case: 0.1, typos: 0.1, merged_words: 0.1}",
    "model.locked_dropout=true",
    "model.weight_dropout=0.2",
    "stages=[{from_update: 9, rdrop: 2.0, learning_rate: 0.002}, "
    "{from_update: 14, rdrop: 1.0, weights: {train: 0.5}, dropout: 0.4, word_dropout: 0.0}, "
    "{from_update: 16, rdrop: 0, cutoff: 0.3, switchout: 0.5, reverse: 0}, "
    "{from_update: 17, subword_dropout: 0.4, weight_dropout: 0.0, attention_dropout: 0.3}, "
    "{from_update: 18, cutoff: 0, risk: 2.0}]",
]
"""All settings that are off by default."""
TIMEOUT_S = 120
"""Timeout of the collectives: the ranks disagree on what to do."""


def write_toy(folder: Path) -> Path:
    """Write and prepare the corpus, and return the experiment file."""
    sets = {"train": [pair for pair in PAIRS if PAIRS.index(pair) % 9], "dev": PAIRS[::9]}
    for name, pairs in sets.items():
        for language, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"{name}.{language}").write_text(text, encoding="utf-8")
    file = folder / "toy.yaml"
    file.write_text(SETTINGS.format(folder=folder), encoding="utf-8")
    prepare(load_experiment(file))
    return file


def corpus_of(experiment: Experiment) -> TrainingData:
    shards, subword = open_prepared(experiment)
    return TrainingData(shards, subword, read_dev(experiment.prepared))


@dataclass(frozen=True)
class Run:
    """One call of `train`."""

    folder: str
    """Name of the run directory, beside the experiment file."""
    num_workers: int = 1
    overrides: Sequence[str] = ()
    stop_after: int | None = None
    """Updates done after which a stop is requested."""
    poisoned: Collection[int] = ()
    """Updates whose gradient is infinite on rank 0; their loss is finite."""
    broken: Collection[int] = ()
    """Updates whose loss is NaN on rank 0."""
    max_scale: float = math.inf
    """Largest loss scale at which no gradient overflows on rank 0."""
    max_pairs: int = 10**9
    """Pairs of a micro-batch that fit in memory on the last rank."""
    short: Collection[int] = ()
    """Updates in which only one pair fits there."""
    min_split: int = 1
    lost_after: int | None = None
    """Updates done after which the worker dies."""
    max_lost_updates: int = 0
    gradient_dtype: torch.dtype = torch.float32
    full: Collection[int] = ()
    """Updates done after which the checkpoint cannot be written: the disk is full."""
    address: str = ""
    """Address of the run in an object store; empty: it stays in its directory."""
    scorer: str = ""
    """Kind of `ToyScorer` for asynchronous validation; empty: validation is shared."""


class ToyScorer:
    """Checkpoint scorer in this process.

    "quick" returns scores at once; "reversed" only when they are waited for, newest first; "lost"
    reports that every task failed.
    """

    def __init__(self, kind: str, corpus: TrainingData) -> None:
        self.behind = 2
        self._kind = kind
        self._dev = corpus.dev
        self._requests: list[tuple[int, Path]] = []
        self._is_open = kind != "reversed"

    def ask(self, update: int, folder: Path) -> None:
        self._requests.append((update, folder))

    def arrived(self) -> list[tuple[int, Validation | str]]:
        if not self._is_open:
            return []
        self._is_open = self._kind != "reversed"
        requests, self._requests = self._requests[::-1], []
        return [(update, self._score(folder)) for update, folder in requests]

    def wait(self) -> None:
        self._is_open = True

    def _score(self, folder: Path) -> Validation | str:
        # Not in the thread that requests: building a model draws random numbers.
        if self._kind == "lost":
            return "WorkerCrashedError"
        checkpoint = load_checkpoint(folder)
        return validate(
            checkpoint.model(), checkpoint.subword, checkpoint.experiment, self._dev, World()
        )


def fill_disk(tensors: object, file: Path, metadata: object) -> None:
    file.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


class LostError(Exception):
    """Death of a worker without a message."""


class Faults:
    """Injects the failures of a run, and records the pairs and seeds that it trains with."""

    def __init__(self, run: Run, world: World) -> None:
        self.run = run
        self.is_main = world.is_main
        self.is_last_rank = world.rank == world.size - 1
        self.update = -1
        self.rows: dict[int, Any] = {}
        self.seeds: list[int] = []
        self.learner: Learner | None = None
        self.hook: Any = None
        """Hook that makes the gradient of one micro-batch infinite."""

    def patch(self, stack: ExitStack) -> None:
        faults, run = self, self.run

        class RecordingLoader(Loader):
            def __iter__(self) -> Iterator[tuple[Update, list[MicroBatch]]]:
                for update, micro_batches in super().__iter__():
                    faults.update = update.number
                    faults.rows[update.number] = [(m.index, m.rows.tolist()) for m in micro_batches]
                    yield update, micro_batches

        class RecordedLearner(Learner):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                faults.learner = self

        class Disk(AsyncCheckpointWriter):
            def write(self, state: CheckpointState, *what: Any, **named: Any) -> None:
                if state.update not in run.full:
                    return super().write(state, *what, **named)
                with mock.patch.object(write, "save_file", fill_disk):
                    super().write(state, *what, **named)
                    return self.wait()

        for module, name, value in (
            (distributed, "BUCKET_MIB", 0.002),
            (loop, "AsyncCheckpointWriter", Disk),
            (loop, "Loader", RecordingLoader),
            (loop, "Learner", RecordedLearner),
            (loop, "compute_loss", self.compute_loss),
            (memory, "compute_loss", self.compute_trial_loss),
        ):
            stack.enter_context(mock.patch.object(module, name, value))

    def compute_trial_loss(self, *arguments: Any) -> LossSums:
        self.allocate(arguments[2], self.run.max_pairs)
        return compute_loss(*arguments)

    def compute_loss(self, *arguments: Any) -> LossSums:
        batch, run = arguments[2], self.run
        if self.hook is not None:
            self.hook = self.hook.remove()
        self.seeds.append(torch.initial_seed())
        self.allocate(batch, 1 if self.update in run.short else run.max_pairs)
        loss = compute_loss(*arguments)
        if not self.is_main:
            return loss
        if self.update in run.broken:
            loss = loss._replace(smoothed=loss.smoothed * torch.nan)
        assert self.learner is not None
        if self.update in run.poisoned or self.learner.loss_scale.value > run.max_scale:
            weight = self.learner.model.output_weight
            self.hook = weight.register_hook(lambda grad: torch.full_like(grad, torch.inf))
        return loss

    def allocate(self, batch: Batch, max_pairs: int) -> None:
        if self.is_last_rank and len(batch.src) > max_pairs:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def should_stop(self, done: int) -> bool:
        if done == self.run.lost_after:
            raise LostError
        return done == self.run.stop_after


def go(file: Path, run: Run, world: World | None = None) -> tuple[EndReason, TrainState]:
    """Train; each rank leaves the pairs and seeds that it trained with in seen-<rank>.json."""
    world = world or World()
    experiment = load_experiment(file, run.overrides)
    run_dir = file.parent / run.folder
    faults = Faults(run, world)
    with ExitStack() as stack:
        faults.patch(stack)
        corpus = corpus_of(experiment)
        result = train(
            experiment,
            corpus,
            world,
            run_dir,
            should_stop=faults.should_stop,
            hooks=RunHooks(run.max_lost_updates, "a worker died", min_split=run.min_split),
            remote=RemoteRun(ObjectStore(run.address), run_dir) if run.address else None,
            scorer=ToyScorer(run.scorer, corpus) if run.scorer else None,
        )
    seen = {"rows": faults.rows, "seeds": faults.seeds}
    (run_dir / f"seen-{world.rank}.json").write_text(json.dumps(seen))
    return result


class GlooRuns:
    """Runs of several processes; `runs / name` is the directory of one, or fails with its error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        failures = sorted((self.folder / name).glob("failure-*.txt"))
        assert not failures, failures[0].read_text()
        return self.folder / name


def go_on_gloo(file: Path, runs: Sequence[Run], num_processes: int) -> GlooRuns:
    """Do runs one after the other, each in as many processes as it has workers.

    The message of an NmtError goes to error-<rank>.txt in the run directory, the traceback of any
    other error to failure-<rank>.txt. At the end each process describes its world of all processes
    in world-<size>-<rank>.json.
    """
    # Forked from a server that has imported what is slow: seconds for each process otherwise.
    heavy = ["torch._dynamo", "torch.utils.tensorboard", "sacrebleu", "pyarrow"]
    std_multiprocessing.get_context("forkserver").set_forkserver_preload(heavy)
    arguments = (file, tuple(runs), num_processes)
    multiprocessing.start_processes(
        _process, arguments, nprocs=num_processes, start_method="forkserver"
    )
    return GlooRuns(file.parent)


def _process(rank: int, file: Path, runs: Sequence[Run], num_processes: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("error", FutureWarning)  # nothing that torch will remove is used
    torch.set_num_threads(1)
    for number, run in enumerate(runs):
        if rank < run.num_workers:
            store = file.parent / f"store-{runs[0].folder}-{number}"
            world = _meet(store, rank, run.num_workers, run.gradient_dtype)
            folder = file.parent / run.folder
            folder.mkdir(exist_ok=True)
            try:
                go(file, run, world)
            except NmtError as error:
                (folder / f"error-{rank}.txt").write_text(str(error))
            except Exception:
                (folder / f"failure-{rank}.txt").write_text(traceback.format_exc())
            dist.destroy_process_group()
    world = _meet(file.parent / f"store-{runs[0].folder}", rank, num_processes)
    found = _describe(world, file)
    (file.parent / f"world-{num_processes}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _meet(store: Path, rank: int, size: int, gradient_dtype: torch.dtype = torch.float32) -> World:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    return World.from_process_group(torch.device("cpu"), TIMEOUT_S, gradient_dtype)


def _describe(world: World, file: Path) -> dict[str, Any]:
    return {
        "is_main": world.is_main,
        "sum": world.all_reduce([1.0, float(world.rank)]),
        "gather": world.all_gather(["ä" * world.rank, None, {"rank": world.rank}]),
        "validation": asdict(validate_untrained(file, world)),
    }


def validate_untrained(file: Path, world: World) -> Any:
    experiment = load_experiment(file)
    corpus = corpus_of(experiment)
    torch.manual_seed(1)
    model = seq2seq.Seq2Seq(experiment.model, corpus.subword.num_pieces).eval()
    return validate(model, corpus.subword, experiment, corpus.dev, world)
