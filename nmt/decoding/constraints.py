"""What a translation must begin with, must say and must not say.

Terms that must appear are searched for with dynamic beam allocation (Post & Vilar 2018): each step
looks at the tokens that go on with a term besides the best ones, and the places of the beam are
shared out between hypotheses by how much of the terms they have said. A term counts as said where
its tokens stand in a row and no token after them goes on with its last word.

What to avoid is matched as text, however it is cut into tokens: the token is ruled out that would
complete it as whole words. Longer words that begin alike are not meant.

All of it is worked out from the tokens said so far, sentence by sentence, in Python: it costs only
the sentences that ask for it, and does not depend on the others (P7).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.corpus.subword import EOS, PAD
from nmt.decoding.token_text import Spelling


@dataclass(frozen=True, eq=False)
class Control:
    """What one translation must and must not say."""

    spelling: Spelling
    prefix: tuple[int, ...] = ()
    """Its first tokens."""
    terms: tuple[tuple[int, ...], ...] = ()
    """Tokens that must stand in it in a row, each a whole word or more."""
    avoid: tuple[bytes, ...] = ()
    """Words that must not stand in it, without a space before them."""

    def unsaid(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """The terms that are not said yet."""
        return [term for term in self.terms if not self._says(tokens, term)]

    def ruled_out(self, tokens: Sequence[int]) -> list[int]:
        """Tokens that must not come next."""
        text = self.spelling.text(tokens)
        out = [token for phrase in self.avoid for token in self.spelling.completing(phrase, text)]
        return [*out, EOS] if self.unsaid(tokens) else out

    def wanted(self, tokens: Sequence[int]) -> set[int]:
        """Tokens that begin or go on with a term that is not said yet."""
        unsaid = self.unsaid(tokens)
        return {term[0] for term in unsaid} | {term[_overlap(tokens, term)] for term in unsaid}

    def likeliest(self, tokens: Sequence[int], log_probs: Tensor) -> int:
        """The next token with the highest log-probability, [V], that leaves a term said."""
        if any(tuple(tokens[-len(term) :]) == term for term in self.terms):
            log_probs = log_probs.clone()
            log_probs[self.spelling.going_on] = -torch.inf
        return int(log_probs.argmax())

    def num_said(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens of terms that are said, and how many more are needed to say them all."""
        unsaid = self.unsaid(tokens)
        num_begun = max((_overlap(tokens, term) for term in unsaid), default=0)
        num_left = sum(map(len, unsaid)) - num_begun
        return sum(map(len, self.terms)) - num_left, num_left

    def _says(self, tokens: Sequence[int], term: tuple[int, ...]) -> bool:
        size = len(term)
        is_word = self.spelling.ends_in_word(term)
        for start in range(len(tokens) - size + 1):
            end = start + size
            if tuple(tokens[start:end]) == term:
                next_token = tokens[end] if end < len(tokens) else EOS
                if not (is_word and self.spelling.goes_on(next_token)):
                    return True
        return False


def rule_out(
    controls: Sequence[Control | None], log_probs: Tensor, totals: Tensor, said: Tensor
) -> None:
    """Make what must not come next impossible: -inf in `log_probs`.

    Args:
        controls: of each slot, B of them.
        log_probs: of each next token, [R, V].
        totals: of each hypothesis, [B, K]; -inf where there is none.
        said: the tokens so far, [R, L].
    """
    length = said.size(1)
    for row, control in _live(controls, totals):
        if control.prefix[length:]:
            forced = log_probs[row, control.prefix[length]].clone()
            log_probs[row] = -torch.inf
            log_probs[row, control.prefix[length]] = forced
        elif out := control.ruled_out(said[row].tolist()):
            log_probs[row, out] = -torch.inf


def allocate(
    controls: Sequence[Control | None],
    picks: Tensor,
    log_probs: Tensor,
    totals: Tensor,
    said: Tensor,
    limits: Tensor,
) -> Tensor:
    """The continuations of the sentences that have terms, by dynamic beam allocation.

    Args:
        controls, log_probs, totals, said: as of `rule_out`, after it.
        picks: the best continuations of all, row * V + token, [B, K].
        limits: most tokens of each sentence, [B].

    Returns:
        `picks` with those sentences' own in place of the best, [B, K].
    """
    vocab, beam = log_probs.size(1), totals.size(1)
    picks, flat = picks.clone(), log_probs.view(-1)
    live: dict[int, list[int]] = defaultdict(list)
    for row, control in _live(controls, totals):
        if control.terms and not control.prefix[said.size(1) :]:
            live[row // beam].append(row)
    for slot, rows in live.items():
        one = controls[slot]
        assert one is not None
        tokens_of = {row: said[row].tolist() for row in rows}
        ids = set(picks[slot].tolist())
        ids |= {row * vocab + one.likeliest(tokens_of[row], log_probs[row]) for row in rows}
        ids |= {row * vocab + token for row in rows for token in one.wanted(tokens_of[row])}
        if said.size(1) + 1 == limits[slot]:
            ids |= {row * vocab + EOS for row in rows}  # -inf where terms are not said
        candidates = torch.tensor(sorted(ids), device=log_probs.device)
        scores = (totals.view(-1)[candidates // vocab] + flat[candidates]).tolist()
        ranked = [
            (score, pick, [*tokens_of[pick // vocab], pick % vocab])
            for score, pick in sorted(
                zip(scores, candidates.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1])
            )
            if score != -torch.inf
        ]
        chosen = _share_out(one, ranked, int(limits[slot]))[:beam]
        nobody = rows[0] * vocab + PAD  # is impossible, so it stays without a hypothesis
        picks[slot] = torch.tensor([*chosen, *[nobody] * (beam - len(chosen))])
    return picks


def _share_out(
    control: Control, ranked: list[tuple[float, int, list[int]]], limit: int
) -> list[int]:
    """Picks in the order in which they get a place.

    In turns, a best one from each bank: of those that have said most of the terms first. What can
    no longer say them all within the limit comes last.
    """
    banks: dict[int, list[int]] = defaultdict(list)
    for _, pick, tokens in ranked:
        num_said, num_left = control.num_said(tokens)
        needs_end = tokens[-1] != EOS
        is_too_late = len(tokens) + num_left + needs_end > limit
        banks[-1 if is_too_late else num_said].append(pick)
    late = banks.pop(-1, [])
    in_turns = [
        (turn, -bank, pick) for bank, picks in banks.items() for turn, pick in enumerate(picks)
    ]
    return [pick for _, _, pick in sorted(in_turns)] + late


def _live(controls: Sequence[Control | None], totals: Tensor) -> Iterable[tuple[int, Control]]:
    """The rows that hold a hypothesis of a sentence with a control."""
    for slot, control in enumerate(controls):
        if control is not None:
            for place, total in enumerate(totals[slot].tolist()):
                if total != -torch.inf:
                    yield slot * totals.size(1) + place, control


def _overlap(tokens: Sequence[int], term: tuple[int, ...]) -> int:
    """How many of a term's first tokens, less than all, stand at the end of the tokens."""
    for size in range(min(len(term) - 1, len(tokens)), 0, -1):
        if tuple(tokens[-size:]) == term[:size]:
            return size
    return 0
