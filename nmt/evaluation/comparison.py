"""Comparison of systems with a baseline: is the difference more than chance, and where is it?

Significance is sacreBLEU's own (`sacrebleu --paired-bs`, `--paired-ar`), to the last digit: paired
bootstrap resampling (Koehn 2004) or approximate randomisation (Riezler and Maxwell 2005). It holds
all its resamples at once, about 100 MB for each 1,000 segments, so for a very large set it is left
out on request. What it does not say is refused here: it takes a seed of 0 for no seed at all.

A gate turns the difference into a yes or no for a release.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sacrebleu.significance import PairedTest, Result

from nmt.errors import ConfigError
from nmt.evaluation.metrics import EXTRAS, make_metric, resampling_seed, sentence_chrf
from nmt.evaluation.scores import check_lines

TESTS = {"bs": "paired bootstrap", "ar": "paired approximate randomisation", "none": ""}
"""Tests of significance, by the names that sacreBLEU's options end in."""
NUM_TRIALS = {"bs": 1000, "ar": 10000}
"""sacreBLEU's defaults."""
NUM_CHANGED = 10
"""Most segments kept of those that became better, and of those that became worse."""


@dataclass(frozen=True)
class Difference:
    """One metric of one system, beside that of the baseline."""

    metric: str
    """sacreBLEU's name of the metric."""
    label: str
    """What an extra is; empty for a score to report."""
    baseline: float
    score: float
    gain: float
    """Points by which the system is better; less than 0: worse. Of TER, fewer is better."""
    p_value: float | None
    """Of the difference; None: not tested."""
    mean: float | None
    """Of the system's resamples; the paired bootstrap alone has it."""
    half_width: float | None
    """Of the system's 95 % interval."""
    signature: str
    """Of the metric and, where there is one, of the test."""


@dataclass(frozen=True)
class Changed:
    """One segment that two systems translate differently."""

    line: int
    """From 1."""
    gain: float
    """Points of sentence chrF2 by which the system is better than the baseline."""
    src: str
    """Empty where it is not known."""
    ref: str
    baseline: str
    hyp: str


@dataclass(frozen=True)
class Against:
    """One system against the baseline."""

    system: str
    differences: tuple[Difference, ...]
    num_changed: int
    """Segments with another translation than the baseline's."""
    num_better: int
    """Segments with a higher sentence chrF2."""
    num_worse: int
    better: tuple[Changed, ...]
    """Those that gained most, at most NUM_CHANGED."""
    worse: tuple[Changed, ...]
    """Those that lost most."""


@dataclass(frozen=True)
class Gate:
    """What a system must reach to be released; metrics are judged alone, the first one given."""

    min_gain: float | None
    """Fewest points over the baseline; None: any, but more than none. The paired tests' p-value of
    a system that says the same as the baseline is low."""
    max_p: float | None
    """Highest p-value of the difference; None: it need not be significant."""

    def check(self) -> None:
        """Raise ConfigError for limits that nothing, or everything, would pass."""
        if self.max_p is not None and not 0 < self.max_p < 1:
            raise ConfigError("--max-p", self.max_p, "it must be above 0 and below 1")
        if self.min_gain is not None and not math.isfinite(self.min_gain):
            raise ConfigError("--min-gain", self.min_gain, "it must be a number")

    def is_open(self, difference: Difference) -> bool:
        """Whether the system may pass."""
        p_value = difference.p_value
        is_significant = self.max_p is None or (p_value is not None and p_value <= self.max_p)
        if self.min_gain is None:
            return difference.gain > 0 and is_significant
        return difference.gain >= self.min_gain and is_significant

    def verdict(self, test_set: str, system: str, difference: Difference) -> str:
        """The same for people, with all numbers it was made from."""
        least = "a gain" if self.min_gain is None else f"a gain of {self.min_gain:+.2f} or more"
        wanted = [least]
        found = f"{difference.metric} {difference.gain:+.2f}"
        if self.max_p is not None:
            wanted.append(f"p of {self.max_p:g} or less")
            found += f", p = {difference.p_value:.4f}"
        result = "open" if self.is_open(difference) else "shut"
        return f"gate {result}: {test_set}, {system}: {found}; wanted: {' and '.join(wanted)}"


@dataclass(frozen=True)
class Comparison:
    """All systems against the baseline on one test set."""

    test_set: str
    num_segments: int
    baseline: str
    test: str
    """A key of TESTS."""
    systems: tuple[Against, ...]

    def tree(self) -> dict[str, Any]:
        """For programs: everything, numbers as they are."""
        return {
            "comparison": self.test_set,
            "segments": self.num_segments,
            "baseline": self.baseline,
            "test": self.test,
            "trials": NUM_TRIALS.get(self.test, 0),
            "systems": [asdict(system) for system in self.systems],
        }

    def text(self, num_changed: int = 0) -> str:
        """For people.

        Args:
            num_changed: most segments shown of those that became better, and worse.
        """
        lines = []
        for against in self.systems:
            title = f"{self.test_set}: {against.system} against {self.baseline}"
            if self.test != "none":
                title += f", {TESTS[self.test]}, {NUM_TRIALS[self.test]:,} trials"
            lines.append(title)
            lines += [_line(difference) for difference in against.differences]
            lines.append(
                f"  {against.num_changed:,} of {self.num_segments:,} translations differ; sentence "
                f"chrF2 rises in {against.num_better:,} and falls in {against.num_worse:,}"
            )
            for segments in (against.better, against.worse):
                lines += [line for segment in segments[:num_changed] for line in _segment(segment)]
        return "\n".join(lines)


