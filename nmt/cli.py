"""`nmt VERB ...`: argument parsing and printing; the work is done in the rooms below.

Logs and progress go to standard error, results (translations, scores, settings) to standard output. Rooms are imported
inside the verbs that need them, so that `nmt --help` does not wait for torch.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.errors import ConfigError, NmtError

if TYPE_CHECKING:
    from nmt.checkpoint import Bundle
    from nmt.config import Cluster, Experiment
    from nmt.console import Console
    from nmt.decoding.translator import Translator
    from nmt.evaluation.test_sets import TestSet


class Verbs(click.Group):
    """The verbs, in the order in which people need them; an NmtError becomes one line and status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NmtError as error:
            click.echo(f"nmt: {error}", err=True)
            ctx.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo("nmt: stopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            sys.stderr.close()
            ctx.exit(141)


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
@click.option("--experiment", default="configs/demo.yaml", show_default=True, metavar="FILE")
@_overrides
def demo(experiment: str, overrides: tuple[str, ...]) -> None:
    """Write the built-in corpus, train on it with two workers, translate and score its test set."""
    from nmt.console import Console
    from nmt.corpus import builtin
    from nmt.jobs.session import connect

    console = Console()
    started = time.monotonic()
    config, cluster = _load(experiment, "configs/clusters/local.yaml", overrides)
    root = Path(config.corpus.root)
    console.say(f"1/4 writing the built-in English-German corpus to {root}/")
    builtin.write(root)
    with connect(cluster.workers * cluster.cpus_per_worker, _chatter(config)):
        console.say(f"2/4 preparing it: cleaning, subwords, Arrow shards in {config.prepared}/")
        _prepare(config, cluster, console)
        console.say(f"3/4 training an LSTM translation model with {cluster.workers} workers")
        run_dir = _train(config, cluster, console)
    console.say("4/4 translating test sentences that have combinations never seen in training")
    bundle = _load_bundle(run_dir)
    for test_set in _test_sets(bundle, (), (), ()):
        hyps = _evaluate(bundle, test_set, console, ("bleu", "chrf", "ter"), None, as_json=False)
        for n in range(0, len(hyps), max(1, len(hyps) // 4)):
            click.echo(f"\n  source       {test_set.src[n]}\n  translation  {hyps[n]}")
            click.echo(f"  reference    {test_set.references[0][n]}")
    console.say(f"\ndone in {(time.monotonic() - started) / 60:.1f} minutes. What to type next:")
    for command in (
        f"echo 'My sister calls the doctor.' | .venv/bin/nmt translate {run_dir}",
        f".venv/bin/nmt evaluate {run_dir} --src FILE --ref FILE",
        f".venv/bin/tensorboard --logdir {run_dir}/tensorboard",
        ".venv/bin/nmt config explain training",
        ".venv/bin/nmt prepare configs/multi30k_en_de.yaml corpus.root=FOLDER",
    ):
        console.say(f"  {command}")


@main.command()
@_experiment
@_overrides
@_cluster
def prepare(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Clean a corpus, learn its subwords, and write Arrow shards to train from."""
    from nmt.console import Console

    _prepare(*_load(experiment, cluster, overrides), Console())


@main.command()
@_experiment
@_overrides
@_cluster
def train(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Train a model; the same command goes on where the run was stopped."""
    from nmt.console import Console

    _train(*_load(experiment, cluster, overrides), Console())


@main.command()
@click.argument("run")
@click.option(
    "-i", "--input", "source", default="-", metavar="FILE", help="Default: standard input."
)
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: standard output.")
@click.option("--beam", type=click.IntRange(1), help="Hypotheses kept at each step; 1: greedy.")
@click.option("--length-penalty", type=click.FloatRange(0), help="GNMT's alpha; 0: none.")
@click.option("--max-length-ratio", type=click.FloatRange(0, min_open=True),
              help="Longest translation, in tokens for each source token.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), help="Sentences translated together.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@click.option("--device", default="", help="cpu or cuda; default: cuda where there is one.")
def translate(
    run: str, source: str, output: str, threads: int | None, device: str, **how: Any
) -> None:
    """Translate lines: n lines in, n lines out, in order. RUN is a run's folder or a checkpoint.

    UTF-8 in and out; .gz, .xz and .zst by the name of the file.
    """
    from nmt.console import Console
    from nmt.corpus.text import open_output, read_lines

    console = Console()
    bundle = _load_bundle(Path(run))
    translator = _translator(bundle, device, threads, how)
    started, num_lines = time.monotonic(), 0
    lines = read_lines(sys.stdin.buffer if source == "-" else Path(source))
    with open_output(output) as file:
        for translation in translator.translate(lines):
            file.write(translation.text + "\n")
            num_lines += 1
            if source == "-" and output == "-":
                file.flush()
    seconds = time.monotonic() - started
    if source != "-" or output != "-":
        pace = num_lines / max(seconds, 1e-9)
        console.say(f"{num_lines:,} lines in {seconds:.1f} s, {pace:,.1f} lines/s, {bundle.path}")


@main.command()
@click.argument("run")
@click.option("--src", multiple=True, metavar="FILE", help="Source side of a test set; repeatable.")
@click.option("--ref", multiple=True, metavar="FILE", help="Its reference, one for each --src.")
@click.option("--test", multiple=True, metavar="NAME",
              help="A test set of the config, or sacrebleu:NAME; repeatable.")  # fmt: skip
@click.option("--metrics", default="bleu,chrf,ter,bleu-lc", show_default=True)
@click.option("-o", "--output", metavar="FOLDER", help="Default: RUN/evaluation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--beam", type=click.IntRange(1))
@click.option("--length-penalty", type=click.FloatRange(0))
def evaluate(
    run: str, src: tuple[str, ...], ref: tuple[str, ...], test: tuple[str, ...], metrics: str,
    output: str | None, as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Translate test sets and score them with sacreBLEU, against untouched references.

    Without --src or --test: all test sets of the experiment. Translations and scores are kept.
    """
    from nmt.console import Console

    bundle = _load_bundle(Path(run))
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    for test_set in _test_sets(bundle, src, ref, test):
        folder = Path(output) if output else None
        _evaluate(bundle, test_set, Console(), names, folder, as_json=as_json, **how)


@main.command()
@click.argument("bundles", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FOLDER")
def average(bundles: tuple[str, ...], output: str) -> None:
    """Write a model whose weights are the mean of several checkpoints."""
    from nmt import checkpoint

    made = checkpoint.average([Path(name) for name in bundles], Path(output))
    click.echo(f"{made.path}: the mean of {len(bundles)} checkpoints", err=True)


@main.group()
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

    ours, theirs = split_overrides(overrides)
    return load_experiment(experiment, ours), load_cluster(cluster, theirs)


def _prepare(experiment: "Experiment", cluster: "Cluster", console: "Console") -> None:
    from nmt.corpus.prepare import check_raw, folder_of, is_prepared, prepare, summary

    if is_prepared(experiment):
        manifest = prepare(experiment)
        console.say(f"{folder_of(experiment)} is prepared already")
    else:
        check_raw(experiment)
        from nmt.jobs.prepare import prepare_on_ray
        from nmt.jobs.session import connect

        with connect(cluster.workers, _chatter(experiment)):
            manifest = prepare_on_ray(experiment, console.progress)
        console.clear()
    for line in summary(manifest):
        console.say(line)


def _chatter(experiment: "Experiment") -> Path:
    """Where Ray talks while a corpus is prepared: beside the folder, which holds data alone."""
    folder = Path(experiment.prepared)
    return folder.with_name(f"{folder.name}.ray.log")


def _train(experiment: "Experiment", cluster: "Cluster", console: "Console") -> Path:
    from nmt.jobs.train import run_dir_of, train_on_ray

    ended = train_on_ray(experiment, cluster, console)
    if ended.why == "interrupted":
        console.say(f"to go on after update {ended.update:,}, type the same command again")
        raise KeyboardInterrupt
    return run_dir_of(experiment, cluster)


def _load_bundle(run: Path) -> "Bundle":
    from nmt import checkpoint

    return checkpoint.load(run)


def _translator(
    bundle: "Bundle",
    device: str = "",
    threads: int | None = None,
    how: dict[str, Any] | None = None,
) -> "Translator":
    import torch

    from nmt.decoding.translator import Translator

    if threads:
        torch.set_num_threads(threads)
    if device not in ("", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        here = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError("--device", device, f"this machine has {here}")
    keys = {"batch": "batch_sentences"}
    update = {keys.get(key, key): value for key, value in (how or {}).items() if value is not None}
    decoding = bundle.experiment.decoding.model_copy(update=update)
    experiment = bundle.experiment.model_copy(update={"decoding": decoding})
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Translator(bundle.model(), bundle.subword, experiment, device=place)


def _test_sets(
    bundle: "Bundle", src: tuple[str, ...], ref: tuple[str, ...], names: tuple[str, ...]
) -> Iterator["TestSet"]:
    from nmt.evaluation import test_sets

    if len(src) != len(ref):
        raise ConfigError("--ref", f"given {len(ref)} times", f"--src is given {len(src)} times")
    corpus = bundle.experiment.corpus
    if not src and not names:
        names = tuple(test.name for test in corpus.tests)
        if not names:
            raise ConfigError(
                "corpus.tests", "empty", "there is nothing to score: give --src and --ref"
            )
    for src_file, ref_file in zip(src, ref, strict=True):
        yield test_sets.from_files(Path(src_file), [Path(ref_file)])
    for name in names:
        yield test_sets.find(name, Path(bundle.experiment.prepared), corpus.src, corpus.tgt)


def _evaluate(
    bundle: "Bundle", test_set: "TestSet", console: "Console", metrics: tuple[str, ...],
    folder: Path | None, *, as_json: bool, **how: Any,
) -> list[str]:  # fmt: skip
    from nmt.evaluation import results, scores

    corpus = bundle.experiment.corpus
    hyps = []
    for translation in _translator(bundle, how=how).translate(test_set.src):
        hyps.append(translation.text)
        console.progress(f"translating {test_set.name}", len(hyps), len(test_set.src), "lines")
    report = scores.score(
        hyps, test_set.references, corpus.tgt, test_set=test_set.name,
        system=bundle.experiment.name, checkpoint=bundle.path.name, metrics=metrics,
    )  # fmt: skip
    run_dir = bundle.path.parent.parent if bundle.path.parent.name == "checkpoints" else bundle.path
    written = results.write(
        folder or run_dir / "evaluation", test_set, hyps, report, corpus.src, corpus.tgt
    )
    click.echo(report.json() if as_json else report.text(width=2))
    console.say(f"translations and scores: {written[0].parent}/")
    return hyps
