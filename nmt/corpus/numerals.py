"""Comparison of the numbers on both sides of a pair.

Digits of every script are compared, whatever separates them: 1,500 is 1.500, 1 500 and 1.5
thousand, 6:30 is "6 Uhr 30", 25.8. has the day of "August 25th", and the 1990s are the 90s. Digits
between the units of Chinese, Japanese and Korean are one number: 1万2000 is 12,000. A year of the
Thai, Persian, Japanese or Minguo calendar is also that of the Gregorian one. A number can also be
spelled out on the other side, in the languages of Unicode CLDR.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from itertools import chain
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
_UNITS = {
    unit: value
    for units, value in (
        ("百백", 100), ("千천", 1000), ("万萬만", 10**4), ("億亿억", 10**8), ("兆조", 10**12)
    )
    for unit in units
}  # fmt: skip
_UNIT = f"[{''.join(_UNITS)}]"
# From the start of a number only: linear in a long run of digits.
_WITH_UNITS = re.compile(rf"(?<!\d)(?<!\d[.,])\d+(?:[.,]\d+)*(?:{_UNIT} ?(?:\d+(?:[.,]\d+)*)?)+")
_PART = re.compile(rf"(\d*)({_UNIT}?)")
_ERAS = {
    "明治": 1867,
    "大正": 1911,
    "昭和": 1925,
    "平成": 1988,
    "令和": 2018,
    "民國": 1911,
    "民国": 1911,
}
"""Gregorian year before the first one of an era."""
_ERA = re.compile(rf"({'|'.join(_ERAS)}) ?(\d{{1,3}})(?!\d)")
_THAI_LETTER = re.compile("[\u0e01-\u0e2e]")
_NO_LETTERS = re.compile(r"[\W_]+")

Reading = list[str]
"""Digits of a number: all of them, then those between its separators, if it has any."""
Years = dict[str, list[Reading]]
"""Gregorian years of a number, by its digits."""


def has_other_numbers(src: str, tgt: str, languages: Languages = ("", "")) -> bool:
    """Return True if both sides have a number of two or more digits that the other one lacks."""
    # Most pairs end here.
    if not (_DIGIT.search(src) and _DIGIT.search(tgt)):
        return False
    # One digit can be a word on the other side, and so can a number that is there alone.
    unmatched = _find_unmatched(src, tgt, languages)
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
    src_numbers, tgt_numbers = map(list, _find_unmatched(src, tgt, languages))
    return src_numbers, tgt_numbers


def _find_unmatched(
    src: str, tgt: str, languages: Languages
) -> tuple[Iterator[str], Iterator[str]]:
    numbers = _read_numbers(src), _read_numbers(tgt)
    years = _find_years(src, numbers[0], languages[0]), _find_years(tgt, numbers[1], languages[1])
    return (
        _find_unmatched_in(numbers[0], years[0], numbers[1], years[1], tgt, languages[1]),
        _find_unmatched_in(numbers[1], years[1], numbers[0], years[0], src, languages[0]),
    )


def _find_unmatched_in(
    own: list[Reading], own_years: Years, others: list[Reading], other_years: Years, text: str,
    language: str,
) -> Iterator[str]:  # fmt: skip
    """Yield the digits of numbers that neither `others` nor the words of `text` have."""
    others_of, letters = _Numbers([*others, *chain.from_iterable(other_years.values())]), ""
    for number in own:
        if others_of.has(number) or any(map(others_of.has, own_years.get(number[0], ()))):
            continue
        letters = letters or _letters(text)
        if not _is_spelled_out(number[0], letters, language):
            yield number[0]


def _find_years(text: str, readings: list[Reading], language: str) -> Years:
    """Return the Gregorian years of years in other calendars, by their digits."""
    if text.isascii():
        return {}
    years: Years = {
        str(int(number)): [[str(_ERAS[era] + int(number))]] for era, number in _ERA.findall(text)
    }
    is_thai, is_persian = bool(_THAI_LETTER.search(text)), table_code(language) == "fa"
    for number in (reading[0] for reading in readings if len(reading[0]) == 4):
        year = int(number)
        if is_thai and 2300 < year < 2700:
            years[number] = [[str(year - 543)]]
        elif is_persian and 1200 < year < 1500:
            # The Persian year starts in March.
            years[number] = [[str(year + 621)], [str(year + 622)]]
    return years


def _add_up(match: re.Match[str]) -> str:
    """Return the digits of a number with units, such as 12000 for 1万2000."""
    text = re.sub(r",(?=\d{3})| ", "", match[0])
    if "." in text or "," in text or len(text) >= MAX_DIGITS:
        # 1.5万 is compared as 15, like 1.5 million.
        return match[0]
    total = section = 0
    for digits, unit in _PART.findall(text):
        factor = _UNITS.get(unit, 1)
        if factor < 10**4:
            section += int(digits or bool(unit)) * factor
        else:
            total += ((section + int(digits or 0)) or 1) * factor
            section = 0
    return f"{total + section} "


def _read_numbers(text: str) -> list[Reading]:
    readings = []
    if not text.isascii():
        text = _WITH_UNITS.sub(_add_up, text)
    for number in _NUMBER.findall(text):
        # Digits of every script, as ASCII.
        parts = ["".join(str(int(digit)) for digit in part) for part in re.split(r"\D+", number)]
        if len(joined := "".join(parts)) < MAX_DIGITS:
            readings.append(list(dict.fromkeys([joined, *parts])))
    return readings


class _Numbers:
    """Numbers of a line; finding one of them takes a time that does not depend on how many."""

    def __init__(self, readings: list[Reading]) -> None:
        self._all = _DigitSet(digits for reading in readings for digits in reading)
        self._wholes = _DigitSet(reading[0] for reading in readings)
        self._dates = {tuple(sorted(map(int, reading[1:]))) for reading in readings}

    def has(self, number: Reading) -> bool:
        """Return True if one of the numbers is the same, perhaps in another form."""
        whole, *parts = number
        if self._all.has_same(whole):
            return True
        # Not parts in parts: "3.5 and 11.8" would have the 3.8 of the other side.
        is_split = parts and all(map(self._wholes.has_same, parts))
        # Dates: 25.8.2024 is 8/25/2024.
        return bool(is_split or (parts and tuple(sorted(map(int, parts))) in self._dates))


class _DigitSet:
    """Digits of numbers, compared without leading zeros."""

    def __init__(self, numbers: Iterable[str]) -> None:
        plain = {str(int(number)) for number in numbers}
        self._stripped = {number.rstrip("0") for number in plain}
        self._ends = {end for number in self._stripped for end in _ends(number)}
        self._decades = {number for number in plain if len(number) == 2}
        self._ends_of_years = {number[2:] for number in plain if len(number) == 4}
        self._times = {_time(number) for number in plain if len(number) <= 4}

    def has_same(self, digits: str) -> bool:
        """Return True for a number such as 1990s for 90s, 1.5 million for 1,500,000."""
        number = str(int(digits))
        stripped = number.rstrip("0")
        if stripped in self._stripped or stripped in self._ends:
            return True
        if any(end in self._stripped for end in _ends(stripped)):
            return True
        # Decades, with the zero.
        if number in self._ends_of_years or (len(number) == 4 and number[2:] in self._decades):
            return True
        # Clock times: 3:30 pm is 15:30, and 3:00 pm is 15.
        if len(number) > 4:
            return False
        hour, minute = _time(number)
        is_am = hour <= 12 and (hour + 12, minute) in self._times
        return is_am or (hour <= 24 and (hour - 12, minute) in self._times)


def _ends(digits: str) -> list[str]:
    """Return the last digits of a number, two or more of them but not all."""
    return [digits[start:] for start in range(1, len(digits) - 1)]


def _time(number: str) -> tuple[int, int]:
    """Return hour and minute of 1530 or 15."""
    return divmod(int(number), 100) if len(number) > 2 else (int(number), 0)


def _is_spelled_out(digits: str, letters: str, language: str) -> bool:
    """Return True if the letters of a line, as of `_letters`, have a number in words."""
    number = int(digits)
    if not language or number < 10:
        return False
    # 1880s: "achtziger Jahre".
    decade = (number % 100,) if len(digits) == 4 and number % 10 == 0 else ()
    return any(form in letters for each in (number, *decade) for form in _spell_out(each, language))


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
