"""Commands of `nmt` as jobs of a Ray cluster.

A job runs the code of this checkout with two resolved config files; their paths are on a disk that
all hosts share. The target of a job is what it writes: a run, a prepared corpus or a file. Two jobs
with one target never run at the same time, and a later job resumes where the previous one ended,
so submitting twice is harmless. Ray rejects a job id that was used before; therefore this also
holds for two users who submit at the same moment.
"""

import itertools
import json
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard import PrintLine

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import dump, parse_stored
from nmt.config.preset import dump_experiment
from nmt.config.settings import absolute_path, is_address
from nmt.errors import ConfigError, NmtError
from nmt.storage import display_address, join_address
from nmt.training.run_manifest import REVISION, SUBMITTED, code_sha256, revision

ROOT = Path(__file__).resolve().parents[1]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_TIMEOUT_S = 60
"""Grace period from TERM to KILL; Ray's default of 3 s is too short for a checkpoint."""


@dataclass(frozen=True)
class Job:
    """Command to submit."""

    verb: str
    """Command of `nmt`."""
    name: str
    """Name of the experiment."""
    target: str
    """Path or address that the job writes."""
    command: tuple[str, ...]
    """Words of the command, run in the working directory."""
    env: dict[str, str]
    """Environment variables of the command and of its workers."""
    num_cpus: int = 0
    """CPUs of the command itself, without those of its workers."""
    num_gpus: int = 0
    """GPUs of the command itself."""
    options: tuple[str, ...] = ()
    """Command-line options as given."""


def resolve_paths(experiment: Experiment, cluster: Cluster) -> tuple[Experiment, Cluster]:
    """Return the same settings with paths made absolute from the current directory."""
    corpus, training = experiment.corpus, experiment.training
    subword = corpus.subword.model_copy(
        update={"tokenizer": absolute_path(corpus.subword.tokenizer)}
    )
    corpus = corpus.model_copy(
        update={
            "root": absolute_path(corpus.root), "prepared": absolute_path(experiment.prepared),
            "subword": subword,
        }
    )  # fmt: skip
    training = training.model_copy(update={"init_from": absolute_path(training.init_from)})
    return (
        experiment.model_copy(update={"corpus": corpus, "training": training}),
        cluster.model_copy(update={"storage": absolute_path(cluster.storage)}),
    )


def make_job(verb: str, experiment: Experiment, cluster: Cluster, options: list[str]) -> Job:
    """Return the job of a command.

    Args:
        verb: prepare, train, evaluate or translate.
        experiment: with absolute paths.
        cluster: with absolute paths.
        options: those of `nmt VERB`, with absolute paths.

    Raises:
        ConfigError: an option that a job cannot have.
    """
    name, run = experiment.name, run_location(experiment.name, cluster)
    env = {STOP_VARIABLE: str(STOP_TIMEOUT_S), **cluster.env}
    nmt = ("python", "-m", "nmt", verb)
    files = ("experiment.yaml", "--cluster", "cluster.yaml")
    if verb in ("prepare", "train"):
        target = run if verb == "train" else experiment.prepared
        return Job(verb, name, target, (*nmt, *files, *options), env, options=tuple(options))
    if verb == "translate" and "-" in (_value(options, "--input"), _value(options, "--output")):
        raise ConfigError.from_message(
            "a job has no standard input or output: set -i FILE and -o FILE to files on a disk "
            "that all hosts share"
        )
    if is_address(run) and "--output" not in options:
        raise ConfigError.from_message(
            "a job that evaluates a run in an object store needs -o FOLDER, on a disk that all "
            "hosts share"
        )
    target = _value(options, "--output", default=f"{run}/evaluation")
    if "--workers" in options:
        # The workers are those of the cluster file; the command itself only sends them the model.
        command = (*nmt, run, "--cluster", "cluster.yaml", *options)
        return Job(verb, name, target, command, env, options=tuple(options))
    # These commands have no workers: Ray runs them where the resources of one worker are free, and
    # they use no more cores than that.
    num_cpus = int(_value(options, "--threads", default=str(cluster.cpus_per_worker)))
    threads = () if "--threads" in options else ("--threads", str(num_cpus))
    resources = (num_cpus, int(cluster.gpus_per_worker == 1))
    command = (*nmt, run, *options, *threads)
    return Job(verb, name, target, command, env, *resources, tuple(options))


def run_location(name: str, cluster: Cluster) -> str:
    """Return the folder of a run, or its address in an object store."""
    if is_address(cluster.storage):
        return join_address(cluster.storage, name)
    return str(Path(cluster.storage, name))


def _value(options: list[str], name: str, default: str = "-") -> str:
    return options[options.index(name) + 1] if name in options else default


