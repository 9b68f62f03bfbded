"""Preprocessing for the search: normalise, mask, split and encode lines, and their constraints."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS, Subword
from nmt.corpus.text import normalise, split_sentences
from nmt.decoding.constraints import Constraints, TokenText, contains_phrase
from nmt.decoding.hypotheses import max_length
from nmt.decoding.placeholders import MaskedLine, mask_line
from nmt.decoding.requests import Request
from nmt.decoding.translation import NO_GAP, Gap, split_words, word_indices
from nmt.errors import DataError

_CLAUSE_END = re.compile(r"[,;:\u060c\u061b\u3001\uff0c\uff1b\uff1a]\s*|\s+")
"""Places to cut a long sentence at."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Line, or one segment of a line that exceeds the maximum source length."""

    line: int
    """Index of the line in its window."""
    source: list[int]
    """Token ids, EOS last."""
    masked: MaskedLine
    """Text and protected spans."""
    constraints: Constraints | None
    num_terms: int
    """Terms of the constraints that were requested; the masks come after them."""
    src_words: Sequence[int] = ()
    """Index of the word of the line, as it was given, of each source token; -1 for none."""
    num_words: int = 0
    """Number of words of the line, separated by spaces."""
    gap: Gap = NO_GAP
    """Space between the translations of this segment and the next."""


