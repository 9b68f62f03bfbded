"""Preprocessing for the search: normalise, mask, split and encode lines, and their constraints."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import NamedTuple

from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS, Subword
from nmt.corpus.text import UNSPACED, letter_boundary, normalise, phrase_pattern, split_sentences
from nmt.decoding.constraints import Constraints, TokenText, contains_phrase
from nmt.decoding.hypotheses import max_length
from nmt.decoding.placeholders import LETTER, MaskedLine, hide_spans, mask_line
from nmt.decoding.requests import Request
from nmt.decoding.translation import NO_GAP, Gap, split_words, word_indices
from nmt.errors import DataError

MIN_CUT_TOKENS = 32
"""Tokens of a sentence that is never cut, however low decoding.max_source_length is."""
MAX_WHOLE_LINE = 8
"""Longest line with constraints, which is never split, in sentences of the maximum length."""
_CLAUSE_END = re.compile(r"[,;:\u060c\u061b]\s+|[\u3001\uff0c\uff1b\uff1a]\s*")
_SPACE = re.compile(r"\s+")
_LINE_ENDS = re.compile(r"[\r\n]+")


@dataclass(frozen=True, eq=False)
class Segment:
    """Line, or one segment of a line that exceeds the maximum source length."""

    line: int
    """Index of the line in its window."""
    source: list[int]
    """Token ids, EOS last; empty if the text is copied."""
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

    @property
    def is_copied(self) -> bool:
        """True if its translation is its text."""
        return not self.source


class LinePart(NamedTuple):
    """Part of a long line."""

    text: str
    gap: str = ""
    """White space after it."""
    is_cut: bool = True
    """True if it ends inside a sentence."""
    is_copied: bool = False
    """True if it exceeds the limit and has no place to cut at."""


class Preprocessor:
    """Turns requests into the segments that are searched."""

    def __init__(self, subword: Subword, config: Experiment) -> None:
        self.subword = subword
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.marks_case = config.marks_case
        """True if lines in upper or title case get a mark and lower case."""
        self.max_tokens = config.decoding.max_source_length or config.batching.max_length
        """Tokens above which a line is split into sentences."""
        self.cut_tokens = max(self.max_tokens, MIN_CUT_TOKENS)
        """Tokens above which a sentence is cut."""
        self.token_text = TokenText(subword.token_bytes)

    def segments(self, requests: Sequence[Request]) -> Iterator[Segment]:
        """Yield the segments of a window of lines, in order; none for a line without text.

        Raises:
            DataError: the constraints of a request cannot be met, or its line is too long for
                constraints.
        """
        for line, group in groupby(self._split(requests), key=lambda segment: segment.line):
            given = split_words(requests[line].text)
            # What normalising leaves of each word: nothing of a zero-width space.
            words = [self._normalise(word).replace(" ", "") for word in given]
            segments = list(group)
            tokens = list(map(self._tokens_of, segments))
            indices = iter(word_indices(chain.from_iterable(tokens), words))
            for segment, own in zip(segments, tokens, strict=True):
                src_words = list(islice(indices, len(own)))
                yield replace(segment, src_words=src_words, num_words=len(words))

    def _tokens_of(self, segment: Segment) -> list[bytes]:
        """Return the bytes of the source tokens of a segment; of the words of a copied one."""
        if segment.is_copied:
            return [word.encode() for word in split_words(segment.masked.text)]
        return [self.subword.token_bytes[token] for token in segment.source]

    def _split(self, requests: Sequence[Request]) -> Iterator[Segment]:
        """Yield the segments without the words of their tokens."""
        texts = [self._normalise(request.text) for request in requests]
        masked_lines = list(map(self._mask, texts, requests))
        # One call for the window is faster than one per line.
        encoded = self._encode([masked.text for masked in masked_lines])
        for line, (request, masked) in enumerate(zip(requests, masked_lines, strict=True)):
            ids = encoded[line]
            if not masked.has_text:
                continue
            # No segment would know which requested terms are its own; those of a glossary can be
            # found in it.
            glossary = dict(request.glossary)
            is_whole = bool({*request.constraints} - {*glossary.values()})
            limit = MAX_WHOLE_LINE * self.cut_tokens
            if is_whole and len(ids) >= limit:
                raise DataError(
                    f"{request.where}: {len(ids) + 1:,} tokens, but a line with constraints can "
                    f"have at most {limit:,}: split it, or increase decoding.max_source_length"
                )
            if len(ids) + 1 <= self.max_tokens or is_whole:
                yield self._segment(line, request, masked, ids, is_first=True)
                continue
            pattern = phrase_pattern(glossary)
            hidden = hide_spans(texts[line], self.decoding.protect)
            # No term is cut. Its first character tells if a sentence can begin with it.
            hidden = pattern.sub(lambda match: match[0][:1] + LETTER * (len(match[0]) - 1), hidden)
            parts = split_line(texts[line], hidden, self.cut_tokens - 1, self._num_tokens)
            for number, part in enumerate(parts):
                # Masked again: a mask must be restored in the segment of its span.
                masked = MaskedLine(part.text) if part.is_copied else self._mask(part.text, request)
                # A part that has only tags or spans has nothing to translate.
                is_copied = part.is_copied or not masked.has_text
                part_ids = None if is_copied else self._encode([masked.text])[0]
                found = [glossary[match[0]] for match in pattern.finditer(masked.text)]
                own = replace(request, constraints=tuple(dict.fromkeys(found)))
                segment = self._segment(line, own, masked, part_ids, is_first=number == 0)
                yield replace(segment, gap=Gap.after(part.text, part.gap, part.is_cut))

    def untranslated(self, request: Request) -> tuple[str, int]:
        """Return the output for a line without segments, its tags and spans, and their number."""
        if not self.decoding.protect:
            return "", 0
        text = self._normalise(request.text).strip()
        return text, mask_line(text, self.decoding.protect).num_protected

    def _normalise(self, text: str) -> str:
        """Normalise a text like training text, and make it one line whatever the rules are."""
        return join_lines(normalise(text, self.cleaning))

    def _mask(self, text: str, request: Request) -> MaskedLine:
        """Mask the text of a request, or a part of it."""
        others = *request.constraints, *request.avoid, request.target_prefix
        return mask_line(text, self.decoding.protect, others)

    def _num_tokens(self, text: str) -> int:
        return len(self._encode([mask_line(text, self.decoding.protect).text])[0])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.subword.encode_sources(texts, self.marks_case)

    def _segment(
        self, line: int, request: Request, masked: MaskedLine, ids: list[int] | None,
        is_first: bool,
    ) -> Segment:  # fmt: skip
        source = [] if ids is None else [*ids, EOS]
        # Only the first segment of a line begins with the prefix.
        prefix = self._normalise(request.target_prefix) if is_first else ""
        terms, avoid = map(self._clean, (request.constraints, request.avoid))
        # Segments without constraints cost the search nothing.
        if not (prefix or terms or avoid or masked.spans):
            return Segment(line, source, masked, None, 0)
        prefix_ids = tuple(self.subword.encode(prefix))
        term_ids = list(map(tuple, self.subword.encode_batch(terms)))
        if source:
            self._check(request, source, len(prefix_ids) + sum(map(len, term_ids)))
        # Otherwise the search would find nothing, without a reason that the user sees.
        for phrase in avoid:
            if any(contains_phrase(text, phrase) for text in [prefix, *terms]):
                raise DataError(
                    f"{request.where}: {phrase!r} is in avoid, and also in target_prefix or "
                    "constraints: remove it from one of them"
                )
        # A number that is a word to avoid is lost: no translation could have it.
        masks = [
            span.mask for span in masked.spans
            if not any(contains_phrase(span.mask, phrase) for phrase in avoid)
        ]  # fmt: skip
        mask_ids = [tuple(self.subword.encode(mask)) for mask in masks]
        avoid_bytes = tuple(phrase.encode() for phrase in avoid)
        joined = self._encode_joined([*terms, *masks])
        # Normalising removes the space after "1 ", which 12 does not begin with. Scripts without
        # spaces do without it.
        last, end = prefix[-1:], request.target_prefix[-1:]
        has_space = end.isspace() and not (last.isspace() or UNSPACED.match(last))
        constraints = Constraints(
            self.token_text, prefix_ids, (*term_ids, *mask_ids), avoid_bytes, joined,
            has_space_after_prefix=bool(prefix) and has_space,
        )  # fmt: skip
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
        return [text for each in texts if (text := self._normalise(each).strip())]

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


def join_lines(text: str) -> str:
    """Replace the line ends in a text, each or several in a row, by a space."""
    return _LINE_ENDS.sub(" ", text)


def split_line(
    text: str, hidden: str, max_tokens: int, num_tokens: Callable[[str], int]
) -> Iterator[LinePart]:
    """Split a text into sentences, and cut sentences of more than `max_tokens`.

    They are halved until parts have at most half of that, which models translate better than parts
    as long as the longest source of training: for 84 tokens by 2.2 BLEU on Multi30k.

    Args:
        text: the text.
        hidden: the text with letters in place of spans that are not cut (`hide_spans`).
        max_tokens: tokens of the longest sentence that is not cut.
        num_tokens: counts the tokens of a text.
    """

    def cut(start: int, end: int, limit: int) -> list[LinePart]:
        part, size = text[start:end], num_tokens(text[start:end])
        if size <= limit:
            return [LinePart(part)]
        place = _find_cut(hidden[start:end])
        if place is None:
            return [LinePart(part, is_copied=size > max_tokens)]
        first, last = start + place[0], start + place[1]
        *head, before = cut(start, first, max_tokens // 2)
        return [*head, before._replace(gap=text[first:last]), *cut(last, end, max_tokens // 2)]

    start = 0
    for sentence, gap in split_sentences(hidden):
        end = start + len(sentence)
        *inner, final = cut(start, end, max_tokens)
        yield from inner
        start = end + len(gap)
        yield final._replace(gap=text[end:start], is_cut=False)


def _find_cut(text: str) -> tuple[int, int] | None:
    """Return start and end of the white space, or none, to cut a sentence at."""
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    middle, quarter = len(text) // 2, len(text) // 4
    # After punctuation, else at the white space nearest to the middle.
    for pattern, start, end in (
        (_CLAUSE_END, quarter, len(text) - quarter), (_SPACE, first, last)
    ):  # fmt: skip
        ends = [match for match in pattern.finditer(text, start, end) if match.end() < last]
        if ends:
            nearest = min(ends, key=lambda match: abs(match.end() - middle))
            return nearest.start() + len(nearest[0].rstrip()), nearest.end()
    # Words of other scripts are not cut: models learn no translations of their parts.
    found = [match.start() for match in letter_boundary().finditer(text, first + 1)]
    inner = [place for place in found if place < last]
    place = min(inner, key=lambda place: abs(place - middle), default=None)
    return None if place is None else (place, place)
