"""Output formats of translations: text, scored, Moses n-best, alignments, JSON; and their counts.

Scores are natural logarithms, except with `method: mbr`. Alignments are between words separated by
spaces: those of the input line as it is, and those of the translation.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nmt.decoding.requests import Request
from nmt.decoding.translation import Candidate, Translation

FORMATS = ("text", "scored", "moses", "pharaoh", "soft", "jsonl")
FORMATS_WITH_ATTENTION = ("pharaoh", "soft", "jsonl")
FORMATS_WITH_N_BEST = ("moses", "jsonl")
_OPTIONAL_KEYS = ("alignment", "translations", "scores")
"""Keys of jsonl that not every result has."""


def format_translation(
    form: str, request: Request, translation: Translation, number: int, num_best: int
) -> str:
    """Return the output for a line, with a line feed after each line of it.

    Args:
        form: one of FORMATS.
        request: the line and its constraints.
        translation: its translation; with attention if the format needs it.
        number: number of the line, from 0.
        num_best: number of translations requested per line.
    """
    best = translation.best
    match form:
        case "scored":
            return f"{best.score:.6f}\t{best.text}\n"
        case "moses":
            return "".join(_moses(candidate, number) for candidate in translation.n_best)
        case "pharaoh":
            # A blank line keeps the separator, so that every line has one.
            return f"{_escape(best.text)} ||| {_pharaoh(best)}".rstrip(" ") + "\n"
        case "soft":
            weights = () if best.words is None else best.words.full_rows()
            rows = " ".join(",".join(f"{weight:.4f}" for weight in row.tolist()) for row in weights)
            return f"{_escape(best.text)} ||| {rows}".rstrip(" ") + "\n"
        case "jsonl":
            fields = json_object(request, translation, with_n_best=num_best > 1)
            return json.dumps(fields, ensure_ascii=False) + "\n"
    return best.text + "\n"


@dataclass
class OutputCounts:
    """Counts over translations that are worth a warning; the names are keys of chunks.jsonl."""

    num_cut: int = 0
    """Lines split into segments at sentence ends."""
    num_limited: int = 0
    """Lines with a sentence that was cut at the token limit."""
    num_copied: int = 0
    """Words copied because they exceed the token limit."""
    num_protected: int = 0
    """Protected spans."""
    num_lost: int = 0
    """Protected spans that could not be restored."""
    num_missing_terms: int = 0
    """Requested terms missing from the translation."""
    num_unfinished: int = 0
    """Translations truncated at the maximum length."""

    @classmethod
    def of_chunks(cls, counts: Mapping[str, int]) -> "OutputCounts":
        """Return the counts of chunks.jsonl; earlier versions called missing terms num_unsaid."""
        named = Counter(counts)
        named["num_missing_terms"] += named.pop("num_unsaid", 0)
        return cls(**named)

    def add(self, translation: Translation) -> None:
        """Count one line."""
        self.num_cut += translation.num_segments - translation.num_cuts > 1
        self.num_limited += translation.num_cuts > 0
        self.num_copied += translation.num_copied
        self.num_protected += translation.num_protected
        self.num_lost += translation.best.num_lost
        self.num_missing_terms += translation.best.num_missing_terms
        self.num_unfinished += not translation.best.is_finished

    def summary(self) -> str:
        """Return the counts above 0 in one line; empty if there are none."""
        restored = f"{self.num_protected - self.num_lost:,} of {self.num_protected:,}"
        parts = (
            (self.num_cut, f"long lines split at sentence ends {self.num_cut:,}"),
            (self.num_limited, f"lines cut inside a long sentence {self.num_limited:,}"),
            (self.num_copied, f"words too long to translate, copied {self.num_copied:,}"),
            (self.num_protected, f"protected spans restored {restored}"),
            (self.num_missing_terms, f"terms missing {self.num_missing_terms:,}"),
            (self.num_unfinished, f"translations truncated {self.num_unfinished:,}"),
        )
        return " | ".join(text for count, text in parts if count)


def _escape(text: str) -> str:
    """Escape the separator of fields in a text, as Moses does."""
    return text.replace("|||", "&#124;&#124;&#124;")


def _moses(candidate: Candidate, number: int) -> str:
    text = _escape(candidate.text)
    return f"{number} ||| {text} ||| LogProb= {candidate.log_prob:.6f} ||| {candidate.score:.6f}\n"


def _pharaoh(candidate: Candidate) -> str:
    """Return the alignment as `source-target` pairs, from 0."""
    return " ".join(f"{src}-{tgt}" for src, tgt in candidate.alignment or ())


def json_object(request: Request, translation: Translation, with_n_best: bool) -> dict[str, Any]:
    """Return the JSON object of a translation with attention, as in the format jsonl.

    Args:
        request: the line and its constraints.
        translation: its translation, with attention.
        with_n_best: add all candidates.
    """
    best = translation.best
    # Keys of the request pass through, except those of a result: it may be an earlier output.
    fields = {key: request.fields[key] for key in request.fields if key not in _OPTIONAL_KEYS}
    fields |= {
        "text": request.text,
        "translation": best.text,
        "score": _json_number(best.score),
        "log_prob": best.log_prob,
        "tokens": best.tokens,
        "token_log_probs": best.token_log_probs,
    }
    # Word positions in a line with masks are not those of the text that is written.
    if not translation.num_protected:
        fields["alignment"] = _pharaoh(best)
    # Also for a blank line, which has one translation: all lines have the same keys.
    if with_n_best:
        fields["translations"] = [candidate.text for candidate in translation.n_best]
        fields["scores"] = [_json_number(candidate.score) for candidate in translation.n_best]
    return fields


def _json_number(value: float) -> float | None:
    """Return null for infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
