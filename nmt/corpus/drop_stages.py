"""Stages of preparing that drop pairs: cleaning, duplicates, and rules learnt from the corpus.

`prepare.py` runs them before it learns the vocabulary, `doctor.py` to examine a corpus.
"""

from dataclasses import replace
from pathlib import Path

from nmt.config.experiment import Experiment
from nmt.config.settings import Count
from nmt.corpus import clean, judge_tasks, prepare_tasks, verdicts
from nmt.corpus.prepare_tasks import Chunk, Later
from nmt.corpus.task_cache import Stages, Task
from nmt.corpus.text import open_output

PART_PAIRS = 1_000_000
"""Pairs whose digests one task of the duplicates stage holds: 80 MB with what sorting needs."""


def list_dropped(
    experiment: Experiment, stages: Stages, chunks: list[Chunk], later: Later, file: Path
) -> None:
    """Write the pairs dropped and repaired to a file."""
    work, has_scores = stages.work, experiment.corpus.cleaning.min_adequacy is not None
    tasks: dict[str, Task] = {
        chunk.key: (verdicts.list_chunk, (work, chunk, later, has_scores)) for chunk in chunks
    }
    stages.run("listing", dict[str, Count], tasks, used="raw/{}.*")
    with open_output(file) as output:
        output.writelines(verdicts.read_rows(work, chunks, has_scores))


def drop_pairs(
    experiment: Experiment, stages: Stages, chunks: list[Chunk], *, keeps_raw: bool
) -> tuple[dict[str, clean.CleaningTally], Later]:
    """Run the stages that drop pairs; return tallies by chunk, and the stages that ran.

    Args:
        experiment: the experiment.
        stages: runs them.
        chunks: all chunks, read.
        keeps_raw: True if the raw lines are needed afterwards.
    """
    cleaning, work = experiment.corpus.cleaning, stages.work
    languages = experiment.corpus.src, experiment.corpus.tgt
    names = held_out_names(experiment)
    tasks: dict[str, Task] = {
        chunk.key: (prepare_tasks.clean_chunk, (work, chunk, cleaning, languages, names))
        for chunk in chunks
    }
    used = "" if keeps_raw else "raw/{}.*"
    tallies = stages.run("cleaning", clean.CleaningTally, tasks, used=used)
    # Duplicates within a chunk are dropped already: a single chunk has no others.
    num_lines = sum(chunk.num_lines for chunk in chunks)
    num_parts = -(-num_lines // PART_PAIRS) if len(chunks) > 1 else 0
    later = Later(num_parts * cleaning.duplicates, num_parts * cleaning.near_duplicates)
    for kind, rule, num in (
        ("copies", "duplicates", later.copies), ("near", "near_duplicates", later.near),
    ):  # fmt: skip
        # By ranges of digests, so that each task holds a bounded share of all pairs.
        num_copies = later.copies if kind == "near" else 0
        arguments = [(work, chunks, kind, part, num, num_copies) for part in range(num)]
        searches: dict[str, Task] = {
            f"{part:05}": (prepare_tasks.find_duplicates, each)
            for part, each in enumerate(arguments)
        }
        for counts in stages.run(rule.replace("_", " "), dict[str, Count], searches).values():
            for key, count in counts.items():
                tallies[key] = tallies[key].without(rule, count)
    return _judge(experiment, stages, chunks, tallies, later)


def _judge(
    experiment: Experiment,
    stages: Stages,
    chunks: list[Chunk],
    tallies: dict[str, clean.CleaningTally],
    later: Later,
) -> tuple[dict[str, clean.CleaningTally], Later]:
    """Run the stages of the rules that learn from the corpus, if any is on."""
    cleaning, work = experiment.corpus.cleaning, stages.work
    if not judge_tasks.has_pair_model(cleaning) and cleaning.min_adequacy is None:
        return tallies, later
    kept = {key: tally.kept for key, tally in tallies.items()}
    sample = prepare_tasks.Sample(work, chunks, kept, later, judge_tasks.MODEL_PAIRS)
    take: Task = (judge_tasks.write_sample, (work, sample))
    num_pairs = stages.run("sampling", dict[str, Count], {"all": take})["all"]["pairs"]
    tasks = judge_tasks.learning_tasks(work, num_pairs, cleaning)
    # A corpus that is too small to learn from passes all of these rules.
    if not tasks:
        return tallies, later
    stages.run("learning", dict[str, Count], tasks)
    tasks = {
        chunk.key: (judge_tasks.judge_chunk, (work, chunk, later, cleaning)) for chunk in chunks
    }
    judged = dict(tallies)
    for key, counts in stages.run("judging", dict[str, Count], tasks).items():
        for rule, count in counts.items():
            judged[key] = judged[key].without(rule, count)
    return judged, replace(later, is_judged=True)


def held_out_names(experiment: Experiment) -> list[str]:
    """Return the names of the dev and test sets in a prepared corpus."""
    return ["dev", *(f"tests/{text.name}" for text in experiment.corpus.tests)]
