"""Line-parallel text: line n of one file is the translation of line n of the other."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from nmt.corpus.formats.record_file import RawPair
from nmt.corpus.io import Source, read_blocks, split_lines
from nmt.corpus.text import EncodingChecker, line_counts_message
from nmt.errors import DataError


def read_sides(
    corpus: str, sources: tuple[Source, Source], places: tuple[Path, Path], is_strict: bool
) -> Iterator[RawPair]:
    """Read the pairs of two files or streams.

    Args:
        corpus: name of the corpus for messages.
        sources: both sides.
        places: names of the sides for messages.
        is_strict: True if text that is not UTF-8 is an error.

    Raises:
        DataError: see `read_blocks`; or the sides differ in length.
    """
    src_source, tgt_source = sources
    sides = _lines(src_source, places[0], is_strict), _lines(tgt_source, places[1], is_strict)
    for count, (src, tgt) in enumerate(zip_longest(*sides)):
        if src is None or tgt is None:
            # Count the rest of the longer side for the message.
            num_src, num_tgt = (
                count + (line is not None) + sum(1 for _ in rest)
                for line, rest in zip((src, tgt), sides, strict=True)
            )
            raise DataError(line_counts_message(corpus, places, (num_src, num_tgt)))
        yield src, tgt


def _lines(source: Source, place: Path, is_strict: bool) -> Iterator[bytes]:
    checker = EncodingChecker(str(place), is_strict=is_strict)
    for first_line, block in read_blocks(source, name=str(place)):
        checker.check(first_line, block)
        yield from split_lines(block)
    checker.finish()