def check_job(job: Job, experiment: Experiment, cluster: Cluster, print_line: PrintLine) -> None:
    """Check what can be checked without the cluster; print what cannot.

    Raises:
        NmtError: the job would fail.
    """
    from nmt.corpus.prepare import check_raw
    from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS, check_metrics
    from nmt.evaluation.scores import check_dev_set

    run = Path(run_location(job.name, cluster))
    if is_address(cluster.storage) and job.verb != "prepare":
        print_line(f"not checked: run in {display_address(cluster.storage)}")
    tgt_language = experiment.corpus.tgt
    match job.verb:
        case "prepare":
            check_metrics(DEFAULT_METRICS, tgt_language)
            if _is_local(experiment.corpus.root, print_line):
                check_dev_set(tgt_language, check_raw(experiment))
        case "train":
            _check_training(run, experiment, cluster, print_line)
        case _ if not is_address(cluster.storage):
            _is_local(str(run), print_line)
    if job.num_cpus and cluster.gpus_per_worker == "auto":
        print_line(
            f"{job.verb} uses no GPU: gpus_per_worker is auto, which is for workers of training; "
            "set cluster.gpus_per_worker=1 for one"
        )


def _check_training(
    run: Path, experiment: Experiment, cluster: Cluster, print_line: PrintLine
) -> None:
    """Check a training job; see `check_job`."""
    from nmt.corpus.prepare import check_raw
    from nmt.corpus.prepared import is_prepared, open_prepared, read_dev
    from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS, check_metrics
    from nmt.evaluation.scores import check_dev_set

    tgt_language = experiment.corpus.tgt
    check_metrics(DEFAULT_METRICS, tgt_language)
    is_started = (run / "checkpoints").is_dir()
    # These modules import torch, which takes seconds: only if there is something to check.
    # The GPUs of the cluster are not known here; auto never gives too many workers.
    cluster = cluster.resolve(0, experiment.batching.micro_batches)
    # The sizes of preset auto are known once the corpus is prepared.
    has_sizes = experiment.preset == "none"
    has_too_many = cluster.workers.max > experiment.batching.micro_batches
    if has_sizes and (is_started or has_too_many):
        from nmt.training.data import check_workers
        from nmt.training.resume import check_run

        check_workers(experiment, cluster.workers.max)
        check_run(experiment, run)
    subword = None
    if is_prepared(experiment):
        _, subword = open_prepared(experiment)
        check_dev_set(tgt_language, read_dev(experiment.prepared)[1])
    elif Path(experiment.corpus.root).exists():
        check_dev_set(tgt_language, check_raw(experiment))
        print_line(
            f"not prepared on this machine: {experiment.prepared}; the job prepares it "
            "unless it is on the cluster"
        )
    else:
        print_line(
            f"not checked: neither {experiment.prepared} nor {experiment.corpus.root} is "
            "on this machine; one of them must exist on the cluster"
        )
    source = experiment.training.init_from
    if is_address(source):
        print_line(f"not checked: training.init_from, {display_address(source)}")
    elif source and not is_started and _is_local(source, print_line):
        from nmt.training.warm_start import check_warm_start

        check_warm_start(experiment, subword)


def _is_local(path: str, print_line: PrintLine) -> bool:
    """Return True if a path exists on this machine; print a note if not."""
    if not (exists := Path(path).exists()):
        print_line(f"not checked: {path} is not on this machine; it must exist on the cluster")
    return exists


def submit_job(
    client: Any, job: Job, experiment: Experiment, cluster: Cluster, print_line: PrintLine
) -> str:
    """Submit a job unless one with the same target is running; return the id of the running job."""
    while True:
        jobs = client.list_jobs()
        same = [each for each in jobs if metadata(each).get("nmt_target") == job.target]
        same.sort(key=submitted_ms)
        # Newest first: an ended job may be followed by a running one with the same target.
        for each in reversed(same):
            if each.status not in ENDED:
                print_line(f"not submitted, {each.submission_id} is running: {describe(each)}")
                return str(each.submission_id)
        if same:
            print_line(f"resuming where {same[-1].submission_id} ended: {describe(same[-1])}")
        # The time of submission lets the log report the time to the first update.
        env = {SUBMITTED: f"{time.time():.3f}", **job.env}
        job_id = _free_id(job, {each.submission_id for each in jobs})
        with tempfile.TemporaryDirectory(prefix="nmt-submit-") as folder:
            num_files, size = fill_working_directory(Path(folder), experiment, cluster)
            print_line(f"sending {num_files} files, {size / 1000:.0f} kB of code and settings")
            storage, corpus = cluster.storage, experiment.corpus
            storage = display_address(storage) if is_address(storage) else storage
            print_line(f"all hosts need access to {storage}, {corpus.prepared} and {corpus.root}")
            try:
                client.submit_job(
                    entrypoint=shlex.join(job.command),
                    submission_id=job_id,
                    runtime_env={"working_dir": folder, "env_vars": env},
                    metadata=_metadata_for(job, experiment, cluster),
                    entrypoint_num_cpus=job.num_cpus or None,
                    entrypoint_num_gpus=job.num_gpus or None,
                )
                return job_id
            except RuntimeError as error:
                # Another user has taken this id since `list_jobs`: start over.
                if f"{job_id} already exists" not in str(error):
                    raise


