#!/usr/bin/env python3
"""Break a training run on a real Ray cluster of three hosts, and show what it cost.

    cluster/drill.py [EXPERIMENT] [KEY=VALUE]... [--faults 30] [--seed 1]

Each fault comes so many updates after the one before, drawn from the seed. Those that leave the
number of workers as it is hit a run of two workers, the others one that goes on with one worker
until the host is back. After its last fault a run is stopped, goes on for a while and finishes;
then one of two workers that nothing happens to makes as many updates, and the two are compared.
The learning rate must not depend on how many these are: it falls as 1/sqrt(update). Hosts are
namespaces of this machine (hosts.py).
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import KEEPS_WORKERS, LOSES_HOST, MAX_LOST_UPDATES, ROOT, Outcome, Stage, inject
from hosts import Hosts, lacking

from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.errors import NmtError

IN_PRIVATE = "NMT_DRILL_IN_PRIVATE"
"""Set in the environment once mounts are private to this process."""
NEAR = 1e-5
"""Most that a parameter may differ where the number of workers changed."""
STORAGE_MB = 512
DEMO = str(ROOT / "configs/demo.yaml")
ENDLESS = 1_000_000
"""Updates of a run until it is known how many there will be."""
SETTINGS = (
    "training.precision=fp32", "training.log_every=10", "training.keep_last=3",
    "training.checkpoint_every=1000000", "training.validate_every=1000000",
    "training.schedule=inverse_sqrt", "training.warmup_updates=20",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run and what happens to it."""

    name: str
    workers: str
    """For the cluster file."""
    faults: Sequence[str]


