"""A verb of `nmt` as a job of a Ray cluster.

A job runs the code of this checkout with the two config files resolved here; paths in them are
those of a disk that every host sees. Each job has a target, which is what it writes: a run, a
prepared folder, a file. Two jobs with one target never run at once, and a later attempt goes on
where the one before ended: submitting twice does no harm. Ray refuses a job id that was used
before, so this holds for two people who submit at the same moment too.
"""

import itertools
import json
import os
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard import Say

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import dump, parse_stored
from nmt.errors import ConfigError, NmtError
from nmt.storage import display_address, is_address, join_address
from nmt.training.run_manifest import REVISION, SUBMITTED, code_sha256, revision

ROOT = Path(__file__).resolve().parents[1]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_S = 60
"""Seconds from the signal to stop until Ray kills a job; Ray's own 3 are few for a checkpoint."""


@dataclass(frozen=True)
class Job:
    """What is sent to a cluster."""

    verb: str
    """Verb of `nmt`."""
    name: str
    """Name of the experiment."""
    target: str
    """What the job writes."""
    command: tuple[str, ...]
    """What runs in the working directory, word by word."""
    env: dict[str, str]
    """Environment variables of the command, and of all workers it asks for."""
    num_cpus: int = 0
    """Cores for the command itself, beside those of its workers."""
    num_gpus: int = 0
    """GPUs for the command itself."""
    options: tuple[str, ...] = ()
    """Those of the verb, as they were given."""


def absolute(experiment: Experiment, cluster: Cluster) -> tuple[Experiment, Cluster]:
    """The same settings, with relative paths taken from the folder that we are in."""
    root, prepared = os.path.abspath(experiment.corpus.root), os.path.abspath(experiment.prepared)
    corpus = experiment.corpus.model_copy(update={"root": root, "prepared": prepared})
    storage = cluster.storage if is_address(cluster.storage) else os.path.abspath(cluster.storage)
    return (
        experiment.model_copy(update={"corpus": corpus}),
        cluster.model_copy(update={"storage": storage}),
    )


def plan(verb: str, experiment: Experiment, cluster: Cluster, options: list[str]) -> Job:
    """The job of a verb; options are those of `nmt VERB`, with absolute paths.

    Raises:
        ConfigError: options that a job cannot have.
    """
    name, run = experiment.name, run_of(experiment.name, cluster)
    env = {STOP_VARIABLE: str(STOP_S), **cluster.env}
    nmt = ("python", "-m", "nmt", verb)
    if verb in ("prepare", "train"):
        target = run if verb == "train" else experiment.prepared
        files = ("experiment.yaml", "--cluster", "cluster.yaml")
        command = (*nmt, *files, *options)
        return Job(verb, name, target, command, env, options=tuple(options))
    if verb == "translate" and "-" in (_value(options, "--input"), _value(options, "--output")):
        raise ConfigError.from_message(
            "a job has no standard input and output: name two files that every host sees, "
            "-i FILE and -o FILE"
        )
    if is_address(run) and "--output" not in options:
        raise ConfigError.from_message(
            "a job that scores a run in an object store writes to a folder that every host sees: "
            "name it, -o FOLDER"
        )
    target = _value(options, "--output", default=f"{run}/evaluation")
    # These two have no workers: Ray runs the command where one worker's cores and GPU are free.
    resources = (cluster.cpus_per_worker, cluster.gpus_per_worker)
    return Job(verb, name, target, (*nmt, run, *options), env, *resources, tuple(options))


def run_of(name: str, cluster: Cluster) -> str:
    """The folder of a run, or its address in an object store."""
    if is_address(cluster.storage):
        return join_address(cluster.storage, name)
    return str(Path(cluster.storage, name))


def _value(options: list[str], name: str, default: str = "-") -> str:
    return options[options.index(name) + 1] if name in options else default


def check(job: Job, experiment: Experiment, cluster: Cluster, say: Say) -> None:
    """Check what can be checked without the cluster; say what is not on this machine.

    Raises:
        NmtError: the job would fail.
    """
    from nmt.corpus.prepare import check_raw
    from nmt.corpus.prepared import open_prepared

    def is_here(path: str) -> bool:
        if not Path(path).exists():
            say(f"not checked: {path} is not on this machine; the job looks for it on the cluster")
        return Path(path).exists()

    run = Path(run_of(job.name, cluster))
    if is_address(cluster.storage) and job.verb != "prepare":
        say(f"not checked: {display_address(cluster.storage)}; the job looks for its run there")
    match job.verb:
        case "prepare":
            if is_here(experiment.corpus.root):
                check_raw(experiment)
        case "train":
            is_begun = (run / "checkpoints").is_dir()
            # These import torch, which takes seconds: not where they have nothing to say.
            if is_begun or cluster.workers.max > experiment.batching.micro_batches:
                from nmt.training.data import check_workers
                from nmt.training.resume import check_run

                check_workers(experiment, cluster.workers.max)
                check_run(experiment, run)
            if is_here(experiment.prepared):
                open_prepared(experiment)
        case _ if not is_address(cluster.storage):
            is_here(str(run))


