"""Protected spans of a line: inline tags, addresses, placeholders and numbers pass unchanged.

Tags are removed before translating, so that the model can neither change nor lose them, and
inserted again by the attention: a pair of tags encloses the target words that attend to the source
words between them; a single tag precedes the first target word that attends to the source word
after it. Tags that divide text, such as `<br>`, divide words too; others may be inside a word, and
return beside it.

Addresses and placeholders are replaced by masks: numbers that do not occur in the line, because
models copy numbers most reliably. A mask must appear in the translation
(`nmt.decoding.constraints`), and its span takes its place again, with a space beside it only where
the source had one. Numbers stay as they are, and must appear. A line of tags and spans only is
copied.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from nmt.config.decoding import Protected
from nmt.corpus.text import UNSPACED, is_whole_word

Links = Sequence[tuple[int, int]]
"""Word alignment: pairs of (source word, target word), from 0."""

# All patterns take linear time: limits, possessive quantifiers and a fixed start keep a line of
# many openings without an end from being searched again and again.
# An attribute without a value is one of HTML's: "a<b and c>d" has no tag.
_ATTRIBUTE = (
    r"""\s+(?:[^\s"'<>/=]+\s*=\s*(?:"[^"]*"|'[^']*'|\{\{[^{}]*\}\}|[^\s"'<>=]+?)|"""
    r"(?:allowfullscreen|async|autofocus|autoplay|checked|controls|default|defer|disabled|hidden|"
    r"ismap|loop|multiple|muted|novalidate|open|readonly|required|reversed|selected)(?![^\s/>]))"
)
_TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>[A-Za-z][\w:.-]*)(?:{_ATTRIBUTE})*\s*(?P<alone>/?)>|"
    r"<!--.{0,1000}?-->"
)
_DIVIDING = re.compile(r"br|p|div|li|ul|ol|table|t[rdh]|hr|h[1-6]|seg")
_PUNCTUATION = ".,;:!?…"
_CONVERSION = r"(?:hh?|ll?|[Lqjzt])?[diouxXeEfFgGaAcsSrpn@]"
_PLACEHOLDERS = (
    r"&#?\w+;",
    # {{ user.name }}, {% if %}
    r"\{\{\{?[^{}]*\}?\}\}|\{%.{0,1000}?%\}",
    # ICU: {count, plural, one {# dog} other {# dogs}}
    r"\{\s*\w+\s*,\s*\w+\s*(?:,(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\})*+)?\}",
    # {name}, ${name}, #{name}, %{name}
    r"[$#%]?\{[^{}\s]*\}",
    # %(name)s, %(size).1f
    rf"%\([^()\s]+\)[-+0#]*+\d*+(?:\.\d+)?{_CONVERSION}",
    # %count%
    r"(?<!\d)(?<!\d )%[A-Za-z_]\w+%(?!\w)",
    # %.2f, %1$s; after a number, % is a percent sign where a word follows: 100 %d'accord
    r"(?:(?<!\d)(?<!\d )|(?!%\w+['’]\w))"
    rf"(?:%(?:\d+\$)?[-+0#]*+(?:\d++|\*)?(?:\.(?:\d+|\*))?{_CONVERSION}(?!\w)|%%(?!\w))",
    r"(?<![\w$])\$[A-Za-z_]\w*",
    r"__\w+__",
)
_PATTERNS: dict[Protected, str] = {
    "urls": r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]'’”]"
    r"|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "placeholders": "|".join(_PLACEHOLDERS),
    "numbers": rf"(?:(?<!\S)|(?<={UNSPACED.pattern}))[+-]?\d+(?:[.,:/]\d+)*"
    rf"(?:(?!\w)|(?={UNSPACED.pattern}))",
}
LETTER = "\u05d0"
"""Letter without upper case, of a script with spaces."""
_FIRST_MASK = 23
"""Smallest number that serves as a mask."""


@dataclass(frozen=True)
class Tag:
    """Inline tag of a line."""

    text: str
    word: int
    """Index of the word that it precedes, in the line without tags."""
    has_space_before: bool
    """True if a space precedes it; also at the start of the line."""
    has_space_after: bool
    """True if a space follows it; also at the end of the line."""
    name: str
    kind: str
    """`open`, `close` or `alone`."""
    position: int
    """Character that it precedes, in the line without tags."""


@dataclass(frozen=True)
class ProtectedSpan:
    """Address, placeholder or number of a line."""

    text: str
    mask: str
    """Word that replaces it; its own text if it stays."""
    has_space_before: bool
    """True if a space precedes it; also at the start of the line."""
    has_space_after: bool
    """True if a space follows it; also at the end of the line."""


@dataclass(frozen=True)
class MaskedLine:
    """Line without tags and with masks in place of protected spans."""

    text: str
    spans: tuple[ProtectedSpan, ...] = ()
    tags: tuple[Tag, ...] = ()

    @property
    def num_protected(self) -> int:
        """Number of spans and tags."""
        return len(self.spans) + len(self.tags)

    @property
    def has_text(self) -> bool:
        """True if there is anything to translate besides spans and tags."""
        masks = {span.mask for span in self.spans}
        return any(word not in masks for word in self.text.split())

    def restore(self, translation: str, links: Links = ()) -> tuple[str, int]:
        """Restore tags and spans in a translation.

        Args:
            translation: translation of `text`.
            links: word alignment between the two; places the tags.

        Returns:
            The restored translation, and the number of spans whose mask it lacks.
        """
        num_lost = sum(not _find_masks(translation, span.mask) for span in self.spans)
        translation = insert_tags(translation, self.tags, links)
        return _unmask(translation, [s for s in self.spans if s.mask != s.text]), num_lost


def mask_line(
    line: str, kinds: Collection[Protected], constraints: Iterable[str] = ()
) -> MaskedLine:
    """Remove the tags of a line and replace its spans of these kinds by masks.

    No mask occurs in the line or in its constraints: it would be taken for a number of theirs.
    """
    if not kinds:
        return MaskedLine(line)
    tags: tuple[Tag, ...] = ()
    masks = _unused_numbers(" ".join([line, *constraints]))
    if "tags" in kinds:
        line, tags = extract_tags(line)
    text, spans, end = "", [], 0
    places = [(0, 0)]  # of start and end of each span in the line, and of its mask in the text
    for match in re.finditer(_span_pattern(kinds), line):
        text += line[end : match.start()]
        end = match.end()
        has_space = _has_spaces_around(line, match)
        if match.lastgroup == "numbers":
            mask = match[0]
            text += mask
        else:
            mask = next(masks)
            # A mask is a word of its own, whatever the span is attached to.
            text += "" if text[-1:] in ("", " ") else " "
            places.append((match.start(), len(text)))
            text += f"{mask}{'' if has_space[1] else ' '}"
            places.append((end, len(text)))
        spans.append(ProtectedSpan(match[0], mask, *has_space))
    text += line[end:]
    return MaskedLine(text, tuple(spans), _recount_words(tags, places, text))


def _recount_words(
    tags: tuple[Tag, ...], places: Sequence[tuple[int, int]], text: str
) -> tuple[Tag, ...]:
    """Return tags whose words are counted in a text with masks, of which spans may have others.

    `places` has positions in the line without tags and in the text, two for each mask.
    """
    if len(places) == 1:
        return tags
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    recounted = []
    for tag in tags:
        number = bisect_right(places, (tag.position, math.inf)) - 1
        start, place = places[number]
        # A tag inside a span follows its mask.
        is_inside = number % 2 == 1 and tag.position > start
        place = places[number + 1][1] if is_inside else place + tag.position - start
        recounted.append(replace(tag, word=bisect_left(starts, place)))
    return tuple(recounted)


def hide_spans(line: str, kinds: Collection[Protected]) -> str:
    """Return a line of the same length with letters in place of the spans of these kinds.

    No sentence ends inside a span, and no text should be cut there.
    """

    def hide(match: re.Match[str]) -> str:
        # "7." after a word may be an ordinal number, and no end of a sentence.
        return LETTER * len(match[0]) if len(match[0]) > 2 else match[0]

    line = _TAG.sub(hide, line) if "tags" in kinds else line
    return re.sub(_span_pattern(kinds), hide, line)


def _span_pattern(kinds: Collection[Protected]) -> str:
    patterns = [f"(?P<{kind}>{pattern})" for kind, pattern in _PATTERNS.items() if kind in kinds]
    return "|".join(patterns) or "(?!)"


def _unused_numbers(line: str) -> Iterator[str]:
    """Yield numbers that are not part of a line; nor of its tags, which return before the masks."""
    taken: set[str] = set()
    for run in re.findall(r"\d+", line):
        # No mask has more digits: there are at most as many masks as characters.
        for size in range(1, 1 + len(str(_FIRST_MASK + len(line)))):
            taken.update(run[start : start + size] for start in range(len(run) - size + 1))
    return (number for number in map(str, count(_FIRST_MASK)) if number not in taken)


def extract_tags(line: str) -> tuple[str, tuple[Tag, ...]]:
    """Return a line without its tags, and the tags."""
    parts: list[str] = []
    tags, end, word, is_inside, position = [], 0, 0, False, 0
    for match in _TAG.finditer(line):
        parts.append(line[end : match.start()])
        end = match.end()
        name = (match["name"] or "").lower()
        kind = "close" if match["close"] else "open"
        kind = "alone" if match["alone"] or not name else kind
        # "one<br>two" is two words.
        if _DIVIDING.fullmatch(name):
            parts[-1] += " "
        if text := parts[-1]:
            # A word that continues after a tag is counted once.
            words = text.split()
            word += len(words) - (is_inside and not text[0].isspace())
            # A space between words is one character, and counted with the text before it.
            position += len(" ".join(words)) + (is_inside and text[0].isspace())
            position += bool(words) and text[-1].isspace()
            is_inside = not text[-1].isspace()
        spaces = _has_spaces_around(line, match)
        tags.append(Tag(match[0], word, *spaces, name, kind, position))
    return " ".join(("".join(parts) + line[end:]).split()) if tags else line, tuple(tags)


def insert_tags(text: str, tags: Sequence[Tag], links: Links) -> str:
    """Insert the tags of a source line into its translation.

    Args:
        text: translation, words separated by spaces.
        tags: tags of the source, in order.
        links: word alignment between the source without tags and `text`.
    """
    if not tags:
        return text
    words = text.split()
    before, after = _place_tags(tags, links, len(words))
    output = ""
    for place in range(len(words) + 1):
        for tag in after[place]:
            # A closing tag goes before the punctuation of its last word, as in the source.
            stops = "" if tag.has_space_after else output[len(output.rstrip(_PUNCTUATION)) :]
            output = output.removesuffix(stops)
            output += f"{' ' if tag.has_space_before and output else ''}{tag.text}{stops}"
        gap = " " if output else ""
        # Tags before a word share one gap: an opening tag is separated from the word before it.
        for tag in before[place]:
            output += f"{gap if tag.has_space_before or tag.kind == 'open' else ''}{tag.text}"
            gap = " " if tag.has_space_after else ""
        if place < len(words):
            output += gap + words[place]
    return output


def _place_tags(
    tags: Sequence[Tag], links: Links, num_words: int
) -> tuple[dict[int, list[Tag]], dict[int, list[Tag]]]:
    """Return the tags before each target word, and those after the word before it."""
    before: dict[int, list[Tag]] = defaultdict(list)
    after: dict[int, list[Tag]] = defaultdict(list)
    partners = _pair_tags(tags)
    for number, tag in enumerate(tags):
        # Target words between a pair of tags: those aligned with a source word between them.
        enclosed: list[int] = []
        first, last = sorted((number, partners.get(number, number)))
        if first != last:
            span = range(tags[first].word, tags[last].word)
            enclosed = [tgt for src, tgt in links if src in span]
        if not enclosed:
            # Before the target word of its source word, else of the next one that has a link.
            exact = [tgt for src, tgt in links if src == tag.word]
            later = [tgt for src, tgt in links if src > tag.word]
            before[min(exact or later, default=num_words)].append(tag)
        elif number == first:
            before[min(enclosed)].append(tag)
        else:
            after[max(enclosed) + 1].append(tag)
    return before, after


def _pair_tags(tags: Sequence[Tag]) -> dict[int, int]:
    """Return the index of the other tag for each tag of a pair."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    num_open: Counter[str] = Counter()
    for number, tag in enumerate(tags):
        if tag.kind == "open":
            opened.append(number)
            num_open[tag.name] += 1
        elif tag.kind == "close" and num_open[tag.name]:
            # Tags opened inside and never closed stay single.
            while number not in pairs:
                other = opened.pop()
                num_open[tags[other].name] -= 1
                if tags[other].name == tag.name:
                    pairs[other], pairs[number] = number, other
    return pairs


