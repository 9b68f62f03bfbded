from dataclasses import replace
from pathlib import Path

import pytest

from nmt.bench.figures import BenchReport, Figure, compare, line_of
from nmt.errors import DataError

MACHINE = {"processor": "a CPU", "cores": 2, "threads": 1, "torch": "2.13", "load": 0.1}
PACE = Figure("train/x/bf16", 1000.0, "tgt tokens/s", "target tokens", spread=0.02, repeats=5)
TIME = Figure("update/x/whole", 50.0, "ms", "the update", is_better_high=False, repeats=5)


def moved(before: Figure, after: Figure) -> list[str]:
    return compare(BenchReport(MACHINE, [before]), BenchReport(MACHINE, [after]))


def test_a_slowdown_is_found() -> None:
    assert moved(PACE, replace(PACE, value=800.0)) == [
        "train/x/bf16: WORSE by 20%, 1,000 to 800 tgt tokens/s; noise 5%",
        "0 figures within noise",
    ]


def test_a_longer_time_is_worse() -> None:
    assert moved(TIME, replace(TIME, value=100.0)) == [
        "update/x/whole: WORSE by 50%, 50 to 100 ms; noise 5%",
        "0 figures within noise",
    ]


def test_a_gain_is_told() -> None:
    assert moved(TIME, replace(TIME, value=25.0))[0].startswith("update/x/whole: better by 100%")


def test_what_the_repeats_differ_by_is_noise() -> None:
    noisy = replace(PACE, spread=0.3)
    assert moved(noisy, replace(noisy, value=800.0)) == ["1 figure within noise"]


def test_figures_that_come_and_go_are_told_and_so_is_another_machine() -> None:
    """P11."""
    before = BenchReport(MACHINE, [PACE])
    after = BenchReport(MACHINE | {"cores": 4, "load": 3.0}, [TIME])
    assert compare(before, after) == [
        "not the same cores: 2, then 4; what follows may come from that",
        "update/x/whole: new, 50 ms",
        "train/x/bf16: gone",
        "0 figures within noise",
    ]


def test_the_worst_comes_first() -> None:
    figures = [replace(PACE, name=name) for name in "abc"]
    slower = [replace(PACE, name=name, value=value) for name, value in
              (("a", 900.0), ("b", 500.0), ("c", 2000.0))]  # fmt: skip
    lines = compare(BenchReport(MACHINE, figures), BenchReport(MACHINE, slower))
    assert [line[0] for line in lines[:3]] == ["b", "a", "c"]


def test_a_line_says_unit_share_and_whether_others_had_the_core() -> None:
    """P11."""
    line = line_of(replace(PACE, busy=0.4, ratio=0.5, ratio_to="the bf16 product"))
    assert " ".join(line.split()) == (
        "train/x/bf16 1,000 tgt tokens/s ± 1% 0.50 of the bf16 product target tokens "
        "(had 40% of a core)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file; `nmt bench -o {path}` writes one"),
        ("x", "not a report of `nmt bench`; run `nmt bench` again"),
        ("{}", "not a report of `nmt bench`; run `nmt bench` again"),
        ('{"format": 1, "machine": {}, "figures": [{"name": 1}]}',
         "not a report of `nmt bench`; run `nmt bench` again"),
        ('{"format": 2}', "format 2, but this nmt reads format 1; run `nmt bench` again"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    """P9."""
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as error:
        BenchReport.load(path)
    assert str(error.value) == f"{path}: {message.format(path=path)}"
