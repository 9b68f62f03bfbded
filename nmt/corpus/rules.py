"""Cleaning rules for a single pair: repairs, and reasons to drop it.

Each rule has the name of its switch in `CleaningConfig`. A new rule is a switch there, a name in
`REPAIRS` or `DROP_REASONS` and a case in `repair` or `drop_reason`. The rules hold for every
language and script: letters and words are those of Unicode, scripts without spaces have limits of
their own, and a language that the identifier does not know is never dropped for its language.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from nmt.config.corpus import CleaningConfig
from nmt.corpus.language_id import identify, language_codes
from nmt.corpus.languages import Languages
from nmt.corpus.numerals import has_other_numbers
from nmt.corpus.repairs import repair_encoding, strip_markup, unescape_entities
from nmt.corpus.scripts import is_foreign_script
from nmt.corpus.text import UNSPACED, strip_controls, to_nfc

REPAIRS = ("encoding", "html_entities", "markup", "control_characters", "nfc", "swapped")
"""Rules that change the text of a pair and keep it, in the order in which they are applied."""
DROP_REASONS = (
    "invalid_utf8",
    "lost_characters",
    "empty",
    "no_letters",
    "max_chars",
    "max_ratio",
    "copies",
    "near_copies",
    "max_token_chars",
    "repetition",
    "script",
    "language",
    "numbers",
    "leaks",
    "source_leaks",
    "duplicates",
    "near_duplicates",
    "length",
    "truncated",
    "word_order",
    "min_adequacy",
)
"""Rules that drop a pair, in the order in which they are applied. `drop_reason` has those of one
pair, `clean.py` those of leaks and duplicates, `pair_model.py` and `adequacy.py` the last four."""

MIN_LANGUAGE_CHARS = 20
"""Minimum characters of a line whose language is checked; a letter of a script without spaces
counts as three."""
MIN_SWAPPED_CHARS = 10
FOREIGN = 0.2
"""Probability of another language from which on a line can be in it."""
MIN_OWN = (0.05, 0.02)
"""Probability of the own language, on the source and the target side, below which it is not."""
MIN_COPY_CHARS = 20
MAX_COPY_CHARS = 2_000
"""Characters of a side that are compared; by default max_chars drops longer sides."""
COPY_SIMILARITY = 0.95

_LETTER = re.compile(r"[^\W\d_]")
REPETITION = re.compile(r"([^\s\d])\1{9}|(\S.{1,4}?)\2{7}")
_ASCII_IGNORED = bytes(code for code in range(128) if not chr(code).isalnum())
_IGNORED = re.compile(
    "[\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u055a-\u055f\u0589\u05be\u05f3\u05f4"
    "\u060c\u061b\u061f\u0640\u066a-\u066d\u06d4\u0964\u0965\u104a\u104b\u1360-\u1368\u17d4-\u17da"
    "\u2000-\u206f\u2190-\u2bff\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe10-\ufe6f\uff01-\uff0f"
    "\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)
"""Punctuation, symbols and spaces beyond ASCII; marks of letters are none of them."""
_SIMPLE_REPAIRS = (
    ("encoding", repair_encoding),
    ("html_entities", unescape_entities),
    ("markup", strip_markup),
    # After the repairs above, which can leave control characters and loose spaces.
    ("control_characters", strip_controls),
    ("nfc", to_nfc),
)


def repair(
    src: str, tgt: str, cleaning: CleaningConfig, languages: Languages = ("", "")
) -> tuple[str, str, Sequence[str]]:
    """Apply all repairs to both sides; also return the rules that changed either."""
    rules = []
    for name, change in _SIMPLE_REPAIRS:
        if getattr(cleaning, name):
            new_src, new_tgt = change(src), change(tgt)
            if new_src != src or new_tgt != tgt:
                rules.append(name)
                src, tgt = new_src, new_tgt
    if cleaning.swapped and is_swapped(src, tgt, languages):
        return tgt, src, [*rules, "swapped"]
    return src, tgt, rules


def drop_reason(
    src: str, tgt: str, cleaning: CleaningConfig, languages: Languages = ("", "")
) -> str:
    """Return the first rule that drops a pair of repaired lines, or "" if none does.

    Args:
        src: source line.
        tgt: target line.
        cleaning: the rules.
        languages: of both sides; the rules about languages do not apply to "".
    """
    num_src, num_tgt = len(src), len(tgt)
    if cleaning.lost_characters and ("\ufffd" in src or "\ufffd" in tgt):
        return "lost_characters"
    if cleaning.empty and not (src.strip() and tgt.strip()):
        return "empty"
    if cleaning.no_letters and not (_LETTER.search(src) and _LETTER.search(tgt)):
        return "no_letters"
    # Characters, not tokens: there is no vocabulary yet.
    longer, shorter = max(num_src, num_tgt), min(num_src, num_tgt)
    if cleaning.max_chars and longer > cleaning.max_chars:
        return "max_chars"
    slack = cleaning.ratio_slack
    # The slack on both sides lets short pairs differ more: 2 and 9 characters can be a translation.
    if cleaning.max_ratio and longer + slack > cleaning.max_ratio * (shorter + slack):
        return "max_ratio"
    if cleaning.copies and src == tgt:
        return "copies"
    if cleaning.near_copies and is_near_copy(src, tgt):
        return "near_copies"
    limit = cleaning.max_token_chars
    if limit and longer > limit and (_has_long_token(src, limit) or _has_long_token(tgt, limit)):
        return "max_token_chars"
    if cleaning.repetition and (REPETITION.search(src) or REPETITION.search(tgt)):
        return "repetition"
    src_language, tgt_language = languages
    if cleaning.script and (
        is_foreign_script(src, src_language) or is_foreign_script(tgt, tgt_language)
    ):
        return "script"
    if cleaning.language and (
        is_foreign(src, src_language, MIN_OWN[0]) or is_foreign(tgt, tgt_language, MIN_OWN[1])
    ):
        return "language"
    if cleaning.numbers and has_other_numbers(src, tgt, languages):
        return "numbers"
    return ""


def near_key(text: str) -> bytes:
    """Return a text without case, punctuation and spaces; equal keys are near duplicates."""
    # Of bytes, which is far faster: those below 128 are never part of another character.
    if text.isascii():
        return text.encode().translate(None, _ASCII_IGNORED).lower()
    return _IGNORED.sub("", text).casefold().encode().translate(None, _ASCII_IGNORED)


def has_chars(text: str, minimum: int) -> bool:
    """Return True for a minimum of characters; a letter of a script without spaces is three."""
    if len(text) >= minimum or text.isascii():
        return len(text) >= minimum
    return len(text) + 2 * len(UNSPACED.findall(text)) >= minimum


def is_swapped(src: str, tgt: str, languages: Languages) -> bool:
    """Return True if both sides are in the language of the other."""
    codes = [language_codes(language) for language in languages]
    if not all(codes) or codes[0] & codes[1]:
        return False
    if not (has_chars(src, MIN_SWAPPED_CHARS) and has_chars(tgt, MIN_SWAPPED_CHARS)):
        return False
    for text, own, other in ((src, codes[0], codes[1]), (tgt, codes[1], codes[0])):
        found = identify(text)
        if _share(found, own) >= 0.3 or _share(found, other) <= 0.5:
            return False
    return True


def _share(found: dict[str, float], codes: frozenset[str]) -> float:
    return sum([share for code, share in found.items() if code in codes])


def is_foreign(text: str, language: str, min_own: float) -> bool:
    """Return True if a text is in another language, and its own one is less likely than given."""
    codes = language_codes(language)
    if not codes or not has_chars(text, MIN_LANGUAGE_CHARS):
        return False
    found = identify(text)
    best = next(iter(found), "")
    # Not only "another one is likelier": names and loan words are in several languages.
    return best not in codes and _share(found, codes) < min_own and found.get(best, 0) > FOREIGN


def is_near_copy(src: str, tgt: str) -> bool:
    """Return True if the sides of a longer pair differ in a few characters only."""
    longer, shorter = max(len(src), len(tgt)), min(len(src), len(tgt))
    if not has_chars(src, MIN_COPY_CHARS) or shorter < COPY_SIMILARITY * longer - 2:
        return False
    # Translations of such lines share few words: all others end here.
    words = set(src.split()), set(tgt.split())
    is_alike = 2 * len(words[0] & words[1]) >= min(map(len, words))
    if not is_alike and near_key(src[:9]) != near_key(tgt[:9]):
        return False
    if near_key(src) == near_key(tgt):
        return True
    # Its time grows with the square of the length.
    matcher = SequenceMatcher(None, src[:MAX_COPY_CHARS], tgt[:MAX_COPY_CHARS], autojunk=False)
    return matcher.quick_ratio() >= COPY_SIMILARITY and matcher.ratio() >= COPY_SIMILARITY


def _has_long_token(text: str, limit: int) -> bool:
    # A sentence of a script without spaces is one token.
    return any(len(token) > limit and not UNSPACED.search(token) for token in text.split())
