"""Repairs of damaged text in a training corpus: wrong decoding, HTML entities, markup.

Unlike the normalisation in `text.py` they do not apply to text that is translated. A line that
needs no repair costs a few string searches.
"""

import html
import re

import ftfy
from ftfy.badness import is_bad

_SUSPECT = re.compile("[^\0-\x7f]{2}|[\u00c2\u00c3\u00e2] ")
"""Bytes of a character beyond ASCII become two or more; the second may have become a space."""
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TAG = (
    r"</?(?:a|abbr|b|big|blockquote|body|br|button|center|code|div|em|font|form|h[1-6]|head|hr|"
    r"html|i|img|input|label|li|link|meta|nobr|ol|option|p|pre|s|script|select|small|span|strike|"
    r"strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul)"
    r"(?:\s[^<>]*)?/?>"
)
"""HTML elements of text. Other names in angle brackets, such as <g id="1">, may be placeholders."""
_BLOCK = r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>"
"""Comments, and scripts with their text."""
_MARKUP = re.compile(f"{_BLOCK}|{_TAG}", re.IGNORECASE | re.DOTALL)
_MARKUP_WITHOUT_BLOCKS = re.compile(_TAG, re.IGNORECASE)
_BLOCK_END = re.compile(r"-->|</(?:script|style)\s*>", re.IGNORECASE)
MAX_UNESCAPED = 3
"""Times that entities are replaced: text of the web is often escaped twice."""


def repair_encoding(line: str) -> str:
    """Undo decoding with a wrong character set: `fÃ¼r` becomes `für`."""
    # Only the decoding: other steps of ftfy change quotes and ligatures of correct text.
    is_suspect = not line.isascii() and _SUSPECT.search(line) and is_bad(line)
    return ftfy.fix_encoding(line) if is_suspect else line


def unescape_entities(line: str) -> str:
    """Replace HTML entities by their characters, also where they were escaped twice."""
    for _ in range(MAX_UNESCAPED):
        # Not all that html.unescape knows: it also takes `&copy2` and a bare `&lt`.
        if "&" not in line or not _ENTITY.search(line):
            break
        line = _ENTITY.sub(lambda match: html.unescape(match[0]), line)
    # A line feed from `&#10;` would split the line.
    return line.replace("\n", " ").replace("\r", " ") if "\n" in line or "\r" in line else line


def strip_markup(line: str) -> str:
    """Remove HTML tags and comments; the text between them stays."""
    if "<" not in line:
        return line
    # No comment or script ends after `end`: each start of one would be searched to the end of the
    # line, in vain.
    end = max((match.end() for match in _BLOCK_END.finditer(line)), default=0)
    text = _MARKUP.sub(" ", line[:end]) + _MARKUP_WITHOUT_BLOCKS.sub(" ", line[end:])
    if text == line:
        return line
    # A space: `one<br>two` is two words. Runs of spaces are normalised later.
    return re.sub(" +", " ", text).strip(" ")