def _find_masks(text: str, *masks: str) -> list[re.Match[str]]:
    """Return the masks in a text that are whole words."""
    longest_first = sorted(masks, key=len, reverse=True)
    matches = re.finditer("|".join(map(re.escape, longest_first)), text)
    return [match for match in matches if is_whole_word(text, *match.span())]


def _unmask(text: str, spans: Sequence[ProtectedSpan]) -> str:
    """Replace each mask by its span, once, and remove its repetitions."""
    if not spans:
        return text
    # The model may write a mask twice; its span appears once.
    for span in spans:
        for match in reversed(_find_masks(text, span.mask)[1:]):
            text = text[: match.start()].removesuffix(" ") + text[match.end() :]
    # One pass over all masks: a span that is already restored must not hide or attract another
    # mask, as in "%s{}", where the mask after "%s" is no longer a word of its own.
    span_of = {span.mask: span for span in spans}
    output, end, is_attached = "", 0, False
    for match in _find_masks(text, *span_of):
        span, gap = span_of[match[0]], text[end : match.start()]
        output += gap.removeprefix(" ") if is_attached else gap
        output = output if span.has_space_before else output.removesuffix(" ")
        output += span.text
        end, is_attached = match.end(), not span.has_space_after
    return output + (text[end:].removeprefix(" ") if is_attached else text[end:])


def _has_spaces_around(line: str, match: re.Match[str]) -> tuple[bool, bool]:
    """Return True for each side of a match that has a space or an end of the line."""
    start, end = match.span()
    return line[max(0, start - 1) : start] in ("", " "), line[end : end + 1] in ("", " ")
