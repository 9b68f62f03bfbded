"""What tokens write: where words begin and end, and which token would complete a phrase."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence


class Spelling:
    """What each token of a vocabulary writes."""

    def __init__(self, spellings: Sequence[bytes]) -> None:
        """From the bytes of each token, a space before a word included; b"" for special ones."""
        self._spellings = spellings
        self._tokens: dict[bytes, list[int]] = defaultdict(list)
        for token, spelling in enumerate(spellings):
            self._tokens[spelling].append(token)
        self.going_on = [
            token for token, spelling in enumerate(spellings) if _begins_in_word(spelling)
        ]
        """The tokens that continue the word before them."""
        self._goes_on = frozenset(self.going_on)

    def text(self, tokens: Iterable[int]) -> bytes:
        """What tokens write together."""
        return b"".join([self._spellings[token] for token in tokens])

    def goes_on(self, token: int) -> bool:
        """A token that continues the word before it."""
        return token in self._goes_on

    def ends_in_word(self, tokens: Iterable[int]) -> bool:
        """What they write could go on as a longer word."""
        return _ends_in_word(self.text(tokens))

    def words(self, tokens: Iterable[int]) -> list[int]:
        """The number of the word, as spaces part them, that each token belongs to; -1: to none."""
        found, word, is_between = [], -1, True
        for token in tokens:
            first = -1
            for byte in self._spellings[token]:
                if byte == ord(" "):
                    is_between = True
                    continue
                word += is_between
                is_between = False
                first = word if first < 0 else first
            found.append(first)
        return found

    def completing(self, phrase: bytes, text: bytes) -> list[int]:
        """The tokens with which `phrase` would stand at the end of `text`, from a word's start."""
        found: list[int] = []
        for said in range(len(phrase)):
            start = len(text) - said
            if not text.endswith(phrase[:said]):
                continue
            if said == 0:
                found += self._tokens.get(b" " + phrase, ())
            if not (_begins_in_word(phrase) and _ends_in_word(text[:start])):
                found += self._tokens.get(phrase[said:], ())
        return found


def _begins_in_word(data: bytes) -> bool:
    """Text that goes on with a word before it, or, as far as one can tell, bytes of such text."""
    first = data.decode("utf-8", errors="ignore")[:1]
    return _is_letter(first) if first else data[:1] >= b"\x80"


def _ends_in_word(data: bytes) -> bool:
    return _is_letter(data[-4:].decode("utf-8", errors="ignore")[-1:])


def _is_letter(character: str) -> bool:
    """A letter, a mark of one, or a digit."""
    return character != "" and unicodedata.category(character)[0] in "LMN"
