"""`nmt evaluate`: scores on test sets and comparison with a baseline."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_calls import TEXT, Nmt, sacrebleu_command, translated

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.files import load_experiment
from nmt.corpus.prepare import prepare
from nmt.decoding.onnx_export import export_onnx

BOTH = "evaluate runs/tiny --baseline runs/tiny/checkpoints/update-00000030 --test news -o both"


def titles_of(answer: Any) -> list[str]:
    """Return the lines about test set news of a successful evaluation."""
    assert answer.status == 0
    return [line for line in answer.out.splitlines() if line.startswith("news")]


def test_scores_equal_sacrebleu_on_the_written_files(here: Path, nmt: Nmt) -> None:
    """Line in, line out, honest numbers (nmt/README.md, Guarantees)."""
    answer = nmt("evaluate runs/tiny --test news")
    assert answer.status == 0
    title, *lines = answer.out.splitlines()
    assert title == "news: 5 segments, tiny, checkpoint update-00000060"
    printed = sacrebleu_command("runs/tiny/evaluation", "news", "-w", "2", "-f", "text")
    assert [line.strip() for line in lines[:3]] == [
        line.strip() for line in printed.strip().splitlines()
    ]
    assert lines[3].startswith("lower-cased: BLEU|nrefs:1|bs:1000|seed:12345|case:lc|")


def test_json_is_one_line_per_test_set(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    answer = nmt("evaluate runs/tiny --json")
    news, talks = map(json.loads, answer.out.splitlines())
    assert (news["test_set"], talks["test_set"]) == ("news", "talks")
    assert news["checkpoint"] == "update-00000060"
    assert news == json.loads(Path("runs/tiny/evaluation/news.metrics.json").read_text())
    assert [score["name"] for score in news["scores"]] == ["BLEU", "chrF2", "TER"]


def test_translations_are_kept_and_references_unchanged(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    Path("my.en").write_bytes(TEXT.encode().replace(b"\n", b"\r\n"))
    Path("my.de").write_text("1 ein  Hund .\n2\u00a0Katzen\n3 ja\n", encoding="utf-8")
    answer = nmt(f"evaluate {list_checkpoints(Path('runs/tiny'))[0]} --src my.en --ref my.de")
    assert answer.out.startswith("my: 3 segments, tiny, checkpoint update-00000030\n")
    assert answer.err.splitlines()[-1] == "translations and scores: runs/tiny/evaluation/"
    kept = Path("runs/tiny/evaluation")
    names = ["my.de", "my.de.ref", "my.en", "my.metrics", "my.metrics.json"]
    assert sorted(path.name for path in kept.iterdir()) == names
    assert (kept / "my.de.ref").read_bytes() == Path("my.de").read_bytes()
    assert (kept / "my.en").read_text() == TEXT


def test_joined_test_sets_have_a_slice_each(here: Path, nmt: Nmt) -> None:
    answer = nmt("evaluate runs/tiny --together --train-text prepared/tiny --json --metrics bleu")
    found = json.loads(answer.out.splitlines()[-1])
    assert (found["test_set"], found["segments"]) == ("together", 8)
    parts = [(part["kind"], part["slice"], part["segments"]) for part in found["slices"]]
    assert ("corpus", "news", 5) in parts
    assert ("corpus", "talks", 3) in parts
    assert {kind for kind, *_ in parts} == {"length", "rarity", "corpus"}


def test_robustness_table(here: Path, nmt: Nmt) -> None:
    answer = nmt("evaluate runs/tiny --test news --robust --metrics chrf")
    rows = answer.out.partition(", robustness of ")[2].splitlines()[1:]
    assert rows[0].split() == ["chrF2"]
    names = [row.split()[0] for row in rows[1:]]
    assert names[:4] == ["upper-case", "title-case", "typos", "no-punctuation"]
    assert "no-final-punctuation" in names
    assert Path("runs/tiny/evaluation/news_upper-case.en").read_text().isupper()


def test_robustness_table_leaves_out_other_test_sets(here: Path, nmt: Nmt) -> None:
    files = " ".join(f"--src {name}.en --ref raw/news.de" for name in ("a", "a+b"))
    for name in ("a", "a+b"):
        Path(f"{name}.en").write_bytes(Path("raw/news.en").read_bytes())
    answer = nmt(f"evaluate runs/tiny {files} --robust --metrics chrf")
    rows = answer.out.partition("a, robustness of ")[2].partition("a+b, ")[0].splitlines()[2:]
    assert rows
    assert not [row for row in rows if row.split()[0].startswith("b")]


def test_failures_are_reported_by_rule(here: Path, nmt: Nmt) -> None:
    Path("my.en").write_text("A dog and 35 cats.\nA man.\n", encoding="utf-8")
    Path("my.de").write_text("Ein Hund und 36 Katzen.\nEin Mann.\n", encoding="utf-8")
    answer = nmt("evaluate runs/tiny --src my.en --ref my.de --trust --metrics bleu --robust")
    assert answer.out.count("failures by rule") == 1
    start = answer.out.index("my, tiny, failures by rule (reference: false alarms):\n")
    # Sources with noise differ from the references by design.
    assert start < answer.out.index("my+upper-case")
    assert re.search(r"  numbers +\d .* 1 \(\d+.00 %\)\n", answer.out)
    answer = nmt("evaluate runs/tiny --src my.en --ref my.de --trust --examples 0 --json")
    numbers, *others = json.loads(answer.out)["failures"]["rules"]
    assert (numbers["rule"], numbers["reference"], numbers["examples"]) == ("numbers", 1, [])
    assert [each["rule"] for each in others][:3] == ["repetition", "untranslated", "empty"]
    stored = json.loads(Path("runs/tiny/evaluation/my.metrics.json").read_text(encoding="utf-8"))
    assert stored == json.loads(answer.out)


def test_wrong_options_of_trust_are_errors(here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    answer = nmt("evaluate runs/tiny --examples 5")
    assert (answer.status, answer.err) == (
        2, "nmt: --examples is 5, but it needs --trust: add it, or omit --examples\n"
    )  # fmt: skip
    answer = nmt("evaluate runs/tiny --trust --examples x")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert "--examples" in answer.err


@pytest.mark.parametrize("command", ["evaluate runs/tiny exported", "backtranslate exported"])
def test_an_engine_that_a_system_lacks_is_refused_early(
    command: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: pytest.fail("Ray started"))
    export_onnx(Path("runs/tiny"), Path("exported"))
    rest = "--test news" if "evaluate" in command else "raw/talks.en bt --experiment tiny.yaml"
    answer = nmt(f"{command} {rest} --engine torch")
    assert (answer.status, answer.out, answer.err) == (
        2, "", "nmt: engine is torch, but exported has ONNX graphs only: use onnx, or the run that "
        "it was exported from\n",
    )  # fmt: skip


def test_names_that_are_not_utf_8_are_escaped(here: Path, nmt: Nmt) -> None:
    files = [os.fsdecode(b"news\xff.") + side for side in ("en", "de")]
    for file in files:
        shutil.copy(f"raw/news.{file[-2:]}", file)
    model = os.fsdecode(b"model\xff")
    export_onnx(Path("runs/tiny"), Path("exported")).path.rename(model)
    command = f"evaluate runs/tiny {model} --src {files[0]} --ref {files[1]} --metrics bleu"
    assert titles_of(nmt(command)) == [
        "news\\xff: 5 segments, tiny@update-00000060, checkpoint update-00000060",
        "news\\xff: 5 segments, tiny@model\\xff, checkpoint model\\xff",
    ]
    assert Path(model, "evaluation/news_xff.metrics").is_file()


def test_search_options_are_used(here: Path, nmt: Nmt) -> None:
    options = "--test news --metrics bleu --beam 1 --max-length-ratio 0.1 --threads 1 --batch 2"
    nmt(f"evaluate runs/tiny {options} -o short")
    nmt("evaluate runs/tiny --test news --metrics bleu -o long")
    short, long = (Path(folder, "news.de").read_text() for folder in ("short", "long"))
    assert len(short) < len(long)


# With a baseline.


def test_compare_with_a_baseline_keeps_both(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    answer = nmt(f"{BOTH} --slices --metrics bleu,ter")
    assert titles_of(answer) == [
        "news: 5 segments, tiny@update-00000030, checkpoint update-00000030",
        "news: 5 segments, tiny@update-00000060, checkpoint update-00000060",
        "news, slices:",
        "news: tiny@update-00000060 against tiny@update-00000030, paired bootstrap, 1,000 trials",
    ]
    assert "tiny@update-00000030 BLEU" in answer.out
    kept = sorted(str(path.relative_to("both")) for path in Path("both").rglob("*.json"))
    assert kept == [
        "tiny@update-00000030/news.metrics.json",
        "tiny@update-00000060/news.comparison.json",
        "tiny@update-00000060/news.metrics.json",
    ]


@pytest.mark.parametrize(
    ("limits", "status", "verdict"),
    [
        ("--min-gain -100", 0, "gate passed: news, tiny@update-00000060: BLEU "),
        ("--min-gain 101", 1, "gate failed: news, tiny@update-00000060: BLEU "),
        ("--min-gain -100 --max-p 0.0000001", 1, "gate failed: news, tiny@update-00000060: BLEU "),
    ],
)
def test_gate_sets_the_exit_status(
    limits: str, status: int, verdict: str, here: Path, nmt: Nmt
) -> None:
    answer = nmt(f"{BOTH} {limits}")
    assert answer.status == status
    assert answer.out.splitlines()[-1].startswith(verdict)


def test_gate_is_part_of_the_json(here: Path, nmt: Nmt) -> None:
    answer = nmt(f"{BOTH} --json --min-gain 101")
    first, second, found = map(json.loads, answer.out.splitlines())
    assert (first["system"], second["system"]) == ("tiny@update-00000030", "tiny@update-00000060")
    assert found["gate"]["is_open"] is False
    kept = json.loads(Path("both/tiny@update-00000060/news.comparison.json").read_text())
    assert kept == {key: value for key, value in found.items() if key != "gate"}


def test_ensemble_is_scored_as_one_system(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    earlier = "runs/tiny/checkpoints/update-00000030"
    options = "--test news --metrics bleu"
    answer = nmt(f"evaluate runs/tiny --ensemble {earlier} --baseline runs/tiny {options}")
    assert titles_of(answer) == [
        "news: 5 segments, tiny, checkpoint update-00000060",
        "news: 5 segments, tiny+tiny, checkpoint update-00000060+update-00000030",
        "news: tiny+tiny against tiny, paired bootstrap, 1,000 trials",
    ]
    kept = Path("runs/tiny/evaluation")
    assert {path.name for path in kept.glob("*.json")} == {"news.metrics.json"}
    news = json.loads((kept / "ensemble/news.metrics.json").read_text())
    assert news["checkpoint"] == "update-00000060+update-00000030"
    source = Path("raw/news.en").read_text(encoding="utf-8")
    same = "\n".join(translated(nmt, source, f"--ensemble {earlier}")) + "\n"
    assert (kept / "ensemble/news.de").read_text(encoding="utf-8") == same


def test_every_reference_of_one_source_is_used(here: Path, nmt: Nmt) -> None:
    Path("second.de").write_text("".join(f"{n} anders\n" for n in range(8)))
    words = "--src raw/dev.en --ref raw/dev.de --ref second.de --metrics bleu"
    answer = nmt(f"evaluate runs/tiny {words}")
    assert "BLEU|nrefs:2|" in answer.out
    kept = Path("runs/tiny/evaluation")
    assert (kept / "dev.de.ref1").read_bytes() == Path("second.de").read_bytes()


def test_references_of_a_test_set_come_from_the_experiment(here: Path, nmt: Nmt) -> None:
    """Prepared, listed in the manifest, and scored together."""
    Path("raw/second.de").write_text("".join(f"{n} anders\n" for n in range(5)))
    settings = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(
        settings.replace("tgt: news.de", "tgt: news.de, refs: [second.de]")
    )
    shutil.rmtree("prepared")
    manifest = prepare(load_experiment("tiny.yaml"))
    assert "tests/news.ref1" in [info.name for info in manifest.files]
    assert "BLEU|nrefs:2|" in nmt("evaluate runs/tiny --test news --metrics bleu").out
    Path("prepared/tiny/tests/news.ref1").unlink()
    assert nmt("evaluate runs/tiny --test news").err == (
        "nmt: prepared/tiny/tests/news.ref1: missing; remove the folder and run `nmt prepare` "
        "again\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        "evaluate {run} --test news -o out",
        "tune {run} --beams 1 --penalties 1",
        "export {run} -o out --format onnx --shortlist",
        "report {run} -o report.html --examples 0",
    ],
)
def test_a_run_is_used_from_another_working_directory(
    command: str, tiny: Path, tmp_path: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = nmt(command.format(run=tiny / "runs/tiny"))
    assert answer.status == 0
    assert "warning" not in answer.err
