"""Errors of `nmt score`."""

import gzip
from collections.abc import Callable

import pytest
from error_cases import BEST, OTHER, ErrorCase, flipped, ids, recoded

SCORING = [
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.fr",
        "raw/dev.fr: file not found; check the path",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/talks.de",
        "corpus pairs: raw/dev.en has 8 lines, raw/talks.de has 3: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de -o out.tsv",
        "raw/dev.de, line 3: byte 0xE4 at position 18 is not UTF-8; convert the file from its "
        "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line",
        {"raw/dev.de": recoded("latin-1")},
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de -o raw/dev.de",
        "--output is raw/dev.de, but it is the input: give another file name",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --length-penalty -1",
        "Invalid value for '--length-penalty': -1.0 is not in the range 0<=x<=10. See `nmt score "
        "--help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --format xml",
        "Invalid value for '--format': 'xml' is not one of 'text', 'scores', 'jsonl'. See `nmt "
        "score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --beam 4",
        "No such option '--beam'. Did you mean '--batch'? See `nmt score --help`.",
    ),
    ErrorCase("score runs/tiny raw/dev.en", "Missing argument 'TGT'. See `nmt score --help`."),
    ErrorCase("score", "Missing argument 'RUN'. See `nmt score --help`."),
    ErrorCase(
        "score runs/tinny raw/dev.en raw/dev.de",
        "runs/tinny: no such directory; name a run or one of its checkpoints",
    ),
    ErrorCase(
        "score raw raw/dev.en raw/dev.de",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    ErrorCase(
        "score gs://bucket/tiny raw/dev.en raw/dev.de",
        "the store is gs://bucket/tiny, but it must be a directory or s3://BUCKET/PATH (S3 or "
        "compatible)",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de",
        f"{BEST}/tokenizer.json is missing; {OTHER}",
        {f"{BEST}/tokenizer.json": None},
    ),
    ErrorCase(
        "score runs/tiny raw/new.en raw/dev.de",
        "raw/new.en: file not found; check the path",
    ),
    ErrorCase(
        "score runs/tiny raw raw/dev.de",
        "raw: is a folder; name a file in it",
    ),
    ErrorCase(
        "score runs/tiny raw/talks.en raw/dev.de",
        "corpus pairs: raw/talks.en has 3 lines, raw/dev.de has 8: the two files must be "
        "line-parallel; find the first pair that does not match, or download both again",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de -o new/out",
        "--output is new/out, but directory new does not exist: create it first",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de -o raw",
        "--output is raw, but it is a directory: give a file name",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de -o runs/../raw/dev.en",
        "--output is runs/../raw/dev.en, but it is the input: give another file name",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --length-penalty much",
        "Invalid value for '--length-penalty': 'much' is not a valid float. See `nmt score "
        "--help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --batch 0",
        "Invalid value for '--batch': 0 is not in the range x>=1. See `nmt score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --threads half",
        "Invalid value for '--threads': 'half' is not a valid integer. See `nmt score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --device gpu",
        "Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', 'cuda'. "
        "See `nmt score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de raw/news.de",
        "Got unexpected extra argument (raw/news.de). See `nmt score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de --format",
        "Option '--format' requires an argument. See `nmt score --help`.",
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de",
        "raw/dev.en, line 1: the file is UTF-16, but UTF-8 is expected; convert it "
        "(`iconv -f UTF-16 -t UTF-8`)",
        {"raw/dev.en": recoded("utf-16")},
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en raw/dev.de",
        "raw/dev.en, line 1: gzip data where plain text was expected; rename the file to end in "
        ".gz, or decompress it",
        {"raw/dev.en": gzip.compress},
    ),
    ErrorCase(
        "score runs/tiny raw/dev.en.gz raw/dev.de",
        "raw/dev.en.gz, line 9: the gzip data is damaged (it ends too early); copy or download "
        "the file again, and check that its format is that of its name",
        {"raw/dev.en.gz": gzip.compress(b"a dog runs.\n" * 8)[:-9]},
    ),
]


@pytest.mark.parametrize("case", SCORING, ids=ids(SCORING))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
