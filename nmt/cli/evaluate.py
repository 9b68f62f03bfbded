"""`nmt evaluate`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.comparing import Asked, Labels, comparison_options, label, read_options
from nmt.cli.models import about, check_inputs, make_translator, pace
from nmt.cli.options import search_options
from nmt.cli.systems import System, load_systems
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.console import Console
    from nmt.decoding.translator import Translator
    from nmt.evaluation.scores import ScoreReport
    from nmt.evaluation.test_sets import TestSet

TOGETHER = "together"
"""Name of the test set that all others are joined to."""


@dataclass(frozen=True, eq=False)
class Sets:
    """What the systems are evaluated on."""

    plain: list["TestSet"]
    variants: list["TestSet"]
    """Made from those, to see how robust a system is."""
    together: "TestSet | None"
    """All plain ones as one, translated already when its turn comes."""
    labels: dict[str, Labels]
    """The slices of each."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What one system made of one test set."""

    hyps: list[str]
    report: "ScoreReport"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--src", multiple=True, metavar="FILE", help="Source side of a test set; repeatable.")
@click.option("--ref", multiple=True, metavar="FILE", help="Its reference, one for each --src.")
@click.option("--test", multiple=True, metavar="NAME",
              help="A test set of the config, or sacrebleu:NAME; repeatable.")  # fmt: skip
@click.option("--ensemble", multiple=True, metavar="RUN",
              help="Another model, whose probabilities are averaged in with those of the one RUN; "
                   "repeatable.")  # fmt: skip
@click.option("--baseline", metavar="RUN", help="The system to compare the others with.")
@click.option("--robust", is_flag=True,
              help="Also score each set in upper case, in title case, with typing errors and "
                   "without punctuation.")  # fmt: skip
@click.option("--together", is_flag=True,
              help="Also score all test sets as one, with a slice for each.")  # fmt: skip
@click.option("-o", "--output", metavar="FOLDER",
              help="For translations and scores; default: RUN/evaluation, of an ensemble "
                   "RUN/evaluation/ensemble.")  # fmt: skip
@comparison_options
@search_options
def evaluate(
    runs: tuple[str, ...], src: tuple[str, ...], ref: tuple[str, ...], test: tuple[str, ...],
    ensemble: tuple[str, ...], baseline: str | None, robust: bool, together: bool,
    output: str | None, metrics: str, train_text: str | None, slices: bool, paired: str,
    changed: int, min_gain: float | None, max_p: float | None, json: bool, **how: Any,
) -> None:  # fmt: skip
    """Translate test sets and score them with sacreBLEU.

    RUN is a run's folder or a checkpoint. Without --src or --test: all test sets of the experiment,
    of several that of the baseline or the first. References are never touched; translations and
    scores are kept.

    Exit status: 0; 1 if --min-gain or --max-p is not met by all; 2 for wrong input.
    """
    from nmt.console import Console
    from nmt.evaluation import results

    if len(src) != len(ref):
        rule = f"--src is given {len(src)} times: each --src needs its --ref"
        raise ConfigError("--ref", f"given {len(ref)} times", rule)
    check_inputs([*src, *ref])
    systems = load_systems(runs, ensemble, baseline, output)
    corpus = systems[0].bundle.experiment.corpus
    asked = read_options(
        corpus.tgt, baseline, metrics=metrics, train_text=train_text, slices=slices, paired=paired,
        changed=changed, min_gain=min_gain, max_p=max_p, json=json,
    )  # fmt: skip
    found = find_test_sets(systems[0].bundle, src, ref, test)
    for system in systems:
        results.check_folder(system.folder, [*src, *ref])
    sets = arrange(found, robust, together, corpus.tgt, asked.train_text)
    is_open = True
    with Console() as console:
        scored = [evaluate_system(system, sets, asked, how, console) for system in systems]
        for test_set in [*sets.plain, *([sets.together] if sets.together else [])]:
            asked.show_slices([of_system[test_set.name].report for of_system in scored])
            if baseline:
                hyps = [of_system[test_set.name].hyps for of_system in scored]
                is_open &= compare_and_keep(systems, hyps, test_set, asked)
        for system in systems:
            console.print(f"translations and scores: {system.folder}/")
    if not is_open:
        raise click.exceptions.Exit(1)


def find_test_sets(
    bundle: "Checkpoint", src: Sequence[str], ref: Sequence[str], names: Sequence[str]
) -> list["TestSet"]:
    """All of them, so that what is wrong with the last is known before the first is translated."""
    from nmt.evaluation import test_sets

    corpus = bundle.experiment.corpus
    if not src and not names:
        names = [test.name for test in corpus.tests]
        if not names:
            rule = "there is nothing to score: give --src and --ref"
            raise ConfigError("corpus.tests", "empty", rule)
    found = [
        test_sets.from_files(Path(src_file), [Path(ref_file)])
        for src_file, ref_file in zip(src, ref, strict=True)
    ]
    prepared = Path(bundle.experiment.prepared)
    found += [test_sets.find(name, prepared, corpus.src, corpus.tgt) for name in names]
    for number, test_set in enumerate(found):
        if test_set.file_name in [other.file_name for other in found[:number]]:
            raise ConfigError.from_message(
                f"two test sets are called {test_set.file_name}, and the files of one would "
                "replace those of the other: score them one by one, each with its own --output"
            )
    return found


