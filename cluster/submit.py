#!/usr/bin/env python3
"""Send the verbs of `nmt` to a Ray cluster as jobs, and follow, look at or stop them.

    cluster/submit.py [train] EXPERIMENT CLUSTER [KEY=VALUE]...
    cluster/submit.py prepare | evaluate | translate EXPERIMENT CLUSTER [KEY=VALUE]...
    cluster/submit.py status | logs | stop | resume NAME

This file reads the command line and prints; jobs.py knows what a job is, dashboard.py the way to
the cluster. The options of a verb are taken from `nmt` itself, so that both always have the same.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard import ANSWER_S, address_of, connect, speaking_to
from jobs import ENDED, Job, absolute, check, find, plan, sent_before, state, stop_s, submit

from nmt.cli import main as cli
from nmt.cli import options
from nmt.config.files import load_cluster, load_experiment, split_overrides
from nmt.errors import ConfigError, NmtError
from nmt.storage import is_address

VERBS = ("train", "prepare", "evaluate", "translate")


class Verbs(options.Verbs):
    """The verbs; `train` may be left out where a file stands in its place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and Path(args[0]).suffix in (".yaml", ".yml"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
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
    what, where = absolute(load_experiment(experiment, ours), load_cluster(cluster, theirs))
    if verb in ("evaluate", "translate") and any(not each.startswith("name=") for each in ours):
        raise ConfigError.from_message(
            f"{' '.join(ours)}: only name= and cluster.* reach `nmt {verb}`, as a model goes with "
            f"the settings it was trained with; `submit.py {verb} --help` shows its options"
        )
    job = plan(verb, what, where, _options_given())
    address = address_of(where.address)
    check(job, what, where, _say)
    client = connect(address, _say)
    with speaking_to(address):
        job_id = submit(client, job, what, where, _say)
    _tell(client, address, job, job_id, follow)


def _tell(client: Any, address: str, job: Job, job_id: str, follow: bool) -> None:
    """Say what can be typed next, and follow the log if that is wanted."""
    click.echo(job_id)
    at = "" if os.environ.get("RAY_ADDRESS") == address else f" --address {address}"
    _say(f"dashboard {address}; to type next:")
    for words in (f"logs {job_id} --follow", f"status {job.name}", f"stop {job_id}"):
        _say(f"  {options.program()} {words}{at}")
    if job.verb == "train" and not is_address(job.target):
        _say(f"  tensorboard --logdir {job.target}/tensorboard")
    if follow:
        _follow(client, address, job_id)


def _options_given() -> list[str]:
    """The options of `nmt VERB` that stand on the command line, with absolute paths."""
    ctx = click.get_current_context()
    words: list[str] = []
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        is_given = source is click.core.ParameterSource.COMMANDLINE
        if not is_given or not isinstance(option, click.Option) or option.name == "follow":
            continue
        value, word = ctx.params[option.name or ""], max(option.opts, key=len)
        is_path = option.metavar in ("FILE", "FOLDER")
        for each in value if option.multiple else [value]:
            text = os.path.abspath(each) if is_path and each != "-" else str(each)
            words += [word] if option.is_flag else [word, text]
    return words


def _command(verb: str) -> click.Command:
    """The command that submits `nmt VERB`, with the options of that."""
    theirs = [each for each in cli.main.commands[verb].params if isinstance(each, click.Option)]
    params: list[click.Parameter] = [
        click.Argument(["experiment"]),
        click.Argument(["cluster"]),
        click.Argument(["overrides"], nargs=-1, metavar="[KEY=VALUE]..."),
        *(option for option in theirs if option.name != "cluster"),
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
    """Show jobs. NAME: an experiment or a job id; without it: all jobs of nmt."""
    address, client = _reach(address)
    with speaking_to(address):
        for job in find(client, name):
            click.echo(f"{job.submission_id}: {state(job)}")


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Until the job ends; Ctrl-C leaves it running.")
@_address
def logs(name: str, follow: bool, address: str) -> None:
    """Print the log of a job. NAME: a job id, or an experiment for its newest job."""
    address, client = _reach(address)
    with speaking_to(address):
        job_id = find(client, name)[-1].submission_id
        if not follow:
            click.echo(client.get_job_logs(job_id), nl=False)
    if follow:
        _follow(client, address, job_id)


@main.command()
@click.argument("name")
@_address
def stop(name: str, address: str) -> None:
    """Stop a job; a training run takes a checkpoint first. NAME: an experiment or a job id."""
    address, client = _reach(address)
    with speaking_to(address):
        jobs = find(client, name)
        running = [job for job in jobs if job.status not in ENDED]
        if len(running) > 1:
            ids = ", ".join(job.submission_id for job in running)
            raise NmtError(f"{len(running)} jobs of {name} are under way: stop one of {ids}")
        if not running:
            _say(f"nothing to stop: {jobs[-1].submission_id}: {state(jobs[-1])}")
            return
        job_id = running[0].submission_id
        _say(f"stopping {job_id}; a training run takes a checkpoint first")
        client.stop_job(job_id)
        job = _ended(client, job_id, stop_s(running[0]) + ANSWER_S)
        _say(f"{job_id}: {state(job)}")


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Print the log until the job ends.")
@_address
def resume(name: str, follow: bool, address: str) -> None:
    """Submit a job again that has ended, with the settings it had; it goes on where it was.

    NAME: an experiment, for its newest job, or a job id.
    """
    address, client = _reach(address)
    with speaking_to(address):
        job, experiment, cluster = sent_before(find(client, name)[-1], _say)
        job_id = submit(client, job, experiment, cluster, _say)
    _tell(client, address, job, job_id, follow)


def _reach(asked: str) -> tuple[str, Any]:
    address = address_of(asked, "--address")
    return address, connect(address, _say)


def _follow(client: Any, address: str, job_id: str) -> None:
    """Print a job's log until it ends, then exit: 0 if it succeeded, else 1."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            click.echo(text, nl=False)

    try:
        with speaking_to(address):
            asyncio.run(tail())
            job = _ended(client, job_id, ANSWER_S)
    except KeyboardInterrupt:
        _say(f"\n{job_id} goes on; `stop {job_id}` ends it")
        sys.exit(130)
    _say(f"{job_id}: {state(job)}")
    sys.exit(0 if job.status == "SUCCEEDED" else 1)


def _ended(client: Any, job_id: str, timeout_s: float) -> Any:
    """The job once it has ended; NmtError if it has not in time."""
    until = time.monotonic() + timeout_s
    while (job := client.get_job_info(job_id)).status not in ENDED:
        if time.monotonic() > until:
            raise NmtError(f"{job_id} has not ended: {state(job)}")
        time.sleep(0.3)
    return job


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
