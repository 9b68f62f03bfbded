"""Rules that find failures of a translation by comparing it with its source, without references.

A rule compares a source and a translation. Applied to the reference, it shows its false alarms.
Letters and words are those of Unicode, a character of a script without spaces counts as a word, and
rules that need a list of words have a table of their languages. Numbers, copies, scripts and
languages are those of the cleaning rules (`nmt.corpus.rules`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nmt.corpus import numerals, rules
from nmt.corpus.language_id import language_codes
from nmt.corpus.languages import table_code
from nmt.corpus.pair_model import (
    LENGTH_LIMITS,
    MIN_MARKS,
    OPENING,
    TRUNCATED_LIMITS,
    LengthModel,
    ends_sentence,
    log_lengths,
)
from nmt.corpus.scripts import is_foreign_script
from nmt.corpus.text import UNSPACED

RULES = {
    "numbers": "a number is missing, invented or changed",
    "repetition": "a phrase is repeated that the source does not repeat",
    "untranslated": "source text, or another language, in the output",
    "empty": "no output",
    "truncated": "far too short for its source",
    "too_long": "far too long for its source",
    "single_words": "one word is copied, or became a sentence",
    "negation": "a negation is lost or invented",
    "names": "a name is lost or invented",
}
"""Names of the rules, and what they find."""
MIN_FIT = 100
"""Pairs from which on lengths are learnt from a test set, instead of one ratio."""
SPREAD = 0.35
"""Standard deviation of log lengths for smaller test sets."""
MAX_PHRASE = 30
"""Words of the longest phrase that is checked for repetition."""
MIN_COPIED_WORDS = 4
"""Words in a row of the source that are not translated."""
MAX_OF_ONE_WORD = 4
"""Words of the longest translation of one word."""
NAME_START = 3
"""Letters at the start that a name and its translation share: Mary and Maria."""

NEGATION = {
    "da": "ikke|ej|ingen|intet|ingenting|aldrig|uden|hverken|nej|ingensteds",
    "de": r"nicht(?! wahr\b)\w*|\w+los(?:e[mnrs]?)?|kein\w*|nie|niemals|nimmer|"
    r"niemand\w*|nirgend\w*|weder|ohne|nein",
    "en": r"no|not|never|nobody|nothing|none|nowhere|neither|nor|cannot|without|unless|\w{3,}less|"
    r"\w+n['’]t(?! (?:i|you|he|she|it|we|they)\?)",
    "es": r"no|nunca|jamás|nada|nadie|ning[uú]n\w*|sin|ni|tampoco",
    "fr": r"ne|n['’]\w*|pas|jamais|rien|aucun\w*|sans|non|ni|nul|nulle",
    "it": r"non|no|mai|niente|nulla|nessun\w*|senza|né|neanche|nemmeno|neppure",
    "nl": r"niet|niets|geen|nooit|niemand|nergens|zonder|noch|nee",
    "no": "ikke|ikkje|ingen|inga|intet|ingenting|aldri|uten|utan|verken|nei",
    "pl": r"nie|nigdy|nikt|nikogo|nikomu|nikim|nic|niczego|niczym|żaden|żadn\w*|bez|ani|nigdzie",
    "pt": r"não|nunca|jamais|nada|ninguém|nenhum\w*|sem|nem|tampouco",
    "ru": r"не|нет|ни|никогда|никто|никого|никому|никем|ничего|ничто|ничем|нигде|никак\w*|без|"
    r"нельзя|невозможно",
    "sv": "inte|ej|icke|ingen|inget|inga|ingenting|aldrig|utan|varken|nej|ingenstans",
    "uk": r"не|ні|ніколи|ніхто|нікого|нікому|ніщо|нічого|ніде|жод\w+|без|немає|нема|неможливо",
}
"""Words that negate, as the inside of a group, by language; tag questions do not count."""
NOT_NAMES = {
    "da": "", "es": "", "fr": "", "it": "", "nl": "", "no": "", "pl": "", "pt": "", "sv": "",
    "en": r"i['’]\w+|(?:mon|tues|wednes|thurs|fri|satur|sun)days?|january|february|march|april|"
    r"may|june|july|august|september|october|november|december|christmas|easter|god|lord|mr|mrs|ms|dr|miss|"
    r"sir|tv|internet|german\w*|french\w*|dutch|greek\w*|swiss|spain|\w+(?:ish|ese|ians?|icans?)",
}  # fmt: skip
"""Languages that capitalise names and few other words; capitalised words that are not names."""

_STUTTER = re.compile(r"([^\W\d_]{2,10})\1{3}")
_HAS_DIGIT = re.compile(r"\d")
_WORD_LIKE = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def split_units(text: str) -> list[str]:
    """Return the words of a text without case and punctuation.

    A character of a script without spaces is a word of its own.
    """
    units = []
    for token in text.casefold().split():
        kept = "".join(c for c in token if c.isalnum() or unicodedata.category(c)[0] == "M")
        if UNSPACED.search(kept):
            units += list(kept)
        elif kept:
            units.append(kept)
    return units


@dataclass(frozen=True)
class FailureRules:
    """Rules for one test set."""

    languages: tuple[str, str]
    """Source and target language."""
    lengths: LengthModel
    has_marks: bool
    """True if both languages end sentences with marks."""

    @classmethod
    def fit(
        cls, src: Sequence[str], refs: Sequence[str], languages: tuple[str, str]
    ) -> "FailureRules":
        """Learn lengths from a test set and its references."""
        pairs = [pair for pair in zip(src, refs, strict=True) if all(map(split_units, pair))]
        if len(pairs) < MIN_FIT:
            sizes = [sum(map(len, side)) for side in zip(*pairs, strict=True)] or [1, 1]
            lengths = LengthModel([0.0, 1.0, float(np.log(sizes[1] / sizes[0]))], [], [SPREAD])
        else:
            lengths = LengthModel.fit(*map(log_lengths, zip(*pairs, strict=True)))
        marks = [[ends_sentence(text) for text in pair] for pair in pairs]
        both = sum(all(pair) for pair in marks)
        return cls(languages, lengths, both > MIN_MARKS * sum(any(pair) for pair in marks))

    def left_out(self) -> Iterator[str]:
        """Yield a line for each rule that does not apply to the languages."""
        if self._are_alike:
            yield f"untranslated: {' and '.join(self.languages)} are written alike"
        for name, table, rule in (
            ("negation", NEGATION, all),
            ("names", NOT_NAMES, any),
        ):
            if not rule(code in table for code in self._codes):
                missing = [code or "?" for code in self._codes if code not in table]
                known = ", ".join(table)
                yield f"{name}: no rule for {' and '.join(missing)} (there is for {known})"

    def judge(self, src: str, tgt: str) -> dict[str, bool]:
        """Return the rules that apply to a pair; True if the translation fails."""
        src_units, tgt_units = split_units(src), split_units(tgt)
        # Without words there is nothing to translate.
        if not src_units:
            return {}
        found: dict[str, bool | None] = {"empty": not tgt_units}
        if tgt_units:
            is_one_word = _is_one_word(src, src_units)
            found |= {
                "numbers": find_numbers(src, tgt, self.languages),
                "repetition": is_repetitive(tgt, tgt_units) and not is_repetitive(src, src_units),
                "negation": self._find_negation(src, tgt),
                "names": self._find_names(src, tgt),
            }
            if is_one_word:
                found["single_words"] = self._is_wrong_word(src, tgt, tgt_units)
            else:
                found |= self._find_lengths(src, tgt)
                if not self._are_alike:
                    found["untranslated"] = self._is_untranslated(src, tgt, src_units, tgt_units)
        return {name: failed for name, failed in found.items() if failed is not None}

    @property
    def _codes(self) -> tuple[str, str]:
        # The words of Nynorsk are in the entries of Norwegian.
        src, tgt = ("no" if code == "nn" else code for code in map(table_code, self.languages))
        return src, tgt

    @property
    def _are_alike(self) -> bool:
        """True for languages that cannot be told apart."""
        codes = [language_codes(language) for language in self.languages]
        return bool(codes[0] & codes[1])

    def _find_lengths(self, src: str, tgt: str) -> dict[str, bool]:
        [deviation] = self.lengths.deviations(log_lengths([src]), log_lengths([tgt]))
        low, high = LENGTH_LIMITS
        lacks_mark = self.has_marks and ends_sentence(src) and not ends_sentence(tgt)
        is_short = bool(deviation < (TRUNCATED_LIMITS[0] if lacks_mark else low))
        return {"truncated": is_short, "too_long": bool(deviation > high)}

    def _is_untranslated(
        self, src: str, tgt: str, src_units: Sequence[str], tgt_units: Sequence[str]
    ) -> bool:
        return (
            rules.near_key(src) == rules.near_key(tgt)
            or rules.is_near_copy(src, tgt)
            or _is_foreign(tgt, self.languages[1])
            or _shares_run(src_units, tgt_units)
        )

    def _is_wrong_word(self, src: str, tgt: str, tgt_units: Sequence[str]) -> bool:
        if rules.near_key(src) == rules.near_key(tgt) or _is_foreign(tgt, self.languages[1]):
            return True
        # Two or three characters of a script without spaces make a word.
        size = 3 if UNSPACED.search(tgt) else 1
        return len(tgt_units) > size * MAX_OF_ONE_WORD

    def _find_negation(self, src: str, tgt: str) -> bool | None:
        if not all(code in NEGATION for code in self._codes):
            return None
        found = [
            bool(re.search(rf"(?<!\w)(?:{NEGATION[code]})(?!\w)", text, re.IGNORECASE))
            for code, text in zip(self._codes, (src, tgt), strict=True)
        ]
        return found[0] != found[1] if any(found) else None

    def _find_names(self, src: str, tgt: str) -> bool | None:
        sides = (src, tgt), (tgt, src)
        # A name in another script is spelt anew.
        if not all(map(_is_latin, (src, tgt))):
            return None
        found = [
            (list(_names(text, NOT_NAMES[code])), {_start(word) for word in _words(other)})
            for code, (text, other) in zip(self._codes, sides, strict=True)
            if code in NOT_NAMES
        ]
        if not any(names for names, _ in found):
            return None
        return any(_start(name) not in starts for names, starts in found for name in names)


def find_numbers(src: str, tgt: str, languages: tuple[str, str]) -> bool | None:
    """Return True if the numbers of two texts differ; None if neither has any."""
    if not (_HAS_DIGIT.search(src) or _HAS_DIGIT.search(tgt)):
        return None
    unmatched = numerals.unmatched_numbers(src, tgt, languages)
    if all(unmatched):
        return True
    # A number on one side only can be a word on the other, in a form that is not known, or Chinese.
    return any(
        int(number) > 12 and not re.fullmatch(r"\d0*", number) and not _has_numeral(other)
        for own, other in zip(unmatched, (tgt, src), strict=True)
        for number in own
    )


def is_repetitive(text: str, units: Sequence[str]) -> bool:
    """Return True if a phrase follows itself more often than language allows.

    Two words twice, or one word three times; in scripts without spaces four characters twice, two
    three times, or one five times.
    """
    if rules.REPETITION.search(text) or _STUTTER.search(text):
        return True
    for size in range(1, min(MAX_PHRASE, len(units) // 2) + 1):
        run = 0
        for at in range(len(units) - size):
            run = run + 1 if units[at] == units[at + size] else 0
            if run and run % size == 0:
                phrase = units[at + 1 : at + 1 + size]
                if run // size + 1 >= _allowed_times(phrase) and any(map(_has_letter, phrase)):
                    return True
    return False


def _allowed_times(phrase: Sequence[str]) -> int:
    """Return the times in a row from which on a phrase is a failure."""
    if any(UNSPACED.fullmatch(unit) for unit in phrase):
        return 5 if len(phrase) == 1 else 3 if len(phrase) < 4 else 2
    return 3 if len(phrase) == 1 else 2


def _has_letter(unit: str) -> bool:
    return any(map(str.isalpha, unit))


def _has_numeral(text: str) -> bool:
    """Return True for numerals other than decimal digits: Chinese, Roman or a fraction."""
    return any(unicodedata.numeric(each, None) is not None for each in text if not each.isdecimal())


def _is_foreign(text: str, language: str) -> bool:
    return is_foreign_script(text, language) or rules.is_foreign(text, language, rules.MIN_OWN[1])


def _shares_run(src: Sequence[str], tgt: Sequence[str]) -> bool:
    """Return True if both texts have a run of words in common; characters are no words."""
    runs = [
        {
            tuple(units[at : at + MIN_COPIED_WORDS])
            for at in range(len(units) - MIN_COPIED_WORDS + 1)
            if not any(map(UNSPACED.fullmatch, units[at : at + MIN_COPIED_WORDS]))
        }
        for units in (src, tgt)
    ]
    return any(any(map(_has_letter, run)) for run in runs[0] & runs[1])


def _is_one_word(text: str, units: Sequence[str]) -> bool:
    if UNSPACED.search(text):
        return len(units) <= 3 and len(text.split()) == 1
    return len(units) == 1 and _has_letter(units[0])


def _is_latin(text: str) -> bool:
    letters = [each for each in text if each.isalpha()]
    return sum(each < "\u0250" for each in letters) > len(letters) // 2


def _words(text: str) -> list[str]:
    return [match[0] for match in _WORD_LIKE.finditer(text)]


def _names(text: str, excluded: str) -> Iterator[str]:
    """Yield words with a capital and small letters inside a sentence."""
    for match in _WORD_LIKE.finditer(text):
        before = text[: match.start()].rstrip(OPENING)
        is_first = not before or ends_sentence(before) or before.endswith((":", ";"))
        word = re.sub("['’]s$", "", match[0])
        is_name = word[:1].isupper() and len(word) > 2 and not word.isupper()
        if is_name and not is_first and not (excluded and re.fullmatch(excluded, word.casefold())):
            yield word


def _start(word: str) -> str:
    """Return the first letters of a word without case and accents."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(each for each in letters if each.isalpha())[:NAME_START]
