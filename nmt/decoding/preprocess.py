"""Lines that are longer than those of training, cut at sentence ends.

What the search gets of each line: one part or several, and what each must and must not say.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS, Subword
from nmt.corpus.text import normalise
from nmt.decoding.constraints import Control
from nmt.decoding.hypotheses import max_length
from nmt.decoding.placeholders import Masked, mask
from nmt.decoding.requests import Request
from nmt.decoding.token_text import Spelling
from nmt.errors import DataError

_ENDS = re.compile(r"(?<=[.!?…])[\"'’”“»)\]]*(?P<gap> +)|(?<=[。！？])(?P<none>)")


def split(text: str, limit: int, num_tokens: Callable[[str], int]) -> list[str]:
    """The sentences of a text, as many together as have `limit` tokens or fewer.

    A sentence with more tokens stays whole. Joined by spaces they are the text, but for sentence
    ends of scripts without spaces.
    """
    parts: list[str] = []
    length = 0
    for sentence in _sentences(text):
        size = num_tokens(sentence)
        if parts and length + size <= limit:
            parts[-1] += f" {sentence}"
            length += size
        else:
            parts.append(sentence)
            length = size
    return parts


def _sentences(text: str) -> list[str]:
    found, start = [], 0
    for match in _ENDS.finditer(text):
        end = match.start("gap") if match["gap"] else match.end()
        if text[start:end].strip():
            found.append(text[start:end])
            start = match.end()
    return [*found, text[start:]] if text[start:].strip() else found


@dataclass(frozen=True, eq=False)
class Part:
    """A line, or a part of one that is longer than those of training."""

    line: int
    """Its place in the window."""
    source: list[int]
    """Token ids, EOS last."""
    masked: Masked
    control: Control | None
    num_terms: int
    """Of the control's terms, how many were asked for; behind them are masks."""


class PartMaker:
    """Mends, masks, cuts and encodes lines."""

    def __init__(self, subword: Subword, config: Experiment) -> None:
        self.subword = subword
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.longest = config.decoding.max_source_length or config.batching.max_length
        self.spelling = Spelling(subword.token_bytes)

    def make(self, requests: Sequence[Request]) -> Iterator[Part]:
        """The parts of a window of lines, in order; none of a blank line.

        Raises:
            DataError: what is asked for cannot be; the message says where.
        """
        texts = [normalise(request.text, self.cleaning) for request in requests]
        masks = [mask(text, self.decoding.protect) for text in texts]
        encoded = self.subword.encode_batch([masked.text for masked in masks])
        for line, request in enumerate(requests):
            if not masks[line].text.strip():
                continue
            ids, masked = encoded[line], masks[line]
            # No part would know which of the terms are its own.
            if len(ids) + 1 <= self.longest or request.constraints:
                yield self._part(line, request, masked, ids, is_main=True)
                continue
            for number, text in enumerate(split(texts[line], self.longest - 1, self._num_tokens)):
                masked = mask(text, self.decoding.protect)
                ids = self.subword.encode(masked.text)
                yield self._part(line, request, masked, ids, is_main=number == 0)

    def untranslated(self, request: Request) -> str:
        """What a line without parts becomes: nothing, or the tags that are all it has."""
        return normalise(request.text, self.cleaning).strip() if self.decoding.protect else ""

    def _num_tokens(self, text: str) -> int:
        return len(self.subword.encode(mask(text, self.decoding.protect).text))

    def _part(
        self, line: int, request: Request, masked: Masked, ids: list[int], is_main: bool
    ) -> Part:
        source = [*ids, EOS]
        prefix = normalise(request.target_prefix, self.cleaning) if is_main else ""
        wanted, avoid = (
            [text for each in texts if (text := normalise(each, self.cleaning).strip())]
            for texts in (request.constraints, request.avoid)
        )
        if not (prefix or wanted or avoid or masked.spans):
            return Part(line, source, masked, None, 0)
        terms = list(map(tuple, self.subword.encode_batch(wanted)))
        start = tuple(self.subword.encode(prefix))
        self._check(request, source, len(start) + sum(map(len, terms)))
        for phrase in avoid:
            pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)")
            if any(pattern.search(text) for text in [prefix, *wanted]):
                raise DataError(
                    f"{request.where}: {phrase!r} is to be avoided, but target_prefix or "
                    "constraints have it: take it out of one of them"
                )
        masks = [tuple(self.subword.encode(span.mask)) for span in masked.spans]
        control = Control(
            self.spelling, start, (*terms, *masks), tuple(phrase.encode() for phrase in avoid)
        )
        return Part(line, source, masked, control, len(terms))

    def _check(self, request: Request, source: list[int], num_tokens: int) -> None:
        is_plain = self.decoding.method == "beam" and self.decoding.diverse_groups == 1
        if request.constraints and not is_plain:
            raise DataError(
                f"{request.where}: constraints need decoding.method beam with one group; "
                "leave them out, or search so"
            )
        limit = max_length(len(source), self.decoding)
        if num_tokens >= limit:
            raise DataError(
                f"{request.where}: target_prefix and constraints have {num_tokens} tokens, but the "
                f"translation of this line has {limit} at most, its end counted; shorten them, or "
                "set decoding.max_length_extra higher"
            )
