"""Noise in source text, as users type it: letter case, punctuation, accents, misspelt words.

Training on noisy sources makes a model robust to them; targets stay as they are. Test sets with one
kind of noise measure the robustness (`nmt.evaluation.robustness`). The noise of a pair is a pure
function of (seed, epoch, row), whichever worker draws it.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import CleaningConfig, NoiseConfig
from nmt.corpus.shards import Rows
from nmt.corpus.subword import Subword
from nmt.corpus.subword_sampling import Pair
from nmt.corpus.text import END_MARKS, change_case, fold_case, normalise

MAX_GROWTH = 1.5
"""Longest source of a micro-batch, as a multiple of that without noise; longer sources are trained
on in parts of their own. Parts cost more than padding: with `training.robust` on Multi30k, in bf16,
the CPU time of an update was 1.31 times that without noise where no source could grow, 1.19 with a
limit of 1.25, 1.13 with 1.5, and 1.12 without a limit."""
MIN_LETTERS = 4
"""Letters of the shortest word that is misspelt."""
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_FINAL = re.compile(rf"[\s{END_MARKS},;:\u060c\u061b\u3001\uff0c\uff1a\uff1b]")
"""Punctuation and space at the end of a line, of all scripts."""
_OPENING_QUOTE = re.compile(r'(^|[\s(\[])"')
_ACCENTS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
"""Combining accents, as in text that is not normalised to NFC."""
_STROKES = str.maketrans("đĐłŁøØħĦŧŦı", "dDlLoOhHtTi")
"""Latin letters that Unicode does not divide into a letter and an accent."""
_WORD_KINDS = (
    "typos", "dropped_letters", "doubled_letters", "swapped_letters", "split_words"
)  # fmt: skip
"""Kinds of which a word has one at most; functions in _CHANGES."""


def _neighbours() -> dict[str, str]:
    """Return the letters beside each letter on a keyboard."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_KEYBOARD):
        for column, key in enumerate(keys):
            near = keys[max(0, column - 1) : column] + keys[column + 1 : column + 2]
            for other in (row - 1, row + 1):
                if 0 <= other < len(_KEYBOARD):
                    near += _KEYBOARD[other][column : column + 1]
            found[key], found[key.upper()] = near, near.upper()
    return found


_NEIGHBOURS = _neighbours()


def press_neighbour(word: str, at: int, rng: random.Random) -> str:
    """Replace a letter by one beside it on the keyboard; letters of other scripts stay."""
    near = _NEIGHBOURS.get(word[at])
    return word[:at] + rng.choice(near) + word[at + 1 :] if near else word


_CHANGES: dict[str, Callable[[str, int, random.Random], str]] = {
    "typos": press_neighbour,
    "dropped_letters": lambda word, at, rng: word[:at] + word[at + 1 :],
    "doubled_letters": lambda word, at, rng: word[: at + 1] + word[at:],
    "swapped_letters": lambda word, at, rng: word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
    "split_words": lambda word, at, rng: f"{word[: at + 1]} {word[at + 1 :]}",
}
"""Functions from a word, the index of a letter followed by another, and random numbers."""


def add_noise(line: str, rates: NoiseConfig, rng: random.Random) -> str:
    """Return a line with noise; each kind is drawn by its rate."""
    line = _misspell(line, rates, rng)
    # One draw per kind, whether it changes the line or not: rates do not affect each other.
    draws = {kind: rng.random() for kind in ("accents", "final_punctuation", "typography", "case")}
    if draws["accents"] < rates.accents:
        line = remove_accents(line)
    if draws["final_punctuation"] < rates.final_punctuation:
        line = remove_final_punctuation(line) or line
    if draws["typography"] < rates.typography:
        line = use_typography(line)
    if draws["case"] < rates.upper_case:
        return change_case(line, "upper")
    if draws["case"] < rates.upper_case + rates.title_case:
        return change_case(line, "title")
    return line


def remove_final_punctuation(line: str) -> str:
    """Remove punctuation and spaces from the end of a line."""
    end = len(line)
    while end and _FINAL.match(line, end - 1):
        end -= 1
    return line[:end]


