#!/usr/bin/env python3
"""Submit commands of `nmt` to a Ray cluster as jobs, and show, follow, stop or resume them.

    cluster/submit.py [train] EXPERIMENT CLUSTER [KEY=VALUE]...
    cluster/submit.py prepare | evaluate | translate EXPERIMENT CLUSTER [KEY=VALUE]...
    cluster/submit.py status | logs | stop | resume NAME

Command line and output; jobs.py defines the jobs, dashboard.py connects to the cluster. The options
of each command are those of `nmt` itself.
"""

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs
from dashboard import TIMEOUT_S, connect, resolve_address, translate_errors

from nmt.cli import main as cli
from nmt.cli.options import program
from nmt.config.files import load_cluster, load_experiment, split_overrides
from nmt.config.settings import absolute_path, is_address
from nmt.errors import ConfigError, NmtError

VERBS = ("train", "prepare", "evaluate", "translate")


class Verbs(cli.CommandGroup):
    """Command group in which `train` is optional before a YAML file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and Path(args[0]).suffix in (".yaml", ".yml"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Submit commands of nmt to a Ray cluster as jobs, and show, follow, stop or resume them.

    The address of the dashboard, http://HEAD:8265, is cluster.address of the cluster file or, if
    that is empty, RAY_ADDRESS. Authentication: RAY_AUTH_MODE=token, and the token in
    RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token.
    """


def _submit(
    verb: str, experiment: str, cluster: str, overrides: tuple[str, ...], follow: bool, **_: Any
) -> None:
    for_experiment, for_cluster = split_overrides(overrides)
    loaded = load_experiment(experiment, for_experiment), load_cluster(cluster, for_cluster)
    settings, place = jobs.resolve_paths(*loaded)
    others = [each for each in for_experiment if not each.startswith("name=")]
    if verb in ("evaluate", "translate") and others:
        raise ConfigError.from_message(
            f"{' '.join(for_experiment)}: `nmt {verb}` accepts only name= and cluster.* settings, "
            f"as a model keeps those it was trained with; options: `submit.py {verb} --help`"
        )
    if verb == "train":
        # Imports pyarrow.
        from nmt.corpus.prepared import is_prepared, resolve_by_prepared

        if is_prepared(settings):
            settings = resolve_by_prepared(settings, _print_line)
    job = jobs.make_job(verb, settings, place, _given_options())
    address = resolve_address(place.address)
    jobs.check_job(job, settings, place, _print_line)
    client = connect(address, _print_line)
    with translate_errors(address):
        job_id = jobs.submit_job(client, job, settings, place, _print_line)
    _print_submitted(client, address, job, job_id, follow)


def _print_submitted(client: Any, address: str, job: jobs.Job, job_id: str, follow: bool) -> None:
    """Print the job id and the next commands; follow the log if requested."""
    click.echo(job_id)
    is_default = os.environ.get("RAY_ADDRESS") == address
    option = "" if is_default else f" --address {shlex.quote(address)}"
    _print_line(f"dashboard {address}; next commands:")
    for words in (f"logs {job_id} --follow", f"status {job.name}", f"stop {job_id}"):
        _print_line(f"  {program()} {words}{option}")
    if job.verb == "train" and not is_address(job.target):
        _print_line(f"  tensorboard --logdir {shlex.quote(f'{job.target}/tensorboard')}")
    if follow:
        _follow(client, address, job_id)


def _given_options() -> list[str]:
    """Return the options of `nmt VERB` given on the command line, with absolute paths."""
    ctx = click.get_current_context()
    words: list[str] = []
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        is_given = source is click.core.ParameterSource.COMMANDLINE
        if not is_given or not isinstance(option, click.Option) or option.name == "follow":
            continue
        value, word = ctx.params[option.name or ""], max(option.opts, key=len)
        is_path = option.metavar in ("FILE", "DIR", "RUN")
        for each in value if option.multiple else [value]:
            # A list is one comma-separated value.
            text = ",".join(map(str, each)) if isinstance(each, list) else str(each)
            text = absolute_path(text) if is_path and text != "-" else text
            words += [word] if option.is_flag else [word, text]
    return words


