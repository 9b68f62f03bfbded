"""Lexical constraints: a prefix, terms that must appear, and words that must not.

Terms are decoded with dynamic beam allocation (Post & Vilar 2018): besides the best continuations,
each step considers the tokens that continue a missing term, and divides the beam among hypotheses
by the number of term tokens that they have met.

Terms and words to avoid are matched as text, however it is split into tokens, and as whole words
(`nmt.corpus.text.word_boundary`). The token that would complete a word to avoid is forbidden;
longer words with the same beginning are allowed. A term is met where its text appears and the next
token does not continue its last word.

Everything is computed in Python from the tokens of one sentence at a time. Only sentences with
constraints pay for it, and no sentence depends on another.

Shapes: B slots for sentences, K beam, R = B * K rows, k candidates of a row, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from nmt.corpus.subword import EOS, PAD
from nmt.corpus.text import UNSPACED, is_whole_word, word_boundary
from nmt.decoding.interface import FloatArray, IntArray


class TokenText:
    """Text of the tokens of a vocabulary, and the word boundaries in it."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Index the bytes of each token, b"" for special ones; a space precedes each word."""
        self.token_bytes = token_bytes

    @cached_property
    def word_continuations(self) -> list[int]:
        """Tokens that continue a word before them."""
        return self._continuations("a")

    @cached_property
    def letter_continuations(self) -> list[int]:
        """Tokens that continue a letter of a script without spaces: its marks."""
        return self._continuations("\u3042")

    @cached_property
    def without_space(self) -> list[int]:
        """Tokens that do not begin with a space."""
        return [n for n, text in enumerate(self.token_bytes) if text and text[:1] != b" "]

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of a token sequence."""
        return b"".join([self.token_bytes[token] for token in tokens])

    def completing_tokens(self, phrase: bytes, text: bytes) -> list[int]:
        """Return the tokens that complete `phrase` at the end of `text` as whole words."""
        inside, endings = _completions(self, phrase)
        tokens = list(inside)
        for size, rest in enumerate(endings):
            # `size` bytes of the phrase are written; the token has to write the rest.
            if text.endswith(phrase[:size]) and _is_boundary(text[: len(text) - size], phrase):
                tokens += rest
        return tokens

    def _continuations(self, letter: str) -> list[int]:
        before, texts = letter.encode(), enumerate(self.token_bytes)
        return [token for token, text in texts if not _is_boundary(before, text)]


@dataclass(frozen=True, eq=False)
class Constraints:
    """Lexical constraints on one translation."""

    token_text: TokenText
    prefix: tuple[int, ...] = ()
    """Tokens that the translation begins with."""
    terms: tuple[tuple[int, ...], ...] = ()
    """Token sequences whose text must appear, each one or more whole words after a space."""
    avoid: tuple[bytes, ...] = ()
    """Words that must not appear, without a leading space."""
    joined_terms: tuple[tuple[int, ...], ...] = ()
    """Tokens of each term without the space before it, for scripts without spaces; or nothing."""
    has_space_after_prefix: bool = False
    """True if a space follows the prefix, unless the translation ends there."""

    @cached_property
    def _phrases(self) -> dict[tuple[int, ...], str]:
        """Text of each term."""
        return {term: self._text(term).strip(" ") for term in self.terms}

    def missing_terms(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the terms that do not appear in the text of the tokens."""
        text = self._text(tokens)
        return [term for term in self.terms if not contains_phrase(text, self._phrases[term])]

    def forbidden_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that must not come next."""
        text, completing = self.token_text.decode(tokens), self.token_text.completing_tokens
        forbidden = [token for phrase in self.avoid for token in completing(phrase, text)]
        if self.has_space_after_prefix and len(tokens) == len(self.prefix):
            forbidden += self.token_text.without_space
        return [*forbidden, EOS] if self.missing_terms(tokens) else forbidden

    def term_continuations(self, tokens: Sequence[int]) -> set[int]:
        """Return the tokens that begin or continue a missing term."""
        missing = self.missing_terms(tokens)
        starts = {sequence[0] for sequence in self._sequences(missing, tokens)}
        return starts | {sequence[size] for sequence, size in self._started_terms(missing, tokens)}

    def best_token(self, tokens: Sequence[int], log_probs: FloatArray) -> int:
        """Return the most likely next token, by log-probabilities [V], that keeps a term met."""
        text = self._text(tokens)
        for term in self.terms:
            # Continuing the last word of a term would turn it into another word.
            phrase = self._phrases[term]
            start = len(text) - len(phrase)
            if text.endswith(phrase) and is_whole_word(text, start, len(text)):
                is_unspaced = UNSPACED.match(phrase[-1])
                texts, log_probs = self.token_text, log_probs.copy()
                masked = texts.letter_continuations if is_unspaced else texts.word_continuations
                log_probs[masked] = -np.inf
        return int(log_probs.argmax())

    def count_term_tokens(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Return the number of term tokens met, and the number still needed."""
        missing = self.missing_terms(tokens)
        # A term in progress counts as far as it has been written.
        num_partial = max((size for _, size in self._started_terms(missing, tokens)), default=0)
        num_left = sum(map(len, missing)) - num_partial
        return sum(map(len, self.terms)) - num_left, num_left

    def _text(self, tokens: Sequence[int]) -> str:
        return self.token_text.decode(tokens).decode(errors="replace")

    def _started_terms(
        self, terms: Sequence[tuple[int, ...]], tokens: Sequence[int]
    ) -> list[tuple[tuple[int, ...], int]]:
        """Return the sequences of terms in progress, and how many of their tokens are written."""
        started = []
        for term in terms:
            for sequence in (term, *self._joined(term)):
                size = _overlap(tokens, sequence)
                if size and sequence in self._sequences([term], tokens[: len(tokens) - size]):
                    started.append((sequence, size))
        return started

    def _sequences(
        self, terms: Sequence[tuple[int, ...]], before: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """Return the sequences by which terms may begin: after a space, without it, or both."""
        text = self._text(before[-8:]) if self.joined_terms else ""
        # Without a script of this kind on either side, words are separated by spaces.
        after_unspaced = bool(UNSPACED.match(text[-1:]))
        sequences: list[tuple[int, ...]] = []
        for term in terms:
            is_unspaced = bool(text and UNSPACED.match(self._phrases[term]))
            sequences += [] if is_unspaced else [term]
            sequences += self._joined(term) if is_unspaced or after_unspaced else []
        return sequences

    def _joined(self, term: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [self.joined_terms[self.terms.index(term)]] if self.joined_terms else []


class ConstrainedStep:
    """Constraints of all rows in one step of a search, with the prefixes of the rows known."""

    def __init__(
        self, constraints: Sequence[Constraints | None], totals: FloatArray,
        prefixes: Sequence[Sequence[int]], limits: IntArray,
    ) -> None:  # fmt: skip
        """Find what each row may continue with.

        Args:
            constraints: constraints of each slot, B of them.
            totals: log-probability of each hypothesis, -inf where there is none, [B, K].
            prefixes: tokens so far of each row, R of them.
            limits: maximum number of tokens of each sentence, [B].
        """
        self._constraints, self._totals = constraints, totals
        self._prefixes, self._limits = prefixes, limits
        self._forced: dict[int, int] = {}
        """Next token of rows inside a prefix: only it is possible."""
        self._rows_of_slot: dict[int, list[int]] = defaultdict(list)
        """Rows of sentences with terms, outside the prefix."""
        self._forbidden: list[tuple[int, list[int]]] = []
        """Rows, and the tokens that must not come next."""
        beam = totals.shape[1]
        for row, each in _constrained_rows(constraints, totals):
            rest = each.prefix[len(prefixes[row]) :]
            if rest:
                self._forced[row] = rest[0]
                continue
            self._forbidden.append((row, each.forbidden_tokens(prefixes[row])))
            if each.terms:
                self._rows_of_slot[row // beam].append(row)
        rows = [row for of_slot in self._rows_of_slot.values() for row in of_slot]
        self.full_rows = [*self._forced, *rows]
        """Rows whose log-probabilities of all tokens are needed."""

    @property
    def forbidden(self) -> tuple[IntArray, IntArray]:
        """Rows and tokens that must not come next, of equal length."""
        # Arrays: a space after a prefix forbids most of the vocabulary.
        rows = [np.full(len(tokens), row) for row, tokens in self._forbidden]
        parts = [np.array(tokens, np.int64) for _, tokens in self._forbidden]
        empty = np.zeros(0, np.int64)
        return np.concatenate([empty, *rows]), np.concatenate([empty, *parts])

    def force_prefixes(
        self, ids: IntArray, log_probs: FloatArray, distributions: FloatArray
    ) -> None:
        """Replace the candidates, [R, k] each, of the rows inside a prefix, in place.

        Args:
            distributions: log-probabilities of `full_rows`, [len(full_rows), V].
        """
        for (row, token), distribution in zip(self._forced.items(), distributions, strict=False):
            # PAD is impossible: a place filled with it holds no hypothesis.
            ids[row], log_probs[row] = PAD, -np.inf
            ids[row, 0], log_probs[row, 0] = token, distribution[token]

    def allocate_beam(
        self, places: IntArray, tokens: IntArray, gains: FloatArray, distributions: FloatArray,
        forbidden: tuple[IntArray, IntArray] | None,
    ) -> None:  # fmt: skip
        """Replace the continuations of sentences with terms, in place (dynamic beam allocation).

        Args:
            places: place in the beam that each continuation extends, [B, K].
            tokens: its token, [B, K].
            gains: log-probability of the token, [B, K].
            distributions: log-probabilities of `full_rows`, [len(full_rows), V].
            forbidden: rows and tokens that must not come next, for all rows.
        """
        distributions[:, :EOS] = -np.inf
        if forbidden is not None:
            places_of = np.full(places.size, -1)
            places_of[self.full_rows] = np.arange(len(self.full_rows))
            found = places_of[forbidden[0]]
            distributions[found[found >= 0], forbidden[1][found >= 0]] = -np.inf
        by_row = dict(zip(self.full_rows, distributions, strict=True))
        for slot, rows in self._rows_of_slot.items():
            first = slot * places.shape[1]
            best = zip((places[slot] + first).tolist(), tokens[slot].tolist(), strict=True)
            chosen = self._allocate(slot, rows, set(best), by_row)
            places[slot], tokens[slot], gains[slot] = 0, PAD, -np.inf
            for place, (row, token) in enumerate(chosen[: places.shape[1]]):
                places[slot, place], tokens[slot, place] = row - first, token
                gains[slot, place] = by_row[row][token]

    def _allocate(
        self, slot: int, rows: Sequence[int], best: set[tuple[int, int]],
        distributions: Mapping[int, FloatArray],
    ) -> list[tuple[int, int]]:  # fmt: skip
        """Return continuations of a sentence, rows and tokens, in the order of their places."""
        one, prefixes = self._constraints[slot], self._prefixes
        assert one is not None
        totals = self._totals.ravel()
        # Candidates: the best continuations of all hypotheses, the best one of each hypothesis,
        # and every token that begins or continues a missing term.
        picks = {pick for pick in best if pick[0] in distributions}
        picks |= {(row, one.best_token(prefixes[row], distributions[row])) for row in rows}
        picks |= {(row, t) for row in rows for t in one.term_continuations(prefixes[row])}
        limit = int(self._limits[slot])
        if len(prefixes[rows[0]]) + 1 == limit:
            # The last step prefers finished hypotheses; EOS has -inf where terms are missing.
            picks |= {(row, EOS) for row in rows}
        scored = [(-(totals[row] + distributions[row][t]), row, t) for row, t in picks]
        possible = [(row, token) for score, row, token in sorted(scored) if score != np.inf]
        ranked = [((row, token), [*prefixes[row], token]) for row, token in possible]
        return _rank_by_banks(one, ranked, limit)


def _rank_by_banks(
    constraints: Constraints, ranked: list[tuple[tuple[int, int], list[int]]], limit: int
) -> list[tuple[int, int]]:
    """Return continuations in the order in which they get a place in the beam.

    Banks hold continuations with equally many term tokens met. They take turns, the bank with most
    tokens first, each with its best continuation left.
    """
    banks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    too_late: list[tuple[int, int]] = []
    for pick, tokens in ranked:
        num_met, num_left = constraints.count_term_tokens(tokens)
        needs_eos = tokens[-1] != EOS
        # Continuations that cannot meet all terms within the limit come last.
        is_too_late = len(tokens) + num_left + needs_eos > limit
        (too_late if is_too_late else banks[num_met]).append(pick)
    turns = [(turn, -bank, p) for bank, picks in banks.items() for turn, p in enumerate(picks)]
    return [pick for _, _, pick in sorted(turns)] + too_late


def _constrained_rows(
    constraints: Sequence[Constraints | None], totals: FloatArray
) -> Iterable[tuple[int, Constraints]]:
    """Yield the rows that hold a hypothesis of a sentence with constraints."""
    for slot, each in enumerate(constraints):
        if each is not None:
            for place, total in enumerate(totals[slot].tolist()):
                if total != -np.inf:
                    yield slot * totals.shape[1] + place, each


def _overlap(tokens: Sequence[int], term: tuple[int, ...]) -> int:
    """Return how many tokens of an incomplete term are at the end of the tokens."""
    for size in range(min(len(term) - 1, len(tokens)), 0, -1):
        if tuple(tokens[-size:]) == term[:size]:
            return size
    return 0


@lru_cache(maxsize=1000)
def _completions(
    token_text: TokenText, phrase: bytes
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Return the tokens that contain a phrase, and those that write the rest of one.

    The first have the phrase after a boundary inside them. The n-th of the others begin with its
    bytes from n on.
    """
    inside: list[int] = []
    endings: list[list[int]] = [[] for _ in phrase]
    for token, data in enumerate(token_text.token_bytes):
        # The end of the token counts as the end of the word.
        start = data.find(phrase, 1)
        after = data[start + len(phrase) :]
        if start > 0 and _is_boundary(data[:start], phrase) and _is_boundary(phrase, after):
            inside.append(token)
        for size in range(len(phrase)):
            rest = phrase[size:]
            if data.startswith(rest) and _is_boundary(phrase, data[len(rest) :]):
                endings[size].append(token)
    return tuple(inside), tuple(map(tuple, endings))


def contains_phrase(text: str, phrase: str) -> bool:
    """Return True if a phrase appears in a text as whole words."""
    start = text.find(phrase)
    while start >= 0 and not is_whole_word(text, start, start + len(phrase)):
        start = text.find(phrase, start + 1)
    return start >= 0


def _is_boundary(before: bytes, after: bytes) -> bool:
    """Return True if a text that continues with `after` is not inside a word at that point."""
    # The last and the first character, of at most four bytes.
    text = before[-4:].decode(errors="replace")
    return bool(word_boundary().match(text + after[:4].decode(errors="replace"), len(text)))
