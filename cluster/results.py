"""What a drill shows: what each fault has cost, and how a run ends beside an undisturbed one."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from stage import MAX_LOST_UPDATES, Outcome, records

from nmt.checkpoint.load import load_training_state
from nmt.training.audit import WorkerSpan, audit_run

NEAR = 1e-5
"""Most that a parameter may differ where the number of workers changed."""
NEAR_LOSS = 1e-3
"""Most nats/token that a logged loss may differ where there were more than two workers: they sum up
in another order, and where a gradient is next to nothing Adam makes whole steps of that."""
MAX_LAID_OVER = 25
"""Most lines of two loss curves."""

Curve = dict[int, float]
"""Loss by updates done, nats/token."""


@dataclass(frozen=True)
class Ending:
    """How a run compares with the one that nothing happened to."""

    run: str
    updates: int
    is_same: bool
    """Bit for bit: weights, their average, the optimizer."""
    distance: float
    """Largest difference of a weight or an average."""
    curves: tuple[Curve, Curve]
    """Of the undisturbed one, and of this one."""
    is_proven: bool
    """Whether `nmt audit` proves that each pair was used once."""
    has_same_pairs: bool
    """Whether each update had the same pairs."""
    workers: Sequence[WorkerSpan]
    """Who made which updates."""

    @property
    def is_good(self) -> bool:
        """Whether it is as promised: the same to the bit where as many workers made all updates."""
        near = self.distance <= NEAR if len(self.workers) > 1 else self.is_same
        if max(stretch.workers for stretch in self.workers) > 2:
            near = self.gap <= NEAR_LOSS
        return near and self.is_proven and self.has_same_pairs

    @property
    def gap(self) -> float:
        """Largest difference of a logged loss, nats/token."""
        calm, rough = self.curves
        return max((abs(calm[update] - rough[update]) for update in calm), default=0.0)


def compare(calm: Path, rough: Path) -> Ending:
    """Compare the ends of two runs: one that nothing happened to, and another."""
    one, other = load_training_state(calm), load_training_state(rough)
    parts = [(one.weights, other.weights), (one.average or {}, other.average or {})]
    is_same = one.update == other.update and all(
        torch.equal(a[name], b[name])
        for a, b in [*parts, (one.optimizer, other.optimizer)]
        for name in a | b
    )
    distance = max(float((a[name] - b[name]).abs().max()) for a, b in parts for name in a)
    curves = _curve(calm), _curve(rough)
    assert one.update == other.update
    assert curves[0].keys() == curves[1].keys()
    proofs = audit_run(calm), audit_run(rough)
    return Ending(
        rough.name, one.update, is_same, distance, curves,
        all(proof.is_proven for proof in proofs), proofs[0].chain == proofs[1].chain,
        proofs[1].workers,
    )  # fmt: skip


def _curve(run_dir: Path) -> Curve:
    return {record["update"]: record["loss"] for record in records(run_dir, "train")}


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


def laid_over(ending: Ending) -> Iterator[str]:
    """The loss curve of a run over that of the undisturbed one, and who made the updates."""
    calm, rough = ending.curves
    yield f"{'update':>7} {'workers':>8} {'nats/token':>11} {'undisturbed':>12} {'apart':>8}"
    logged = sorted(calm)
    for update in logged[:: -(-len(logged) // MAX_LAID_OVER)]:
        [workers] = [each.workers for each in ending.workers if each.first <= update <= each.last]
        apart = abs(rough[update] - calm[update])
        yield (
            f"{update:7,} {workers:8} {rough[update]:11.6f} {calm[update]:12.6f} {apart:8.0e}"
        )  # fmt: skip


def told(ending: Ending) -> str:
    """How a run ended, in one line."""
    weights = "bit for bit those of" if ending.is_same else f"within {ending.distance:.1e} of"
    pairs = "the same pairs in each update" if ending.has_same_pairs else "OTHER PAIRS"
    proof = "each pair once an epoch (audit)" if ending.is_proven else "NOT PROVEN by audit"
    return (
        f"{ending.run}: {ending.updates:,} updates; final parameters {weights} the undisturbed "
        f"run; loss curve within {ending.gap:.1e} nats/token; {pairs}; {proof}: "
        f"{'as promised' if ending.is_good else 'NOT as promised'}"
    )


def broken_limits(outcomes: Sequence[Outcome]) -> list[str]:
    """Faults that cost more than they may: a damaged checkpoint costs those before it too."""
    return [
        f"'{each.fault}' at update {each.update:,} cost {each.updates_lost} updates"
        for each in outcomes
        if each.updates_lost > MAX_LOST_UPDATES * (1 + ("damaged" in each.fault))
    ]