class Preprocessor:
    """Turns requests into the segments that are searched."""

    def __init__(self, subword: Subword, config: Experiment) -> None:
        self.subword = subword
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.marks_case = config.marks_case
        """True if lines in upper or title case get a mark and lower case."""
        limit = config.batching.max_length
        self.max_tokens = config.decoding.max_source_length or limit
        """Tokens above which a line is split into sentences."""
        self.cut_tokens = max(self.max_tokens, limit)
        """Tokens above which a sentence is cut: training skips such pairs."""
        self.token_text = TokenText(subword.token_bytes)

    def segments(self, requests: Sequence[Request]) -> Iterator[Segment]:
        """Yield the segments of a window of lines, in order; none for a blank line.

        Raises:
            DataError: the constraints of a request cannot be met.
        """
        line, num_bytes, words = -1, 0, list[str]()
        for segment in self._split(requests):
            if segment.line != line:
                line, num_bytes = segment.line, 0
                given = split_words(requests[line].text)
                # What normalising leaves of each word: nothing of a zero-width space.
                words = [normalise(word, self.cleaning).replace(" ", "") for word in given]
            tokens = [self.subword.token_bytes[token] for token in segment.source]
            src_words = word_indices(tokens, words, num_bytes)
            yield replace(segment, src_words=src_words, num_words=len(words))
            num_bytes += sum(len(token) - token.count(b" ") for token in tokens)

    def _split(self, requests: Sequence[Request]) -> Iterator[Segment]:
        """Yield the segments without the words of their tokens."""
        texts = [normalise(request.text, self.cleaning) for request in requests]
        masked_lines = [mask_line(text, self.decoding.protect) for text in texts]
        # One call for the window is faster than one per line.
        encoded = self._encode([masked.text for masked in masked_lines])
        for line, (request, masked) in enumerate(zip(requests, masked_lines, strict=True)):
            ids = encoded[line]
            if not masked.text.strip():
                continue
            # A line with terms is not split: no segment would know which terms are its own.
            if len(ids) + 1 <= self.max_tokens or request.constraints:
                yield self._segment(line, request, masked, ids, is_first=True)
                continue
            parts = split_line(texts[line], self.cut_tokens - 1, self._num_tokens)
            for number, (text, gap, is_cut) in enumerate(parts):
                # Masked again: a mask must be restored in the segment of its span.
                masked = mask_line(text, self.decoding.protect)
                [ids] = self._encode([masked.text])
                segment = self._segment(line, request, masked, ids, is_first=number == 0)
                yield replace(segment, gap=Gap.after(text, gap, is_cut))

    def untranslated(self, request: Request) -> str:
        """Return the output for a line without segments: its tags if it has only tags, or ""."""
        return normalise(request.text, self.cleaning).strip() if self.decoding.protect else ""

    def _num_tokens(self, text: str) -> int:
        return len(self._encode([mask_line(text, self.decoding.protect).text])[0])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.subword.encode_sources(texts, self.marks_case)

    def _segment(
        self, line: int, request: Request, masked: MaskedLine, ids: list[int], is_first: bool
    ) -> Segment:
        source = [*ids, EOS]
        # Only the first segment of a line begins with the prefix.
        prefix = normalise(request.target_prefix, self.cleaning) if is_first else ""
        terms, avoid = map(self._clean, (request.constraints, request.avoid))
        # Segments without constraints cost the search nothing.
        if not (prefix or terms or avoid or masked.spans):
            return Segment(line, source, masked, None, 0)
        prefix_ids = tuple(self.subword.encode(prefix))
        term_ids = list(map(tuple, self.subword.encode_batch(terms)))
        self._check(request, source, len(prefix_ids) + sum(map(len, term_ids)))
        # Otherwise the search would find nothing, without a reason that the user sees.
        for phrase in avoid:
            if any(contains_phrase(text, phrase) for text in [prefix, *terms]):
                raise DataError(
                    f"{request.where}: {phrase!r} is in avoid, and also in target_prefix or "
                    "constraints: remove it from one of them"
                )
        mask_ids = [tuple(self.subword.encode(span.mask)) for span in masked.spans]
        avoid_bytes = tuple(phrase.encode() for phrase in avoid)
        joined = self._encode_joined([*terms, *(span.mask for span in masked.spans)])
        constraints = Constraints(
            self.token_text, prefix_ids, (*term_ids, *mask_ids), avoid_bytes, joined
        )
        return Segment(line, source, masked, constraints, len(term_ids))

    def _encode_joined(self, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of texts without the space that encoding puts before them."""
        # A digit is a part of its own, whatever follows it.
        digit = "0"
        start = len(self.subword.encode(digit))
        encoded = self.subword.encode_batch([digit + text for text in texts])
        return tuple(tuple(ids[start:]) for ids in encoded)

    def _clean(self, texts: Sequence[str]) -> list[str]:
        """Normalise terms or words, and leave out blank ones."""
        return [text for each in texts if (text := normalise(each, self.cleaning).strip())]

    def _check(self, request: Request, source: list[int], num_tokens: int) -> None:
        """Raise DataError for terms that the search cannot handle, or that do not fit."""
        is_single_beam = self.decoding.method == "beam" and self.decoding.diverse_groups == 1
        if request.constraints and not is_single_beam:
            raise DataError(
                f"{request.where}: constraints need decoding.method beam with one group: remove "
                "them, or change the method"
            )
        limit = max_length(len(source), self.decoding)
        if num_tokens >= limit:
            raise DataError(
                f"{request.where}: target_prefix and constraints have {num_tokens} tokens, but the "
                f"translation of this line has at most {limit}, EOS included: shorten them, or "
                "increase decoding.max_length_extra"
            )


def split_line(
    text: str, max_tokens: int, num_tokens: Callable[[str], int]
) -> Iterator[tuple[str, str, bool]]:
    """Split a text into sentences, and sentences of more than `max_tokens` near the middle.

    Yields:
        A part, the white space after it, and True if it was cut inside a sentence.
    """
    for sentence, gap in split_sentences(text):
        parts = _cut(sentence, max_tokens, num_tokens)
        for part, inner in parts[:-1]:
            yield part, inner, True
        yield parts[-1][0], gap, False


def _cut(text: str, max_tokens: int, num_tokens: Callable[[str], int]) -> list[tuple[str, str]]:
    if len(text) < 2 or num_tokens(text) <= max_tokens:
        return [(text, "")]
    middle, quarter = len(text) // 2, len(text) // 4
    ends = _CLAUSE_END.finditer(text, quarter, len(text) - quarter)
    # Punctuation first, then the white space nearest to the middle.
    nearest = min(ends, key=lambda m: (m[0].isspace(), abs(m.end() - middle)), default=None)
    if nearest is not None:
        start, end = nearest.start() + len(nearest[0].rstrip()), nearest.end()
    else:
        # Not before the marks of a letter.
        start = end = next(
            n for n in range(middle, len(text) + 1)
            if not unicodedata.category(text[n : n + 1] or " ").startswith(("M", "C"))
        )  # fmt: skip
    if end == len(text):
        return [(text, "")]
    head = _cut(text[:start], max_tokens, num_tokens)
    return [*head[:-1], (head[-1][0], text[start:end]), *_cut(text[end:], max_tokens, num_tokens)]
