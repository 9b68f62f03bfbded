"""Lexical constraints: a prefix, terms that must appear, and words that must not.

Terms are decoded with dynamic beam allocation (Post & Vilar 2018): besides the best continuations,
each step considers the tokens that continue a missing term, and divides the beam among hypotheses
by the number of term tokens that they have met. A term is met where its tokens appear in a row and
the next token does not continue its last word.

Words to avoid are matched as text, however they are split into tokens: the token that would
complete them as whole words is forbidden. Longer words with the same beginning are allowed.

Everything is computed in Python from the tokens of one sentence at a time. Only sentences with
constraints pay for it, and no sentence depends on another.

Shapes: B slots for sentences, K beam, R = B * K rows, V vocabulary, L tokens so far.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.corpus.subword import EOS, PAD


class TokenText:
    """Text of the tokens of a vocabulary, and the word boundaries in it."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Index the bytes of each token, b"" for special ones; a space precedes each word."""
        self._token_bytes = token_bytes
        self._tokens: dict[bytes, list[int]] = defaultdict(list)
        for token, text in enumerate(token_bytes):
            self._tokens[text].append(token)
        self.word_continuations = frozenset(
            token for token, text in enumerate(token_bytes) if _begins_in_word(text)
        )
        """Tokens that continue the word before them."""

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of a token sequence."""
        return b"".join([self._token_bytes[token] for token in tokens])

    def word_indices(self, tokens: Iterable[int]) -> list[int]:
        """Return the index of the space-separated word of each token; -1 for none, as for EOS."""
        indices, word, is_between = [], -1, True
        for token in tokens:
            first = -1
            # A token can contain spaces; it belongs to the word of its first other byte.
            for byte in self._token_bytes[token]:
                if byte == ord(" "):
                    is_between = True
                    continue
                word += is_between
                is_between = False
                first = word if first < 0 else first
            indices.append(first)
        return indices

    def completing_tokens(self, phrase: bytes, text: bytes) -> list[int]:
        """Return the tokens that complete `phrase` at the end of `text`, from a word's start."""
        tokens: list[int] = []
        for size in range(len(phrase)):
            # `size` bytes of the phrase are written; the token has to write the rest.
            if not text.endswith(phrase[:size]):
                continue
            if size == 0:
                tokens += self._tokens.get(b" " + phrase, ())
            if not (_begins_in_word(phrase) and _ends_in_word(text[: len(text) - size])):
                tokens += self._tokens.get(phrase[size:], ())
        return tokens


@dataclass(frozen=True, eq=False)
class Constraints:
    """Lexical constraints on one translation."""

    token_text: TokenText
    prefix: tuple[int, ...] = ()
    """Tokens that the translation begins with."""
    terms: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must appear, each one or more whole words."""
    avoid: tuple[bytes, ...] = ()
    """Words that must not appear, without a leading space."""

    def missing_terms(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the terms that the tokens do not contain."""
        return [term for term in self.terms if not self._contains(tokens, term)]

    def forbidden_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that must not come next."""
        text, completing = self.token_text.decode(tokens), self.token_text.completing_tokens
        forbidden = [token for phrase in self.avoid for token in completing(phrase, text)]
        return [*forbidden, EOS] if self.missing_terms(tokens) else forbidden

    def term_continuations(self, tokens: Sequence[int]) -> set[int]:
        """Return the tokens that begin or continue a missing term."""
        missing = self.missing_terms(tokens)
        return {term[0] for term in missing} | {term[_overlap(tokens, term)] for term in missing}

    def best_token(self, tokens: Sequence[int], log_probs: Tensor) -> int:
        """Return the most likely next token, by log-probabilities [V], that keeps a term met."""
        # Continuing the last word of a term would turn it into another word.
        if any(tuple(tokens[-len(term) :]) == term for term in self.terms):
            log_probs = log_probs.clone()
            log_probs[list(self.token_text.word_continuations)] = -torch.inf
        return int(log_probs.argmax())

    def count_term_tokens(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Return the number of term tokens met, and the number still needed."""
        missing = self.missing_terms(tokens)
        # A term in progress counts as far as it has been written.
        num_partial = max((_overlap(tokens, term) for term in missing), default=0)
        num_left = sum(map(len, missing)) - num_partial
        return sum(map(len, self.terms)) - num_left, num_left

    def _contains(self, tokens: Sequence[int], term: tuple[int, ...]) -> bool:
        # After a word the next token must not continue it; after punctuation any token may follow.
        ends_in_word = _ends_in_word(self.token_text.decode(term))
        for end in range(len(term), len(tokens) + 1):
            if tuple(tokens[end - len(term) : end]) == term:
                next_token = tokens[end] if end < len(tokens) else EOS
                if not (ends_in_word and next_token in self.token_text.word_continuations):
                    return True
        return False


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


def _begins_in_word(data: bytes) -> bool:
    """Return True if the bytes continue a word; bytes that are no complete character count too."""
    first = data.decode("utf-8", errors="ignore")[:1]
    return _is_word_character(first) if first else data[:1] >= b"\x80"


def _ends_in_word(data: bytes) -> bool:
    return _is_word_character(data[-4:].decode("utf-8", errors="ignore")[-1:])


def _is_word_character(character: str) -> bool:
    """Return True for a letter, a mark on a letter, or a digit."""
    return character != "" and unicodedata.category(character)[0] in "LMN"
