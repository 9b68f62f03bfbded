"""Errors in raw text."""

import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from error_cases import RAW, ErrorCase, change, contents, ids, recoded, replaced

from nmt.corpus.task_cache import run_locally

CORPORA = [
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.de: there is no such file; check corpus.root and the names in the experiment",
        RAW | {"raw/train.de": None},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.de, line 1: the file is UTF-16, but UTF-8 is expected; convert it "
        "(`iconv -f UTF-16 -t UTF-8`)",
        RAW | {"raw/train.de": recoded("utf-16")},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.de, line 71: a NUL byte: the file is damaged or not UTF-8; download it again, "
        "or delete the NUL bytes (`tr -d '\\000'`) if the lines are complete",
        RAW | {"raw/train.de": replaced("14 ein Hund", "14 ein\0Hund")},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.en, line 1: gzip data where plain text was expected; rename the file to end "
        "in .gz, or decompress it",
        RAW | {"raw/train.en": gzip.compress},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/dev.de, line 3: byte 0xE4 at position 18 is not UTF-8; convert the file from its "
        "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line",
        RAW | {"raw/dev.de": recoded("latin-1")},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "corpus dev: raw/dev.en has 8 lines, raw/dev.de has 9: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
        RAW | {"raw/dev.de": lambda data: data + b"mehr\n"},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "corpus news: raw/news.en has 5 lines, raw/dev.de has 8: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
        RAW | {"tiny.yaml": replaced("tgt: news.de", "tgt: news.de, refs: [dev.de]")},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "tiny.yaml: refs of corpus 'dev' is news.de, but only test sets have several references: "
        "remove it",
        RAW | {"tiny.yaml": replaced("tgt: dev.de", "tgt: dev.de, refs: [news.de]")},
    ),
    ErrorCase(
        "prepare tiny.yaml --force --dropped none/dropped.tsv",
        "--dropped is none/dropped.tsv, but directory none does not exist: create it first",
    ),
    ErrorCase(
        "prepare tiny.yaml --force --dropped raw",
        "--dropped is raw, but it is a directory: give a file name",
    ),
    ErrorCase(
        "prepare tiny.yaml --force --dropped tiny.yaml",
        "--dropped is tiny.yaml, but it is the input: give another file name",
    ),
    ErrorCase(
        "prepare tiny.yaml --force --dropped raw/dev.de",
        "--dropped is raw/dev.de, but it is the input: give another file name",
    ),
    ErrorCase(
        "prepare tiny.yaml --dropped dropped.tsv",
        "prepared/tiny: prepared already, so no pair is dropped now; add --force to prepare again, "
        "or leave out --dropped",
    ),
    ErrorCase(
        "prepare tiny.yaml corpus.prepared=tiny.yaml",
        "corpus.prepared is tiny.yaml, but it is not writable: use another directory",
    ),
    ErrorCase(
        "prepare tiny.yaml corpus.subword.vocab_size=400",
        "prepared/tiny: prepared with corpus.subword.vocab_size 320, but the experiment has 400; "
        "set it back, or remove the folder and run `nmt prepare` again",
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.de: not the file that prepared/tiny was prepared from; remove the folder and "
        "run `nmt prepare` again, or set corpus.prepared to another",
        {"raw/train.de": replaced("14 ein Hund", "14 kein Hund")},
    ),
]
DOCTOR = [
    ErrorCase(
        "doctor none.yaml",
        "none.yaml: file not found; the files that come with nmt are in configs/",
    ),
    ErrorCase("doctor raw", "raw: this is a directory; give a YAML file"),
    ErrorCase(
        "doctor tiny.yaml -o none/page.html",
        "--output is none/page.html, but directory none does not exist: create it first",
    ),
    ErrorCase(
        "doctor tiny.yaml -o raw", "--output is raw, but it is a directory: give a file name"
    ),
    ErrorCase(
        "doctor tiny.yaml -o tiny.yaml",
        "--output is tiny.yaml, but it is the input: give another file name",
    ),
    ErrorCase(
        "doctor tiny.yaml -o raw/train.en",
        "--output is raw/train.en, but it is the input: give another file name",
    ),
    ErrorCase(
        "doctor tiny.yaml --json -o -",
        "--output is -, but --json uses standard output: give a file name",
    ),
    ErrorCase(
        "doctor tiny.yaml --fail-above 5",
        "Invalid value for '--fail-above': 5.0 is not in the range 0<=x<=1. See `nmt doctor "
        "--help`.",
    ),
    ErrorCase(
        "doctor tiny.yaml corpus.root=none",
        "none/train.en: there is no such file; check corpus.root and the names in the experiment",
    ),
    ErrorCase(
        "doctor tiny.yaml corpus.cleaning.languages=true",
        "command line: corpus.cleaning.languages is not a setting; did you mean "
        "corpus.cleaning.language?",
    ),
    ErrorCase(
        "doctor tiny.yaml corpus.cleaning.min_adequacy=high",
        "command line: corpus.cleaning.min_adequacy is 'high', but it must be a number",
    ),
    ErrorCase(
        "doctor tiny.yaml corpus.prepared=tiny.yaml/x",
        "corpus.prepared is tiny.yaml, but it is not writable: use another directory",
    ),
    ErrorCase(
        "doctor tiny.yaml",
        "raw/train.de, line 1: the file is UTF-16, but UTF-8 is expected; convert it "
        "(`iconv -f UTF-16 -t UTF-8`)",
        {"raw/train.de": recoded("utf-16")},
    ),
    ErrorCase(
        "doctor tiny.yaml",
        "raw/train.en, line 1: gzip data where plain text was expected; rename the file to end "
        "in .gz, or decompress it",
        {"raw/train.en": gzip.compress},
    ),
    ErrorCase(
        "doctor tiny.yaml",
        "corpus news: raw/news.en has 5 lines, raw/news.de has 6: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
        {"raw/news.de": lambda data: data + b"mehr\n"},
    ),
]
DEEP_IN_A_CORPUS = [
    ErrorCase(
        "prepare tiny.yaml",
        "corpus train: raw/train.en has 100 lines, raw/train.de has 101: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
        RAW | {"raw/train.de": lambda data: data + b"mehr\n"},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.de, line 3, byte 0xE4 at position 18: 20 of the 20 non-ASCII lines are not "
        "UTF-8; convert the file from its encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is "
        "Western European; `iconv -l` lists others) or delete these lines",
        RAW | {"raw/train.de": recoded("latin-1")},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.en.gz, line 88: the gzip data is damaged (it ends too early); copy or "
        "download the file again, and check that its format is that of its name",
        RAW
        | {
            "tiny.yaml": replaced("src: train.en", "src: train.en.gz"),
            "raw/train.en.gz": gzip.compress(b"a dog runs.\n" * 100)[:-12],
        },
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.tsv, line 2: no tab; expected source, tab, target: fix or delete the line",
        RAW
        | {
            "tiny.yaml": replaced("src: train.en, tgt: train.de", "tsv: train.tsv"),
            "raw/train.tsv": b"a dog\tein Hund\na cat eine Katze\n",
        },
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "raw/train.en: no lines; expected a corpus to train on",
        RAW | {"raw/train.en": b"", "raw/train.de": b""},
    ),
    ErrorCase(
        "prepare tiny.yaml",
        "cleaning dropped all 100 pairs (100 no_letters): nothing is left to train on; check the "
        "corpus and corpus.cleaning",
        RAW | {"raw/train.en": b"1\n" * 100},
    ),
]


@pytest.mark.parametrize("case", [*CORPORA, *DOCTOR], ids=ids([*CORPORA, *DOCTOR]))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)


@pytest.mark.parametrize("case", DEEP_IN_A_CORPUS, ids=ids(DEEP_IN_A_CORPUS))
def test_error_during_preparation_leaves_no_corpus(
    case: ErrorCase, here: Path, nmt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees); tasks run in this process, not on Ray."""
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("nmt.jobs.tasks.run_on_ray", run_locally)
    change(here, case.files)
    before = contents(here)
    answer = nmt(case.command)
    assert answer.err.replace(f"{here}/", "") == f"nmt: {case.message}\n"
    assert (answer.status, answer.out) == (2, "")
    prepared = here / "prepared"
    after = {path: data for path, data in contents(here).items() if path != prepared}
    assert {path: data for path, data in after.items() if prepared not in path.parents} == before
    assert not (prepared / "tiny/manifest.json").exists()
