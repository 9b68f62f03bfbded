"""`nmt VERB ...`: argument parsing and printing; the work is done in the rooms below.

Logs and progress go to standard error, results (translations, scores, settings) to standard output.
Rooms are imported inside the verbs that need them, so that `nmt --help` does not wait for torch.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.errors import ConfigError, DataError
from nmt.verbs import Verbs, again, program, search_options, shown

if TYPE_CHECKING:
    from nmt.checkpoint import Bundle
    from nmt.config import Cluster, Experiment
    from nmt.console import Console
    from nmt.decoding.translator import Translator
    from nmt.evaluation.scores import Report
    from nmt.evaluation.test_sets import TestSet


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nmt")
def main() -> None:
    """Train LSTM translation models on Ray, translate with them, and score them.

    Settings stand in a YAML file for what to train and one for where. Any of them can be set on the
    command line: section.key=value for the experiment, cluster.key=value for the cluster.
    """


_experiment = click.argument("experiment", metavar="EXPERIMENT")
_overrides = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
_cluster = click.option("--cluster", metavar="FILE", help="Where to run; default: this machine.")


@main.command()
@click.option("--experiment", default="configs/demo.yaml", show_default=True, metavar="FILE",
              help="What to train.")  # fmt: skip
@_overrides
def demo(experiment: str, overrides: tuple[str, ...]) -> None:
    """Train and score a model on a built-in corpus.

    It writes the corpus, trains on it with two workers, translates its test set and scores that.
    """
    from nmt.console import Console
    from nmt.corpus.builtin import generate
    from nmt.evaluation import results
    from nmt.evaluation.scores import DEFAULT_METRICS
    from nmt.jobs.session import connect

    started = time.monotonic()
    config, cluster = _load(experiment, "configs/clusters/local.yaml", overrides)
    root = Path(config.corpus.root)
    with Console() as console:
        console.say(f"1/4 writing the built-in English-German corpus to {root}/")
        generate.write(root)
        with connect(cluster.workers * cluster.cpus_per_worker, _chatter(config)):
            console.say(f"2/4 preparing it: cleaning, subwords, Arrow shards in {config.prepared}/")
            _prepare(config, cluster, console)
            console.say(f"3/4 training an LSTM translation model with {cluster.workers} workers")
            run = shown(_train(config, cluster, console))
        console.say("4/4 translating test sentences that have combinations never seen in training")
        bundle = _load_bundle(run)
        translator, folder = _translator(bundle), results.folder_of(bundle.path)
        for test_set in _test_sets(bundle, (), (), ()):
            hyps, report = _evaluate(bundle, translator, test_set, DEFAULT_METRICS, folder, console)
            click.echo(report.text(width=2))
            for n in range(0, len(hyps), max(1, len(hyps) // 4)):
                click.echo(f"\n  source       {test_set.src[n]}\n  translation  {hyps[n]}")
                click.echo(f"  reference    {test_set.references[0][n]}")
        console.say(f"\nall translations and scores: {folder}/")
        minutes, nmt = (time.monotonic() - started) / 60, program()
        console.say(f"done in {minutes:.1f} minutes. What to type next:")
        for command in (
            f"echo 'My sister calls the doctor.' | {nmt} translate {run}",
            f"{nmt} evaluate {run} --src FILE --ref FILE",
            f"{Path(nmt).with_name('tensorboard')} --logdir {run}/tensorboard",
            f"{nmt} config explain training",
            f"{nmt} prepare configs/multi30k_en_de.yaml corpus.root=FOLDER",
        ):
            console.say(f"  {command}")


@main.command()
@_experiment
@_overrides
@_cluster
def prepare(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Clean a corpus, learn its subwords, write shards to train from."""
    from nmt.console import Console

    settings = _load(experiment, cluster, overrides)
    with Console() as console:
        _prepare(*settings, console)


