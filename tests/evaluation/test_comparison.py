"""Comparison with a baseline: significance as in sacreBLEU, changed segments, the gate."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nmt.errors import ConfigError, DataError
from nmt.evaluation import comparison
from nmt.evaluation.comparison import Comparison, Difference, Gate

REFS = [
    "Ein Hund rennt über den grünen Rasen.",
    "Zwei Männer spielen Fußball, und einer von ihnen lacht.",
    "Ein Mädchen in einem roten Kleid springt ins Wasser!",
    "Niemand ist hier.",
    "Eine Frau kauft auf dem Markt 1,5 kg Äpfel.",
    "Eine Katze schläft auf dem Sofa.",
] * 3
OLD = [
    "Ein Hund läuft über den Rasen.",
    "Zwei Männer spielen Fußball und lachen.",
    "Das Mädchen im roten Kleid springt ins Wasser!",
    "",
    "Die Frau kauft 1,5 kg Äpfel auf dem Markt.  ",
    "Eine Katze schläft auf dem Sofa.",
] * 3
NEW = [
    "Ein Hund rennt über den Rasen.",
    *OLD[1:3],
    "Niemand ist da.",
    "Ein Mann kauft Äpfel.",
    *OLD[5:],
]
OTHER = [*OLD[:16], "Nichts.", OLD[17]]
HYPS = {"new": NEW, "old": OLD, "other": OTHER}
METRICS = ("bleu", "chrf", "ter")
# The command, except that its JSON accepts numpy floats, with which it would fail.
COMMAND = (
    "import functools, json; json.dumps = functools.partial(json.dumps, default=float)\n"
    "from sacrebleu.sacrebleu import main; main()"
)


def compared(**options: Any) -> Comparison:
    settings = {"test_set": "toy", "metrics": METRICS} | options
    return comparison.compare(HYPS, "old", [REFS], "de", **settings)


def sacrebleu_command(folder: Path, *options: str) -> list[dict[str, Any]]:
    for name, lines in {**HYPS, "ref": REFS}.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", COMMAND, "ref", "-i", "old", "new", "other", "-f", "json"]
    command += options
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment, cwd=folder)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("test", "seed"), [("bs", "12345"), ("ar", "7")])
def test_significance_equals_the_sacrebleu_command(
    test: str, seed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    printed = sacrebleu_command(tmp_path, "-m", *METRICS, f"--paired-{test}")
    for against, theirs in zip(compared(test=test).systems, printed[1:], strict=True):
        assert theirs["system"] == against.system
        assert {
            each.metric: {
                "score": each.score,
                "p_value": each.p_value,
                "mean": each.mean,
                "ci": each.half_width,
            }
            for each in against.differences
        } == {name: theirs[name] for name in ("BLEU", "chrF2", "TER")}
        assert [each.baseline for each in against.differences] == [
            printed[0][name]["score"] for name in ("BLEU", "chrF2", "TER")
        ]
        assert all(f"|seed:{seed}|" in each.signature for each in against.differences)


@pytest.mark.parametrize("test", ["bs", "ar"])
def test_equal_systems_have_p_1_and_fail_the_gate(test: str) -> None:
    spaced = [f"{line} " for line in OLD]
    found = comparison.compare(
        {"old": OLD, "same": OLD, "spaced": spaced}, "old", [REFS], "de", test_set="toy",
        metrics=METRICS, test=test,
    )  # fmt: skip
    for system in found.systems:
        assert [(each.gain, each.p_value) for each in system.differences] == [(0.0, 1.0)] * 3
        assert not Gate(0.0, 0.05).passes(system.differences[0])
        assert not Gate(None, None).passes(system.differences[0])


def test_scores_do_not_depend_on_the_test() -> None:
    plain, tested = (compared(test=test).systems[0].differences for test in ("none", "bs"))
    assert [(each.score, each.gain) for each in plain] == [
        (each.score, each.gain) for each in tested
    ]
    assert [each.p_value for each in plain] == [None, None, None]


def test_a_gain_in_an_error_rate_is_a_decrease() -> None:
    [bleu, _, ter] = compared(test="none").systems[0].differences
    assert bleu.gain == bleu.score - bleu.baseline
    assert ter.gain == ter.baseline - ter.score


def test_an_extra_keeps_its_label() -> None:
    [extra] = compared(test="none", metrics=["bleu-lc"]).systems[0].differences
    assert (extra.metric, extra.label) == ("BLEU", "lower-cased")


def test_changed_segments_have_another_translation() -> None:
    other = compared(test="none", src=[str(n) for n in range(18)]).systems[1]
    assert (other.num_changed, other.num_better, other.num_worse) == (1, 0, 1)
    [segment] = other.worse
    assert (segment.line, segment.src, segment.ref) == (17, "16", REFS[16])
    assert (segment.baseline, segment.hyp) == (OLD[16].rstrip(), "Nichts.")
    assert segment.gain < 0


def test_segments_with_the_largest_gain_come_first() -> None:
    against = compared(test="none").systems[0]
    assert [each.line for each in against.better] == [4, 1]
    assert [each.line for each in against.worse] == [5]
    gains = [each.gain for each in against.better]
    assert gains == sorted(gains, reverse=True)


def test_the_text_names_systems_test_and_signature() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    found = comparison.compare(
        {"a": ["Ein Hund", "Ja"], "b": ["Ein Hund", "Nein"]}, "a", [["Ein Hund", "Nein"]], "de",
        test_set="toy", metrics=["chrf"],
    )  # fmt: skip
    signature = found.systems[0].differences[0].signature
    assert found.text(num_changed=1).split("\n") == [
        "toy: b against a, paired bootstrap, 1,000 trials",
        f"  chrF2 82.69 -> 100.00, gain +17.31, p = 0.2547, chrF2|{signature}",
        "  1 of 2 translations differ; sentence chrF2 rises in 1 and falls in 0",
        "  line 2, chrF2 +100.0",
        "    reference  Nein",
        "    baseline   Ja",
        "    now        Nein",
    ]


def test_json_has_all_fields() -> None:
    found = json.loads(json.dumps(compared().tree()))
    assert (found["comparison"], found["baseline"], found["test"]) == ("toy", "old", "bs")
    assert (found["segments"], found["trials"]) == (18, 1000)
    assert found["systems"][0]["differences"][0].keys() == Difference.__annotations__.keys()
    assert found["systems"][1]["worse"][0]["hyp"] == "Nichts."


def difference(gain: float, p_value: float | None) -> Difference:
    return Difference("BLEU", "", 30.0, 30.0 + gain, gain, p_value, None, None, "")


@pytest.mark.parametrize(
    ("gate", "gain", "p_value", "passes"),
    [
        (Gate(0.5, None), 0.5, None, True),
        (Gate(0.5, None), 0.49, None, False),
        (Gate(-0.2, None), -0.1, None, True),
        (Gate(None, 0.05), 0.1, 0.05, True),
        (Gate(None, 0.05), 0.1, 0.051, False),
        (Gate(None, 0.05), -0.1, 0.001, False),
        (Gate(None, 0.05), 0.0, 0.001, False),
        (Gate(0.5, 0.05), 0.6, 0.2, False),
        (Gate(0.5, 0.05), 0.4, 0.01, False),
    ],
)
def test_the_gate_needs_a_large_and_significant_gain(
    gate: Gate, gain: float, p_value: float | None, passes: bool
) -> None:
    assert gate.passes(difference(gain, p_value)) == passes


def test_a_verdict_names_result_and_requirements() -> None:
    assert Gate(0.5, 0.05).verdict("toy", "new", difference(0.3, 0.2)) == (
        "gate failed: toy, new: BLEU +0.30, p = 0.2000; required: a gain of +0.50 or more and p of "
        "0.05 or less"
    )
    assert Gate(0.1, None).verdict("toy", "new", difference(0.3, None)) == (
        "gate passed: toy, new: BLEU +0.30; required: a gain of +0.10 or more"
    )


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (Gate(None, 1.0), "--max-p is 1.0, but it must be above 0 and below 1"),
        (Gate(None, 0.0), "--max-p is 0.0, but it must be above 0 and below 1"),
    ],
)
def test_limits_without_meaning_are_refused(gate: Gate, message: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as error:
        gate.check()
    assert str(error.value) == message


def test_an_unknown_test_is_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as error:
        comparison.check_test("t")
    assert str(error.value) == (
        "--paired is t, but it must be bs (bootstrap), ar (approximate randomisation) or none"
    )


def test_seed_0_is_refused_for_paired_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Honest numbers: the signature would have seed:0 for draws that cannot be repeated."""
    monkeypatch.setenv("SACREBLEU_SEED", "0")
    comparison.check_test("none")
    with pytest.raises(ConfigError) as error:
        comparison.check_test("ar")
    assert str(error.value) == (
        "SACREBLEU_SEED is 0, but sacreBLEU's paired tests take 0 for no seed: choose another "
        "number, or none"
    )


def test_compared_systems_need_as_many_lines() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        comparison.compare(
            {"a": ["x"], "b": []}, "a", [["x"]], "de", test_set="toy", metrics=["bleu"]
        )
    assert str(error.value) == (
        "toy: the translation has 0 lines, the reference 1: both need one line per segment"
    )


def test_equal_gains_are_in_the_order_of_lines() -> None:
    hyps = {"old": ["Ja"] * 3, "new": ["Nein"] * 3}
    found = comparison.compare(
        hyps, "old", [["Nein"] * 3], "de", test_set="toy", metrics=["bleu"], test="none"
    )
    assert [each.line for each in found.systems[0].better] == [1, 2, 3]