def remove_accents(line: str) -> str:
    """Remove accents from Latin letters; marks of other scripts are letters of their own."""
    if line.isascii():
        return line
    plain = "".join(_plain(each) if not each.isascii() else each for each in line)
    return _ACCENTS.sub("", plain).translate(_STROKES)


def use_typography(line: str) -> str:
    """Replace quotes, apostrophes, dashes, dots and spaces after numbers by typographic ones."""
    line = _OPENING_QUOTE.sub("\\1\u201c", line).replace('"', "\u201d").replace("'", "\u2019")
    line = line.replace(" - ", " \u2013 ").replace("...", "\u2026")
    return re.sub(r"(?<=\d) (?=\w)", "\u00a0", line)


class SourceNoise:
    """Noise of the source tokens of a prepared corpus."""

    def __init__(
        self, subword: Subword, corpora: npt.NDArray[np.int32], rates: Sequence[NoiseConfig],
        tags: Sequence[int], cleaning: CleaningConfig, seed: int, marks_case: bool = False,
    ) -> None:  # fmt: skip
        """Create the noise of a run.

        Args:
            subword: the vocabulary.
            corpora: number of each row's corpus.
            rates: rates of each corpus.
            tags: tag of each corpus; 0: none.
            cleaning: cleaning rules: noisy text is normalised like text to translate.
            seed: seed of the run.
            marks_case: encode lines in upper or title case as a mark and lower case.
        """
        self._subword, self._corpora, self._rates = subword, corpora, rates
        self._tags, self._cleaning, self._seed = tags, cleaning, seed
        self._marks_case = marks_case

    def apply(self, pairs: Sequence[Pair], rows: Rows, epoch: int, max_length: int) -> list[Pair]:
        """Return pairs with the sources of one epoch.

        Args:
            pairs: token ids of source and target, without BOS and EOS.
            rows: row of each pair in the corpus.
            epoch: the epoch.
            max_length: tokens of the longest source; a longer one stays without noise.
        """
        noisy, changed, lines = list(pairs), [], []
        for n, row in enumerate(np.asarray(rows).tolist()):
            corpus = int(self._corpora[row])
            rates = self._rates[corpus]
            if not (rates.is_on or self._marks_case):
                continue
            # A tag is a token before the text.
            tokens = pairs[n][0][bool(self._tags[corpus]) :]
            clean = self._subword.decode(tokens)
            # A text as seed is hashed with SHA-512: the same numbers in every process.
            line = add_noise(clean, rates, random.Random(f"{self._seed} {epoch} {row}"))
            line = normalise(line, self._cleaning)
            is_marked = self._marks_case and fold_case(line)[0] != "as_is"
            if line and (line != clean or is_marked):
                changed.append(n)
                lines.append(line)
        encoded = self._subword.encode_sources(lines, self._marks_case)
        for n, ids in zip(changed, encoded, strict=True):
            src, tgt = pairs[n]
            num_tags = bool(self._tags[int(self._corpora[rows[n]])])
            if num_tags + len(ids) <= max_length:
                noisy[n] = [*map(int, src[:num_tags]), *ids], tgt
        return noisy


def _misspell(line: str, rates: NoiseConfig, rng: random.Random) -> str:
    limits = [getattr(rates, kind) for kind in _WORD_KINDS]
    if not (any(limits) or rates.merged_words):
        return line
    words = line.split(" ")
    for number, word in enumerate(words):
        draw, place = rng.random(), rng.random()
        # Between two letters; digits, hyphens and single letters stay.
        places = [n for n in range(len(word) - 1) if word[n : n + 2].isalpha()]
        if sum(map(str.isalpha, word)) < MIN_LETTERS or not places:
            continue
        for kind, limit in zip(_WORD_KINDS, limits, strict=True):
            if draw < limit:
                words[number] = _CHANGES[kind](word, places[int(place * len(places))], rng)
                break
            draw -= limit
    parts = [words[0]]
    for word in words[1:]:
        parts += [word] if rng.random() < rates.merged_words else [" ", word]
    return "".join(parts)


def _plain(character: str) -> str:
    base = unicodedata.normalize("NFD", character)[0]
    return base if base.isascii() and base.isalpha() else character
