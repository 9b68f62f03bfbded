"""`nmt evaluate`: translate test sets with one or more systems and score them."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.compare import ScoringOptions, SliceLabels, scoring_options, slice_labels
from nmt.cli.options import COUNT_OR_0, describe, search_options, speed, unpaired
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus.io import check_files
from nmt.decoding.loading import make_translator, open_ensemble, open_model
from nmt.errors import ConfigError
from nmt.evaluation import results, robustness, scores, test_sets
from nmt.evaluation.comparison import compare as compare_systems
from nmt.evaluation.failures import find_failures
from nmt.evaluation.scores import ScoreReport
from nmt.evaluation.slices import align_columns
from nmt.evaluation.test_sets import TestSet
from nmt.training.run_manifest import find_prepared

if TYPE_CHECKING:
    from nmt.decoding.engines import Model
    from nmt.decoding.translator import Translator

TOGETHER = "together"
"""Name of the test set that joins all others."""


@dataclass(frozen=True, eq=False)
class System:
    """Model or ensemble to evaluate."""

    name: str
    checkpoint: "Model"
    directory: Path
    """Output directory of its translations and scores."""
    others: "Sequence[Model]" = ()
    """Further members of an ensemble."""

    @property
    def checkpoint_name(self) -> str:
        """Names of the checkpoints, joined by "+"."""
        models = (self.checkpoint, *self.others)
        return "+".join(test_sets.printable(each.path.name) for each in models)


@dataclass(frozen=True, eq=False)
class EvaluationSets:
    """Test sets of an evaluation."""

    plain: list[TestSet]
    variants: list[TestSet]
    """Perturbed copies of the plain sets, for robustness."""
    together: TestSet | None
    """All plain sets joined; scored from their translations."""
    labels: dict[str, SliceLabels]
    """Slices by test set."""


SetResult = tuple[list[str], ScoreReport]
"""Translations and scores of a system on a test set."""


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--src", multiple=True, metavar="FILE", help="Source of a test set; repeatable.")
@click.option(
    "--ref",
    multiple=True,
    metavar="FILE",
    help="Reference of --src; with one --src several, else one each.",
)
@click.option("--test", multiple=True, metavar="NAME",
              help="Test set of the experiment, or sacrebleu:NAME; repeatable.")  # fmt: skip
@click.option("--ensemble", multiple=True, metavar="RUN", help="Ensemble member; repeatable.")
@click.option("--baseline", metavar="RUN", help="System to compare the others with.")
@click.option("--robust", is_flag=True,
              help="Also score sources with each kind of noise: case, typos, ...")  # fmt: skip
@click.option("--trust", is_flag=True,
              help="Report failures by rule, with examples: numbers, repetition, ...")  # fmt: skip
@click.option("--examples", type=COUNT_OR_0, metavar="N",
              help="Examples per rule of --trust; default: 3.")  # fmt: skip
@click.option("--together", is_flag=True, help="Also score all test sets joined.")
@click.option("-o", "--output", metavar="DIR",
              help="Default: RUN/evaluation, for an ensemble RUN/evaluation/ensemble.")  # fmt: skip
@scoring_options
@search_options
def evaluate(
    runs: tuple[str, ...], src: tuple[str, ...], ref: tuple[str, ...], test: tuple[str, ...],
    ensemble: tuple[str, ...], baseline: str | None, robust: bool, trust: bool,
    examples: int | None, together: bool, output: str | None, **settings: Any,
) -> None:  # fmt: skip
    """Translate test sets and score them with sacreBLEU.

    RUN is a run directory, a checkpoint or an exported model. Without --src or --test, all test
    sets of the experiment are scored (with several systems: those of the baseline or the first).
    Scores are computed on detokenised text against unmodified references.

    Exit status: 0; 1 if a system fails --min-gain or --max-p; 2 for invalid input.
    """
    # With one source, every reference belongs to it.
    if len(src) != len(ref) and (len(src) != 1 or not ref):
        raise unpaired("--ref", len(ref), len(src))
    if examples is not None and not trust:
        raise ConfigError("--examples", examples, "it needs --trust: add it, or omit --examples")
    for run in runs:
        if "=" in run and not (is_address(run) or Path(run).exists()):
            rule = "nmt evaluate has options instead of settings, such as --beam 5"
            raise ConfigError.from_message(f"{run!r}: {rule}")
    num_examples = (3 if examples is None else examples) if trust else None
    check_files([*src, *ref])
    systems = load_systems(runs, ensemble, baseline, output)
    tgt_language = systems[0].checkpoint.experiment.corpus.tgt
    options = ScoringOptions.read(tgt_language, baseline, settings)
    plain = find_test_sets(systems[0].checkpoint, src, ref, test)
    # Results must not overwrite the user's files; checked before anything is translated.
    for system in systems:
        results.check_folder(system.directory, [*src, *ref])
    sets = arrange(plain, robust, together, tgt_language, options.train_text)
    for system in systems:
        # Options must suit all systems; a model is read only when it translates.
        make_translator(system.checkpoint, ensemble=system.others, **settings)
    is_open = True
    with Console() as console:
        by_system = [
            evaluate_system(each, sets, options, settings, console, num_examples)
            for each in systems
        ]
        for test_set in [*sets.plain, *([sets.together] if sets.together else [])]:
            of_set = [by_set[test_set.name] for by_set in by_system]
            options.print_slices([report for _, report in of_set])
            if baseline:
                hyps = [hyps for hyps, _ in of_set]
                is_open &= compare_and_write(systems, hyps, test_set, options)
        for system in systems:
            console.print(f"translations and scores: {system.directory}/")
    if not is_open:
        raise click.exceptions.Exit(1)


def load_systems(
    runs: Sequence[str], ensemble: Sequence[str], baseline: str | None, output: str | None
) -> list[System]:
    """Load all systems, the baseline first, each with its own name and output directory.

    Args:
        ensemble: runs whose models form an ensemble with the single one of `runs`.
        output: directory of all results; None: a directory in each run.

    Raises:
        ConfigError: the systems are ambiguous or cannot be compared.
    """
    if ensemble and len(runs) > 1:
        rule = f"{len(runs)} RUNs are given: an ensemble needs exactly one"
        raise ConfigError("--ensemble", ensemble[0], rule)
    models = [[open_model(run)] for run in ([baseline] if baseline else []) + list(runs)]
    models[-1] += open_ensemble(models[-1][0], ensemble)
    # The same model given twice, for example as baseline and as RUN, is evaluated once.
    paths = [[each.path.resolve() for each in model] for model in models]
    models = [model for number, model in enumerate(models) if paths.index(paths[number]) == number]
    if baseline and len(models) == 1:
        raise ConfigError("--baseline", baseline, "it is the only system: give another run")
    systems: list[System] = []
    for name, (checkpoint, *others) in zip(_system_names(models), models, strict=True):
        # Results of an ensemble must not replace those of its first member.
        directory = results.default_folder(checkpoint.path)
        if others:
            directory /= "ensemble"
        if output:
            directory = Path(output) / name.replace("/", "_") if len(models) > 1 else Path(output)
        if directory in [other.directory for other in systems]:
            problem = "two systems would write to this directory: use --output"
            raise ConfigError.from_message(f"{directory}: {problem}")
        systems.append(System(name, checkpoint, directory, others))
    first, *rest = (system.checkpoint.experiment.corpus for system in systems)
    for corpus, system in zip(rest, systems[1:], strict=True):
        if corpus.language_pair != first.language_pair:
            raise ConfigError.from_message(
                f"{system.name} translates {corpus.language_pair}, {systems[0].name} "
                f"{first.language_pair}: only systems of one language pair can be compared"
            )
    return systems


def _system_names(models: Sequence[Sequence["Model"]]) -> list[str]:
    """Return a unique name per system, as short as possible."""
    forms = (
        lambda checkpoint: checkpoint.experiment.name,
        lambda checkpoint: f"{checkpoint.experiment.name}@{checkpoint.path.name}",
        lambda checkpoint: str(checkpoint.path),
    )
    choices = [
        [test_sets.printable("+".join(map(form, model))) for model in models] for form in forms
    ]
    return next((names for names in choices if len(set(names)) == len(names)), choices[-1])


def find_test_sets(
    checkpoint: "Model", src: Sequence[str], ref: Sequence[str], names: Sequence[str]
) -> list[TestSet]:
    """Load all test sets, so that errors in any of them are found before the first translation.

    Args:
        src: source files.
        ref: reference file of each, or all references of the only one.
        names: test sets of the experiment or of sacreBLEU; if `src` is empty too, all of the
            experiment.
    """
    corpus = checkpoint.experiment.corpus
    if not src and not names:
        names = [test.name for test in corpus.tests]
        if not names:
            rule = "there is no test set to score: use --src and --ref"
            raise ConfigError("corpus.tests", "empty", rule)
    refs = [ref] if len(src) == 1 else [[each] for each in ref]
    found = [
        test_sets.from_files(Path(src_file), [Path(each) for each in of_src])
        for src_file, of_src in zip(src, refs, strict=True)
    ]
    prepared = find_prepared(checkpoint.path, checkpoint.experiment)
    found += [test_sets.find(name, prepared, corpus.src, corpus.tgt) for name in names]
    return found


def arrange(
    plain: list[TestSet], is_robust: bool, is_together: bool, tgt: str, train_text: Path | None
) -> EvaluationSets:
    """Create the derived test sets and the slices of all sets.

    Raises:
        ConfigError: two sets would have the same files.
        DataError: as `test_sets.concatenate`.
    """
    if is_together and len(plain) == 1:
        raise ConfigError.from_message(f"--together needs two test sets, not only {plain[0].name}")
    make_variants = robustness.make_variants
    variants = [new for each in plain for new in make_variants(each)] if is_robust else []
    together = test_sets.concatenate(plain, TOGETHER) if is_together else None
    every = [*plain, *variants, *([together] if together else [])]
    for name, count in Counter(each.file_name for each in every).items():
        if count > 1:
            problem = f"two test sets are named {name} and would overwrite each other"
            raise ConfigError.from_message(f"{problem}: score them separately, with --output")
    references = {test_set.name: test_set.references[0] for test_set in every}
    labels = slice_labels(references, tgt, train_text)
    if together:
        labels[TOGETHER]["corpus"] = [each.name for each in plain for _ in each.src]
    return EvaluationSets(plain, variants, together, labels)


def evaluate_system(
    system: System, sets: EvaluationSets, options: ScoringOptions, search: Any, console: Console,
    num_examples: int | None,
) -> dict[str, SetResult]:  # fmt: skip
    """Translate and score all test sets with a system; print, write and return the results.

    `num_examples` is the number of examples per rule of the failures on plain sets; None: failures
    are not looked for.
    """
    translator = make_translator(system.checkpoint, ensemble=system.others, **search)
    for checkpoint in (system.checkpoint, *system.others):
        console.print(describe(checkpoint))
    found: dict[str, SetResult] = {}

    def add(test_set: TestSet, hyps: list[str]) -> None:
        labels = sets.labels[test_set.name]
        wanted = num_examples if test_set in sets.plain else None
        report = score_and_write(system, test_set, hyps, options.metrics, labels, wanted)
        options.print_report(report)
        if report.failures is not None and not options.has_json:
            click.echo(report.failures.text(f"{test_set.name}, {system.name}"))
        found[test_set.name] = hyps, report

    for test_set in [*sets.plain, *sets.variants]:
        add(test_set, translate_set(translator, test_set, console))
    # Joined from the translations above: a line's translation does not depend on its test set.
    if sets.together:
        add(sets.together, [hyp for each in sets.plain for hyp in found[each.name][0]])
    if sets.variants and not options.has_json:
        reports = {name: report for name, (_, report) in found.items()}
        for test_set in sets.plain:
            click.echo(robustness_table(test_set.name, reports))
    return found


def translate_set(translator: "Translator", test_set: TestSet, console: Console) -> list[str]:
    """Translate a test set with a progress bar and a line about the speed."""

    def progress(num_done: int) -> None:
        console.progress(f"translating {test_set.name}", num_done, len(test_set.src), "lines")

    started = time.monotonic()
    hyps = translator.translate(test_set.src, progress=progress)
    console.clear()
    console.print(f"{test_set.name}: {speed(len(hyps), started)}")
    return hyps


def score_and_write(
    system: System, test_set: TestSet, hyps: list[str], metrics: Sequence[str], labels: SliceLabels,
    num_examples: int | None = None,
) -> ScoreReport:  # fmt: skip
    """Score a translated test set; write translations and scores.

    `num_examples` is as in `evaluate_system`.
    """
    corpus = system.checkpoint.experiment.corpus
    report = scores.score(
        hyps, test_set.references, corpus.tgt, test_set=test_set.name, system=system.name,
        checkpoint=system.checkpoint_name, metrics=metrics, labels=labels,
    )  # fmt: skip
    if num_examples is not None:
        found = find_failures(hyps, test_set, (corpus.src, corpus.tgt), num_examples)
        report = replace(report, failures=found)
    results.write(system.directory, test_set, hyps, report, corpus.src, corpus.tgt)
    return report


def compare_and_write(
    systems: Sequence[System], hyps: Sequence[list[str]], test_set: TestSet,
    options: ScoringOptions,
) -> bool:  # fmt: skip
    """Compare all systems with the first; return True if all pass the gate."""
    names = [system.name for system in systems]
    comparison = compare_systems(
        dict(zip(names, hyps, strict=True)), names[0], test_set.references,
        systems[0].checkpoint.experiment.corpus.tgt, test_set=test_set.name,
        metrics=options.metrics, test=options.paired, src=test_set.src,
    )  # fmt: skip
    for system in systems[1:]:
        results.write_comparison(system.directory, test_set, comparison)
    return options.print_comparison(comparison)


def robustness_table(test_set: str, reports: Mapping[str, ScoreReport]) -> str:
    """Format the scores of the variants of a test set and their differences to the plain set."""
    plain = reports[test_set]
    rows = [["", *(score.name for score in plain.scores if not score.label)]]
    for name, report in reports.items():
        # Another test set can have a name with the same beginning.
        variant = name.removeprefix(f"{test_set}+")
        if variant in {*robustness.VARIANTS, *robustness.NOISE}:
            pairs = list(zip(report.scores, plain.scores, strict=True))
            pairs = [pair for pair in pairs if not pair[0].label]
            values = [f"{a.value:.2f} ({a.value - b.value:+.2f})" for a, b in pairs]
            rows.append([variant, *values])
    return "\n".join([f"{test_set}, robustness of {plain.system}:", *align_columns(rows)])
