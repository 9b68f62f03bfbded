"""Decisions of cleaning about each raw pair, and the file that lists them.

The decisions of all stages are on disk as numbers; they are joined here with the raw text of a
chunk. `nmt prepare --dropped FILE` and `nmt doctor` read them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nmt.corpus.io import read_zstd, write_zstd
from nmt.corpus.prepare_tasks import SIDES, Chunk, Later, later_reasons, load_file, read_raw
from nmt.corpus.rules import DROP_REASONS, REPAIRS
from nmt.corpus.task_cache import Tree
from nmt.errors import escape_controls

COLUMNS = ("corpus", "line", "rule", "action", "src", "tgt")
"""Header of the file; a column `adequacy` follows where pairs were scored."""


class Verdict(NamedTuple):
    """The decision about one raw pair."""

    line: int
    """Its line in the corpus, from 1."""
    raw: tuple[bytes, bytes]
    clean: tuple[str, str] | None
    """The pair after repairs; None if a rule about one pair dropped it."""
    reason: str
    """The rule that dropped it; empty if it was kept."""
    repairs: tuple[str, ...]
    """The rules that changed its text."""
    adequacy: float
    """Its score; NaN if it has none."""


def read_verdicts(work: Path, chunk: Chunk, later: Later) -> Iterator[Verdict]:
    """Yield the decisions about all lines of a chunk, in order."""
    reasons, repairs = load_file(chunk.path(work, "clean", "verdicts.npy"), np.load).tolist()
    lines = load_file(chunk.path(work, "clean", "lines.npy"), np.load)
    paths = [chunk.path(work, "clean", f"{side}.zst") for side in SIDES]
    sides = [load_file(path, read_zstd).decode().split("\n") for path in paths]
    codes = later_reasons(work, chunk, later, lines).tolist()
    scores = np.full(len(lines), np.nan)
    path = chunk.path(work, "judged", "adequacy.npy")
    if later.is_judged:
        scores = load_file(path, np.load)
    row_of = {line: row for row, line in enumerate(lines.tolist())}
    for line, raw in enumerate(read_raw(work, chunk)):
        code, text, score = reasons[line], None, float("nan")
        if (row := row_of.get(line)) is not None:
            code, text = codes[row], (sides[0][row], sides[1][row])
            score = float(scores[row])
        bits = repairs[line]
        changed = tuple(rule for bit, rule in enumerate(REPAIRS) if bits >> bit & 1)
        reason = DROP_REASONS[code - 1] if code else ""
        yield Verdict(chunk.first_line + line + 1, raw, text, reason, changed, score)


def list_chunk(work: Path, chunk: Chunk, later: Later, has_scores: bool) -> Tree:
    """Write the rows of the file for one chunk: a row per pair dropped, and per repair."""
    rows = _rows(chunk.text.name, read_verdicts(work, chunk, later), has_scores)
    write_zstd(chunk.path(work, "listed", "tsv.zst"), rows)
    return {}


def read_rows(work: Path, chunks: Iterable[Chunk], has_scores: bool) -> Iterator[str]:
    """Yield the lines of the file, the header first."""
    yield "\t".join((*COLUMNS, "adequacy") if has_scores else COLUMNS) + "\n"
    for chunk in chunks:
        yield load_file(chunk.path(work, "listed", "tsv.zst"), read_zstd).decode()


def _rows(corpus: str, verdicts: Iterable[Verdict], has_scores: bool) -> Iterator[bytes]:
    for each in verdicts:
        rules = [(each.reason, "dropped")] if each.reason else []
        rules = rules or [(rule, "repaired") for rule in each.repairs]
        # The raw text, so that a line can be found again.
        text = [escape_cell(side.decode("utf-8", errors="backslashreplace")) for side in each.raw]
        score = ["" if np.isnan(each.adequacy) else f"{each.adequacy:.2f}"] if has_scores else []
        for rule, action in rules:
            cells = [corpus, str(each.line), rule, action, *text, *score]
            yield ("\t".join(cells) + "\n").encode()


def escape_cell(text: str) -> str:
    """Return a text without tabs and other control characters, which would break a row."""
    return escape_controls(text).replace("\t", "\\t").replace("\n", "\\n")
