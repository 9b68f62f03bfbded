"""`nmt adapt`: fine-tune a model on the text of a new domain, and compare both on test sets."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from nmt.api import MAX_MIX, open_adaptation
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.location import checkpoint_dir, run_dir
from nmt.cli.evaluate import System, find_test_sets, score_and_write, translate_set
from nmt.cli.options import (
    FiniteFloat,
    cluster_option,
    display_path,
    next_command,
    overrides_argument,
    resumable,
)
from nmt.cli.train import train_run
from nmt.console import Console
from nmt.decoding.loading import make_translator
from nmt.evaluation import results
from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS
from nmt.evaluation.scores import ScoreReport
from nmt.evaluation.slices import align_columns


@click.command()
@click.argument("run")
@overrides_argument
@click.option("--src", metavar="FILE", help="Source text of the new domain.")
@click.option("--tgt", metavar="FILE", help="Its translation, line by line.")
@click.option("--experiment", metavar="FILE",
              help="Experiment with the new text, instead of --src and --tgt.")  # fmt: skip
@click.option("--dev", nargs=2, metavar="SRC TGT", help="Dev set; default: a tenth of the pairs.")
@click.option("--test", nargs=2, metavar="SRC TGT",
              help="Test set; default: a tenth of the pairs.")  # fmt: skip
@click.option("--mix", type=FiniteFloat(min=0, max=MAX_MIX), default=1.0,
              help="Old tokens per new token in an epoch; 0: none.")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="DIR", help="Run to write, or its address.")
@cluster_option
def adapt(
    run: str, overrides: tuple[str, ...], src: str | None, tgt: str | None,
    experiment: str | None, dev: tuple[str, str] | None, test: tuple[str, str] | None, mix: float,
    output: str, cluster: str | None,
) -> None:  # fmt: skip
    """Adapt a model to a new domain.

    Fine-tunes the model RUN on pairs of a new domain, with early stopping on new pairs. Where its
    old training pairs are available, a sample of them is mixed in, on which the model keeps its
    distribution. The result is an average of the earlier and the fine-tuned weights. Then scores
    both models on the new and the old test sets. The vocabulary is kept. The same command resumes.
    """
    with Console() as console, ExitStack() as stack:
        with resumable(console):
            adaptation = open_adaptation(
                run, src, tgt, dev, test, experiment, mix, output, cluster, overrides, console
            )
            source, adapted, settings = stack.enter_context(adaptation)
        result = train_run(adapted, settings, console)
        with resumable(console):
            _compare(source, result, console)
        console.print(f"next: {next_command('translate')} {display_path(result)}")


def _compare(source: Checkpoint, run: str, console: Console) -> None:
    """Score the models before and after on all test sets, and print the scores side by side."""
    from nmt.training.run_manifest import read_run_manifest

    after = load_checkpoint(checkpoint_dir(run))
    if not after.experiment.corpus.tests:
        console.print("no test set to score: corpus.tests is empty")
        return
    # The old run may have had a better checkpoint when training started.
    start = read_run_manifest(run_dir(run)).warm_start
    if start is not None and Path(start.checkpoint).is_dir():
        source = load_checkpoint(Path(start.checkpoint))
    folder = results.default_folder(after.path)
    systems = [
        System("before", source, folder / "before"),
        System(after.experiment.name, after, folder),
    ]
    translators = [make_translator(system.checkpoint) for system in systems]
    reports = {}
    for test_set in find_test_sets(after, (), (), ()):
        reports[test_set.name] = [
            score_and_write(
                system, test_set, translate_set(translator, test_set, console), DEFAULT_METRICS, {}
            )
            for system, translator in zip(systems, translators, strict=True)
        ]
    for line in format_scores(reports):
        click.echo(line)
    console.print(f"translations and scores: {display_path(folder)}/")


def format_scores(reports: Mapping[str, Sequence[ScoreReport]]) -> list[str]:
    """Format the scores of a model before and after adaptation, by test set, and signatures."""
    first = next(iter(reports.values()))[0]
    names = [score.name for score in first.scores if not score.label][:2]
    rows = [["", "segments", *(f"{name} {when}" for name in names for when in ("before", "after"))]]
    for test_set, (before, after) in reports.items():
        row = [test_set, f"{before.num_segments:,}"]
        for old, new in zip(before.scores, after.scores, strict=True):
            if old.name in names and not old.label:
                row += [f"{old.value:.2f}", f"{new.value:.2f} ({new.value - old.value:+.2f})"]
        rows.append(row)
    signatures = [f"{each.name}|{each.signature}" for each in first.scores if each.name in names]
    return [*align_columns(rows), *signatures]
