"""Parts of a line that pass through untouched: tags, addresses, placeholders, numbers.

Tags are taken out (`tags`). Of addresses and placeholders each has a number in its place that the
line does not hold otherwise, for numbers are what models copy best; it must appear in the
translation (`constraints`), and what it stands for takes its place again, with a space beside it
only where the source had one. Numbers that stand alone stay as they are, and must appear.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from nmt.config.decoding import Protected
from nmt.decoding.tags import Links, Tag, put_back, take_out

_PATTERNS: dict[Protected, str] = {
    "urls": r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]'’”]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "placeholders": r"&#?\w+;|\$?\{\{?[^{}\s]*\}?\}|%\(\w+\)[a-z]|%(?:\d+\$)?[sdif@](?!\w)|__\w+__",
    "numbers": r"(?<!\S)[+-]?\d+(?:[.,:/]\d+)*(?!\w)",
}


@dataclass(frozen=True)
class Span:
    """One part."""

    text: str
    mask: str
    """The word that stands in for it; itself where it stays."""
    is_loose: tuple[bool, bool]
    """Whether a space stands before it, and after it; an end of the line counts as one."""


@dataclass(frozen=True)
class Masked:
    """A line with its parts masked."""

    text: str
    spans: tuple[Span, ...] = ()
    tags: tuple[Tag, ...] = ()

    @property
    def num_parts(self) -> int:
        """All that should pass through untouched."""
        return len(self.spans) + len(self.tags)

    def restored(self, translation: str, links: Links = ()) -> tuple[str, int]:
        """A translation with all parts in their places, and how many have none.

        Args:
            translation: of `text`.
            links: between words of the two, for the tags.
        """
        num_lost = 0
        translation = put_back(translation, self.tags, links)
        for span in self.spans:
            pattern = re.compile(rf"(?<!\w){re.escape(span.mask)}(?!\w)")
            if not pattern.search(translation):
                num_lost += 1
            elif span.mask != span.text:
                before, _, after = _cut(pattern, translation)
                # Said twice, it is there once.
                after = re.sub(rf" ?{pattern.pattern}", "", after)
                before = before if span.is_loose[0] else before.removesuffix(" ")
                after = after if span.is_loose[1] else after.removeprefix(" ")
                translation = f"{before}{span.text}{after}"
        return translation, num_lost


def mask(line: str, kinds: Collection[Protected]) -> Masked:
    """Put a word in the place of each part of these kinds."""
    if not kinds:
        return Masked(line)
    tags: tuple[Tag, ...] = ()
    if "tags" in kinds:
        line, tags = take_out(line)
    patterns = [f"(?P<{kind}>{pattern})" for kind, pattern in _PATTERNS.items() if kind in kinds]
    if not patterns:
        return Masked(line, tags=tags)
    text, spans, end = "", [], 0
    names = (name for name in map(_name, range(len(line) + 1)) if name not in line)
    for match in re.finditer("|".join(patterns), line):
        part = match[0]
        text += line[end : match.start()]
        is_loose = (text[-1:] in ("", " "), line[match.end() : match.end() + 1] in ("", " "))
        if match.lastgroup == "numbers":
            word = part
            text += part
        else:
            word = next(names)
            text += f"{'' if is_loose[0] else ' '}{word}{'' if is_loose[1] else ' '}"
        end = match.end()
        spans.append(Span(part, word, is_loose))
    return Masked(text + line[end:], tuple(spans), tags)


def _name(number: int) -> str:
    return str(23 + number)


def _cut(pattern: re.Pattern[str], text: str) -> tuple[str, str, str]:
    match = pattern.search(text)
    assert match
    return text[: match.start()], match[0], text[match.end() :]
