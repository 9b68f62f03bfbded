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

Shapes: B slots for sentences, K beam, R = B * K rows, V vocabulary, L tokens so far.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from nmt.corpus.subword import EOS, PAD
from nmt.corpus.text import UNSPACED, is_whole_word, word_boundary


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
        return [*forbidden, EOS] if self.missing_terms(tokens) else forbidden

    def term_continuations(self, tokens: Sequence[int]) -> set[int]:
        """Return the tokens that begin or continue a missing term."""
        missing = self.missing_terms(tokens)
        starts = {sequence[0] for sequence in self._sequences(missing, tokens)}
        return starts | {sequence[size] for sequence, size in self._started_terms(missing, tokens)}

    def best_token(self, tokens: Sequence[int], log_probs: Tensor) -> int:
        """Return the most likely next token, by log-probabilities [V], that keeps a term met."""
        text = self._text(tokens)
        for term in self.terms:
            # Continuing the last word of a term would turn it into another word.
            phrase = self._phrases[term]
            start = len(text) - len(phrase)
            if text.endswith(phrase) and is_whole_word(text, start, len(text)):
                is_unspaced = UNSPACED.match(phrase[-1])
                texts, log_probs = self.token_text, log_probs.clone()
                masked = texts.letter_continuations if is_unspaced else texts.word_continuations
                log_probs[masked] = -torch.inf
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


def mask_forbidden(
    constraints: Sequence[Constraints | None], log_probs: Tensor, totals: Tensor, prefixes: Tensor
) -> None:
    """Set the log-probability of tokens that violate the constraints to -inf, in place.

    Args:
        constraints: constraints of each slot, B of them.
        log_probs: log-probability of each next token, [R, V].
        totals: log-probability of each hypothesis, -inf where there is none, [B, K].
        prefixes: tokens so far, [R, L].
    """
    length = prefixes.size(1)
    for row, each in _constrained_rows(constraints, totals):
        if each.prefix[length:]:
            # Inside the prefix only its next token is possible, at its own log-probability.
            forced = log_probs[row, each.prefix[length]].clone()
            log_probs[row] = -torch.inf
            log_probs[row, each.prefix[length]] = forced
        elif forbidden := each.forbidden_tokens(prefixes[row].tolist()):
            log_probs[row, forbidden] = -torch.inf


def allocate_beam(
    constraints: Sequence[Constraints | None], picks: Tensor, log_probs: Tensor, totals: Tensor,
    prefixes: Tensor, limits: Tensor,
) -> Tensor:  # fmt: skip
    """Replace the continuations of sentences with terms (dynamic beam allocation).

    Args:
        constraints, log_probs, totals, prefixes: as in `mask_forbidden`, after it.
        picks: best continuations of all sentences, row * V + token, [B, K].
        limits: maximum number of tokens of each sentence, [B].

    Returns:
        `picks` with other continuations for the sentences that have terms, [B, K].
    """
    vocab, beam = log_probs.size(1), totals.size(1)
    picks, flat = picks.clone(), log_probs.view(-1)
    rows_of_slot: dict[int, list[int]] = defaultdict(list)
    for row, each in _constrained_rows(constraints, totals):
        # Inside the prefix there is one continuation, and nothing to allocate.
        if each.terms and not each.prefix[prefixes.size(1) :]:
            rows_of_slot[row // beam].append(row)
    for slot, rows in rows_of_slot.items():
        one = constraints[slot]
        assert one is not None
        tokens_of = {row: prefixes[row].tolist() for row in rows}
        # Candidates: the best continuations of all hypotheses, the best one of each hypothesis,
        # and every token that begins or continues a missing term.
        ids = set(picks[slot].tolist())
        ids |= {row * vocab + one.best_token(tokens_of[row], log_probs[row]) for row in rows}
        ids |= {row * vocab + t for row in rows for t in one.term_continuations(tokens_of[row])}
        if prefixes.size(1) + 1 == limits[slot]:
            # The last step prefers finished hypotheses; EOS has -inf where terms are missing.
            ids |= {row * vocab + EOS for row in rows}
        candidates = torch.tensor(sorted(ids), device=log_probs.device)
        scores = (totals.view(-1)[candidates // vocab] + flat[candidates]).tolist()
        in_order = sorted(
            (-score, pick) for score, pick in zip(scores, candidates.tolist(), strict=True)
        )
        possible = [pick for score, pick in in_order if score != torch.inf]
        ranked = [(pick, [*tokens_of[pick // vocab], pick % vocab]) for pick in possible]
        chosen = _rank_by_banks(one, ranked, int(limits[slot]))[:beam]
        # PAD is impossible: a place filled with it holds no hypothesis.
        unused = rows[0] * vocab + PAD
        picks[slot] = torch.tensor([*chosen, *[unused] * (beam - len(chosen))])
    return picks


def _rank_by_banks(
    constraints: Constraints, ranked: list[tuple[int, list[int]]], limit: int
) -> list[int]:
    """Return continuations in the order in which they get a place in the beam.

    Banks hold continuations with equally many term tokens met. They take turns, the bank with most
    tokens first, each with its best continuation left.
    """
    banks: dict[int, list[int]] = defaultdict(list)
    too_late: list[int] = []
    for pick, tokens in ranked:
        num_met, num_left = constraints.count_term_tokens(tokens)
        needs_eos = tokens[-1] != EOS
        # Continuations that cannot meet all terms within the limit come last.
        is_too_late = len(tokens) + num_left + needs_eos > limit
        (too_late if is_too_late else banks[num_met]).append(pick)
    turns = [(turn, -bank, p) for bank, picks in banks.items() for turn, p in enumerate(picks)]
    return [pick for _, _, pick in sorted(turns)] + too_late


def _constrained_rows(
    constraints: Sequence[Constraints | None], totals: Tensor
) -> Iterable[tuple[int, Constraints]]:
    """Yield the rows that hold a hypothesis of a sentence with constraints."""
    for slot, each in enumerate(constraints):
        if each is not None:
            for place, total in enumerate(totals[slot].tolist()):
                if total != -torch.inf:
                    yield slot * totals.size(1) + place, each


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
