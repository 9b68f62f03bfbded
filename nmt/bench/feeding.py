"""How updates are filled, and how fast one worker's batches are made."""

from collections.abc import Iterator

import numpy as np

from nmt.batching.batch import Batch
from nmt.batching.loader import Loader
from nmt.bench.bench import Bench, rate
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.plain import random_batches
from nmt.bench.timing import take_turns

UPDATES = 60
"""That one repeat of the loader makes."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Fill and evenness of both corpora; the loader alone."""
    yield from _of_case(bench, bench.small)
    yield from _of_case(bench, bench.large)


def _of_case(bench: Bench, case: Case) -> Iterator[Figure]:
    updates = range(case.schedule.updates_per_epoch)
    loader = Loader(case.shards, case.schedule, updates)
    batches = [part.batch for _, parts in loader for part in parts if len(part.rows)]
    plain = random_batches(case, 20)
    what = f"micro-batches of an epoch, {case.lengths} lengths"
    for side in ("src", "tgt"):
        ours, theirs = (
            sum(_real(batch, side) for batch in of) / sum(_all(batch, side) for batch in of)
            for of in (batches, plain)
        )
        yield Figure(
            f"batching/{case.name}/{side} fill",
            ours,
            "real of all positions",
            what,
            ratio=ours / theirs,
            ratio_to="random batches of 64",
        )
    tokens = [len(batch.tgt_out) for batch in batches]
    yield Figure(
        f"batching/{case.name}/spread of tokens",
        float(np.std(tokens) / np.mean(tokens)),
        "standard deviation over mean",
        f"target tokens of {what}",
        is_better_high=False,
    )
    few = updates[:UPDATES]
    work = {"loader": lambda: list(Loader(case.shards, case.schedule, few))}
    timing = take_turns(work, bench.seconds / 4)["loader"]
    num_tokens = sum(case.schedule.update(number).num_tgt_tokens for number in few)
    yield rate(
        f"batching/{case.name}/loader",
        num_tokens,
        timing,
        "tgt tokens/s",
        f"made of {len(few)} updates, {case.lengths} lengths",
    )


def _real(batch: Batch, side: str) -> int:
    return int(batch.src_lengths.sum()) if side == "src" else len(batch.tgt_out)


def _all(batch: Batch, side: str) -> int:
    return batch.src.numel() if side == "src" else batch.tgt_in.numel()
