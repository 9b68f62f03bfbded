#!/usr/bin/env python3
"""Send the verbs of `nmt` to a Ray cluster as jobs, and follow, look at or stop them.

    cluster/submit.py [train] EXPERIMENT CLUSTER [KEY=VALUE]...     and prepare, evaluate, translate
    cluster/submit.py status | logs | stop NAME

A job runs the code of this checkout, with the two config files resolved here; paths in them are those of a disk that
every host sees. Each job has a target, which is what it writes: a run, a prepared folder, a file. Two jobs with one target
never run at once, and a second attempt goes on where the first ended: so submitting twice does no harm. Ray itself
refuses a job id that was used, which holds for two people who submit at the same moment too.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nmt import cli
from nmt.config import Cluster, Experiment, dump, load_cluster, load_experiment, split_overrides
from nmt.errors import ConfigError, NmtError

VERBS = ("train", "prepare", "evaluate", "translate")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ANSWER_S = 10.0
"""Seconds in which a dashboard has to answer."""
STOP_S = 60
"""Seconds from the signal to stop until Ray kills a job: Ray's own 3 are too few for a checkpoint."""


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
    """What is run in the working directory, word by word."""
    env: dict[str, str]
    """Environment variables of the command and of all workers."""
    num_cpus: int = 0
    """Cores for the command itself, beside those of workers that it asks for."""
    num_gpus: int = 0
    """GPUs for the command itself."""


class Group(cli.Verbs):
    """The verbs; `train` may be left out where a file stands in its place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and Path(args[0]).suffix in (".yaml", ".yml"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Send the verbs of nmt to a Ray cluster as jobs, and follow, look at or stop them.

    The cluster is cluster.address of the cluster file or, where that is empty, RAY_ADDRESS: the
    address of its dashboard, http://HEAD:8265. Its token: RAY_AUTH_MODE=token, and the token in
    RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token.
    """


def _submit(
    verb: str, experiment: str, cluster: str, overrides: tuple[str, ...], follow: bool, **_: Any
) -> None:
    ours, theirs = split_overrides(overrides)
    what = load_experiment(experiment, ours)
    where = load_cluster(cluster, theirs)
    what, where = absolute(what, where)
    if verb in ("evaluate", "translate"):
        for override in ours:
            if not override.startswith("name="):
                raise ConfigError.saying(
                    f"{override!r} does not reach `nmt {verb}`: a model goes with the settings it "
                    f"was trained with; its options are in cluster/submit.py {verb} --help"
                )
    job = plan(verb, what, where, _options_given())
    address = address_of(where.address)
    check(job, what, where)
    client = connect(address)
    with speaking_to(address):
        job_id, is_new = submit(client, job, what, where)
    click.echo(job_id)
    _say_next(job_id, address, what, where)
    if follow:
        _follow(client, address, job_id)
    elif not is_new:
        _say("nothing was submitted")


def plan(verb: str, experiment: Experiment, cluster: Cluster, options: list[str]) -> Job:
    """The job of a verb; options are those of `nmt VERB`, with absolute paths.

    Raises:
        ConfigError: an option that cannot be meant on a cluster.
    """
    name = experiment.name
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **cluster.env}
    nmt = ("python", "-m", "nmt", verb)
    if verb in ("train", "prepare"):
        run = Path(cluster.storage, name)
        target = str(run) if verb == "train" else experiment.prepared
        files = ("experiment.yaml", "--cluster", "cluster.yaml")
        return Job(verb, name, target, (*nmt, *files, *options), env)
    run = Path(cluster.storage, name)
    target = options[options.index("--output") + 1] if "--output" in options else ""
    if verb == "translate" and not (target and "--input" in options):
        raise ConfigError.saying(
            "a job has no standard input and output: name two files that every host sees, "
            "-i FILE and -o FILE"
        )
    # Ray places these on a host that has the cores, and the GPU, of one worker.
    resources = (cluster.cpus_per_worker, cluster.gpus_per_worker)
    target = target or str(run / "evaluation")
    return Job(verb, name, target, (*nmt, str(run), *options), env, *resources)


