"""Results of a drill: cost of each fault, and comparison with an undisturbed run."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from drill_cluster import MAX_LOST_UPDATES, Outcome, read_records

from nmt.checkpoint.load import load_training_state
from nmt.training.audit import WorkerSpan, audit_run

MAX_DISTANCE = 1e-5
"""Largest allowed difference of a parameter if the number of workers changed."""
MAX_LOSS_GAP = 1e-3
"""Largest allowed difference of a logged loss, nats/token, if more than two workers took part.

They sum in another order, and where a gradient is close to zero Adam turns the difference into
full steps."""
MAX_CURVE_LINES = 25

Curve = dict[int, float]
"""Loss by update, nats/token."""


@dataclass(frozen=True)
class Comparison:
    """Final state of a run compared with that of an undisturbed run."""

    run: str
    updates: int
    is_identical: bool
    """True if weights, their average and the optimizer state are equal bit for bit."""
    distance: float
    """Largest difference of a weight or an averaged weight."""
    curves: tuple[Curve, Curve]
    """Loss of the undisturbed run and of this one."""
    is_proven: bool
    """True if `nmt audit` proves that each pair was used once per epoch."""
    has_same_pairs: bool
    """True if each update used the same pairs in both runs."""
    workers: Sequence[WorkerSpan]
    """Number of workers by range of updates."""

    @property
    def is_good(self) -> bool:
        """True if the guarantees hold: bit for bit equal for a constant number of workers."""
        is_near = self.distance <= MAX_DISTANCE if len(self.workers) > 1 else self.is_identical
        if max(stretch.workers for stretch in self.workers) > 2:
            is_near = self.loss_gap <= MAX_LOSS_GAP
        return is_near and self.is_proven and self.has_same_pairs

    @property
    def loss_gap(self) -> float:
        """Largest difference of a logged loss, nats/token."""
        calm, rough = self.curves
        return max((abs(calm[update] - rough[update]) for update in calm), default=0.0)


def compare(calm: Path, rough: Path) -> Comparison:
    """Compare the final state of an undisturbed run with that of a disturbed one."""
    one, other = load_training_state(calm), load_training_state(rough)
    parts = [(one.weights, other.weights), (one.average or {}, other.average or {})]
    is_identical = one.update == other.update and all(
        torch.equal(a[name], b[name])
        for a, b in [*parts, (one.optimizer, other.optimizer)]
        for name in a | b
    )
    distance = max(float((a[name] - b[name]).abs().max()) for a, b in parts for name in a)
    curves = _loss_curve(calm), _loss_curve(rough)
    assert one.update == other.update
    assert curves[0].keys() == curves[1].keys()
    audits = audit_run(calm), audit_run(rough)
    return Comparison(
        rough.name, one.update, is_identical, distance, curves,
        all(each.is_proven for each in audits), audits[0].chain == audits[1].chain,
        audits[1].workers,
    )  # fmt: skip


def _loss_curve(run_dir: Path) -> Curve:
    return {record["update"]: record["loss"] for record in read_records(run_dir, "train")}


def fault_table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a line per fault, then median and maximum per kind of fault."""
    yield f"{'fault':34} {'update':>7} {'s to training':>14} {'updates lost':>13}  workers"
    for each in outcomes:
        yield (
            f"{each.fault:34} {each.update:7,} {each.seconds:14.1f} {each.updates_lost:13}  "
            f"{each.workers}"
        )
    yield ""
    yield f"{'kind':34} {'count':>7} {'median s':>9} {'max s':>8} {'max updates lost':>18}"
    kinds = list(dict.fromkeys(each.fault for each in outcomes))
    for kind in [*kinds, "all"]:
        members = [each for each in outcomes if kind in (each.fault, "all")]
        seconds = [each.seconds for each in members]
        yield (
            f"{kind:34} {len(members):7} {statistics.median(seconds):9.1f} {max(seconds):8.1f} "
            f"{max(each.updates_lost for each in members):18}"
        )


def curve_table(comparison: Comparison) -> Iterator[str]:
    """Yield the loss of both runs and the number of workers by update."""
    calm, rough = comparison.curves
    yield f"{'update':>7} {'workers':>8} {'nats/token':>11} {'undisturbed':>12} {'gap':>8}"
    logged = sorted(calm)
    for update in logged[:: -(-len(logged) // MAX_CURVE_LINES)]:
        [workers] = [
            stretch.workers
            for stretch in comparison.workers
            if stretch.first <= update <= stretch.last
        ]
        gap = abs(rough[update] - calm[update])
        yield f"{update:7,} {workers:8} {rough[update]:11.6f} {calm[update]:12.6f} {gap:8.0e}"


def summary(comparison: Comparison) -> str:
    """Return the comparison in one line."""
    is_identical, has_same_pairs = comparison.is_identical, comparison.has_same_pairs
    weights = "equal bit for bit to" if is_identical else f"within {comparison.distance:.1e} of"
    pairs = "same pairs in each update" if has_same_pairs else "DIFFERENT PAIRS"
    proof = "each pair once per epoch (audit)" if comparison.is_proven else "NOT PROVEN by audit"
    return (
        f"{comparison.run}: {comparison.updates:,} updates; final parameters {weights} the "
        f"undisturbed run; loss within {comparison.loss_gap:.1e} nats/token; {pairs}; {proof}: "
        f"{'passed' if comparison.is_good else 'FAILED'}"
    )


def exceeded_limits(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line per fault that lost too many updates.

    A damaged checkpoint may also lose the updates between the two newest checkpoints.
    """
    return [
        f"'{each.fault}' at update {each.update:,} lost {each.updates_lost} updates"
        for each in outcomes
        if each.updates_lost > MAX_LOST_UPDATES * (1 + ("damaged" in each.fault))
    ]