@main.command()
@_experiment
@_overrides
@_cluster
def train(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Train a model, or go on where its run was stopped."""
    from nmt.console import Console

    settings = _load(experiment, cluster, overrides)
    with Console() as console:
        run = shown(_train(*settings, console))
        console.say(f"to score it on its test sets: {program()} evaluate {run}")


@main.command()
@click.argument("run")
@click.option("-i", "--input", "source", default="-", metavar="FILE",
              help="Default: standard input.")  # fmt: skip
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: standard output.")
@search_options
def translate(run: str, source: str, output: str, **how: Any) -> None:
    """Translate lines: n lines in, n lines out, in order. RUN is a run's folder or a checkpoint.

    UTF-8 in and out; .gz, .xz and .zst by the name of the file. What is typed at a terminal is
    answered line by line.
    """
    from nmt.console import Console
    from nmt.corpus.text import open_output, read_lines

    _check_inputs([source] if source != "-" else [])
    _check_output(source, output)
    bundle = _load_bundle(Path(run))
    translator = _translator(bundle, **how)
    is_typed = source == "-" and sys.stdin.isatty()
    # A file is read twice: what is wrong at its end shows before anything is translated.
    total = sum(1 for _ in read_lines(Path(source))) if Path(source).is_file() else 0
    lines: Iterable[str] = read_lines(sys.stdin.buffer if source == "-" else Path(source))
    with Console() as console, open_output(output) as file:
        if not is_typed:
            # What is wrong at the start of a stream is all that is said then.
            lines = chain(list(islice(lines, 1)), lines)
        console.say(_about(bundle))
        if is_typed:
            console.say("type a line to have it translated; Ctrl-D ends")
        # On a terminal a bar would cut lines apart, and those of a program that we write to.
        has_bar = output != "-" or Path("/dev/stdout").is_file()
        started, num_lines = time.monotonic(), 0

        def show(num_done: int) -> None:
            if has_bar:
                console.progress("translating", num_done, total, "lines")

        for translation in translator.translate(
            lines, progress=show, window_lines=1 if is_typed else None
        ):
            file.write(translation.text + "\n")
            num_lines += 1
            if output == "-":
                file.flush()
        if has_bar:
            console.clear()
            console.say(_pace(num_lines, started))


@main.command()
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
    _check_inputs([*src, *ref])
    bundle = _load_bundle(Path(run))
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    check_metrics(names, bundle.experiment.corpus.tgt)
    test_sets = _test_sets(bundle, src, ref, test)
    folder = Path(output) if output else results.folder_of(bundle.path)
    results.check_folder(folder, [*src, *ref])
    translator = _translator(bundle, **how)
    with Console() as console:
        console.say(_about(bundle))
        for test_set in test_sets:
            _, report = _evaluate(bundle, translator, test_set, names, folder, console)
            click.echo(_json_line(report) if as_json else report.text(width=2))
        console.say(f"translations and scores: {folder}/")


@main.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where the model goes.")
def average(bundles: tuple[str, ...], output: str) -> None:
    """Write a model that is the mean of several checkpoints."""
    from nmt import checkpoint

    made = checkpoint.average([Path(name) for name in bundles], Path(output))
    click.echo(_about(made), err=True)


@main.group(cls=Verbs)
def config() -> None:
    """Show and explain settings."""


@config.command()
@_experiment
@_overrides
@_cluster
def show(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Print the resolved settings."""
    from nmt.config import dump

    ours, theirs = _load(experiment, cluster, overrides)
    click.echo(
        f"{dump(ours)}\n# cluster\n" + "".join(f"# {x}\n" for x in dump(theirs).splitlines())
    )


@config.command()
@click.argument("key")
def explain(key: str) -> None:
    """Say what a setting means: training.patience, cluster.workers, or a whole section."""
    from nmt.config import explain as explained

    click.echo(explained(key))


def _load(
    experiment: str, cluster: str | None, overrides: tuple[str, ...]
) -> tuple["Experiment", "Cluster"]:
    from nmt.config import load_cluster, load_experiment, split_overrides

    for text in overrides:
        if "=" not in text and text.endswith((".yaml", ".yml")):
            raise ConfigError.saying(f"{text} is one file too many: write --cluster {text}")
    ours, theirs = split_overrides(overrides)
    return load_experiment(experiment, ours), load_cluster(cluster, theirs)


def _prepare(experiment: "Experiment", cluster: "Cluster", console: "Console") -> None:
    from nmt.corpus.prepare import check_raw, folder_of, is_prepared, prepare, summary

    if is_prepared(experiment):
        manifest = prepare(experiment)
        console.say(f"{folder_of(experiment)} is prepared already")
    else:
        check_raw(experiment)
        _check_folder("corpus.prepared", folder_of(experiment))
        from nmt.jobs.prepare import prepare_on_ray
        from nmt.jobs.session import connect

        try:
            with connect(cluster.workers, _chatter(experiment)):
                manifest = prepare_on_ray(experiment, console.progress)
        except KeyboardInterrupt:
            console.say(f"to go on with what is left to prepare: {again()}")
            raise
        console.clear()
    for line in summary(manifest):
        console.say(line)


def _check_folder(key: str, folder: Path) -> None:
    from nmt.corpus.files import is_writable

    if not is_writable(folder):
        raise ConfigError(key, folder, "it cannot be written to: name another folder")


def _chatter(experiment: "Experiment") -> Path:
    """Where Ray talks while a corpus is prepared: beside the folder, which holds data alone."""
    folder = Path(experiment.prepared)
    return folder.with_name(f"{folder.name}.ray.log")


def _train(experiment: "Experiment", cluster: "Cluster", console: "Console") -> Path:
    from nmt.jobs.train import run_dir_of, train_on_ray

    _check_folder("cluster.storage", run_dir_of(experiment, cluster))
    ended = train_on_ray(experiment, cluster, console)
    if ended.why == "interrupted":
        console.say(f"to go on after update {ended.update:,}: {again()}")
        raise KeyboardInterrupt
    return run_dir_of(experiment, cluster)


def _load_bundle(run: Path) -> "Bundle":
    from nmt import checkpoint

    return checkpoint.load(run)


def _about(bundle: "Bundle") -> str:
    """Which weights these are, and how good they were on the dev set, in one line."""
    info = bundle.info
    mean = f"the mean of {len(info.averaged)} checkpoints, " if info.averaged else ""
    bleu = "its dev BLEU is not known"
    if info.bleu is not None:
        bleu = f"dev BLEU {info.bleu:.2f}, {info.bleu_signature}"
    return f"{bundle.path}: {mean}update {info.update:,}, {bleu}"


def _translator(
    bundle: "Bundle", device: str | None = None, threads: int | None = None, **how: Any
) -> "Translator":
    import torch

    from nmt.decoding.translator import Translator

    if device not in (None, "cpu", "cuda"):
        raise ConfigError("--device", device, "it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device", device, "torch finds no GPU here: say cpu, or leave it out")
    if threads:
        torch.set_num_threads(threads)
    keys = {"batch": "batch_sentences"}
    update = {keys.get(key, key): value for key, value in how.items() if value is not None}
    decoding = bundle.experiment.decoding.model_copy(update=update)
    experiment = bundle.experiment.model_copy(update={"decoding": decoding})
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Translator(bundle.model(), bundle.subword, experiment, device=place)


def _check_inputs(files: Iterable[str]) -> None:
    """Raise DataError for a file that is not there, before anything slow is done."""
    for file in files:
        if not Path(file).exists():
            raise DataError(f"{file}: there is no such file; check its name and where you are")


def _check_output(source: str, output: str) -> None:
    """Raise ConfigError where a translation could not be written, or would replace its source."""
    given, path = Path("/dev/stdin" if source == "-" else source), Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        raise ConfigError("--output", output, f"there is no folder {path.parent}: make it first")
    if given.is_file() and path.exists() and path.samefile(given):
        raise ConfigError("--output", output, "that is the input: name another file")


def _test_sets(
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


def _evaluate(
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
    console.say(f"{test_set.name}: {_pace(len(hyps), started)}")
    corpus = bundle.experiment.corpus
    report = scores.score(
        hyps, test_set.references, corpus.tgt, test_set=test_set.name,
        system=bundle.experiment.name, checkpoint=bundle.path.name, metrics=metrics,
    )  # fmt: skip
    results.write(folder, test_set, hyps, report, corpus.src, corpus.tgt)
    return hyps, report


def _pace(num_lines: int, started: float) -> str:
    seconds = max(time.monotonic() - started, 1e-9)
    return f"{num_lines:,} lines translated in {seconds:.1f} s, {num_lines / seconds:,.1f} lines/s"


def _json_line(report: "Report") -> str:
    return json.dumps(json.loads(report.json()), ensure_ascii=False)