def absolute(experiment: Experiment, cluster: Cluster) -> tuple[Experiment, Cluster]:
    """The same settings, with relative paths starting from the folder we are in."""
    paths = {
        "root": os.path.abspath(experiment.corpus.root),
        "prepared": os.path.abspath(experiment.prepared),
    }
    corpus = experiment.corpus.model_copy(update=paths)
    storage = {"storage": os.path.abspath(cluster.storage)}
    return experiment.model_copy(update={"corpus": corpus}), cluster.model_copy(update=storage)


def check(job: Job, experiment: Experiment, cluster: Cluster) -> None:
    """Check what can be checked without the cluster; say what is not on this machine.

    Raises:
        NmtError: the job would fail.
    """
    from nmt.corpus.prepare import check_prepared, check_raw

    run = Path(cluster.storage, job.name)
    if job.verb == "prepare":
        if _is_here(experiment.corpus.root):
            check_raw(experiment)
    elif job.verb == "train":
        is_begun = (run / "checkpoints").is_dir()
        # torch, which these import, takes seconds: not where there is nothing that they could say.
        if is_begun or cluster.workers > experiment.batching.micro_batches:
            from nmt.training.loop import check_run, check_workers

            check_workers(experiment, cluster.workers)
            check_run(experiment, run)
        if _is_here(experiment.prepared):
            check_prepared(experiment)
    else:
        _is_here(str(run))


def _is_here(path: str) -> bool:
    is_here = Path(path).exists()
    if not is_here:
        _say(f"not checked: {path} is not on this machine, the job looks for it on the cluster")
    return is_here


def address_of(asked: str) -> str:
    """The address of the cluster's dashboard: the one asked for, else RAY_ADDRESS.

    Raises:
        ConfigError: there is none, or it is not the address of a dashboard.
    """
    address = asked or os.environ.get("RAY_ADDRESS", "")
    key = "cluster.address" if asked else "RAY_ADDRESS"
    if not address:
        raise ConfigError.saying(
            "no cluster is named: set cluster.address in the cluster file, or RAY_ADDRESS, to the "
            "address of its dashboard, http://HEAD:8265"
        )
    scheme, found, host = address.rpartition("://")
    if (found and scheme not in ("http", "https")) or ":" not in host.rstrip("/"):
        rule = "the address of a dashboard was expected, http://HEAD:8265"
        raise ConfigError(key, repr(address), rule)
    return f"{scheme or 'http'}://{host.rstrip('/')}"


def connect(address: str) -> Any:
    """A `ray.job_submission.JobSubmissionClient` that has spoken with the dashboard.

    Raises:
        NmtError: none answers, or it refuses us.
    """
    asks_for_token = probe(address)
    has_token_mode = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    head = "the token of the cluster's head"
    if has_token_mode and not os.environ.get("RAY_AUTH_TOKEN"):
        if not token.is_file() or not token.stat().st_size:
            raise NmtError(f"RAY_AUTH_MODE is token, but {token} holds none: copy {head} there")
    elif asks_for_token and not has_token_mode:
        raise NmtError(
            f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token, with {head} in "
            f"{token}"
        )
    if not asks_for_token:
        _say(
            f"warning: the cluster at {address} asks for no token: whoever reaches it can run code "
            "there; start it with RAY_AUTH_MODE=token"
        )
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise NmtError(f"no Ray job client here ({error}): pip install 'ray[default]'") from None
    logging.disable(logging.INFO)  # Ray's client tells of each package and connection.
    # Ray prefers its variables to the address it is given, and this one to RAY_ADDRESS.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    with speaking_to(address):
        return JobSubmissionClient(address)


def probe(address: str) -> bool:
    """Whether the dashboard asks for a token.

    Raises:
        NmtError: what is there is not a dashboard, or nothing answers.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_S) as reply:
            json.load(reply)["ray_version"]
            return False
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return True
        reason = f"HTTP status {error.code}"
    except (KeyError, TypeError, ValueError):
        reason = "its answer is not that of Ray"
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise NmtError(
        f"no Ray dashboard answers at {address} ({reason}): start the cluster, or set cluster.address "
        "or RAY_ADDRESS to its dashboard, http://HEAD:8265"
    )


@contextlib.contextmanager
def speaking_to(address: str) -> Iterator[None]:
    """Inside, what Ray's client raises becomes an NmtError of one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        source = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else "RAY_AUTH_TOKEN_PATH"
        if not os.environ.get(source):
            source = "~/.ray/auth_token"
        raise NmtError(
            f"the cluster at {address} refuses the token of {source}: it is not the one that its "
            "head was started with"
        ) from None
    except OSError as error:
        reason = str(error).strip() or type(error).__name__
        raise NmtError(f"the cluster at {address} does not answer any more: {reason}") from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise NmtError(f"the cluster at {address} refuses: {(lines or [repr(error)])[-1]}") from None


