"""What a person can get wrong when translations are scored (P9)."""

import gzip
from collections.abc import Callable

import pytest
from wrong_inputs import BEST, OTHER, Wrong, flipped, ids, recoded

SCORING = [
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.fr",
        "raw/dev.fr: there is no such file; check its name and where you are",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/talks.de",
        "raw/dev.en has 8 lines, raw/talks.de has 3: the two files must be line-parallel",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o out.tsv",
        "raw/dev.de, line 3: byte 0xE4 at position 18 is not UTF-8; convert the file (`iconv -f "
        "ISO-8859-1 -t UTF-8`) or fix the line",
        {"raw/dev.de": recoded("latin-1")},
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o raw/dev.de",
        "--output is raw/dev.de, but that is the input: name another file",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --length-penalty -1",
        "--length-penalty is -1, but it must be a number, 0 or more",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --format xml",
        "--format is xml, but it must be text, scores or jsonl",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --beam 4",
        "--beam is not an option of `nmt score`; did you mean --batch?",
    ),
    Wrong("score runs/tiny raw/dev.en", "TGT is missing; `nmt score --help` tells what there is"),
    Wrong("score", "RUN is missing; `nmt score --help` tells what there is"),
    Wrong(
        "score runs/tinny raw/dev.en raw/dev.de",
        "runs/tinny: no such directory; name a run or one of its checkpoints",
    ),
    Wrong(
        "score raw raw/dev.en raw/dev.de",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "score gs://bucket/tiny raw/dev.en raw/dev.de",
        "the store is gs://bucket/tiny, but it must be a folder, or s3://BUCKET/FOLDER: a store "
        "that speaks S3",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de",
        f"{BEST}/tokenizer.json is missing; {OTHER}",
        {f"{BEST}/tokenizer.json": None},
    ),
    Wrong(
        "score runs/tiny raw/new.en raw/dev.de",
        "raw/new.en: there is no such file; check its name and where you are",
    ),
    Wrong(
        "score runs/tiny raw raw/dev.de",
        "raw: is a folder; name a file in it",
    ),
    Wrong(
        "score runs/tiny raw/talks.en raw/dev.de",
        "raw/dev.de has 8 lines, raw/talks.en has 3: the two files must be line-parallel",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o new/out",
        "--output is new/out, but there is no folder new: make it first",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o raw",
        "raw: is a folder; name a file in it",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o runs/../raw/dev.en",
        "--output is runs/../raw/dev.en, but that is the input: name another file",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --length-penalty much",
        "--length-penalty is much, but it must be a number, 0 or more",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --batch 0",
        "--batch is 0, but it must be a whole number, 1 or more",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --threads half",
        "--threads is half, but it must be a whole number, 1 or more",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --device gpu",
        "--device is gpu, but it must be cpu or cuda",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de raw/news.de",
        "Got unexpected extra argument (raw/news.de); `nmt score --help` tells what there is",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --format",
        "Option '--format' requires an argument; `nmt score --help` tells what there is",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de",
        "raw/dev.en, line 1: the file is UTF-16, but UTF-8 is expected; convert it "
        "(`iconv -f UTF-16 -t UTF-8`)",
        {"raw/dev.en": recoded("utf-16")},
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de",
        "raw/dev.en, line 1: gzip data where plain text was expected; rename the file to end in "
        ".gz, or decompress it",
        {"raw/dev.en": gzip.compress},
    ),
    Wrong(
        "score runs/tiny raw/dev.en.gz raw/dev.de",
        "raw/dev.en.gz, line 9: the gzip data is damaged (it ends too early); copy or download "
        "the file again, and check that its format is that of its name",
        {"raw/dev.en.gz": gzip.compress(b"a dog runs.\n" * 8)[:-9]},
    ),
]


@pytest.mark.parametrize("wrong", SCORING, ids=ids(SCORING))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong, refused: Callable[[Wrong], None]
) -> None:
    """P9."""
    refused(wrong)
