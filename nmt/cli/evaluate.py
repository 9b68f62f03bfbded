"""`nmt evaluate`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.models import about, check_inputs, load_bundle, make_translator, pace
from nmt.cli.verbs import search_options
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.loading import Bundle
    from nmt.console import Console
    from nmt.decoding.translator import Translator
    from nmt.evaluation.scores import Report
    from nmt.evaluation.test_sets import TestSet


@click.command()
@click.argument("run")
@click.option("--src", multiple=True, metavar="FILE", help="Source side of a test set; repeatable.")
@click.option("--ref", multiple=True, metavar="FILE", help="Its reference, one for each --src.")
@click.option("--test", multiple=True, metavar="NAME",
              help="A test set of the config, or sacrebleu:NAME; repeatable.")  # fmt: skip
@click.option("--metrics", default="bleu,chrf,ter,bleu-lc", show_default=True,
              help="Of bleu, chrf, ter, bleu-lc, bleu-lc-intl.")  # fmt: skip
@click.option("-o", "--output", metavar="FOLDER",
              help="For translations and scores; default: RUN/evaluation.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each test set.")
@search_options
def evaluate(
    run: str, src: tuple[str, ...], ref: tuple[str, ...], test: tuple[str, ...], metrics: str,
    output: str | None, as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Translate test sets and score them with sacreBLEU.

    RUN is a run's folder or a checkpoint. Without --src or --test: all test sets of the experiment.
    References are never touched; translations and scores are kept.
    """
    from nmt.console import Console
    from nmt.evaluation import results
    from nmt.evaluation.scores import check_metrics

    if len(src) != len(ref):
        rule = f"--src is given {len(src)} times: each --src needs its --ref"
        raise ConfigError("--ref", f"given {len(ref)} times", rule)
    check_inputs([*src, *ref])
    bundle = load_bundle(Path(run))
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    check_metrics(names, bundle.experiment.corpus.tgt)
    test_sets = find_test_sets(bundle, src, ref, test)
    folder = Path(output) if output else results.folder_of(bundle.path)
    results.check_folder(folder, [*src, *ref])
    translator = make_translator(bundle, **how)
    with Console() as console:
        console.say(about(bundle))
        for test_set in test_sets:
            _, report = translate_and_score(bundle, translator, test_set, names, folder, console)
            click.echo(json_line(report) if as_json else report.text(width=2))
        console.say(f"translations and scores: {folder}/")


def find_test_sets(
    bundle: "Bundle", src: Sequence[str], ref: Sequence[str], names: Sequence[str]
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
            raise ConfigError.saying(
                f"two test sets are called {test_set.file_name}, and the files of one would "
                "replace those of the other: score them one by one, each with its own --output"
            )
    return found


def translate_and_score(
    bundle: "Bundle", translator: "Translator", test_set: "TestSet", metrics: Sequence[str],
    folder: Path, console: "Console",
) -> tuple[list[str], "Report"]:  # fmt: skip
    """Translate a test set, score it, and keep both."""
    from nmt.evaluation import results, scores

    def show(num_done: int) -> None:
        console.progress(f"translating {test_set.name}", num_done, len(test_set.src), "lines")

    started = time.monotonic()
    hyps = [found.text for found in translator.translate(test_set.src, progress=show)]
    console.clear()
    console.say(f"{test_set.name}: {pace(len(hyps), started)}")
    corpus = bundle.experiment.corpus
    report = scores.score(
        hyps, test_set.references, corpus.tgt, test_set=test_set.name,
        system=bundle.experiment.name, checkpoint=bundle.path.name, metrics=metrics,
    )  # fmt: skip
    results.write(folder, test_set, hyps, report, corpus.src, corpus.tgt)
    return hyps, report


def json_line(report: "Report") -> str:
    return json.dumps(json.loads(report.json()), ensure_ascii=False)