def submit(
    client: Any, job: Job, experiment: Experiment, cluster: Cluster
) -> tuple[str, bool]:  # fmt: skip
    """Submit a job unless one with its target runs; returns the job's id, and whether it is new."""
    while True:
        jobs = client.list_jobs()
        same = [each for each in jobs if _metadata(each).get("nmt_target") == job.target]
        if running := [each for each in same if each.status not in ENDED]:
            _say(f"{running[0].submission_id} writes {job.target} already: {_state(running[0])}")
            return running[0].submission_id, False
        for each in sorted(same, key=_started)[-1:]:
            _say(f"{each.submission_id} ended: {_state(each)}; this one goes on where it was")
        used = {each.submission_id for each in jobs}
        ids = (f"nmt-{job.verb}-{job.name}" + (f"-{n}" if n > 1 else "") for n in itertools.count(1))
        job_id = next(each for each in ids if each not in used)
        with tempfile.TemporaryDirectory(prefix="nmt-submit-") as folder:
            num_files, size = pack(Path(folder), experiment, cluster)
            _say(f"sending {num_files} files, {size / 1000:.0f} kB of code and settings")
            try:
                return client.submit_job(
                    entrypoint=shlex.join(job.command),
                    submission_id=job_id,
                    runtime_env={"working_dir": folder, "env_vars": job.env},
                    metadata={"nmt_verb": job.verb, "nmt_name": job.name, "nmt_target": job.target},
                    entrypoint_num_cpus=job.num_cpus or None,
                    entrypoint_num_gpus=job.num_gpus or None,
                ), True
            except RuntimeError as error:
                # Somebody else took the id since we looked: look again.
                if f"{job_id} already exists" not in str(error):
                    raise


def pack(folder: Path, experiment: Experiment, cluster: Cluster) -> tuple[int, int]:
    """Fill a working directory: the code and the two resolved files; returns files and bytes."""
    shutil.copytree(ROOT / "nmt", folder / "nmt", ignore=shutil.ignore_patterns("__pycache__"))
    for name, settings in (("experiment.yaml", experiment), ("cluster.yaml", cluster)):
        (folder / name).write_text(dump(settings), encoding="utf-8")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


_address = click.option(
    "--address", default="", metavar="URL", help="Dashboard of the cluster; default: RAY_ADDRESS."
)


@main.command()
@click.argument("name", required=False)
@_address
def status(name: str | None, address: str) -> None:
    """Show the jobs of an experiment, or of all. NAME: of an experiment, or a job id."""
    _, jobs = _find(name, address)
    for job in jobs:
        target = _metadata(job).get("nmt_target", "")
        click.echo(f"{job.submission_id}: {_state(job)}; writes {target}")


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Until the job ends; Ctrl-C leaves it running.")
@_address
def logs(name: str, follow: bool, address: str) -> None:
    """Print the log of a job. NAME: a job id, or an experiment for its newest job."""
    client, jobs = _find(name, address)
    job_id = jobs[-1].submission_id
    if follow:
        _follow(client, address_of(address), job_id)
    with speaking_to(address):
        click.echo(client.get_job_logs(job_id), nl=False)


@main.command()
@click.argument("name")
@_address
def stop(name: str, address: str) -> None:
    """Stop a job; a training run takes a checkpoint first. NAME: of an experiment, or a job id."""
    client, jobs = _find(name, address)
    running = [job for job in jobs if job.status not in ENDED]
    if len(running) > 1:
        ids = ", ".join(job.submission_id for job in running)
        raise NmtError(f"{len(running)} jobs of {name} are running: stop one of {ids}")
    if not running:
        _say(f"{jobs[-1].submission_id} is not running: {_state(jobs[-1])}")
        return
    [job] = running
    _say(f"stopping {job.submission_id}; a training run takes a checkpoint first")
    with speaking_to(address):
        client.stop_job(job.submission_id)
        until = time.monotonic() + STOP_S + ANSWER_S
        while (job := client.get_job_info(job.submission_id)).status not in ENDED:
            if time.monotonic() > until:
                raise NmtError(f"{job.submission_id} still runs; see what it says: logs {name}")
            time.sleep(0.3)
    _say(f"{job.submission_id}: {_state(job)}")