@dataclass(frozen=True)
class Ending:
    """How a run compares with the one that nothing happened to."""

    run: Run
    updates: int
    is_same: bool
    """Bit for bit: weights, their average, the optimizer."""
    distance: float
    """Largest difference of a weight or an average."""
    curve: float
    """Largest difference of a logged loss, nats/token."""
    is_proven: bool
    """Whether `nmt audit` proves that each pair was used once."""
    has_same_pairs: bool
    """Whether each update had the same pairs."""

    @property
    def is_good(self) -> bool:
        """Whether the model and its pairs are those of the run that lost nothing."""
        near = self.is_same if self.run.workers == "2" else self.distance <= NEAR
        return near and self.is_proven and self.has_same_pairs


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
) -> Iterator[Outcome | Ending]:
    """Do each run, and one like it in peace: what each fault cost, then how they compare.

    Args:
        gap: most updates from when all is well again to the next fault.
    """
    draw = random.Random(seed)
    for run in runs:
        rough = begin(stage, experiment, run.name, run.workers, ENDLESS, storage)
        for fault in run.faults:
            at = stage.updates + draw.randint(gap // 2, gap)
            stage.until(lambda at=at: stage.updates >= at, f"update {at:,}")  # type: ignore[misc]
            yield from inject(stage, fault, draw)
        updates = stage.stop() + gap
        begin(stage, experiment, run.name, run.workers, updates, storage)
        stage.wait()
        calm = begin(stage, experiment, f"calm-{run.name}", "2", updates, storage)
        stage.wait()
        yield compare(run, updates, calm, rough)


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


def compare(run: Run, updates: int, calm: Path, rough: Path) -> Ending:
    """Compare the ends of two runs."""
    import torch

    from nmt.checkpoint.loading import load_training_state
    from nmt.training.audit import audit

    one, other = load_training_state(calm), load_training_state(rough)
    parts = [(one.weights, other.weights), (one.average or {}, other.average or {})]
    is_same = one.update == other.update == updates and all(
        torch.equal(a[name], b[name])
        for a, b in [*parts, (one.optimizer, other.optimizer)]
        for name in a | b
    )
    distance = max(float((a[name] - b[name]).abs().max()) for a, b in parts for name in a)
    proofs = audit(calm), audit(rough)
    return Ending(
        run, updates, is_same, distance, _curve_distance(calm, rough),
        all(proof.is_proven for proof in proofs), proofs[0].chain == proofs[1].chain,
    )  # fmt: skip


def _curve_distance(calm: Path, rough: Path) -> float:
    curves = []
    for run_dir in (calm, rough):
        stage = Stage.__new__(Stage)
        stage.run_dir = run_dir
        curves.append({record["update"]: record["loss"] for record in stage.records("train")})
    assert curves[0].keys() == curves[1].keys()
    return max(abs(curves[0][update] - curves[1][update]) for update in curves[0])


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each fault, then medians and worst for each kind."""
    yield f"{'fault':34} {'update':>7} {'s to training':>14} {'updates lost':>13}  workers"
    for each in outcomes:
        yield (
            f"{each.fault:34} {each.update:7,} {each.seconds:14.1f} {each.updates_lost:13}  "
            f"{each.workers}"
        )
    yield ""
    yield f"{'kind':34} {'times':>7} {'median s':>9} {'worst s':>8} {'most updates lost':>18}"
    kinds = list(dict.fromkeys(each.fault for each in outcomes))
    for kind in [*kinds, "all"]:
        some = [each for each in outcomes if kind in (each.fault, "all")]
        seconds = [each.seconds for each in some]
        yield (
            f"{kind:34} {len(some):7} {statistics.median(seconds):9.1f} {max(seconds):8.1f} "
            f"{max(each.updates_lost for each in some):18}"
        )


def told(ending: Ending) -> str:
    """How a run ended, in one line."""
    weights = "bit for bit those of" if ending.is_same else f"within {ending.distance:.1e} of"
    pairs = "the same pairs in each update" if ending.has_same_pairs else "OTHER PAIRS"
    proof = "each pair once an epoch (audit)" if ending.is_proven else "NOT PROVEN by audit"
    return (
        f"{ending.run.name}: {ending.updates:,} updates, {len(ending.run.faults)} faults; "
        f"final parameters {weights} the undisturbed run; loss curve within {ending.curve:.1e} "
        f"nats/token; {pairs}; {proof}: {'as promised' if ending.is_good else 'NOT as promised'}"
    )


def broken_limits(outcomes: Sequence[Outcome]) -> list[str]:
    """Faults that cost more than they may: a damaged checkpoint costs those before it too."""
    return [
        f"'{each.fault}' at update {each.update:,} cost {each.updates_lost} updates"
        for each in outcomes
        if each.updates_lost > MAX_LOST_UPDATES * (1 + ("damaged" in each.fault))
    ]


def load(experiment: str, overrides: Sequence[str], folder: Path) -> Experiment:
    """The experiment of a drill, with a prepared corpus; of the demo one made here."""
    from nmt.corpus.builtin import generate
    from nmt.corpus.prepare import check_prepared, prepare

    found = load_experiment(experiment, [*SETTINGS, *overrides])
    corpus = {"prepared": os.path.abspath(found.prepared)}
    if found.name == "demo" and not Path(found.prepared).exists():
        corpus = {"root": str(folder / "raw"), "prepared": str(folder / "prepared")}
        generate.write(folder / "raw")
    found = found.model_copy(update={"corpus": found.corpus.model_copy(update=corpus)})
    if found.name == "demo" and corpus["prepared"] == str(folder / "prepared"):
        prepare(found)
    check_prepared(found)
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", default=DEMO)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--faults", default=30, show_default=True, help="How many.")
@click.option("--seed", default=1, show_default=True, help="Decides which, when and where.")
@click.option("--gap", default=40, show_default=True, help="Most updates from good to bad.")
@click.option("--folder", metavar="FOLDER", help="Where all is kept; default: a temporary one.")
def main(
    experiment: str,
    overrides: tuple[str, ...],
    faults: int,
    seed: int,
    gap: int,
    folder: str | None,
) -> None:
    """Break a training run on three hosts of this machine, and show what it cost.

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
        runs = plan(faults, seed)
        is_good = perform(load(experiment, overrides, place), runs, place, gap, seed)
    sys.exit(0 if is_good else 1)


def perform(experiment: Experiment, runs: Sequence[Run], place: Path, gap: int, seed: int) -> bool:
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
        for each in drill(stage, experiment, runs, storage, gap, seed):
            if isinstance(each, Ending):
                endings.append(each)
                click.echo(told(each), err=True)
            else:
                outcomes.append(each)
                click.echo(f"update {each.update:,}: {each.fault}, {each.seconds:.1f} s", err=True)
    click.echo("\n".join(table(outcomes)))
    click.echo("")
    for ending in endings:
        click.echo(told(ending))
    for line in broken_limits(outcomes):
        click.echo(f"NOT as promised: {line}")
    subprocess.run(["umount", "--lazy", str(storage)], check=True)
    minutes = (time.monotonic() - began) / 60
    click.echo(f"{len(outcomes)} lines in {minutes:.0f} minutes, load {os.getloadavg()[0]:.1f}")
    return all(ending.is_good for ending in endings) and not broken_limits(outcomes)


if __name__ == "__main__":
    try:
        main()
    except NmtError as error:
        click.echo(f"drill: {error}", err=True)
        sys.exit(2)