def check_test(test: str) -> None:
    """Raise ConfigError before translating for a test that could not be made after it."""
    if test not in TESTS:
        rule = "it must be bs (bootstrap), ar (approximate randomisation) or none"
        raise ConfigError("--paired", test, rule)
    seed = resampling_seed()
    if test != "none" and seed != "none" and int(seed) == 0:
        rule = "sacreBLEU's paired tests take 0 for no seed: choose another number, or none"
        raise ConfigError("SACREBLEU_SEED", 0, rule)


def compare(
    hyps: Mapping[str, Sequence[str]],
    baseline: str,
    references: Sequence[Sequence[str]],
    tgt_language: str,
    *,
    test_set: str,
    metrics: Sequence[str],
    test: str = "bs",
    src: Sequence[str] = (),
) -> Comparison:
    """Compare systems with a baseline.

    Args:
        hyps: the lines of each system, by its name; the baseline among them.
        baseline: its name.
        references: one sequence of lines, or several.
        tgt_language: target language.
        test_set: what the numbers belong to.
        metrics: of METRICS.
        test: a key of TESTS.
        src: source lines, to show with segments that changed.

    Raises:
        DataError: no lines, or not the same number of them.
        ConfigError: an unknown metric or test.
    """
    check_test(test)
    names = [baseline, *(name for name in hyps if name != baseline)]
    checked = {name: check_lines(hyps[name], references, test_set)[0] for name in names}
    refs = check_lines(hyps[baseline], references, test_set)[1]
    differences = {
        metric: _differences(metric, checked, refs, tgt_language, test) for metric in metrics
    }
    systems = []
    for number, name in enumerate(names[1:]):
        changed = list(_changed(checked[baseline], checked[name], refs, src))
        by_gain = sorted(changed, key=lambda each: (-each.gain, each.line))
        better = [each for each in by_gain if each.gain > 0]
        worse = [each for each in reversed(by_gain) if each.gain < 0]
        against = tuple(differences[metric][number] for metric in metrics)
        counts = len(changed), len(better), len(worse)
        shown = tuple(better[:NUM_CHANGED]), tuple(worse[:NUM_CHANGED])
        systems.append(Against(name, against, *counts, *shown))
    return Comparison(test_set, len(checked[baseline]), baseline, test, tuple(systems))


def _differences(
    name: str,
    hyps: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    test: str,
) -> list[Difference]:
    """One metric of all systems, the baseline being the first of them."""
    metric = make_metric(name, tgt_language)
    if test == "none":
        scores = [metric.corpus_score(lines, references) for lines in hyps.values()]
        title, signature = scores[0].name, str(metric.get_signature())
        results = [Result(found.score) for found in scores]
    else:
        signatures, table = PairedTest(list(hyps.items()), {name: metric}, references, test)()
        [title] = table.keys() - {"System"}
        signature, results = str(signatures[title]), table[title]
    baseline, *others = results
    return [
        Difference(
            title,
            EXTRAS.get(name, ""),
            float(baseline.score),
            float(other.score),
            float(baseline.score - other.score if name == "ter" else other.score - baseline.score),
            _plain(other.p_value),
            _plain(other.mean),
            _plain(other.ci),
            signature,
        )
        for other in others
    ]


def _plain(value: Any) -> float | None:
    """A number as JSON can hold it."""
    return None if value is None else float(value)


def _changed(
    before: Sequence[str],
    after: Sequence[str],
    references: Sequence[Sequence[str]],
    src: Sequence[str],
) -> Iterator[Changed]:
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            refs = [lines[row] for lines in references]
            gain = sentence_chrf(new, refs) - sentence_chrf(old, refs)
            yield Changed(row + 1, gain, src[row] if src else "", refs[0], old, new)


def _line(difference: Difference) -> str:
    name = f"{difference.label}: {difference.metric}" if difference.label else difference.metric
    p_value = "" if difference.p_value is None else f", p = {difference.p_value:.4f}"
    return (
        f"  {name} {difference.baseline:.2f} -> {difference.score:.2f}, gain "
        f"{difference.gain:+.2f}{p_value}, {difference.metric}|{difference.signature}"
    )


def _segment(segment: Changed) -> list[str]:
    lines = [f"  line {segment.line:,}, chrF2 {segment.gain:+.1f}"]
    for what, line in (
        ("source", segment.src),
        ("reference", segment.ref),
        ("baseline", segment.baseline),
        ("now", segment.hyp),
    ):
        if line or what != "source":
            lines.append(f"    {what:<9}  {line}")
    return lines
