"""Comparison of the numbers on both sides of a pair.

Digits of every script are compared, whatever separates them: 1,500 is 1.500, 1 500 and 1.5
thousand, 6:30 is "6 Uhr 30", 25.8. has the day of "August 25th", and the 1990s are the 90s. A
number can also be spelled out on the other side, in the languages of Unicode CLDR.
"""

import re
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from nmt.corpus.languages import Languages, table_code

if TYPE_CHECKING:
    from unicode_rbnf import RbnfEngine

MAX_SPELLED = 10_000_000
"""Number from which on no words are expected for it."""
MAX_DIGITS = 40

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(
    r"(?<!\d)\d{1,3}(?:[ \u202f]\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,:/'\u2019\u202f-]\d+)*"
)
_NO_LETTERS = re.compile(r"[\W_]+")

Reading = list[str]
"""Digits of a number: all of them, then those between its separators, if it has any."""


def has_other_numbers(src: str, tgt: str, languages: Languages = ("", "")) -> bool:
    """Return True if both sides have a number of two or more digits that the other one lacks."""
    # Most pairs end here.
    if not (_DIGIT.search(src) and _DIGIT.search(tgt)):
        return False
    # One digit can be a word on the other side, and so can a number that is there alone.
    unmatched = unmatched_numbers(src, tgt, languages)
    return all(any(len(number) > 1 for number in own) for own in unmatched)


def unmatched_numbers(
    src: str, tgt: str, languages: Languages = ("", "")
) -> tuple[list[str], list[str]]:
    """Return the digits of the numbers of both sides that the other one lacks.

    Args:
        src: source line.
        tgt: target line.
        languages: of both sides; spelled-out numbers are not recognised in unknown languages.
    """
    numbers = _read_numbers(src), _read_numbers(tgt)
    src_numbers, tgt_numbers = (
        [
            number[0]
            for number in own
            if not _is_among(number, other) and not _is_spelled_out(number[0], text, language)
        ]
        for own, other, text, language in zip(
            numbers, numbers[::-1], (tgt, src), languages[::-1], strict=True
        )
    )
    return src_numbers, tgt_numbers


def _read_numbers(text: str) -> list[Reading]:
    readings = []
    for number in _NUMBER.findall(text):
        # Digits of every script, as ASCII.
        parts = ["".join(str(int(digit)) for digit in part) for part in re.split(r"\D+", number)]
        if len(joined := "".join(parts)) < MAX_DIGITS:
            readings.append(list(dict.fromkeys([joined, *parts])))
    return readings


def _is_among(number: Reading, others: list[Reading]) -> bool:
    whole, *parts = number
    if any(_is_same(whole, digits) for other in others for digits in other):
        return True
    # Not parts in parts: "3.5 and 11.8" would have the 3.8 of the other side.
    wholes = [other[0] for other in others]
    is_split = parts and all(any(_is_same(part, each) for each in wholes) for part in parts)
    # Dates: 25.8.2024 is 8/25/2024.
    return bool(is_split) or any(
        sorted(map(int, parts)) == sorted(map(int, other[1:])) for other in others if parts
    )


def _is_same(one: str, two: str) -> bool:
    """Compare digits: 1.5 million is 1,500,000, 1990s is 90s, and 3:30 pm is 15:30."""
    # Without leading zeros.
    one, two = str(int(one)), str(int(two))
    short, long = sorted((one.rstrip("0"), two.rstrip("0")), key=len)
    if short == long or (len(short) > 1 and long.endswith(short)):
        return True
    # Decades, with the zero.
    if {len(one), len(two)} == {2, 4} and (one.endswith(two) or two.endswith(one)):
        return True
    # Clock times: 3:30 pm is 15:30, and 3:00 pm is 15.
    if max(len(one), len(two)) > 4:
        return False
    times = sorted(divmod(int(n), 100) if len(n) > 2 else (int(n), 0) for n in (one, two))
    return times[1][0] - times[0][0] == 12 and times[0][1] == times[1][1] and times[1][0] <= 24


def _is_spelled_out(digits: str, text: str, language: str) -> bool:
    number = int(digits)
    if not language or number < 10:
        return False
    # 1880s: "achtziger Jahre".
    decade = (number % 100,) if len(digits) == 4 and number % 10 == 0 else ()
    key = _letters(text)
    return any(form in key for each in (number, *decade) for form in _spell_out(each, language))


@lru_cache(maxsize=10_000)
def _spell_out(number: int, language: str) -> frozenset[str]:
    """Return the words of a number, cardinal and ordinal, in all genders and cases, as `_letters`.

    Empty for a language or a number without rules.
    """
    from unicode_rbnf import FormatPurpose, RbnfEngine
    from unicode_rbnf.engine import RbnfError

    code = table_code(language)
    if code not in RbnfEngine.get_supported_languages() or number >= MAX_SPELLED:
        return frozenset()
    engine = _load_rules(code)
    forms: set[str] = set()
    for purpose in (FormatPurpose.CARDINAL, FormatPurpose.ORDINAL, FormatPurpose.YEAR):
        # Languages lack some purposes, and rules end at some number: those of Russian at 99,999.
        with suppress(ValueError, RbnfError):
            forms.update(engine.format_number(number, purpose).text_by_ruleset.values())
    if str(number).strip("0") == "1":
        # "hundred" of "one hundred" and "two hundred": "a hundred" is neither.
        with suppress(ValueError, RbnfError):
            twice = engine.format_number(2 * number).text
            once = engine.format_number(number).text
            while not twice.endswith(once):
                once = once[1:]
            forms.add(once)
    return frozenset(key for key in map(_letters, forms) if len(key) > 2 or not key.isascii())


@cache
def _load_rules(code: str) -> "RbnfEngine":
    from unicode_rbnf import RbnfEngine

    return RbnfEngine.for_language(code)


def _letters(text: str) -> str:
    return _NO_LETTERS.sub("", text).casefold()
