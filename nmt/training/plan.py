"""What a run learns from, and the updates that its settings make of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.sampling import Sampler
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.errors import TrainingError
from nmt.training.memory import seed_of


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by; the same at every worker."""

    shards: Shards
    subword: Subword
    dev: tuple[Sequence[str], Sequence[str]]
    """Source lines and reference lines."""


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


def check_workers(experiment: Experiment, num_workers: int) -> None:
    """Raise TrainingError where a worker would have no share of an update."""
    parts = experiment.batching.micro_batches
    if num_workers > parts:
        raise TrainingError(
            f"{num_workers} workers cannot share updates of {parts} micro-batches: ask for at most "
            f"{parts} workers, or set batching.micro_batches={num_workers} or more (a larger "
            "update)"
        )
