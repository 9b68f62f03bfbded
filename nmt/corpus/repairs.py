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
_TAG = re.compile(
    r"</?(?:(?P<inline>a|abbr|b|big|code|em|font|i|nobr|s|small|span|strike|strong|sub|sup|tt|u)|"
    r"blockquote|body|br|button|center|div|form|h[1-6]|head|hr|html|img|input|label|li|link|meta|"
    r"ol|option|p|pre|script|select|style|table|tbody|td|tfoot|th|thead|title|tr|ul)"
    # Words without `=` are text between comparison signs (a<b or c>d), but for these.
    r"(?:\s[^<>=]*=[^<>]*|(?:\s+(?:async|autofocus|border|checked|compact|defer|disabled|download|"
    r"hidden|multiple|name|noshade|nowrap|readonly|required|selected))*"
    r"\s*/?)>",
    re.IGNORECASE,
)
"""HTML elements of text. Other names in angle brackets, such as <g id="1">, may be placeholders."""
_BLOCKS = [
    (re.compile(f"{start}.*?{end}", re.IGNORECASE | re.DOTALL), re.compile(end, re.IGNORECASE))
    for start, end in (
        ("<!--", "-->"),
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
    )
]
"""Patterns of comments, and of scripts with their text, each with that of its end."""
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
        line = _ENTITY.sub(_unescape, line)
    return line


def _unescape(match: re.Match[str]) -> str:
    # A line feed from `&#10;` would split the line.
    return re.sub("[\r\n]", " ", html.unescape(match[0]))


def strip_markup(line: str) -> str:
    """Remove HTML tags and comments; the text between them stays."""
    if "<" not in line:
        return line
    text = line
    for block, ending in _BLOCKS:
        # After the last end each start would be searched to the end of the line, in vain.
        end = max((match.end() for match in ending.finditer(text)), default=0)
        text = block.sub(" ", text[:end]) + text[end:]
    # `one<br>two` is two words, `<i>W</i>ord` is one.
    text = _TAG.sub(lambda match: "" if match["inline"] else " ", text)
    if text == line:
        return line
    return re.sub(" +", " ", text).strip(" ")
