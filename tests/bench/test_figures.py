from dataclasses import replace
from pathlib import Path

import pytest

from nmt.bench.figures import BenchReport, Figure, compare_reports, format_figure
from nmt.errors import DataError

MACHINE = {"processor": "a CPU", "cores": 2, "threads": 1, "torch": "2.13", "load": 0.1}
PACE = Figure("train/x/bf16", 1000.0, "tgt tokens/s", "target tokens", spread=0.02, repeats=5)
TIME = Figure("update/x/whole", 50.0, "ms", "the update", is_better_high=False, repeats=5)


def moved(before: Figure, after: Figure) -> list[str]:
    return compare_reports(BenchReport(MACHINE, [before]), BenchReport(MACHINE, [after]))


def test_lower_rate_is_worse() -> None:
    assert moved(PACE, replace(PACE, value=800.0)) == [
        "train/x/bf16: WORSE by 20%, 1,000 to 800 tgt tokens/s; noise 5%",
        "0 figures within noise",
    ]


def test_longer_time_is_worse() -> None:
    assert moved(TIME, replace(TIME, value=100.0)) == [
        "update/x/whole: WORSE by 50%, 50 to 100 ms; noise 5%",
        "0 figures within noise",
    ]


def test_shorter_time_is_better() -> None:
    assert moved(TIME, replace(TIME, value=25.0))[0].startswith("update/x/whole: better by 100%")


def test_negative_rest_is_better_than_a_positive_one() -> None:
    """The rest of an update is the whole less its parts."""
    rest = replace(TIME, name="update/x/rest", value=-1.0)
    assert moved(rest, replace(rest, value=2.0))[0].startswith("update/x/rest: WORSE by 100%")
    assert moved(replace(rest, value=2.0), rest)[0].startswith("update/x/rest: better by 100%")
    assert moved(rest, rest) == ["1 figure within noise"]


def test_changes_within_the_spread_are_noise() -> None:
    noisy = replace(PACE, spread=0.3)
    assert moved(noisy, replace(noisy, value=800.0)) == ["1 figure within noise"]


def test_new_and_removed_figures_and_machines_are_listed() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    before = BenchReport(MACHINE, [PACE])
    after = BenchReport(MACHINE | {"cores": 4, "load": 3.0}, [TIME])
    assert compare_reports(before, after) == [
        "cores: 2 before, 4 after; this may explain changes below",
        "update/x/whole: new, 50 ms",
        "train/x/bf16: removed",
        "0 figures within noise",
    ]


def test_worst_change_comes_first() -> None:
    figures = [replace(PACE, name=name) for name in "abc"]
    slower = [replace(PACE, name=name, value=value) for name, value in
              (("a", 900.0), ("b", 500.0), ("c", 2000.0))]  # fmt: skip
    lines = compare_reports(BenchReport(MACHINE, figures), BenchReport(MACHINE, slower))
    assert [line[0] for line in lines[:3]] == ["b", "a", "c"]


def test_line_has_unit_ratio_and_share_of_a_core() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    line = format_figure(replace(PACE, busy=0.4, ratio=0.5, ratio_to="the bf16 product"))
    assert " ".join(line.split()) == (
        "train/x/bf16 1,000 tgt tokens/s ± 1% 0.50 of the bf16 product target tokens "
        "(had 40% of a core)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "file not found; `nmt bench -o {path}` writes one"),
        ("x", "not a report of `nmt bench`; run `nmt bench` again"),
        ("{}", "not a report of `nmt bench`; run `nmt bench` again"),
        ('{"format": 1, "machine": {}, "figures": [{"name": 1}]}',
         "not a report of `nmt bench`; run `nmt bench` again"),
        ('{"format": 2}', "report format 2, expected 1; run `nmt bench` again"),
    ],
)  # fmt: skip
def test_invalid_report_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as error:
        BenchReport.load(path)
    assert str(error.value) == f"{path}: {message.format(path=path)}"
