"""Lines that are longer than those of training, cut at sentence ends."""

import re
from collections.abc import Callable

_ENDS = re.compile(r"(?<=[.!?…])[\"'’”“»)\]]*(?P<gap> +)|(?<=[。！？])(?P<none>)")


def split(text: str, limit: int, num_tokens: Callable[[str], int]) -> list[str]:
    """The sentences of a text, as many together as have `limit` tokens or fewer.

    A sentence with more tokens stays whole. Joined by spaces they are the text, but for sentence
    ends of scripts without spaces.
    """
    parts: list[str] = []
    length = 0
    for sentence in _sentences(text):
        size = num_tokens(sentence)
        if parts and length + size <= limit:
            parts[-1] += f" {sentence}"
            length += size
        else:
            parts.append(sentence)
            length = size
    return parts


def _sentences(text: str) -> list[str]:
    found, start = [], 0
    for match in _ENDS.finditer(text):
        end = match.start("gap") if match["gap"] else match.end()
        if text[start:end].strip():
            found.append(text[start:end])
            start = match.end()
    return [*found, text[start:]] if text[start:].strip() else found