def arrange(
    plain: list["TestSet"], is_robust: bool, is_together: bool, tgt: str, train_text: Path | None
) -> Sets:
    """All that is made from the test sets before the first of them is translated."""
    from nmt.evaluation import robustness, test_sets

    if is_together and len(plain) == 1:
        raise ConfigError.from_message(
            f"--together is given, but {plain[0].name} is the one test set: name another with it"
        )
    variants = [new for each in plain for new in robustness.variants(each)] if is_robust else []
    together = test_sets.joined(plain, TOGETHER) if is_together else None
    every = [*plain, *variants, *([together] if together else [])]
    labels = label({each.name: each.references[0] for each in every}, tgt, train_text)
    if together:
        labels[TOGETHER]["corpus"] = [each.name for each in plain for _ in each.src]
    return Sets(plain, variants, together, labels)


def evaluate_system(
    system: System, sets: Sets, asked: Asked, how: dict[str, Any], console: "Console"
) -> dict[str, Scored]:
    """Translate and score all test sets with one system; print, keep and return the results."""
    translator = make_translator(system.bundle, others=system.others, **how)
    for bundle in (system.bundle, *system.others):
        console.print(about(bundle))
    scored: dict[str, Scored] = {}

    def add(test_set: "TestSet", hyps: list[str]) -> None:
        report = score_and_keep(system, test_set, hyps, asked.metrics, sets.labels[test_set.name])
        asked.show(report)
        scored[test_set.name] = Scored(hyps, report)

    for test_set in [*sets.plain, *sets.variants]:
        add(test_set, translate_set(translator, test_set, console))
    if sets.together:
        add(sets.together, [hyp for each in sets.plain for hyp in scored[each.name].hyps])
    if sets.variants and not asked.has_json:
        for test_set in sets.plain:
            click.echo(robustness_of(test_set.name, {k: v.report for k, v in scored.items()}))
    return scored


def translate_set(translator: "Translator", test_set: "TestSet", console: "Console") -> list[str]:
    """Translate a test set, with progress and pace."""

    def show(num_done: int) -> None:
        console.progress(f"translating {test_set.name}", num_done, len(test_set.src), "lines")

    started = time.monotonic()
    hyps = translator.translate(test_set.src, progress=show)
    console.clear()
    console.print(f"{test_set.name}: {pace(len(hyps), started)}")
    return hyps


def score_and_keep(
    system: System, test_set: "TestSet", hyps: list[str], metrics: Sequence[str], labels: Labels
) -> "ScoreReport":
    """Score a translated test set, and keep both."""
    from nmt.evaluation import results, scores

    corpus = system.bundle.experiment.corpus
    report = scores.score(
        hyps, test_set.references, corpus.tgt, test_set=test_set.name, system=system.name,
        checkpoint=system.checkpoint, metrics=metrics, labels=labels,
    )  # fmt: skip
    results.write(system.folder, test_set, hyps, report, corpus.src, corpus.tgt)
    return report


def compare_and_keep(
    systems: Sequence[System], hyps: Sequence[list[str]], test_set: "TestSet", asked: Asked
) -> bool:
    """Compare all systems with the first one; whether they may pass the gate."""
    from nmt.evaluation import results
    from nmt.evaluation.comparison import compare

    names = [system.name for system in systems]
    comparison = compare(
        dict(zip(names, hyps, strict=True)), names[0], test_set.references,
        systems[0].bundle.experiment.corpus.tgt, test_set=test_set.name, metrics=asked.metrics,
        test=asked.paired, src=test_set.src,
    )  # fmt: skip
    for system in systems[1:]:
        results.write_comparison(system.folder, test_set, comparison)
    return asked.show_comparison(comparison)


def robustness_of(test_set: str, reports: Mapping[str, "ScoreReport"]) -> str:
    """How far the scores of a set fall when its text is not clean, for people."""
    from nmt.evaluation.slices import columns

    plain = reports[test_set]
    rows = [["", *(score.name for score in plain.scores if not score.label)]]
    for name, report in reports.items():
        if name.startswith(f"{test_set}+"):
            pairs = zip(report.scores, plain.scores, strict=True)
            rows.append([name.removeprefix(f"{test_set}+"), *(
                f"{score.value:.2f} ({score.value - before.value:+.2f})"
                for score, before in pairs if not score.label
            )])  # fmt: skip
    return "\n".join([f"{test_set}, robustness of {plain.system}:", *columns(rows)])