def submit(client: Any, job: Job, experiment: Experiment, cluster: Cluster, say: Say) -> str:
    """Submit a job, unless one with its target is under way; returns the id of the one that is."""
    while True:
        jobs = client.list_jobs()
        same = [each for each in jobs if metadata(each).get("nmt_target") == job.target]
        for each in sorted(same, key=started, reverse=True):
            if each.status not in ENDED:
                say(f"nothing is submitted, {each.submission_id} is under way: {state(each)}")
                return str(each.submission_id)
        if same:
            last = max(same, key=started)
            say(f"this job goes on where {last.submission_id} ended: {state(last)}")
        env = {SUBMITTED: f"{time.time():.3f}", **job.env}
        job_id = _free_id(job, {each.submission_id for each in jobs})
        with tempfile.TemporaryDirectory(prefix="nmt-submit-") as folder:
            num_files, size = pack(Path(folder), experiment, cluster)
            say(f"sending {num_files} files, {size / 1000:.0f} kB of code and settings")
            corpus = experiment.corpus
            storage = cluster.storage
            storage = display_address(storage) if is_address(storage) else storage
            say(f"every host must see {storage}, {corpus.prepared} and {corpus.root}")
            try:
                client.submit_job(
                    entrypoint=shlex.join(job.command),
                    submission_id=job_id,
                    runtime_env={"working_dir": folder, "env_vars": env},
                    metadata=_sent(job, experiment, cluster),
                    entrypoint_num_cpus=job.num_cpus or None,
                    entrypoint_num_gpus=job.num_gpus or None,
                )
                return job_id
            except RuntimeError as error:
                # Somebody took this id since we looked: look again.
                if f"{job_id} already exists" not in str(error):
                    raise


def _sent(job: Job, experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """What the cluster keeps beside a job: enough to submit it again."""
    return {
        "nmt_verb": job.verb, "nmt_name": job.name, "nmt_target": job.target,
        "nmt_experiment": dump(experiment), "nmt_cluster": dump(cluster),
        "nmt_options": json.dumps(job.options), "nmt_code": code_sha256(),
    }  # fmt: skip


def sent_before(job: Any, say: Say) -> tuple[Job, Experiment, Cluster]:
    """What a job of the cluster was submitted with; says where the code is not the same any more.

    Raises:
        NmtError: it was submitted by an nmt that did not keep it, or is none that this one knows.
    """
    kept, where = metadata(job), f"the settings of {job.submission_id}"
    try:
        experiment = parse_stored(Experiment, kept["nmt_experiment"], where)
        cluster = parse_stored(Cluster, kept["nmt_cluster"], where)
        options = json.loads(kept["nmt_options"])
    except KeyError:
        raise NmtError(
            f"{job.submission_id} was submitted by an nmt that did not keep its settings: submit "
            "EXPERIMENT CLUSTER again, it goes on all the same"
        ) from None
    if kept.get("nmt_code") != code_sha256():
        say(f"warning: the code of this checkout is not that of {job.submission_id}")
    return plan(kept["nmt_verb"], experiment, cluster, options), experiment, cluster


def _free_id(job: Job, used: set[str | None]) -> str:
    first = f"nmt-{job.verb}-{job.name}"
    later = (f"{first}-{attempt}" for attempt in itertools.count(2))
    return next(job_id for job_id in itertools.chain([first], later) if job_id not in used)


def pack(folder: Path, experiment: Experiment, cluster: Cluster) -> tuple[int, int]:
    """Fill a working directory: code, its revision, two resolved files; returns files and bytes."""
    shutil.copytree(ROOT / "nmt", folder / "nmt", ignore=shutil.ignore_patterns("__pycache__"))
    texts = {
        "experiment.yaml": dump(experiment), "cluster.yaml": dump(cluster), REVISION: revision(),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def find(client: Any, name: str | None) -> list[Any]:
    """The jobs that an id or the name of an experiment means, None for all; oldest first.

    Raises:
        NmtError: there is none.
    """
    ours = sorted((job for job in client.list_jobs() if "nmt_name" in metadata(job)), key=started)
    named = [job for job in ours if name in (None, job.submission_id)]
    named = named or [job for job in ours if job.metadata["nmt_name"] == name]
    if not named:
        newest = ", ".join(job.submission_id for job in ours[-5:]) or "none"
        raise NmtError(f"no job of {name or 'nmt'} is on the cluster; the newest there: {newest}")
    return named


def metadata(job: Any) -> dict[str, str]:
    """What was said about a job when it was submitted."""
    return job.metadata or {}


def started(job: Any) -> int:
    """When a job was submitted: milliseconds since 1970."""
    return job.start_time or 0


def stop_s(job: Any) -> int:
    """Seconds that Ray gives a job between the signal to stop and its end."""
    env = (job.runtime_env or {}).get("env_vars") or {}
    return int(env.get(STOP_VARIABLE, STOP_S))


def state(job: Any) -> str:
    """`FAILED after 12 s, begun 2026-07-01 12:00:00, writes /runs/demo: why`."""
    begun_s = started(job) / 1000
    end_s = job.end_time / 1000 if job.end_time else time.time()
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun_s))
    since = "after" if job.status in ENDED else "for"
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    why = f": {lines[-1]}" if job.status == "FAILED" and lines else ""
    writes = metadata(job).get("nmt_target", "")
    return f"{job.status} {since} {end_s - begun_s:.0f} s, begun {begun}, writes {writes}{why}"