def _metadata_for(job: Job, experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """Return what the cluster stores beside a job: enough to submit it again."""
    return {
        "nmt_verb": job.verb, "nmt_name": job.name, "nmt_target": job.target,
        "nmt_experiment": dump_experiment(experiment), "nmt_cluster": dump(cluster),
        "nmt_options": json.dumps(job.options), "nmt_code": code_sha256(),
    }  # fmt: skip


def restore_job(job: Any, print_line: PrintLine) -> tuple[Job, Experiment, Cluster]:
    """Return what a job of the cluster was submitted with; print a warning if the code differs.

    Raises:
        NmtError: its settings were not stored, or are not valid in this version.
    """
    stored, source = metadata(job), f"the settings of {job.submission_id}"
    try:
        experiment = parse_stored(Experiment, stored["nmt_experiment"], source)
        cluster = parse_stored(Cluster, stored["nmt_cluster"], source)
        options = json.loads(stored["nmt_options"])
    except KeyError:
        raise NmtError(
            f"{job.submission_id} was submitted by an nmt that did not store its settings: submit "
            "EXPERIMENT CLUSTER again, which resumes the run"
        ) from None
    if stored.get("nmt_code") != code_sha256():
        print_line(f"warning: the code of this checkout differs from that of {job.submission_id}")
    return make_job(stored["nmt_verb"], experiment, cluster, options), experiment, cluster


def _free_id(job: Job, used: set[str | None]) -> str:
    first = f"nmt-{job.verb}-{job.name}"
    ids = itertools.chain([first], (f"{first}-{attempt}" for attempt in itertools.count(2)))
    return next(job_id for job_id in ids if job_id not in used)


def fill_working_directory(
    folder: Path, experiment: Experiment, cluster: Cluster
) -> tuple[int, int]:
    """Write code, its git revision and both config files; return number of files and bytes."""
    shutil.copytree(ROOT / "nmt", folder / "nmt", ignore=shutil.ignore_patterns("__pycache__"))
    texts = {"experiment.yaml": dump_experiment(experiment), "cluster.yaml": dump(cluster)}
    texts[REVISION] = revision()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def find_jobs(client: Any, name: str | None) -> list[Any]:
    """Return the jobs with this id or experiment name, or all of nmt; oldest first.

    Raises:
        NmtError: there is none.
    """
    jobs = sorted(client.list_jobs(), key=submitted_ms)
    jobs = [job for job in jobs if "nmt_name" in metadata(job)]
    named = [job for job in jobs if name in (None, job.submission_id)]
    # An id takes precedence over an experiment name.
    named = named or [job for job in jobs if job.metadata["nmt_name"] == name]
    if not named:
        newest = ", ".join(job.submission_id for job in jobs[-5:]) or "none"
        raise NmtError(f"no job of {name or 'nmt'} on the cluster; newest jobs: {newest}")
    return named


def metadata(job: Any) -> dict[str, str]:
    """Return the metadata that a job was submitted with."""
    return job.metadata or {}


def submitted_ms(job: Any) -> int:
    """Return the Unix time of submission in milliseconds; 0 if unknown."""
    return job.start_time or 0


def stop_timeout_s(job: Any) -> int:
    """Return the grace period in seconds between TERM and KILL."""
    return int(((job.runtime_env or {}).get("env_vars") or {}).get(STOP_VARIABLE, STOP_TIMEOUT_S))


def describe(job: Any) -> str:
    """Return `FAILED after 12 s, started 2026-07-01 12:00:00, target /runs/demo: last message`."""
    start_s, end_s = submitted_ms(job) / 1000, (job.end_time or 1000 * time.time()) / 1000
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start_s))
    since = "after" if job.status in ENDED else "for"
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    reason = f": {lines[-1]}" if job.status == "FAILED" and lines else ""
    target, seconds = metadata(job).get("nmt_target", ""), end_s - start_s
    return f"{job.status} {since} {seconds:.0f} s, started {started}, target {target}{reason}"
