"""Text of one language, for a model to write the other side of: what of it is worth translating.

The rules of cleaning that look at one side hold here already, so that no time is spent on lines
that would be dropped later; those that look at a pair hold when it is whole. A line that stands in
the dev set or in a test set is refused: a score must not come from having seen the answer.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from nmt.config.corpus import CleaningConfig, CorpusConfig
from nmt.corpus.clean import why_dropped
from nmt.corpus.text import normalise, read_lines, read_pairs
from nmt.errors import DataError

KEPT = "kept"
HELD_OUT = "in the dev or a test set"


def held_out_lines(corpus: CorpusConfig, language: str) -> set[bytes]:
    """Digests of the lines of that language in the dev set and the test sets.

    Raises:
        DataError: one cannot be read, or the language is neither of the corpus.
    """
    if language not in (corpus.src, corpus.tgt):
        raise DataError(
            f"the text is of {language!r}, but the experiment is about {corpus.src} and "
            f"{corpus.tgt}: its dev and test sets could not be kept out"
        )
    side = 0 if language == corpus.src else 1
    root = os.path.abspath(corpus.root)
    return {
        _digest(normalise(pair[side], corpus.cleaning))
        for text in (corpus.dev, *corpus.tests)
        for pair in read_pairs(text, root)
    }


def pick(
    files: Iterable[Path], cleaning: CleaningConfig, held_out: set[bytes], tally: Counter[str]
) -> Iterator[str]:
    """Mended lines worth translating, each text once; `tally` counts KEPT and why others are not.

    16 bytes are held for each line, to know it again.
    """
    seen: set[bytes] = set()
    for file in files:
        for raw in read_lines(file):
            line = normalise(raw, cleaning)
            # Against itself all rules about two sides are content but that of copies.
            reason = why_dropped(line, line, cleaning.model_copy(update={"copies": False}))
            digest = _digest(line)
            if not reason and digest in held_out:
                reason = HELD_OUT
            if not reason and digest in seen:
                reason = "duplicates"
            tally[reason or KEPT] += 1
            if not reason:
                seen.add(digest)
                yield line


def told(tally: Counter[str]) -> str:
    """The law of the tallies, for people: read = kept + the sum of dropped."""
    kept, read = tally[KEPT], tally.total()
    dropped = ", ".join(f"{count:,} {why}" for why, count in tally.items() if why != KEPT)
    return f"{read:,} read = {kept:,} kept + {read - kept:,} dropped{dropped and f' ({dropped})'}"


def _digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode(), digest_size=16).digest()
