"""Inline tags: taken out of a line before translating, and put back where the attention says.

A pair of tags goes around the target words that look at the source words between them; a tag alone
goes before the first target word that looks at the source word behind it. A model never sees a tag,
so that none can disturb it, be lost or be said twice. Tags that divide text, such as <br>, divide
words too; others may stand inside one, and come back beside it.

Parts of a line that pass through untouched: tags, addresses, placeholders, numbers.

Tags are taken out (`tags`). Of addresses and placeholders each has a number in its place that the
line does not hold otherwise, for numbers are what models copy best; it must appear in the
translation (`constraints`), and what it stands for takes its place again, with a space beside it
only where the source had one. Numbers that stand alone stay as they are, and must appear.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nmt.config.decoding import Protected

Links = Sequence[tuple[int, int]]
"""Source word and target word, from 0."""

_TAG = re.compile(r"<(?P<close>/?)(?P<name>[A-Za-z][\w:-]*)[^<>]*?(?P<alone>/?)>|<!--.*?-->")
_DIVIDING = (
    "br", "p", "div", "li", "ul", "ol", "table", "tr", "td", "th", "hr", "h1", "h2", "h3", "h4",
    "h5", "h6", "seg",
)  # fmt: skip
_STOPS = re.compile(r"[.,;:!?…]+\Z")


@dataclass(frozen=True)
class Tag:
    """One tag of a line."""

    text: str
    word: int
    """The word that it stands before, of the line without tags."""
    is_loose: tuple[bool, bool]
    """Whether a space stands before it, and after it."""
    name: str
    kind: str
    """open, close or alone."""


def take_out(line: str) -> tuple[str, tuple[Tag, ...]]:
    """A line without its tags, and the tags."""
    text, tags, end = "", [], 0
    for match in _TAG.finditer(line):
        text += line[end : match.start()]
        end = match.end()
        name = (match["name"] or "").lower()
        kind = "close" if match["close"] else "open"
        kind = "alone" if match["alone"] or not name else kind
        is_loose = (line[: match.start()][-1:] in ("", " "), line[end : end + 1] in ("", " "))
        if name in _DIVIDING:
            text += " "
        tags.append(Tag(match[0], len(text.split()), is_loose, name, kind))
    return " ".join((text + line[end:]).split()) if tags else line, tuple(tags)


def put_back(text: str, tags: Sequence[Tag], links: Links) -> str:
    """A translation with the tags of its source.

    Args:
        text: words parted by spaces.
        tags: of the source, in order.
        links: between words of the source without tags and those of the text.
    """
    if not tags:
        return text
    words = text.split()
    behind: dict[int, list[Tag]] = defaultdict(list)  # after the word before this place
    before: dict[int, list[Tag]] = defaultdict(list)
    partner_of = _pairs(tags)
    for number, tag in enumerate(tags):
        if number in partner_of:
            first, last = sorted((number, partner_of[number]))
            span = range(tags[first].word, tags[last].word)
            around = [tgt for src, tgt in links if src in span]
            if around and number == first:
                before[min(around)].append(tag)
                continue
            if around:
                behind[max(around) + 1].append(tag)
                continue
        before[_place(tag.word, links, len(words))].append(tag)
    said = ""
    for place in range(len(words) + 1):
        for tag in behind[place]:
            stops = "" if tag.is_loose[1] else "".join(_STOPS.findall(said))
            said = said.removesuffix(stops)
            said += f"{' ' if tag.is_loose[0] and said else ''}{tag.text}{stops}"
        gap = " " if said else ""
        for tag in before[place]:
            said += f"{gap if tag.is_loose[0] or tag.kind == 'open' else ''}{tag.text}"
            gap = " " if tag.is_loose[1] else ""
        if place < len(words):
            said += gap + words[place]
    return said


def _pairs(tags: Sequence[Tag]) -> dict[int, int]:
    """The tags that open and close the same, each with the other."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for number, tag in enumerate(tags):
        if tag.kind == "open":
            opened.append(number)
        elif tag.kind == "close":
            for at in reversed(range(len(opened))):
                if tags[opened[at]].name == tag.name:
                    pairs[opened[at]], pairs[number] = number, opened[at]
                    del opened[at:]
                    break
    return pairs


def _place(word: int, links: Links, num_words: int) -> int:
    """The target word that a tag before a source word stands before."""
    exact = [tgt for src, tgt in links if src == word]
    later = [tgt for src, tgt in links if src > word]
    return min(exact or later, default=num_words)


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
