"""Comparison of systems with a baseline: gains, their significance, and changed segments.

Significance tests are those of sacreBLEU (`--paired-bs`, `--paired-ar`) with equal results: paired
bootstrap resampling (Koehn 2004) or approximate randomisation (Riezler & Maxwell 2005). sacreBLEU
holds all resamples at once, about 100 MB per 1,000 segments, so the test can be omitted for very
large sets. It also treats a seed of 0 as no seed, which is refused here.

A gate turns a gain and its significance into a pass or fail for a release.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sacrebleu.significance import PairedTest, Result

from nmt.config.settings import Count, Number
from nmt.errors import ConfigError
from nmt.evaluation.sacrebleu_metrics import METRICS, make_metric, resampling_seed, sentence_chrf
from nmt.evaluation.scores import check_lines

TESTS = {"bs": "paired bootstrap", "ar": "paired approximate randomisation", "none": ""}
"""Significance tests, by the suffixes of sacreBLEU's options."""
NUM_TRIALS = {"bs": 1000, "ar": 10000}
"""Resamples or trials of each test, sacreBLEU's defaults."""
MAX_CHANGED = 10
"""Maximum number of improved segments that are kept, and of degraded ones."""


@dataclass(frozen=True)
class Difference:
    """One metric of a system and of the baseline; the fields are keys of comparison.json."""

    metric: str
    """Name that sacreBLEU gives the metric."""
    label: str
    """Description of an extra (`MetricKind.label`); empty for a score to report."""
    baseline: Number
    score: Number
    gain: Number
    """Points by which the system is better; negative if it is worse."""
    p_value: Number | None
    """p-value of the difference; None if not tested."""
    mean: Number | None
    """Mean of the system's resamples; None except with the paired bootstrap."""
    half_width: Number | None
    """Half width of the system's 95 % interval."""
    signature: str
    """Signature of the metric, and of the test if there is one."""


@dataclass(frozen=True)
class ChangedSegment:
    """Segment that a system and the baseline translate differently."""

    line: Count
    """Number of the line, from 1."""
    gain: Number
    """Points of sentence chrF2 by which the system is better."""
    src: str
    """Source line; empty if unknown."""
    ref: str
    baseline: str
    hyp: str


@dataclass(frozen=True)
class SystemComparison:
    """Comparison of one system with the baseline."""

    system: str
    differences: tuple[Difference, ...]
    num_changed: Count
    """Segments that differ from the baseline's."""
    num_better: Count
    """Changed segments with a higher sentence chrF2."""
    num_worse: Count
    better: tuple[ChangedSegment, ...]
    """Segments of largest gain, at most MAX_CHANGED."""
    worse: tuple[ChangedSegment, ...]
    """Segments of largest loss."""


@dataclass(frozen=True)
class Gate:
    """Requirements for a release, checked on the first metric."""

    min_gain: float | None
    """Minimum gain in points; None for any gain above 0."""
    max_p: float | None
    """Maximum p-value of the difference; None if it need not be significant."""

    def check(self) -> None:
        """Raise ConfigError for limits that nothing or everything would pass."""
        if self.max_p is not None and not 0 < self.max_p < 1:
            raise ConfigError("--max-p", self.max_p, "it must be above 0 and below 1")
        if self.min_gain is not None and not math.isfinite(self.min_gain):
            raise ConfigError("--min-gain", self.min_gain, "it must be a number")

    def passes(self, difference: Difference) -> bool:
        """Return True if the system meets the requirements."""
        p_value = difference.p_value
        is_significant = self.max_p is None or (p_value is not None and p_value <= self.max_p)
        # A p-value says that systems differ, not which is better: a gain is always required.
        if self.min_gain is None:
            return difference.gain > 0 and is_significant
        return difference.gain >= self.min_gain and is_significant

    def verdict(self, test_set: str, system: str, difference: Difference) -> str:
        """Return the result with all numbers that it depends on."""
        gain = "a gain" if self.min_gain is None else f"a gain of {self.min_gain:+.2f} or more"
        measured = f"{difference.metric} {difference.gain:+.2f}"
        if self.max_p is not None:
            gain += f" and p of {self.max_p:g} or less"
            measured += f", p = {difference.p_value:.4f}"
        result = "passed" if self.passes(difference) else "failed"
        return f"gate {result}: {test_set}, {system}: {measured}; required: {gain}"


@dataclass(frozen=True)
class Comparison:
    """Comparison of all systems with the baseline on one test set."""

    test_set: str
    num_segments: int
    baseline: str
    test: str
    """A key of TESTS."""
    systems: tuple[SystemComparison, ...]

    def tree(self) -> dict[str, Any]:
        """Return the comparison as a JSON object, numbers unrounded."""
        return {
            "comparison": self.test_set,
            "segments": self.num_segments,
            "baseline": self.baseline,
            "test": self.test,
            "trials": NUM_TRIALS.get(self.test, 0),
            "systems": [asdict(system) for system in self.systems],
        }

    def text(self, num_changed: int = 0) -> str:
        """Return the comparison as text.

        Args:
            num_changed: maximum number of improved segments shown, and of degraded ones.
        """
        lines = []
        for each in self.systems:
            title = f"{self.test_set}: {each.system} against {self.baseline}"
            if self.test != "none":
                title += f", {TESTS[self.test]}, {NUM_TRIALS[self.test]:,} trials"
            lines.append(title)
            lines += [_difference_line(difference) for difference in each.differences]
            lines.append(
                f"  {each.num_changed:,} of {self.num_segments:,} translations differ; sentence "
                f"chrF2 rises in {each.num_better:,} and falls in {each.num_worse:,}"
            )
            # Both ends: a gain on average can hide regressions.
            for segment in [*each.better[:num_changed], *each.worse[:num_changed]]:
                lines += _segment_lines(segment)
        return "\n".join(lines)