def _command(verb: str) -> click.Command:
    """Return the command that submits `nmt VERB`, with the options of `nmt VERB`."""
    command = cli.main.get_command(None, verb)
    assert command is not None
    of_verb = [each for each in command.params if isinstance(each, click.Option)]
    params: list[click.Parameter] = [
        click.Argument(["experiment"]),
        click.Argument(["cluster"]),
        click.Argument(["overrides"], nargs=-1, metavar="[KEY=VALUE]..."),
        *(option for option in of_verb if option.name != "cluster"),
        click.Option(["--follow", "-f"], is_flag=True, help="Print the log until the job ends."),
    ]
    run: Callable[..., None] = partial(_submit, verb)
    return click.Command(verb, params=params, callback=run, help=f"Submit `nmt {verb}`.")


for _verb in VERBS:
    main.add_command(_command(_verb))


_address = click.option(
    "--address", default="", metavar="URL", help="Dashboard of the cluster; default: RAY_ADDRESS."
)


@main.command()
@click.argument("name", required=False)
@_address
def status(name: str | None, address: str) -> None:
    """Show jobs. NAME: an experiment or a job id; default: all jobs of nmt."""
    address, client = _connect(address)
    with translate_errors(address):
        for job in jobs.find_jobs(client, name):
            click.echo(f"{job.submission_id}: {jobs.describe(job)}")


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Until the job ends; Ctrl-C leaves it running.")
@_address
def logs(name: str, follow: bool, address: str) -> None:
    """Print the log of a job. NAME: a job id, or an experiment for its newest job."""
    address, client = _connect(address)
    with translate_errors(address):
        job_id = jobs.find_jobs(client, name)[-1].submission_id
        if not follow:
            click.echo(client.get_job_logs(job_id), nl=False)
    if follow:
        _follow(client, address, job_id)


@main.command()
@click.argument("name")
@_address
def stop(name: str, address: str) -> None:
    """Stop a job; a training run writes a checkpoint first. NAME: an experiment or a job id."""
    address, client = _connect(address)
    with translate_errors(address):
        named = jobs.find_jobs(client, name)
        running = [job for job in named if job.status not in jobs.ENDED]
        if len(running) > 1:
            ids = ", ".join(job.submission_id for job in running)
            raise NmtError(f"{len(running)} jobs of {name} are running: stop one of {ids}")
        if not running:
            _print_line(f"nothing to stop: {named[-1].submission_id}: {jobs.describe(named[-1])}")
            return
        job_id = running[0].submission_id
        _print_line(f"stopping {job_id}; a training run writes a checkpoint first")
        client.stop_job(job_id)
        job = _wait_for_end(client, job_id, jobs.stop_timeout_s(running[0]) + TIMEOUT_S)
        _print_line(f"{job_id}: {jobs.describe(job)}")


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Print the log until the job ends.")
@_address
def resume(name: str, follow: bool, address: str) -> None:
    """Submit an ended job again with the same settings; it resumes where it ended.

    NAME: an experiment, for its newest job, or a job id.
    """
    address, client = _connect(address)
    with translate_errors(address):
        job, experiment, cluster = jobs.restore_job(jobs.find_jobs(client, name)[-1], _print_line)
        job_id = jobs.submit_job(client, job, experiment, cluster, _print_line)
    _print_submitted(client, address, job, job_id, follow)


def _connect(address: str) -> tuple[str, Any]:
    resolved = resolve_address(address, "--address")
    return resolved, connect(resolved, _print_line)


def _follow(client: Any, address: str, job_id: str) -> None:
    """Print a job's log until it ends, then exit: 0 if it succeeded, else 1."""

    async def print_log() -> None:
        async for text in client.tail_job_logs(job_id):
            click.echo(text, nl=False)

    try:
        with translate_errors(address):
            asyncio.run(print_log())
            job = _wait_for_end(client, job_id, TIMEOUT_S)
    except KeyboardInterrupt:
        _print_line(f"\n{job_id} keeps running; stop it with `stop {job_id}`")
        sys.exit(130)
    _print_line(f"{job_id}: {jobs.describe(job)}")
    sys.exit(0 if job.status == "SUCCEEDED" else 1)


def _wait_for_end(client: Any, job_id: str, timeout_s: float) -> Any:
    """Return the job once it has ended; raise NmtError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while (job := client.get_job_info(job_id)).status not in jobs.ENDED:
        if time.monotonic() > deadline:
            raise NmtError(f"{job_id} did not end within {timeout_s:.0f} s: {jobs.describe(job)}")
        time.sleep(0.3)
    return job


def _print_line(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
