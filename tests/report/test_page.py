"""Report page: valid HTML, self-contained, escaped, with the values of the files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_files import HOSTILE, Page, evaluation, example, record

from nmt.report.page import render, score_rows, slice_tables
from nmt.report.runs import read_runs

MakeRun = Callable[..., Path]


def page_of(*folders: Path) -> str:
    runs = read_runs(folders)
    return render(runs, [[] for _ in runs])


def test_page_is_self_contained(make_run: MakeRun) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    text = page_of(make_run("a"), make_run("b"))
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    loads = [attrs for _, attrs in page.tags if "src" in attrs or "srcset" in attrs]
    assert loads == []
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(link)[1:] for link in links} <= set(ids)
    named = [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert set(named) <= set(ids)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_hostile_text_is_escaped(here: Path, make_run: MakeRun) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    [run] = read_runs([Path("runs/tiny")])
    [hostile] = read_runs([make_run("<i>a")])
    page = Page(render([run, hostile], [[example()], []]))
    assert page.text.count(HOSTILE) == 9
    assert "▁<b>" in page.text
    assert "▁&amp;" in page.text
    assert "<i>a" in page.text


def test_failures_have_counts_shares_and_examples(make_run: MakeRun) -> None:
    example = {"line": 7, "src": HOSTILE, "hyp": HOSTILE, "ref": HOSTILE}
    rule = {"rule": "single_words", "segments": 40, "output": 3, "reference": 1}
    failures = {"rules": [rule | {"examples": [example]}], "left_out": ["names: no rule for ja"]}
    text = page_of(make_run("a", failures=failures))
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text.partition('id="failures"')[2])
    found = "one word is copied, or became a sentence"
    at = cells.index("single words")
    assert cells[at : at + 7] == ["single words", found, "40", "3", "7.50 %", "1", "2.50 %"]
    assert "Left out: names: no rule for ja." in text
    assert Page(text).text.count(HOSTILE) > Page(page_of(make_run("b"))).text.count(HOSTILE) + 2
    assert "run nmt evaluate --trust" in Page(page_of(make_run("c"))).text


def test_scores_have_interval_signature_and_checkpoint(make_run: MakeRun) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    text = page_of(make_run("a"))
    for expected in ("39.18 ± 1.56", "40.50 ± 1.56", "update 300", "nrefs:1|case:mixed", "1,000"):
        assert expected in text
    assert "BLEU, lower-cased" in text


def test_different_signatures_cause_a_warning(make_run: MakeRun) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    folders = make_run("a"), make_run("b", signature="nrefs:1|case:lc")
    warning = "BLEU was computed with different signatures: the scores are not comparable (flickr)"
    assert warning in page_of(*folders)
    assert warning not in page_of(folders[0])


def test_page_shows_comparisons_slices_and_events(make_run: MakeRun) -> None:
    text = Page(page_of(make_run("a"))).text
    for expected in (
        "flickr: new against old",
        "Paired bootstrap, 1,000 trials; 5 of 1,000 translations differ",
        "0.0123",
        "by length: tokens of the reference",
        "gnorm inf | pairs 300 items",
        "updates_lost 50",
    ):
        assert expected in text


def test_only_the_newest_events_are_shown(tmp_path: Path) -> None:
    lines = [f'{{"kind": "skipped", "update": {n}, "grad_norm": "inf"}}\n' for n in range(150)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    page = Page(page_of(tmp_path))
    assert page.text.count("gnorm inf") == 100
    assert f"{tmp_path.name}: 50 earlier events: see metrics.jsonl." in page.text


def test_restarts_are_marked_in_the_charts(make_run: MakeRun) -> None:
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f"\n{json.dumps(record('restart', 150, updates_lost=1))}\n")
    assert Page(page_of(folder, make_run("b"))).text.count("a: restart at 150") == 6


def test_scores_are_grouped_by_test_set(make_run: MakeRun) -> None:
    folders = [make_run(name, test_set="news") for name in ("b", "a")]
    for folder in folders:
        path = folder / "evaluation/talks.metrics.json"
        path.write_text(json.dumps(evaluation(test_set="flickr")))
    rows = score_rows(read_runs(folders))
    assert [(row.test_set, row.run) for row in rows] == [
        ("flickr", "b"), ("flickr", "a"), ("news", "b"), ("news", "a"),
    ]  # fmt: skip


def test_variants_of_a_test_set_have_no_slices(make_run: MakeRun) -> None:
    folder = make_run("a")
    for name in ("flickr+lowercase", "talks+lowercase"):
        path = folder / f"evaluation/{name}.metrics.json"
        path.write_text(json.dumps(evaluation(test_set=name)))
    tables = slice_tables(read_runs([folder]))
    assert [table.test_set for table in tables] == ["flickr", "talks+lowercase"]


def test_the_page_has_the_time_of_the_newest_record(make_run: MakeRun) -> None:
    older, newer = make_run("a"), make_run("b")
    last = record("train", 400) | {"time": 1.7e9}
    (newer / "metrics.jsonl").write_text(f"{json.dumps(last)}\n")
    assert "As of 2023-11-14 22:13 UTC." in Page(page_of(newer, older)).text


def test_runs_share_charts_with_different_lines(make_run: MakeRun) -> None:
    page = Page(page_of(make_run("a"), make_run("b", bleu=41.0)))
    curves = [attrs["class"] for tag, attrs in page.tags if tag == "polyline"]
    assert curves == ["curve run-0", "curve run-1"] * 6
    assert "b, update 300: 41" in page.text


def test_risk_has_a_chart_where_it_was_logged(make_run: MakeRun) -> None:
    plain, fine = make_run("a"), make_run("b")
    metrics = fine / "metrics.jsonl"
    lines = [json.dumps(record("train", n, loss=1.4, risk=0.7 - n / 1e4)) for n in (100, 200)]
    metrics.write_text("".join(line + "\n" for line in lines))
    text = page_of(plain, fine)
    assert "risk: 1 - sentence BLEU of sampled translations" in text
    assert "b, update 200: 0.68" in Page(text).text
    assert "a, update 200: 0.68" not in Page(text).text
    assert "risk: 1" not in page_of(plain)


def test_new_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    text = Page(page_of(tmp_path)).text
    for expected in ("No records yet.", "No test set has been scored", "No events."):
        assert expected in text


def test_drop_reasons_are_shown(here: Path, nmt: Callable[..., Any]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    answer = nmt("report runs/tiny -o page.html --examples 0")
    assert answer.status == 0
    assert answer.err.startswith("wrote page.html (")
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert "Pairs: read = kept + dropped." in page.text
    assert "No examples" in page.text


def test_page_is_deterministic(here: Path, nmt: Callable[..., Any]) -> None:
    nmt("evaluate runs/tiny --test news --metrics chrf")
    nmt("report runs/tiny -o one.html")
    nmt("report runs/tiny -o two.html")
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()
