"""Page of `nmt inspect`: valid HTML, escaped, with the values of the inspection."""

import pytest
from report_files import HOSTILE, Page, inspection

from nmt.report.inspection import Spread
from nmt.report.inspector_page import quantity_chart, render_inspection, summary_lines


def test_summary_states_the_facts() -> None:
    assert summary_lines(inspection()) == [
        "1 line, translated by the model: 2 source and 2 target tokens",
        "input gate: 0.50 on average, from 0.40 (decoder 1) to 0.60 (encoder 1)",
        "forget gate: 0.80 on average, from 0.70 (decoder 1) to 0.90 (encoder 1)",
        "output gate: 0.50 on average, from 0.50 (encoder 1) to 0.50 (encoder 1)",
        "saturated gates (below 0.1 or above 0.9): 25.0 % on average over layers; most in "
        "encoder 1, forget gate: 75.0 %",
        "gates with more than half of their values on one side: encoder 1, forget gate (70.0 % "
        "above 0.9)",
        "saturated candidates (beyond -0.9 or 0.9): 10.0 % on average over layers; most in "
        "encoder 1, candidate: 20.0 %",
        "cell states whose tanh is beyond -0.9 or 0.9: 0.0 % on average over layers; most in "
        "encoder 1, cell state: 0.0 %",
        "largest attention weight of a target token, on average: decoder 1 0.70 (0.50 on the end "
        "of the source)",
        "log-probability of a target token: -1.500 on average; 1 of 2 are the most probable "
        "token; lowest: -2.000 of ▁&amp;",
        "note: line 1: The translation is cut.",
    ]


def test_page_is_valid_and_has_the_values() -> None:
    page = Page(render_inspection(inspection()))
    for text in ("runs/tiny", "mean over 2 heads", "Head 2", "-2.000", "13.5 %",
                 "▁<b>: forget gate 0.90, quartiles 0.80 and 1.00; 5.0 % below 0.1, 70.0 % above "
                 "0.9", "The translation is cut."):  # fmt: skip
        assert text in page.text, text


def test_text_is_escaped_and_nothing_is_loaded() -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    text = render_inspection(inspection())
    assert "<script" not in text
    assert HOSTILE in Page(text).text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("name", "low", "labels"),
    [
        ("forget gate", 0.1, ["1", "0"]),
        ("candidate", -0.9, ["1", "-1"]),
        ("cell state", -4.5, ["5", "-5"]),
    ],
)
def test_axis_encloses_the_values(name: str, low: float, labels: list[str]) -> None:
    chart = quantity_chart(name, ["a"], [Spread(0.5, low, 0.6, 0.25, 0.0)], 10)
    assert [text for _, text in chart.labels] == labels


def test_bars_show_shares_and_quartiles() -> None:
    chart = quantity_chart("input gate", ["a"], [Spread(0.5, 0.25, 0.75, 0.25, 0.125)], 10)
    assert chart.below == "M114 58.0h18v16.0h-18z"
    assert chart.above == "M114 10.0h18v8.0h-18z"
    assert chart.quartiles == "M119 26.0h8v32.0h-8z"
    assert chart.mean == "123,42.0"