def _find(name: str | None, asked: str) -> tuple[Any, list[Any]]:
    """A client, and our jobs that a name or an id means, oldest first; NmtError if there is none."""
    address = address_of(asked)
    client = connect(address)
    with speaking_to(address):
        ours = [job for job in client.list_jobs() if "nmt_name" in _metadata(job)]
    ours.sort(key=_started)
    jobs = [job for job in ours if name in (None, job.submission_id)]
    jobs = jobs or [job for job in ours if _metadata(job)["nmt_name"] == name]
    if not jobs:
        known = ", ".join(job.submission_id for job in ours[-5:]) or "none"
        raise NmtError(f"no job {name or 'of nmt'} at {address}; there are: {known}")
    return client, jobs


def _follow(client: Any, address: str, job_id: str) -> None:
    """Print a job's log until it ends, then exit: 0 if it succeeded, else 1."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            click.echo(text, nl=False)

    try:
        with speaking_to(address):
            asyncio.run(tail())
            job = client.get_job_info(job_id)
    except KeyboardInterrupt:
        _say(f"\n{job_id} goes on; it is stopped with: stop {job_id}")
        sys.exit(130)
    _say(f"{job_id}: {_state(job)}")
    sys.exit(0 if job.status == "SUCCEEDED" else 1)


def _say_next(job_id: str, address: str, experiment: Experiment, cluster: Cluster) -> None:
    mine = sys.argv[0]
    at = "" if os.environ.get("RAY_ADDRESS") == address else f" --address {address}"
    run = Path(cluster.storage, experiment.name)
    _say(
        f"every host must see {cluster.storage}, {experiment.prepared} and {experiment.corpus.root}\n"
        f"dashboard: {address}; to type next:\n"
        f"  {mine} logs {job_id} --follow{at}\n  {mine} status {experiment.name}{at}\n"
        f"  {mine} stop {job_id}{at}\n  tensorboard --logdir {run / 'tensorboard'}"
    )


def _metadata(job: Any) -> dict[str, str]:
    return job.metadata or {}


def _started(job: Any) -> int:
    return job.start_time or 0


def _state(job: Any) -> str:
    """`FAILED after 12 s, begun 2026-07-01 12:00:00: why`."""
    begun_s = _started(job) / 1000
    seconds = (job.end_time / 1000 if job.end_time else time.time()) - begun_s
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun_s))
    how_long = "for" if job.status not in ENDED else "after"
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    why = f": {lines[-1]}" if job.status == "FAILED" and lines else ""
    return f"{job.status} {how_long} {seconds:.0f} s, begun {at}{why}"


def _options_given() -> list[str]:
    """The options of `nmt VERB` that the command line has, with absolute paths."""
    ctx = click.get_current_context()
    words: list[str] = []
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
        if not given or not isinstance(param, click.Option) or param.name == "follow":
            continue
        value = ctx.params[param.name or ""]
        option = max(param.opts, key=len)
        if param.is_flag:
            words.append(option)
            continue
        for each in value if param.multiple else [value]:
            is_path = param.metavar in ("FILE", "FOLDER") and each != "-"
            words += [option, os.path.abspath(each) if is_path else str(each)]
    return words


def _say(line: str) -> None:
    click.echo(line, err=True)


def _command(verb: str) -> click.Command:
    """Submits `nmt VERB`, with the options of that."""
    theirs = cli.main.commands[verb]
    params: list[click.Parameter] = [
        click.Argument(["experiment"]),
        click.Argument(["cluster"]),
        click.Argument(["overrides"], nargs=-1, metavar="[KEY=VALUE]..."),
        *(each for each in theirs.params if isinstance(each, click.Option) and each.name != "cluster"),
        click.Option(["--follow", "-f"], is_flag=True, help="Print the log until the job ends."),
    ]  # fmt: skip
    run: Callable[..., None] = partial(_submit, verb)
    return click.Command(
        verb, params=params, callback=run, help=f"Submit `nmt {verb}`.", short_help=theirs.short_help
    )


for _verb in VERBS:
    main.add_command(_command(_verb))

if __name__ == "__main__":
    main()
