"""Training data of a run, its schedule of updates, and the functions that augment it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nmt.batching.loader import ReversalAt, SamplerAt, SwitchAt
from nmt.batching.schedule import Schedule
from nmt.config.corpus import ROBUST_NOISE, NoiseConfig
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.corpus.noise import SourceNoise
from nmt.corpus.reversal import Reversal
from nmt.corpus.shards import Lengths, Shards
from nmt.corpus.subword import Subword
from nmt.corpus.subword_sampling import SubwordSampler
from nmt.corpus.switchout import SwitchOut
from nmt.errors import TrainingError
from nmt.training.distributed import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingData:
    """Prepared pairs, vocabulary and dev set; the same on all ranks."""

    shards: Shards
    subword: Subword
    dev: tuple[Sequence[str], Sequence[str]]
    """Source lines and reference lines."""


def make_schedule(experiment: Experiment, corpus: TrainingData) -> tuple[SamplerAt, Schedule]:
    """Return the subword sampler of each update, and the schedule of all updates.

    A stage that changes corpus weights or subword sampling has a schedule of its own, from its
    first epoch on.
    """
    weights = {text.name: text.weight for text in experiment.corpus.train}
    first, samplers, later = list(weights.values()), [], []
    for stage in experiment.stages:
        weights |= stage.weights
        if stage.has_own_epochs:
            stage_weights = list(weights.values())
            sampler, schedule = _make_stage(experiment, corpus, stage.from_update, stage_weights)
            samplers.append((stage.from_update, sampler))
            later.append((stage.from_update, schedule))
    sampler, schedule = _make_stage(experiment, corpus, 0, first, later)
    samplers.insert(0, (0, sampler))

    def sampler_at(update: int) -> SubwordSampler | None:
        return next(sampler for start, sampler in reversed(samplers) if start <= update)

    return sampler_at, schedule


def _make_stage(
    experiment: Experiment,
    corpus: TrainingData,
    start: int,
    weights: Sequence[float],
    later: Sequence[tuple[int, Schedule]] = (),
) -> tuple[SubwordSampler | None, Schedule]:
    """Return sampler and schedule of the updates from `start` on."""
    seed = derive_seed(experiment.seed, start, 0) if start else experiment.seed
    sampler, settings = None, experiment.training_at(start)
    if share := settings.subword_dropout or settings.subword_sampling:
        sampler = SubwordSampler(corpus.subword, share, seed)
    src, tgt = planned_lengths(experiment, corpus.shards, sampler)
    schedule = Schedule(
        src, tgt, experiment.batching, seed, corpus.shards.corpora, weights, later
    )  # fmt: skip
    return sampler, schedule


def planned_lengths(
    experiment: Experiment, shards: Shards, sampler: SubwordSampler | None
) -> tuple[Lengths, Lengths]:
    """Return source and target lengths of each row, without EOS, that batches are planned with."""
    if sampler is None:
        return shards.src_lengths, shards.tgt_lengths
    return sampler.planned_lengths(shards, experiment.batching.max_length)


def make_noise(experiment: Experiment, corpus: TrainingData) -> SourceNoise | None:
    """Return the noise and case marks of the training sources; None: there are none."""
    default = ROBUST_NOISE if experiment.training.robust else NoiseConfig()
    texts = experiment.corpus.train
    rates = [
        # Distillation would keep what the earlier model makes of noise.
        text.noise if text.noise.is_on or text.distillation else default
        for text in texts
    ]
    if not experiment.changes_sources:
        return None
    return SourceNoise(
        corpus.subword, corpus.shards.corpora, rates, [text.tag for text in texts],
        experiment.corpus.cleaning, experiment.seed, experiment.marks_case,
    )  # fmt: skip


def by_stage(experiment: Experiment, make: Callable[[TrainingConfig], T]) -> Callable[[int], T]:
    """Return a function from an update, counted from 0, to the result of `make` for its stage."""
    starts = (0, *(stage.from_update for stage in experiment.stages))
    results = [(start, make(experiment.training_at(start))) for start in starts]
    return lambda update: next(each for start, each in reversed(results) if start <= update)


def make_switchout(experiment: Experiment, corpus: TrainingData) -> SwitchAt:
    """Return SwitchOut at the temperature of each update."""

    def make(training: TrainingConfig) -> SwitchOut | None:
        if not training.switchout:
            return None
        return SwitchOut(training.switchout, corpus.subword.num_pieces, experiment.seed)

    return by_stage(experiment, make)


def make_reversal(experiment: Experiment, corpus: TrainingData) -> ReversalAt:
    """Return the reversal of pairs in each update."""
    is_reversible = [text.is_reversible for text in experiment.corpus.train]

    def make(training: TrainingConfig) -> Reversal | None:
        if not training.reverse:
            return None
        return Reversal(training.reverse, corpus.shards.corpora, is_reversible, experiment.seed)

    return by_stage(experiment, make)


def set_source_limit(experiment: Experiment, shards: Shards) -> Experiment:
    """Set decoding.max_source_length, if it is 0, to the longest source in training, EOS included.

    Stored in the checkpoint, it is the length above which translation splits a line.
    """
    src, tgt = np.asarray(shards.src_lengths), np.asarray(shards.tgt_lengths)
    kept = src[np.maximum(src, tgt) < experiment.batching.max_length]
    if experiment.decoding.max_source_length or not len(kept):
        return experiment
    return experiment.with_settings("decoding", max_source_length=int(kept.max()) + 1)


def check_workers(experiment: Experiment, num_workers: int) -> None:
    """Check that each worker has a micro-batch in each update.

    Raises:
        TrainingError: there are more workers than micro-batches.
    """
    micro_batches = experiment.batching.micro_batches
    if num_workers > micro_batches:
        raise TrainingError(
            f"{num_workers} workers cannot share updates of {micro_batches} micro-batches: use at "
            f"most {micro_batches} workers, or set batching.micro_batches={num_workers} or more (a "
            "larger update)"
        )
