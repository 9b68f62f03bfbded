"""Scripts of languages as Unicode blocks, and detection of text in a foreign script."""

import re
from functools import cache

from nmt.corpus.language_id import language_codes
from nmt.corpus.languages import SCRIPT_LANGUAGES

_BLOCKS = {
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02b8\u0363-\u036f\u1d00-\u1dbf"
    "\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab6f\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    "Armenian": "\u0530-\u058f\ufb13-\ufb17",
    "Hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u0870-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "Syriac": "\u0700-\u074f",
    "Thaana": "\u0780-\u07bf",
    "Devanagari": "\u0900-\u097f\ua8e0-\ua8ff",
    "Bengali": "\u0980-\u09ff",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff",
    "Oriya": "\u0b00-\u0b7f",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Kannada": "\u0c80-\u0cff",
    "Malayalam": "\u0d00-\u0d7f",
    "Sinhala": "\u0d80-\u0dff",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Tibetan": "\u0f00-\u0fff",
    "Burmese": "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f",
    "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf\u2d00-\u2d2f",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff",
    "Ethiopic": "\u1200-\u139f\u2d80-\u2ddf\uab00-\uab2f",
    "Khmer": "\u1780-\u17ff\u19e0-\u19ff",
    "Kana": "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Han": "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff",
}
"""Characters of a script, as the inside of a class of a regular expression."""

_LETTERS = re.compile(r"[^\W\d_]")
_DENSE = re.compile("".join(["[", *(_BLOCKS[name] for name in ("Han", "Kana", "Hangul")), "]"]))
"""Letters that stand for about three letters of an alphabet."""


@cache
def _pattern(language: str) -> re.Pattern[str] | None:
    """Return the pattern of the letters of a language; None if its scripts are not known."""
    codes = language_codes(language)
    scripts = [name for name, listed in SCRIPT_LANGUAGES.items() if codes & set(listed.split())]
    if not scripts:
        return None
    return re.compile(f"[{''.join(_BLOCKS[name] for name in scripts)}]")


def is_foreign_script(text: str, language: str) -> bool:
    """Return True if most letters of a text are in a script that the language does not use."""
    pattern = _pattern(language)
    if pattern is None:
        return False
    # By far the most frequent case, at a tenth of the cost of counting.
    if (text.isascii() or max(text) < "\u0250") and pattern.match("a"):
        return False
    own = [c for c in pattern.findall(text) if c.isalpha()]
    num_foreign = len(_LETTERS.findall(text)) - len(own)
    # 我用 iPhone 12 Pro is Chinese.
    return num_foreign > len(own) + 2 * len(_DENSE.findall("".join(own)))
