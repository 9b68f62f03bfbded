#!/usr/bin/env python3
"""Fault drill: inject faults into a training run on a Ray cluster of three simulated hosts.

    python tests/chaos/drill.py [EXPERIMENT] [KEY=VALUE]... [--faults 30] [--seed 1]
    python tests/chaos/drill.py [EXPERIMENT] [KEY=VALUE]... --resize

Kind, host and number of updates between faults are drawn from the seed. Faults that keep the number
of workers hit a run of two workers; the others hit a run that continues with one worker until the
host has returned. After its last fault a run is stopped, resumed for a while and finished; then an
undisturbed run of two workers makes the same number of updates, and the two are compared. The
learning rate must not depend on that number: it decays as 1/sqrt(update).

With --resize no fault is drawn: hosts leave and join, so that 2, 1, 3 and 2 workers train, and the
loss is compared with that of two workers. Hosts are namespaces of this machine
(namespace_hosts.py).
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from drill_cluster import MAX_LOST_UPDATES, ROOT, DrillCluster, Outcome
from drill_results import (
    Comparison,
    compare,
    curve_table,
    exceeded_limits,
    fault_table,
    summary,
)
from faults import KEEPS_WORKERS, LOSES_HOST, inject
from namespace_hosts import NamespaceHosts, missing_requirement

from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.errors import NmtError

IS_PRIVATE = "NMT_DRILL_IN_PRIVATE"
"""Environment variable, set once this process has its own mount namespace."""
STORAGE_MB = 512
DEMO = str(ROOT / "configs/demo.yaml")
ENDLESS = 1_000_000
"""Value of training.updates until the final number is known."""
SETTINGS = (
    "training.precision=fp32", "training.log_every=10", "training.keep_last=3",
    "training.checkpoint_every=1000000", "training.validate_every=1000000",
    "training.schedule=inverse_sqrt", "training.warmup_updates=20",
)  # fmt: skip
RESIZE_SETTINGS = ("batching.micro_batches=6",)
"""Micro-batches divisible among 1, 2 and 3 workers."""

Results = Iterator[Outcome | Comparison]
"""Results in the order in which a drill produces them."""


@dataclass(frozen=True)
class Run:
    """Training run and the faults that it receives."""

    name: str
    workers: str
    """Value of cluster.workers."""
    faults: Sequence[str]


def plan(num_faults: int, seed: int) -> list[Run]:
    """Distribute all kinds of faults evenly over the runs, in an order drawn from the seed."""
    # Alternate between the two groups, so that a few faults already include both.
    kinds = [kind for both in zip(KEEPS_WORKERS, LOSES_HOST, strict=True) for kind in both]
    faults = [kinds[number % len(kinds)] for number in range(num_faults)]
    random.Random(seed).shuffle(faults)
    runs = (
        Run("fixed", "2", [kind for kind in faults if kind in KEEPS_WORKERS]),
        Run("elastic", "{min: 1, max: 2}", [kind for kind in faults if kind in LOSES_HOST]),
    )
    return [run for run in runs if run.faults]


def drill(
    cluster: DrillCluster,
    experiment: Experiment,
    runs: Sequence[Run],
    storage: Path,
    gap: int,
    seed: int,
) -> Results:
    """Train each run under its faults and compare it with an undisturbed one.

    Args:
        cluster: started.
        experiment: its corpus is prepared.
        runs: runs with their faults.
        storage: folder of the runs.
        gap: maximum number of updates from recovery to the next fault.
        seed: of the random numbers that choose moments and hosts.

    Yields:
        An outcome per fault and a comparison per run.
    """
    rng = random.Random(seed)
    for run in runs:
        start_run(cluster, experiment, run.name, run.workers, ENDLESS, storage)
        for fault in run.faults:
            cluster.wait_for_updates(rng.randint(gap // 2, gap))
            yield from inject(cluster, fault, rng)
        yield _finish(cluster, experiment, run.name, run.workers, storage, gap)


def resize(cluster: DrillCluster, experiment: Experiment, storage: Path, gap: int) -> Results:
    """Train with 2, 1, 3 and 2 workers as hosts leave and join; yield as `drill` does."""
    name, workers = "resized", "{min: 1, max: 3}"
    start_run(cluster, experiment, name, workers, ENDLESS, storage)
    cluster.wait_for_updates(gap)
    before = cluster.snapshot()
    cluster.hosts.kill("h2")
    yield cluster.measure_recovery(before, "host leaves without notice", 1)
    cluster.wait_for_updates(gap)
    before = cluster.snapshot()
    cluster.add_hosts("h2", "h3")
    yield cluster.measure_recovery(before.restart_clock(), "two hosts join", 3)
    cluster.wait_for_updates(gap)
    before = cluster.snapshot()
    cluster.preempt("h3")
    yield cluster.measure_recovery(before.restart_clock(), "host leaves after a notice", 2)
    cluster.wait_for_updates(gap)
    yield _finish(cluster, experiment, name, workers, storage, gap)


def _finish(
    cluster: DrillCluster, experiment: Experiment, name: str, workers: str, storage: Path, gap: int
) -> Comparison:
    """Stop a run, resume it for a while, and compare it with an undisturbed one of two workers."""
    updates = cluster.stop() + gap
    rough = start_run(cluster, experiment, name, workers, updates, storage)
    cluster.wait()
    calm = start_run(cluster, experiment, f"calm-{name}", "2", updates, storage)
    cluster.wait()
    return compare(calm, rough)


def start_run(
    cluster: DrillCluster,
    experiment: Experiment,
    name: str,
    workers: str,
    updates: int,
    storage: Path,
) -> Path:
    """Start or resume a run on the cluster; return its folder."""
    file = cluster.folder / f"{name}.yaml"
    training = experiment.training.model_copy(update={"updates": updates})
    file.write_text(
        dump(experiment.model_copy(update={"name": name, "training": training})), encoding="utf-8"
    )
    command = [
        sys.executable, "-m", "nmt", "train", str(file), f"cluster.workers={workers}",
        f"cluster.storage={storage}", f"cluster.max_lost_updates={MAX_LOST_UPDATES}",
        "cluster.max_failures=1000", "cluster.env={GLOO_SOCKET_IFNAME: eth0}",
    ]  # fmt: skip
    cluster.train(command, storage / name)
    return storage / name


def load_prepared(experiment: str, overrides: Sequence[str], folder: Path) -> Experiment:
    """Load the experiment of a drill and check its prepared corpus.

    The corpus of the demo is written and prepared below the folder if it is missing.
    """
    from nmt.corpus.builtin import generator
    from nmt.corpus.prepare import prepare
    from nmt.corpus.prepared import open_prepared

    loaded = load_experiment(experiment, [*SETTINGS, *overrides])
    corpus = {"prepared": os.path.abspath(loaded.prepared)}
    is_demo = loaded.name == "demo" and not Path(loaded.prepared).exists()
    if is_demo:
        corpus = {"root": str(folder / "raw"), "prepared": str(folder / "prepared")}
        generator.write(folder / "raw")
    loaded = loaded.model_copy(update={"corpus": loaded.corpus.model_copy(update=corpus)})
    if is_demo:
        prepare(loaded)
    open_prepared(loaded)
    return loaded


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", default=DEMO)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--faults", type=click.IntRange(1), default=30, show_default=True,
              help="Number of faults.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True,
              help="Seed of kinds, hosts and moments.")  # fmt: skip
@click.option("--gap", type=click.IntRange(1), default=40, show_default=True,
              help="Maximum number of updates from recovery to the next fault.")  # fmt: skip
@click.option("--resize", "is_resize", is_flag=True, help="No faults: 2, 1, 3, then 2 workers.")
@click.option("--folder", metavar="FOLDER", help="Folder of all output; default: a temporary one.")
def main(
    experiment: str,
    overrides: tuple[str, ...],
    faults: int,
    seed: int,
    gap: int,
    is_resize: bool,
    folder: str | None,
) -> None:
    """Inject faults into a training run on simulated hosts and report their cost.

    EXPERIMENT needs a prepared corpus; default: the built-in corpus. Requires root, iproute2 and
    util-linux. Exit status: 0 if all guarantees held, 1 if not.
    """
    if "=" in experiment:  # No file given: the word is a setting of the default experiment.
        experiment, overrides = DEMO, (experiment, *overrides)
    if reason := missing_requirement():
        raise NmtError(f"no drill: {reason}")
    if IS_PRIVATE not in os.environ:
        # In its own mount namespace no other process sees the mounts, and they end with it.
        os.environ[IS_PRIVATE] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="nmtd", dir="/tmp", ignore_cleanup_errors=True) as tmp:
        base = Path(os.path.abspath(folder)) if folder else Path(tmp)
        base.mkdir(parents=True, exist_ok=True)
        settings = RESIZE_SETTINGS if is_resize else ()
        loaded, storage = load_prepared(experiment, [*settings, *overrides], base), base / "storage"
        if is_resize:
            is_good = perform(lambda cluster: resize(cluster, loaded, storage, gap), base)
        else:
            runs = plan(faults, seed)
            is_good = perform(
                lambda cluster: drill(cluster, loaded, runs, storage, gap, seed), base
            )
    sys.exit(0 if is_good else 1)


def perform(script: Callable[[DrillCluster], Results], base: Path) -> bool:
    """Run a drill and print its results; return True if all guarantees held."""
    storage = base / "storage"
    storage.mkdir(exist_ok=True)
    # A separate small file system, so that "disk full" fills nothing else.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STORAGE_MB}m", "tmpfs", str(storage)], check=True
    )  # fmt: skip
    outcomes: list[Outcome] = []
    comparisons: list[Comparison] = []
    start = time.monotonic()
    with NamespaceHosts(base / "hosts") as hosts:
        cluster = DrillCluster(hosts, base)
        cluster.start()
        click.echo(f"three hosts with Ray after {time.monotonic() - start:.0f} s", err=True)
        for result in script(cluster):
            if isinstance(result, Comparison):
                comparisons.append(result)
                click.echo(summary(result), err=True)
            else:
                outcomes.append(result)
                line = f"update {result.update:,} | {result.fault} | {result.seconds:.1f} s"
                click.echo(line, err=True)
    print_results(outcomes, comparisons)
    subprocess.run(["umount", "--lazy", str(storage)], check=True)
    minutes = (time.monotonic() - start) / 60
    click.echo(f"{len(outcomes)} lines in {minutes:.0f} minutes, load {os.getloadavg()[0]:.1f}")
    return all(each.is_good for each in comparisons) and not exceeded_limits(outcomes)


def print_results(outcomes: Sequence[Outcome], comparisons: Sequence[Comparison]) -> None:
    """Print the tables of a drill."""
    click.echo("\n".join(fault_table(outcomes)))
    for comparison in comparisons:
        click.echo("")
        click.echo("\n".join([summary(comparison), *curve_table(comparison)]))
    click.echo("")
    for line in exceeded_limits(outcomes):
        click.echo(f"FAILED: {line}")


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status and print user errors in one line."""
    try:
        main(arguments, standalone_mode=False)
    except click.UsageError as error:
        click.echo(f"drill: {error.format_message()}", err=True)
        return 2
    except NmtError as error:
        click.echo(f"drill: {error}", err=True)
        return 2
    except click.Abort:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_command())