def check_test(test: str) -> None:
    """Raise ConfigError for a significance test that cannot be run."""
    if test not in TESTS:
        rule = "it must be bs (bootstrap), ar (approximate randomisation) or none"
        raise ConfigError("--paired", test, rule)
    # The signature would show seed:0 for draws that cannot be repeated.
    seed = resampling_seed()
    if test != "none" and seed != "none" and int(seed) == 0:
        rule = "sacreBLEU's paired tests take 0 for no seed: choose another number, or none"
        raise ConfigError("SACREBLEU_SEED", 0, rule)


def compare(
    hyps: Mapping[str, Sequence[str]], baseline: str, references: Sequence[Sequence[str]],
    tgt_language: str, *, test_set: str, metrics: Sequence[str], test: str = "bs",
    src: Sequence[str] = (),
) -> Comparison:  # fmt: skip
    """Compare systems with a baseline.

    Args:
        hyps: lines of each system, by its name; the baseline is one of them.
        baseline: name of the baseline.
        references: one or more sequences of lines.
        tgt_language: target language.
        test_set: name of the test set.
        metrics: names in METRICS.
        test: a key of TESTS.
        src: source lines, to show with changed segments.

    Raises:
        DataError: there are no lines, or the numbers of lines differ.
        ConfigError: a metric or the test is unknown.
    """
    check_test(test)
    # The baseline first, as sacreBLEU expects it.
    names = [baseline, *(name for name in hyps if name != baseline)]
    stripped = {name: check_lines(hyps[name], references, test_set)[0] for name in names}
    refs = check_lines(hyps[baseline], references, test_set)[1]
    by_metric = [_differences(metric, stripped, refs, tgt_language, test) for metric in metrics]
    systems = []
    for number, name in enumerate(names[1:]):
        changed = list(_changed_segments(stripped[baseline], stripped[name], refs, src))
        # Equal gains in the order of lines, so that the report is reproducible.
        by_gain = sorted(changed, key=lambda segment: (-segment.gain, segment.line))
        better = [segment for segment in by_gain if segment.gain > 0]
        worse = [segment for segment in reversed(by_gain) if segment.gain < 0]
        differences = tuple(of_metric[number] for of_metric in by_metric)
        counts = len(changed), len(better), len(worse)
        kept = tuple(better[:MAX_CHANGED]), tuple(worse[:MAX_CHANGED])
        systems.append(SystemComparison(name, differences, *counts, *kept))
    return Comparison(test_set, len(stripped[baseline]), baseline, test, tuple(systems))


def _differences(
    name: str, hyps: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]],
    tgt_language: str, test: str,
) -> list[Difference]:  # fmt: skip
    """Return the differences of one metric between the first system and each other one."""
    metric, kind = make_metric(name, tgt_language), METRICS[name]
    if test == "none":
        # The same scores as with a test, at a fraction of the time.
        scores = [metric.corpus_score(lines, references) for lines in hyps.values()]
        title, signature = scores[0].name, str(metric.get_signature())
        results = [Result(score.score) for score in scores]
    else:
        signatures, table = PairedTest(list(hyps.items()), {name: metric}, references, test)()
        # The table has a column of system names beside the metric's.
        [title] = table.keys() - {"System"}
        signature, results = str(signatures[title]), table[title]
    baseline, *others = results
    return [
        Difference(
            title,
            kind.label,
            float(baseline.score),
            float(other.score),
            float(kind.gain(baseline.score, other.score)),
            _p_value(other, baseline),
            _to_float(other.mean),
            _to_float(other.ci),
            signature,
        )
        for other in others
    ]


def _p_value(other: Result, baseline: Result) -> float | None:
    # sacreBLEU gives systems without a difference the lowest p-value.
    is_equal = other.p_value is not None and other.score == baseline.score
    return 1.0 if is_equal else _to_float(other.p_value)


def _to_float(value: Any) -> float | None:
    """Return a number that JSON can hold; sacreBLEU's are those of numpy."""
    return None if value is None else float(value)


def _changed_segments(
    before: Sequence[str], after: Sequence[str], references: Sequence[Sequence[str]],
    src: Sequence[str],
) -> Iterator[ChangedSegment]:  # fmt: skip
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        # Equal translations have no gain; scoring them would take most of the time.
        if old != new:
            refs = [lines[row] for lines in references]
            gain = sentence_chrf(new, refs) - sentence_chrf(old, refs)
            yield ChangedSegment(row + 1, gain, src[row] if src else "", refs[0], old, new)


def _difference_line(difference: Difference) -> str:
    name = f"{difference.label}: {difference.metric}" if difference.label else difference.metric
    p_value = "" if difference.p_value is None else f", p = {difference.p_value:.4f}"
    return (
        f"  {name} {difference.baseline:.2f} -> {difference.score:.2f}, gain "
        f"{difference.gain:+.2f}{p_value}, {difference.metric}|{difference.signature}"
    )


def _segment_lines(segment: ChangedSegment) -> list[str]:
    lines = [f"  line {segment.line:,}, chrF2 {segment.gain:+.1f}"]
    if segment.src:
        lines.append(f"    source     {segment.src}")
    lines.append(f"    reference  {segment.ref}")
    lines.append(f"    baseline   {segment.baseline}")
    return [*lines, f"    now        {segment.hyp}"]
