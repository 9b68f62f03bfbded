"""Python API: load a model, prepare a corpus, train, adapt, evaluate. Exported by `nmt`.

The command line calls the same functions. Slow libraries (torch, ray) are imported when a function
needs them.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.checkpoint.location import checkpoint_dir
from nmt.config.cluster import Cluster
from nmt.config.decoding import EngineName, Precision
from nmt.config.experiment import Experiment
from nmt.config.files import (
    build_experiment,
    check_sets,
    load_cluster,
    load_experiment,
    override,
    overrides_of,
    split_overrides,
)
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus.io import check_files, check_writable
from nmt.errors import ConfigError, DataError, check_path, check_strings, shorten
from nmt.jobs.preparation import check_unprepared, prepare_corpus

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.corpus.manifest import Manifest
    from nmt.decoding.engines import Device
    from nmt.decoding.translator import Translator
    from nmt.evaluation.scores import ScoreReport
    from nmt.jobs.driver import RunResult

ExperimentLike = str | Path | Mapping[str, Any] | Experiment
"""An experiment: YAML file, nested mapping of its settings, or settings."""
ClusterLike = str | Path | Cluster | None
"""A cluster: YAML file or settings; None: this machine with one worker."""
MAX_MIX = 1000
"""Largest number of old tokens per new token in `adapt`."""
Lines = str | Path | Sequence[str]
"""Text: a file (compressed or not), or lines."""


def load(
    run: str | Path,
    *,
    device: "Device" = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    ensemble: Iterable[str | Path] = (),
    engine: EngineName = "auto",
    shortlist: bool = False,
    **decoding: Any,
) -> "Translator":
    """Load the best model of a run for translation.

    Args:
        run: run directory (its best checkpoint is taken), checkpoint directory, exported model, or
            address of one in an object store.
        device: "auto" takes a GPU if torch finds one.
        precision: precision of the large matrix products; None: as stored, or bf16 on a GPU. int8
            needs a CPU.
        threads: number of compute threads; None: as the engine decides.
        ensemble: further runs whose probabilities are averaged with those of `run`.
        engine: "torch", or "onnx" (ONNX Runtime, on CPUs); "auto" takes onnx on a CPU.
        shortlist: restrict each line to the candidates of its tokens, with an exported model that
            has a shortlist.
        decoding: settings of the section `decoding`, such as `beam=5` or `length_penalty=1.0`, that
            replace those of the experiment.

    Returns:
        Translator with `translate`, `translate_detailed` and `stream`.

    Raises:
        NmtError: there is no such model, it is corrupt, or an option does not fit it.

    Example:
        >>> translator = nmt.load("runs/multi30k_en_de", beam=5)
        >>> translator.translate(["A dog runs."])
        ['Ein Hund rennt.']
    """
    from nmt.decoding.loading import make_translator, open_ensemble, open_model

    model = open_model(run)
    others = open_ensemble(model, ensemble)
    translator = make_translator(
        model, others, device, precision, threads, engine, shortlist, **decoding
    )
    translator.build_engine()
    return translator


def prepare(
    experiment: ExperimentLike, cluster: ClusterLike = None, overrides: Sequence[str] = ()
) -> "Manifest":
    """Clean a corpus, learn its subwords and write Arrow shards, on Ray.

    Does nothing if the corpus is prepared already; resumes interrupted preparation.

    Args:
        experiment: experiment to prepare.
        cluster: cluster to prepare on.
        overrides: settings as on the command line, `section.key=value` and `cluster.key=value`.

    Returns:
        Manifest of the prepared corpus, with the counts of kept and dropped pairs.

    Raises:
        NmtError: a file is missing or malformed, or a setting is invalid.

    Example:
        >>> manifest = nmt.prepare("my.yaml", overrides=["corpus.root=data/my"])
    """
    settings = load_settings(experiment, cluster, overrides)
    with Console() as console:
        return prepare_corpus(*settings, console)


def train(
    experiment: ExperimentLike, cluster: ClusterLike = None, overrides: Sequence[str] = ()
) -> "RunResult":
    """Train a model through Ray Train, or resume its run.

    Connects to the Ray cluster of the environment variable RAY_ADDRESS; without it Ray starts on
    this machine. Log lines go to standard error.

    Args:
        experiment: experiment; its corpus is prepared first unless it is prepared already.
        cluster: workers and their resources, storage of the run.
        overrides: settings as on the command line, `section.key=value` and `cluster.key=value`.

    Returns:
        Result of the run: directory, number of updates, best dev BLEU.

    Raises:
        NmtError: the corpus cannot be prepared, the settings do not match the run, or too many
            workers failed.

    Example:
        >>> result = nmt.train("my.yaml", cluster="configs/clusters/local.yaml")
        >>> nmt.load(result.run).translate(["A dog runs."])
        ['Ein Hund rennt.']
    """
    settings = load_settings(experiment, cluster, overrides)
    with Console() as console:
        return train_model(*settings, console)


def adapt(
    run: str | Path,
    src: str | Path | None = None,
    tgt: str | Path | None = None,
    *,
    output: str | Path,
    dev: tuple[str | Path, str | Path] | None = None,
    test: tuple[str | Path, str | Path] | None = None,
    experiment: ExperimentLike | None = None,
    mix: float = 1.0,
    cluster: ClusterLike = None,
    overrides: Sequence[str] = (),
) -> "RunResult":
    """Fine-tune a model on the text of a new domain through Ray Train, or resume that run.

    New pairs are mixed with a sample of the old ones (Chu et al. 2017), on which the model keeps
    its distribution (Dakwale & Monz 2017); early stopping is by dev BLEU of new pairs. The result
    is an average of the earlier and the fine-tuned weights.

    Args:
        run: run, checkpoint, or address of one in an object store.
        src: source file of the new domain.
        tgt: its translation, line by line.
        output: run to write, or its address.
        dev: files of a dev set, source and target; None: a tenth of the pairs is held out.
        test: files of a test set; None: as for `dev`.
        experiment: experiment with corpora and settings of the new domain, instead of `src` and
            `tgt`.
        mix: old tokens per new token in an epoch, 0 to 1,000.
        cluster: as in `train`.
        overrides: settings as on the command line, `section.key=value` and `cluster.key=value`.

    Returns:
        Result of the run: directory, number of updates, best dev BLEU of the new domain.

    Raises:
        NmtError: there is no such model, a file cannot be read, or an argument or a setting is
            invalid.

    Example:
        >>> result = nmt.adapt("runs/multi30k_en_de", "new.en", "new.de", output="runs/adapted")
        >>> nmt.load(result.run).translate(["A dog runs."])
        ['Ein Hund rennt.']
    """
    with (
        Console() as console,
        open_adaptation(
            run, src, tgt, dev, test, experiment, mix, output, cluster, overrides, console
        ) as (_, adapted, settings),
    ):
        return train_model(adapted, settings, console)


def evaluate(
    run: "str | Path | Translator",
    *,
    src: Lines,
    ref: Lines | Sequence[Path | Sequence[str]],
    metrics: Sequence[str] | None = None,
    num_resamples: int = 1000,
    **options: Any,
) -> "ScoreReport":
    """Translate a test set and score it with sacreBLEU.

    Args:
        run: as in `load`, or a loaded translator.
        src: source lines, or a file of them.
        ref: reference lines, or a file of them; several references as a list of `Path` or of lists
            of lines. A list of strings is the lines of one reference.
        metrics: names such as "bleu", "chrf", "ter"; None: these three.
        num_resamples: bootstrap resamples for the 95 % intervals; 1 or less: no intervals.
        options: as in `load`; none for a loaded translator.

    Returns:
        Report with `scores`, each with name, value, interval and signature; `report.text()` formats
        it as the command line does.

    Raises:
        NmtError: as in `load`; a file is missing, or line counts differ.

    Example:
        >>> report = nmt.evaluate("runs/multi30k_en_de", src="test.en", ref="test.de")
        >>> report.scores[0].value
        40.76
    """
    from nmt.corpus.text import read_lines
    from nmt.decoding.translator import Translator
    from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS, check_metrics
    from nmt.evaluation.scores import score
    from nmt.evaluation.test_sets import printable

    def lines_of(text: Lines) -> list[str]:
        return list(read_lines(Path(text))) if isinstance(text, str | Path) else list(text)

    for key, value in (("src", src), ("ref", ref)):
        if not isinstance(value, Iterable | Path):
            raise ConfigError(key, shorten(repr(value)), "it must be lines or a file")
    # Generators can be read only once.
    metrics = check_strings("metrics", metrics or DEFAULT_METRICS, "it must be a list of names")
    if not isinstance(num_resamples, Integral):
        raise ConfigError("num_resamples", repr(num_resamples), "it must be an integer")
    ref = ref if isinstance(ref, str | Path) else list(ref)
    if isinstance(run, Translator) and options:
        key, value = next(iter(options.items()))
        raise ConfigError(key, value, "the translator is loaded already: give it to nmt.load")
    # A list of strings is one reference, line by line.
    is_one = isinstance(ref, str | Path) or not any(
        isinstance(each, Iterable | Path) and not isinstance(each, str) for each in ref
    )
    given: Any = [ref] if is_one else ref
    # All input is checked before anything is translated.
    sources, references = lines_of(src), [lines_of(each) for each in given]
    for lines in references:
        if len(lines) != len(sources):
            raise DataError(
                f"ref has {len(lines):,} lines, src has {len(sources):,}: both need one line per "
                "segment"
            )
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, str):
                problem = f"line {number} is {type(line).__name__}, but it must be a string"
                raise DataError(f"ref, {problem}")
    translator = run if isinstance(run, Translator) else load(run, **options)
    check_metrics(metrics, translator.tgt_language)
    return score(
        translator.translate(sources),
        references,
        translator.tgt_language,
        test_set=printable(Path(src).name) if isinstance(src, str | Path) else "lines",
        system="translator" if isinstance(run, Translator) else printable(str(run)),
        metrics=metrics,
        num_resamples=num_resamples,
    )


@contextmanager
def open_adaptation(
    run: str | Path, src: str | Path | None, tgt: str | Path | None,
    dev: tuple[str | Path, str | Path] | None, test: tuple[str | Path, str | Path] | None,
    experiment: ExperimentLike | None, mix: float, output: str | Path, cluster: ClusterLike,
    overrides: Sequence[str], console: Console,
) -> "Iterator[tuple[Checkpoint, Experiment, Cluster]]":  # fmt: skip
    """Write the text of a fine-tuning run; its folder is locked until the end of the context.

    Arguments and errors are those of `adapt`.

    Yields:
        The model to start from, and the settings to train with.
    """
    from nmt.checkpoint.load import load_checkpoint
    from nmt.storage import display_address, join_address
    from nmt.training.adaptation import NewFiles, plan_adaptation

    for key, files in (("dev", dev), ("test", test)):
        is_pair = isinstance(files, Sequence) and not isinstance(files, str) and len(files) == 2
        if files is not None and not is_pair:
            raise ConfigError(key, repr(files), "it must be two files: source and target")
    check_path("run", run)
    check_path("output", output)
    name, place = _split_output(str(output), str(run))
    for_experiment, for_cluster = split_overrides(overrides)
    settings = _resolve_cluster(cluster, for_cluster)
    settings = override(settings, overrides_of({"storage": place}), "output")
    if not (isinstance(mix, Real) and 0 <= mix <= MAX_MIX):
        raise ConfigError("mix", repr(mix), f"it must be 0 to {MAX_MIX:,}")
    new: NewFiles | Experiment
    if experiment is None:
        if src is None or tgt is None:
            problem = "the new text is missing: give src and tgt, or experiment"
            raise ConfigError.from_message(problem)
        check_files(chain((src, tgt), dev or (), test or ()))
        new = NewFiles((src, tgt), dev, test)
    elif any(each is not None for each in (src, tgt, dev, test)):
        rule = "the experiment names the text: omit src, tgt, dev and test"
        raise ConfigError("experiment", experiment, rule)
    else:
        new, _ = load_settings(experiment)
    source = load_checkpoint(checkpoint_dir(run))
    # Checked before text is read.
    override(source.experiment, overrides_of({"name": name}), "output")
    folder = Path(f"prepared/{name}.text")
    check_writable("corpus.prepared", folder)
    address = display_address(join_address(place, name))
    adaptation = plan_adaptation(
        source, str(run), address, new, mix, folder, for_experiment, console
    )
    with adaptation as adapted:
        yield source, adapted, settings


def _split_output(output: str, run: str) -> tuple[str, str]:
    """Return the name of a run and the directory or address above it."""
    if is_address(output):
        head, mark, query = output.partition("?")
        parent, _, name = head.rstrip("/").rpartition("/")
        if parent.endswith(":/"):
            raise ConfigError("output", output, "the run is missing: s3://BUCKET/PATH")
        return name, f"{parent}{mark}{query}"
    if not output:
        raise ConfigError("output", "empty", "it must name the run to write")
    path = Path(os.path.abspath(output))
    if not is_address(run) and path == Path(os.path.abspath(run)):
        raise ConfigError("output", output, "it is the run to start from: name another one")
    return path.name, str(path.parent)


def load_settings(
    experiment: ExperimentLike, cluster: ClusterLike = None, overrides: Sequence[str] = ()
) -> tuple[Experiment, Cluster]:
    """Load experiment and cluster and apply the overrides of both.

    Raises:
        ConfigError: a file, a key or a value is invalid.
    """
    for_experiment, for_cluster = split_overrides(overrides)
    if isinstance(experiment, str | Path):
        settings = load_experiment(experiment, for_experiment)
    else:
        given = experiment
        if not isinstance(given, Experiment | Mapping):
            rule = "it must be a file, a mapping or an Experiment"
            raise ConfigError("experiment", shorten(repr(given)), rule)
        settings = given if isinstance(given, Experiment) else build_experiment(given)
        settings = override(settings, for_experiment, "overrides") if for_experiment else settings
        # The experiment of a checkpoint may have what an earlier version accepted.
        if not isinstance(given, Experiment):
            check_sets(settings, "experiment")
    return settings, _resolve_cluster(cluster, for_cluster)


def _resolve_cluster(cluster: ClusterLike, overrides: Sequence[str]) -> Cluster:
    if isinstance(cluster, Cluster):
        return override(cluster, overrides, "overrides") if overrides else cluster
    if cluster is not None and not isinstance(cluster, str | Path):
        rule = "it must be a file, a Cluster or None"
        raise ConfigError("cluster", shorten(repr(cluster)), rule)
    return load_cluster(cluster, overrides)


def train_model(experiment: Experiment, cluster: Cluster, console: Console) -> "RunResult":
    """Prepare the corpus unless it is prepared, and train on Ray; the log goes to the console."""
    from nmt.corpus.prepared import is_prepared, prepared_folder
    from nmt.jobs.ray_session import check_workers_fit, connect, resolve_auto
    from nmt.jobs.train import (
        check_before_preparation,
        get_run_address,
        get_run_dir,
        train_on_ray,
    )

    # A run in an object store has a working copy in cluster.scratch.
    address = get_run_address(experiment, cluster)
    directory = get_run_dir(experiment, cluster)
    check_writable("cluster.scratch" if address else "cluster.storage", directory)
    with ExitStack() as stack:
        if not is_prepared(experiment):
            check_before_preparation(experiment, cluster)
            check_unprepared(experiment)
            console.log(f"prepare the corpus in {prepared_folder(experiment)}")
            # One Ray session for both: starting it takes seconds.
            resolved = resolve_auto(cluster, experiment.batching.micro_batches)
            num_cpus = resolved.workers.max * resolved.cpus_per_worker
            stack.enter_context(connect(num_cpus, directory / "ray.log"))
            check_workers_fit(cluster, experiment.batching.micro_batches)
            prepare_corpus(experiment, cluster, console, explains_preset=False)
        result = train_on_ray(experiment, cluster, console)
    return replace(result, run=address or str(directory))
