"""Training by one worker, in tokens a second: each precision, the plain version, and a peer."""

from collections.abc import Iterator
from dataclasses import replace

from nmt.bench.bench import Bench, Updates, rate
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.plain import PlainLearner, random_batches
from nmt.bench.timing import Work

PLAIN_BATCHES = 2
"""Random batches that one repeat of the plain version trains on."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Whole updates of the three cases; two of them beside the plain version."""
    yield from _of_case(bench, bench.small, 4)
    yield from _of_case(bench, bench.wide, 1)
    yield from _of_case(bench, _short(bench.large), 1, with_plain=False)


def _short(case: Case) -> Case:
    """In updates that a CPU core makes in seconds: 24 pairs of 32 tokens."""
    short = case.experiment.batching.model_copy(update={"max_tokens": 768, "max_length": 32})
    return replace(case, experiment=case.experiment.model_copy(update={"batching": short}))


def _of_case(
    bench: Bench, case: Case, num_updates: int, with_plain: bool = True
) -> Iterator[Figure]:
    updates = {precision: Updates(case, precision, num_updates) for precision in ("fp32", "bf16")}
    works: dict[str, Work] = dict(updates)
    tokens = {precision: ours.num_tgt_tokens for precision, ours in updates.items()}
    if with_plain:
        learner = PlainLearner(
            updates["fp32"].learner.model, case.experiment.training.label_smoothing
        )
        batches = random_batches(case, PLAIN_BATCHES)

        def plain() -> None:
            for batch in batches:
                learner.backward(batch)
                learner.step()

        works["plain"] = plain
        tokens["plain"] = sum(len(batch.tgt_out) for batch in batches)
    turns = bench.take_turns(works)
    pace = {name: tokens[name] / timing.cpu_s for name, timing in turns.timings.items()}
    num_pairs = max(len(batch.src) for batch in updates["fp32"].batches)
    what = (
        f"target tokens with EOS, {case.lengths} lengths, one worker, {num_pairs} pairs together "
        "at most"
    )
    for precision, ours in updates.items():
        timing = turns[precision]
        yield rate(
            f"train/{case.name}/{precision}",
            tokens[precision],
            timing,
            "tgt tokens/s",
            what,
            turns.of_peak(ours.flops, precision, precision),
        )
    yield _ratio(
        f"train/{case.name}/bf16 to fp32",
        pace["bf16"] / pace["fp32"],
        "tokens for a processor second",
        turns["bf16"].spread,
    )
    if with_plain:
        yield rate(
            f"train/{case.name}/plain",
            tokens["plain"],
            turns["plain"],
            "tgt tokens/s",
            "fp32, random batches of 64, packed, whole logits",
        )
        for precision in updates:
            yield _ratio(
                f"train/{case.name}/{precision} to plain",
                pace[precision] / pace["plain"],
                "tokens for a processor second",
                turns["plain"].spread,
            )


def _ratio(name: str, value: float, counts: str, spread: float) -> Figure:
    return Figure(name, value, "times", counts, spread=spread)
