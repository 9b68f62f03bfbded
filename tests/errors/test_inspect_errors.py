"""Errors of `nmt inspect`."""

from collections.abc import Callable

import pytest
from error_cases import BEST, OTHER, ErrorCase, flipped, ids

INSPECTING = [
    ErrorCase("inspect runs/tiny", "no text: give either TEXT or --input FILE"),
    ErrorCase(
        "inspect runs/tiny dog -i raw/dev.en",
        "TEXT and --input: give either TEXT or --input FILE",
    ),
    ErrorCase(
        "inspect runs/tiny -i raw/dev.en",
        "raw/dev.en, line 6: a page shows at most 5 lines: give fewer",
    ),
    ErrorCase(
        "inspect runs/tiny -i -",
        "standard input, line 2: the line has no text, and the model reads only text",
        stdin=b"1 a dog runs.\n \n",
    ),
    ErrorCase("inspect runs/tiny -i -", "the input has no lines, but a page shows at least one"),
    ErrorCase(
        "inspect runs/tiny -i raw/talks.en --tgt ein",
        "--tgt is given 1 time, but there are 3 lines: give one target per line, or none",
    ),
    ErrorCase(
        "inspect runs/tiny dog --tgt ein --tgt Hund",
        "--tgt is given 2 times, but there is 1 line: give one target per line, or none",
    ),
    ErrorCase(
        "inspect runs/tiny -i -",
        "standard input, line 1: 71 tokens, but a page shows at most 60 per line: give a shorter "
        "one",
        stdin=b"dog" + b" dog" * 69 + b"\n",
    ),
    ErrorCase(
        "inspect runs/tiny -i -",
        "standard input, line 1: more than the 12 tokens of decoding.max_source_length, so it is "
        "translated in 4 parts: give one part",
        stdin=b"dog" + b" dog" * 49 + b"\n",
    ),
    ErrorCase("inspect runs/tiny -i raw/no.en", "raw/no.en: file not found; check the path"),
    ErrorCase(
        "inspect runs/tiny -i raw/dev.en -o raw/dev.en",
        "--output is raw/dev.en, but it is the input: give another file name",
    ),
    ErrorCase(
        "inspect runs/tiny dog -o runs/tiny/metrics.jsonl",
        "--output is runs/tiny/metrics.jsonl, but it is a file of runs/tiny: give the name of an "
        "HTML file",
    ),
    ErrorCase(
        "inspect runs/tinny dog",
        "runs/tinny: no such directory; name a run or one of its checkpoints"
    ),
    ErrorCase(
        "inspect runs/tiny dog",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    ErrorCase("inspect", "Missing argument 'RUN'. See `nmt inspect --help`."),
]  # fmt: skip


@pytest.mark.parametrize("case", INSPECTING, ids=ids(INSPECTING))
def test_error_is_reported_before_a_page_is_written(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
