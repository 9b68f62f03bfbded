"""Tiny training runs, in this process or in several: what the tests of training share."""

import errno
import json
import multiprocessing as std_multiprocessing
import os
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
from torch import Tensor, multiprocessing

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
from nmt.training import distributed, loop, run_log
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.loop import train
from nmt.training.loss import LossSums
from nmt.training.state import EndReason, TrainState
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
  root: {folder}
  prepared: {folder}/prepared
  train: [{{name: train, src: train.en, tgt: train.de}}]
  dev: {{name: dev, src: dev.en, tgt: dev.de}}
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
    "corpus.train.0.weight=1.5",
    "model.locked_dropout=true",
    "model.weight_dropout=0.2",
    "stages=[{from_update: 9, rdrop: 2.0, learning_rate: 0.002}, "
    "{from_update: 14, rdrop: 1.0, weights: {train: 0.5}, dropout: 0.4, word_dropout: 0.0}, "
    "{from_update: 17, subword_dropout: 0.4, weight_dropout: 0.0, attention_dropout: 0.3}]",
]
"""Settings that are off by default: what trains with all of them."""
TIMEOUT_S = 120
"""A worker that waits longer for the others gives up: they went another way."""


def write_toy(folder: Path) -> Path:
    """Write and prepare the corpus; the experiment file."""
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
    """Of the run, beside the experiment file."""
    num_workers: int = 1
    overrides: Sequence[str] = ()
    stop_after: int | None = None
    """Updates done after which somebody asks for a stop."""
    poisoned: Collection[int] = ()
    """Updates whose gradient is made infinite, at the first worker."""
    broken: Collection[int] = ()
    """Updates whose loss and gradient are no numbers, at the first worker."""
    bears: float = torch.inf
    """Largest scale of the loss at which no gradient overflows, at the first worker."""
    short: Collection[int] = ()
    """Updates in which the last worker has little memory."""
    fits: int = 0
    """Pairs that fit into it then."""
    lost_after: int | None = None
    """Updates done after which the workers are lost."""
    max_lost_updates: int = 0
    wire: torch.dtype = torch.float32
    """Numbers in which gradients are sent."""
    full: Collection[int] = ()
    """Updates done after which the checkpoint cannot be written: the disk is full."""
    address: str = ""
    """Of the run in an object store; empty: it stays in its folder."""
    desk: str = ""
    """How dev BLEU is scored elsewhere, see `Desk`; empty: it is not."""


class Desk:
    """A scorer in this process.

    "quick" hands scores over as soon as they are asked for; "reversed" only where they are waited
    for, the newest first; "lost" says that all were lost.
    """

    def __init__(self, how: str, experiment: Experiment, corpus: TrainingData) -> None:
        self.behind = 2
        self._how = how
        self._experiment = experiment
        self._dev = corpus.dev
        self._asked: list[tuple[int, Path]] = []
        self._is_open = how != "reversed"

    def ask(self, update: int, folder: Path) -> None:
        self._asked.append((update, folder))

    def arrived(self) -> list[tuple[int, Validation | str]]:
        if not self._is_open:
            return []
        self._is_open = self._how != "reversed"
        asked, self._asked = self._asked[::-1], []
        return [(update, self._score(folder)) for update, folder in asked]

    def wait(self) -> None:
        self._is_open = True

    def _score(self, folder: Path) -> Validation | str:
        # Not in the thread that asks: to build a model draws random numbers, and so does training.
        if self._how == "lost":
            return "WorkerCrashedError"
        bundle = load_checkpoint(folder)
        return validate(bundle.model(), bundle.subword, self._experiment, self._dev, World())


def fill_up(tensors: object, file: Path, metadata: object) -> None:
    file.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


class LostError(Exception):
    """The workers are gone, without a word."""


