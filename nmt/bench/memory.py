"""Memory at the peak of training, in a process of its own."""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from nmt.batching.loader import Loader
from nmt.bench.bench import Bench, Updates, start
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.plain import PlainLearner, random_batches
from nmt.errors import NmtError
from nmt.training.malloc import configure_malloc

UPDATES = 8
"""Their peak is within 3 % of that of 12."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Of the small and the wide case, beside the plain version."""
    for case in (bench.small, bench.wide):
        peaks = {how: _peak_of(bench, case, how) for how in (case.precision, "plain")}
        yield Figure(
            f"memory/{case.name}/{case.precision}",
            peaks[case.precision],
            "MiB",
            f"resident at the peak of {UPDATES} updates by one worker, torch itself counted",
            is_better_high=False,
            ratio=peaks[case.precision] / peaks["plain"],
            ratio_to="the plain version",
        )


def _peak_of(bench: Bench, case: Case, how: str) -> float:
    job, out = (bench.scratch / f"memory-{case.name}-{how}.{kind}" for kind in ("job", "json"))
    job.write_text(case.to_json(), encoding="utf-8")
    if start("nmt.bench.memory", str(job), how, str(out)).wait():
        raise NmtError("a worker of the benchmark failed; its own words stand above")
    peak: float = json.loads(out.read_text())
    return peak


def train(job: Path, how: str, out: Path) -> None:
    """Train in this process, and write down how much memory it took."""
    configure_malloc()
    torch.set_num_threads(1)
    case = Case.from_json(job.read_text(encoding="utf-8"))
    updates = Updates(case, "fp32" if how == "plain" else how, 1)
    if how == "plain":
        smoothing = case.experiment.training.label_smoothing
        learner = PlainLearner(updates.learner.model, smoothing)
        for batch in random_batches(case, UPDATES):
            learner.backward(batch)
            learner.step()
    else:
        for update, parts in Loader(case.shards, case.schedule, range(UPDATES)):
            updates.make(update, parts)
    out.write_text(json.dumps(_peak_mib()))


def _peak_mib() -> float:
    """Most memory that this process has held."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # no Linux
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
    # Not getrusage: on Linux a process begins with the peak of the one that started it.
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 1024


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
