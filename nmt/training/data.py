"""What a run learns from, and the updates that its settings make of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.batching.loader import SamplerAt
from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.subword_sampling import SubwordSampler
from nmt.errors import TrainingError
from nmt.training.memory import seed_of


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is judged by; the same at every worker."""

    shards: Shards
    subword: Subword
    dev: tuple[Sequence[str], Sequence[str]]
    """Source lines and reference lines."""


def make_schedule(experiment: Experiment, corpus: TrainingData) -> tuple[SamplerAt, Schedule]:
    """What cuts the pairs of an update anew, and the schedule of all updates.

    A stage that changes weights or cuts has updates of its own, from its first epoch on.
    """
    weights = {text.name: text.weight for text in experiment.corpus.train}
    first, samplers, later = list(weights.values()), [], []
    for stage in experiment.stages:
        weights |= stage.weights
        if stage.has_own_epochs:
            shares = list(weights.values())
            sampler, schedule = _plan(experiment, corpus, stage.from_update, shares)
            samplers.append((stage.from_update, sampler))
            later.append((stage.from_update, schedule))
    sampler, schedule = _plan(experiment, corpus, 0, first, later)
    samplers.insert(0, (0, sampler))

    def sampler_at(number: int) -> SubwordSampler | None:
        return next(sampler for start, sampler in reversed(samplers) if start <= number)

    return sampler_at, schedule


def _plan(
    experiment: Experiment,
    corpus: TrainingData,
    start: int,
    weights: Sequence[float],
    later: Sequence[tuple[int, Schedule]] = (),
) -> tuple[SubwordSampler | None, Schedule]:
    """Of the updates from `start` on."""
    seed = seed_of(experiment.seed, start, 0) if start else experiment.seed
    sampler, shards, batching = None, corpus.shards, experiment.batching
    src, tgt = shards.src_lengths, shards.tgt_lengths
    settings = experiment.training_at(start)
    if share := settings.subword_dropout or settings.subword_sampling:
        sampler = SubwordSampler(corpus.subword, share, seed)
        src, tgt = sampler.planned_lengths(shards, batching.max_length)
    return sampler, Schedule(src, tgt, batching, seed, shards.corpora, weights, later)


def check_workers(experiment: Experiment, num_workers: int) -> None:
    """Raise TrainingError where a worker would have no share of an update."""
    parts = experiment.batching.micro_batches
    if num_workers > parts:
        raise TrainingError(
            f"{num_workers} workers cannot share updates of {parts} micro-batches: ask for at most "
            f"{parts} workers, or set batching.micro_batches={num_workers} or more (a larger "
            "update)"
        )