def run_out(gradient: Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def go(file: Path, run: Run, world: World | None = None) -> tuple[EndReason, TrainState]:
    """Train; each worker leaves the pairs and seeds that it trained with in seen-<rank>.json."""
    world = world or World()
    experiment = load_experiment(file, run.overrides)
    run_dir = file.parent / run.folder
    rows: dict[int, Any] = {}
    seeds: list[int] = []

    class RecordingLoader(Loader):
        def __iter__(self) -> Iterator[tuple[Update, list[MicroBatch]]]:
            for update, micro_batches in super().__iter__():
                rows[update.number] = [(m.index, m.rows.tolist()) for m in micro_batches]
                yield update, micro_batches

    class PoisonedLearner(Learner):
        number = 0

        def backward(self, batch: Batch, num_tgt_tokens: int, is_my_last: bool) -> LossSums:
            seeds.append(torch.initial_seed())
            weight = self.model.output_weight
            is_broken = self.number in run.broken
            is_poisoned = is_broken or self.number in run.poisoned or self.scale > run.bears
            if is_poisoned and world.is_main:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                weight.grad.fill_(torch.inf)
            is_last_worker = world.rank == world.size - 1
            if self.number in run.short and is_last_worker and len(batch.src) > run.fits:
                # In the middle of backward: some gradients may be on their way already.
                hook = self.model.encoder.norm.weight.register_hook(run_out)
                try:
                    return super().backward(batch, num_tgt_tokens, is_my_last)
                finally:
                    hook.remove()
            loss = super().backward(batch, num_tgt_tokens, is_my_last)
            if is_broken and world.is_main:
                return loss._replace(smoothed=loss.smoothed * torch.nan)
            return loss

        def begin(self, number: int, *what: float) -> None:
            self.number = number
            super().begin(number, *what)

    class Disk(AsyncCheckpointWriter):
        def write(self, state: CheckpointState, *what: Any, **named: Any) -> None:
            if state.update not in run.full:
                return super().write(state, *what, **named)
            with mock.patch.object(write, "save_file", fill_up):
                super().write(state, *what, **named)
                return self.wait()

    def should_stop(done: int) -> bool:
        if done == run.lost_after:
            raise LostError
        return done == run.stop_after

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(distributed, "BUCKET_MIB", 0.002))
        stack.enter_context(mock.patch.object(run_log, "AsyncCheckpointWriter", Disk))
        stack.enter_context(mock.patch.object(loop, "Loader", RecordingLoader))
        stack.enter_context(mock.patch.object(loop, "Learner", PoisonedLearner))
        corpus = corpus_of(experiment)
        ended = train(
            experiment,
            corpus,
            world,
            run_dir,
            should_stop=should_stop,
            hooks=RunHooks(run.max_lost_updates, "a worker died"),
            remote=RemoteRun(ObjectStore(run.address), run_dir) if run.address else None,
            scorer=Desk(run.desk, experiment, corpus) if run.desk else None,
        )
    seen = {"rows": rows, "seeds": seeds}
    (run_dir / f"seen-{world.rank}.json").write_text(json.dumps(seen))
    return ended


def go_on_gloo(file: Path, runs: Sequence[Run], num_processes: int) -> None:
    """Do runs one after the other, each in as many of the processes as it has workers.

    An error that is for people goes to error-<rank>.txt in the folder of the run. At the end all
    processes tell in world-<rank>.json how they see each other.
    """
    # Forked from a server that has imported what takes long: seconds for each process otherwise.
    heavy = ["torch._dynamo", "torch.utils.tensorboard", "sacrebleu", "pyarrow"]
    std_multiprocessing.get_context("forkserver").set_forkserver_preload(heavy)
    arguments = (file, tuple(runs), num_processes)
    multiprocessing.start_processes(
        _process, arguments, nprocs=num_processes, start_method="forkserver"
    )


def _process(rank: int, file: Path, runs: Sequence[Run], num_processes: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("error", FutureWarning)  # nothing is used that torch will drop
    torch.set_num_threads(1)
    for number, run in enumerate(runs):
        if rank < run.num_workers:
            world = _meet(file.parent / f"store-{number}", rank, run.num_workers, run.wire)
            try:
                go(file, run, world)
            except NmtError as error:
                (file.parent / run.folder / f"error-{rank}.txt").write_text(str(error))
            dist.destroy_process_group()
    world = _meet(file.parent / "store", rank, num_processes)
    (file.parent / f"world-{rank}.json").write_text(json.dumps(_views(file, world)))
    dist.destroy_process_group()


def _meet(store: Path, rank: int, size: int, wire: torch.dtype = torch.float32) -> World:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    return World.from_process_group(torch.device("cpu"), TIMEOUT_S, wire)


def _views(file: Path, world: World) -> dict[str, Any]:
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
