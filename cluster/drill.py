#!/usr/bin/env python3
"""Break a training run on a real Ray cluster of three hosts, and show what it cost.

    cluster/drill.py [EXPERIMENT] [KEY=VALUE]... [--faults 30] [--seed 1]
    cluster/drill.py [EXPERIMENT] [KEY=VALUE]... --resize

Each fault comes so many updates after the one before, drawn from the seed. Those that leave the
number of workers as it is hit a run of two workers, the others one that goes on with one worker
until the host is back. After its last fault a run is stopped, goes on for a while and finishes;
then one of two workers that nothing happens to makes as many updates, and the two are compared.
The learning rate must not depend on how many these are: it falls as 1/sqrt(update). With --resize
nothing is drawn: hosts leave and join, so that 2, 1, 3 and 2 workers train, and the loss is laid
over that of two. Hosts are namespaces of this machine (hosts.py).
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
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import KEEPS_WORKERS, LOSES_HOST, inject
from hosts import Hosts, lacking
from results import Ending, broken_limits, compare, laid_over, table, told
from stage import MAX_LOST_UPDATES, ROOT, Outcome, Stage

from nmt.cli import options
from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.errors import NmtError

IN_PRIVATE = "NMT_DRILL_IN_PRIVATE"
"""Set in the environment once mounts are private to this process."""
STORAGE_MB = 512
DEMO = str(ROOT / "configs/demo.yaml")
ENDLESS = 1_000_000
"""Updates of a run until it is known how many there will be."""
SETTINGS = (
    "training.precision=fp32", "training.log_every=10", "training.keep_last=3",
    "training.checkpoint_every=1000000", "training.validate_every=1000000",
    "training.schedule=inverse_sqrt", "training.warmup_updates=20",
)  # fmt: skip
SETTINGS_OF_RESIZE = ("batching.micro_batches=6",)
"""To be shared by 1, 2 and 3 workers."""

Shown = Iterator[Outcome | Ending]
"""What a drill shows while it goes on."""


@dataclass(frozen=True)
class Run:
    """One run and what happens to it."""

    name: str
    workers: str
    """For the cluster file."""
    faults: Sequence[str]


def plan(num_faults: int, seed: int) -> list[Run]:
    """The runs of a drill: all kinds of faults in turn, in an order drawn from the seed."""
    # One of each side in turn, so that few faults are of both.
    kinds = [kind for both in zip(KEEPS_WORKERS, LOSES_HOST, strict=True) for kind in both]
    chosen = [kinds[number % len(kinds)] for number in range(num_faults)]
    random.Random(seed).shuffle(chosen)
    parts = (
        Run("fixed", "2", [kind for kind in chosen if kind in KEEPS_WORKERS]),
        Run("elastic", "{min: 1, max: 2}", [kind for kind in chosen if kind in LOSES_HOST]),
    )
    return [run for run in parts if run.faults]


def drill(
    stage: Stage, experiment: Experiment, runs: Sequence[Run], storage: Path, gap: int, seed: int
) -> Shown:
    """Do each run, and one like it in peace: what each fault cost, then how they compare.

    Args:
        gap: most updates from when all is well again to the next fault.
    """
    draw = random.Random(seed)
    for run in runs:
        begin(stage, experiment, run.name, run.workers, ENDLESS, storage)
        for fault in run.faults:
            stage.go_on(draw.randint(gap // 2, gap))
            yield from inject(stage, fault, draw)
        yield _end(stage, experiment, run.name, run.workers, storage, gap)


def resize(stage: Stage, experiment: Experiment, storage: Path, gap: int) -> Shown:
    """2, 1, 3, 2 workers as hosts leave and join: what each change cost, then how it compares."""
    name, workers = "resized", "{min: 1, max: 3}"
    begin(stage, experiment, name, workers, ENDLESS, storage)
    stage.go_on(gap)
    before = stage.now()
    stage.hosts.kill("h2")
    yield stage.since(before, "host leaves without notice", 1)
    stage.go_on(gap)
    before = stage.now()
    stage.add("h2", "h3")
    yield stage.since(before.from_now(), "two hosts join", 3)
    stage.go_on(gap)
    before = stage.now()
    stage.take_away("h3")
    yield stage.since(before.from_now(), "host leaves after a notice", 2)
    stage.go_on(gap)
    yield _end(stage, experiment, name, workers, storage, gap)


def _end(
    stage: Stage, experiment: Experiment, name: str, workers: str, storage: Path, gap: int
) -> Ending:
    """Stop a run, let it go on for a while, and compare it with one of two workers in peace."""
    updates = stage.stop() + gap
    rough = begin(stage, experiment, name, workers, updates, storage)
    stage.wait()
    calm = begin(stage, experiment, f"calm-{name}", "2", updates, storage)
    stage.wait()
    return compare(calm, rough)


def begin(
    stage: Stage, experiment: Experiment, name: str, workers: str, updates: int, storage: Path
) -> Path:
    """Start a run on the stage; its folder."""
    file = stage.folder / f"{name}.yaml"
    training = experiment.training.model_copy(update={"updates": updates})
    file.write_text(
        dump(experiment.model_copy(update={"name": name, "training": training})), encoding="utf-8"
    )
    command = [
        sys.executable, "-m", "nmt", "train", str(file), f"cluster.workers={workers}",
        f"cluster.storage={storage}", f"cluster.max_lost_updates={MAX_LOST_UPDATES}",
        "cluster.max_failures=1000", "cluster.env={GLOO_SOCKET_IFNAME: eth0}",
    ]  # fmt: skip
    stage.train(command, storage / name)
    return storage / name


def load(experiment: str, overrides: Sequence[str], folder: Path) -> Experiment:
    """The experiment of a drill, with a prepared corpus; of the demo one made here."""
    from nmt.corpus.builtin import generate
    from nmt.corpus.prepare import prepare
    from nmt.corpus.prepared import open_prepared

    found = load_experiment(experiment, [*SETTINGS, *overrides])
    corpus = {"prepared": os.path.abspath(found.prepared)}
    if found.name == "demo" and not Path(found.prepared).exists():
        corpus = {"root": str(folder / "raw"), "prepared": str(folder / "prepared")}
        generate.write(folder / "raw")
    found = found.model_copy(update={"corpus": found.corpus.model_copy(update=corpus)})
    if found.name == "demo" and corpus["prepared"] == str(folder / "prepared"):
        prepare(found)
    open_prepared(found)
    return found


def _number(name: str, default: int, meaning: str, least: int = 1) -> Callable[..., Any]:
    read = options.number(int, least - 1, f"a whole number, {least} or more")
    return click.option(
        name, default=str(default), show_default=True, callback=read, metavar="NUMBER", help=meaning
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", default=DEMO)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_number("--faults", 30, "How many.")
@_number("--seed", 1, "Decides which, when and where.", least=0)
@_number("--gap", 40, "Most updates from good to bad.")
@click.option("--resize", "is_resize", is_flag=True, help="No faults: 2, 1, 3, then 2 workers.")
@click.option("--folder", metavar="FOLDER", help="Where all is kept; default: a temporary one.")
def main(
    experiment: str,
    overrides: tuple[str, ...],
    faults: int,
    seed: int,
    gap: int,
    is_resize: bool,
    folder: str | None,
) -> None:
    """Break a training run on hosts of this machine, and show what it cost.

    EXPERIMENT: one whose corpus is prepared; default: the built-in corpus. Needs root, iproute2 and
    util-linux. Exit status: 0 all as promised, 1 not.
    """
    if "=" in experiment:  # No file: what follows are settings of the built-in one.
        experiment, overrides = DEMO, (experiment, *overrides)
    if reason := lacking():
        raise NmtError(f"no drill: {reason}")
    if IN_PRIVATE not in os.environ:
        # Mounts of the drill are seen by its own processes alone, and go with them.
        os.environ[IN_PRIVATE] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="nmtd", dir="/tmp", ignore_cleanup_errors=True) as own:
        place = Path(os.path.abspath(folder)) if folder else Path(own)
        place.mkdir(parents=True, exist_ok=True)
        settings = SETTINGS_OF_RESIZE if is_resize else ()
        found, storage = load(experiment, [*settings, *overrides], place), place / "storage"
        if is_resize:
            is_good = perform(lambda stage: resize(stage, found, storage, gap), place)
        else:
            runs = plan(faults, seed)
            is_good = perform(lambda stage: drill(stage, found, runs, storage, gap, seed), place)
    sys.exit(0 if is_good else 1)


def perform(script: Callable[[Stage], Shown], place: Path) -> bool:
    """Do a drill and print what it shows; whether all was as promised."""
    storage = place / "storage"
    storage.mkdir(exist_ok=True)
    # A disk of its own, which can be filled; larger ones are for larger models.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STORAGE_MB}m", "tmpfs", str(storage)], check=True
    )  # fmt: skip
    outcomes: list[Outcome] = []
    endings: list[Ending] = []
    began = time.monotonic()
    with Hosts(place / "hosts") as hosts:
        stage = Stage(hosts, place)
        stage.up()
        click.echo(f"three hosts with Ray after {time.monotonic() - began:.0f} s", err=True)
        for each in script(stage):
            if isinstance(each, Ending):
                endings.append(each)
                click.echo(told(each), err=True)
            else:
                outcomes.append(each)
                click.echo(f"update {each.update:,}: {each.fault}, {each.seconds:.1f} s", err=True)
    show(outcomes, endings)
    subprocess.run(["umount", "--lazy", str(storage)], check=True)
    minutes = (time.monotonic() - began) / 60
    click.echo(f"{len(outcomes)} lines in {minutes:.0f} minutes, load {os.getloadavg()[0]:.1f}")
    return all(ending.is_good for ending in endings) and not broken_limits(outcomes)


def show(outcomes: Sequence[Outcome], endings: Sequence[Ending]) -> None:
    """Print the tables of a drill."""
    click.echo("\n".join(table(outcomes)))
    for ending in endings:
        click.echo("")
        click.echo("\n".join([told(ending), *laid_over(ending)]))
    click.echo("")
    for line in broken_limits(outcomes):
        click.echo(f"NOT as promised: {line}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (NmtError, click.UsageError) as error:
        click.echo(f"drill: {error}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
