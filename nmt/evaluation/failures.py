"""Failures of a system on a test set, by rule, with examples.

The rules (`nmt.evaluation.failure_rules`) are applied to the output and to the first reference. A
rule that fires on human translations has false alarms: its rate there is shown beside that of the
output.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nmt.config.settings import Count
from nmt.evaluation.failure_rules import RULES, FailureRules
from nmt.evaluation.slices import align_columns
from nmt.evaluation.test_sets import TestSet


@dataclass(frozen=True)
class FailureExample:
    """Segment whose translation a rule finds wrong."""

    line: Count
    """Line number, counted from 1."""
    src: str
    hyp: str
    ref: str


@dataclass(frozen=True)
class RuleResult:
    """Failures that one rule finds."""

    rule: str
    """A key of RULES."""
    segments: Count
    """Segments that the rule applies to."""
    output: Count
    """Failures of the output."""
    reference: Count
    """Failures of the reference: false alarms."""
    examples: list[FailureExample]


@dataclass(frozen=True)
class FailureReport:
    """Failures of one system on one test set; field names are those of the JSON object."""

    rules: list[RuleResult]
    left_out: list[str]
    """Rules that do not apply to the languages, with the reason."""

    def tree(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)

    def text(self, title: str) -> str:
        """Return the report as text: a table, then examples of each rule."""
        rows = [["", "segments", "output", "reference"]]
        for each in self.rules:
            counts = each.output, each.reference
            cells = [f"{count:,} ({rate(count, each.segments)})" for count in counts]
            rows.append([each.rule, f"{each.segments:,}", *cells])
        lines = [f"{title}, failures by rule (reference: false alarms):", *align_columns(rows)]
        lines += [f"  left out: {reason}" for reason in self.left_out]
        for each in self.rules:
            if each.examples:
                lines.append(f"{each.rule}: {RULES[each.rule]}")
            for example in each.examples:
                lines += [
                    f"  line {example.line:,}",
                    f"    source     {example.src}",
                    f"    output     {example.hyp}",
                    f"    reference  {example.ref}",
                ]
        return "\n".join(lines)


def rate(count: int, of: int) -> str:
    """Return a share in per cent."""
    return f"{100 * count / of:.2f} %" if of else "-"


def find_failures(
    hyps: Sequence[str], test_set: TestSet, languages: tuple[str, str], num_examples: int
) -> FailureReport:
    """Apply all rules to a translated test set.

    Args:
        hyps: output lines.
        test_set: sources and references; the first reference counts.
        languages: source and target language.
        num_examples: maximum number of examples per rule, in the order of the lines; those whose
            reference is in order come first.
    """
    refs = test_set.references[0]
    rules = FailureRules.fit(test_set.src, refs, languages)
    counts = {rule: [0, 0, 0] for rule in RULES}
    found: dict[str, tuple[list[int], list[int]]] = {rule: ([], []) for rule in RULES}
    for row, (src, hyp, ref) in enumerate(zip(test_set.src, hyps, refs, strict=True)):
        of_hyp, of_ref = rules.judge(src, hyp), rules.judge(src, ref)
        for rule in {*of_hyp, *of_ref}:
            is_failure, is_false_alarm = of_hyp.get(rule, False), of_ref.get(rule, False)
            for place, value in enumerate((True, is_failure, is_false_alarm)):
                counts[rule][place] += value
            if is_failure:
                found[rule][is_false_alarm].append(row)
    left_out = list(rules.left_out())
    results = []
    for rule, (num_segments, num_output, num_reference) in counts.items():
        if rule in {reason.partition(":")[0] for reason in left_out}:
            continue
        rows = [row for group in found[rule] for row in group][:num_examples]
        examples = [
            FailureExample(row + 1, test_set.src[row], hyps[row], refs[row]) for row in rows
        ]
        results.append(RuleResult(rule, num_segments, num_output, num_reference, examples))
    return FailureReport(results, left_out)
