"""Translations as lines: plain, scored, Moses n-best, with alignments, JSON; and their tally.

Scores are natural logarithms, but for mbr. Alignments are between words as spaces part them.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from nmt.decoding import alignments
from nmt.decoding.requests import Request
from nmt.decoding.translation import Candidate, Translation

FORMATS = ("text", "scored", "moses", "pharaoh", "soft", "jsonl")
ALIGNED = ("pharaoh", "soft", "jsonl")
"""Formats that need attention."""
N_BEST = ("moses", "jsonl")
"""Formats that have room for more than one translation of a line."""


def formatted(form: str, request: Request, translation: Translation, number: int) -> str:
    """What is written for a line, with a line feed after each line of it.

    Args:
        form: of FORMATS.
        request: what was asked.
        translation: what became of it; with attention where ALIGNED has the format.
        number: of the line, from 0.
    """
    best = translation.best
    match form:
        case "scored":
            return f"{best.score:.6f}\t{best.text}\n"
        case "moses":
            return "".join(_moses(candidate, number) for candidate in translation.n_best)
        case "pharaoh":
            return f"{best.text} ||| {alignments.hard(translation, best)}".rstrip(" ") + "\n"
        case "soft":
            return f"{best.text} ||| {alignments.soft(translation, best)}".rstrip(" ") + "\n"
        case "jsonl":
            return json.dumps(_tree(request, translation), ensure_ascii=False) + "\n"
    return best.text + "\n"


@dataclass
class OutputCounts:
    """What a person should know of many translations besides their number."""

    num_cut: int = 0
    """Lines cut at sentence ends, for they are longer than those of training."""
    num_protected: int = 0
    num_lost: int = 0
    """Of the protected parts, those that could not be restored."""
    num_unsaid: int = 0
    """Terms that had to be said and are not."""
    num_unfinished: int = 0
    """Translations that were cut at the longest length allowed."""

    def add(self, translation: Translation) -> None:
        """Count one line."""
        self.num_cut += translation.num_parts > 1
        self.num_protected += translation.num_protected
        self.num_lost += translation.best.num_lost
        self.num_unsaid += translation.best.num_unsaid
        self.num_unfinished += not translation.best.is_finished

    def text(self) -> str:
        """In a line; empty where there is nothing to tell."""
        told = []
        if self.num_cut:
            told.append(f"{self.num_cut:,} long lines cut at sentence ends and joined again")
        if self.num_protected:
            kept = self.num_protected - self.num_lost
            told.append(f"{kept:,} of {self.num_protected:,} protected parts are in their places")
        if self.num_unsaid:
            told.append(f"{self.num_unsaid:,} terms could not be said")
        if self.num_unfinished:
            told.append(f"{self.num_unfinished:,} translations cut at the longest length allowed")
        return "; ".join(told)


def _moses(candidate: Candidate, number: int) -> str:
    # Three bars part the fields: in a text they are written as Moses escapes them.
    text = candidate.text.replace("|||", "&#124;&#124;&#124;")
    return f"{number} ||| {text} ||| LogProb= {candidate.log_prob:.6f} ||| {candidate.score:.6f}\n"


def _tree(request: Request, translation: Translation) -> dict[str, Any]:
    best = translation.best
    tree = request.fields | {
        "text": request.text,
        "translation": best.text,
        "score": _json_number(best.score),
        "log_prob": best.log_prob,
        "tokens": best.pieces,
        "token_log_probs": best.token_scores,
    }
    # A place in a text with masks would not be a place in the text that is written.
    if not translation.num_protected:
        tree["alignment"] = alignments.hard(translation, best)
    if len(translation.n_best) > 1:
        tree["translations"] = [candidate.text for candidate in translation.n_best]
        tree["scores"] = [_json_number(candidate.score) for candidate in translation.n_best]
    return tree


def _json_number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
