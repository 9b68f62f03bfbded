"""Splitting a corpus into training pairs and held-out pairs, without leaks.

The pairs are read three times and a bounded number of them is held in memory:

    sampling    candidates, chosen by a digest of their text
    counting    pairs that share a side with a candidate, compared without case, digits, punctuation
    writing     all pairs but the held-out ones and those that share a side with them

The choice depends on the pairs only, not on their order or on the number of files.
"""

import hashlib
import heapq
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nmt.config.corpus import CleaningConfig
from nmt.corpus.formats.record_file import RawPair
from nmt.corpus.io import compress_to
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.rules import drop_reason, repair
from nmt.errors import DataError

MAX_PAIRS, MAX_SHARE = 2_000, 0.05
"""Pairs of a held-out set: the smaller of the two."""
NUM_CANDIDATES = 16_000
MAX_COPIES = 100
"""Training pairs that may be left out for one held-out pair."""
BLOCK_PAIRS = 10_000
"""Pairs written and reported together."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a pass, pairs done and pairs in all (0: unknown)."""
_NO_ASCII_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
Keys = dict[bytes, "array[int]"]
"""Numbers of the pairs with a key."""


class _Letters(dict[int, int | None]):
    """Table of `str.translate` that keeps letters and their marks."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        is_letter = character.isalnum() and not character.isdecimal()
        # Vowels of Indic scripts and of Thai are marks: without them, different words are equal.
        is_mark = unicodedata.category(character) in ("Mn", "Mc")
        self[code] = code if is_letter or is_mark else None
        return self[code]


_LETTERS = _Letters()


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs and what remains for training."""

    num_pairs: int
    """Pairs of all corpora."""
    sets: list[list[RawPair]]
    """Pairs of each held-out set, in the order of the corpora; repaired where they need it."""
    removed: frozenset[int]
    """Numbers, through all corpora, of the pairs that are excluded from training."""

    @property
    def num_lost(self) -> int:
        """Number of pairs excluded from training that are in no held-out set."""
        return len(self.removed) - sum(map(len, self.sets))


@dataclass(order=True)
class _Candidate:
    rank: int
    """Negated digest, so that heapq removes the candidate with the largest digest first."""
    pair: RawPair = field(compare=False)
    keys: RawPair = field(compare=False)


def line_key(line: bytes) -> bytes:
    """Return a line without case, digits, punctuation and spaces; equal keys: the same sentence."""
    if line.isascii():
        return line.translate(None, _NO_ASCII_LETTERS).lower()
    text = unicodedata.normalize("NFKC", line.decode("utf-8", "ignore")).lower().casefold()
    return text.translate(_LETTERS).encode()


def choose(
    corpora: Sequence[PairFiles],
    num_sets: int,
    taken: frozenset[bytes],
    progress: Progress,
    max_share: float = MAX_SHARE,
) -> HeldOut:
    """Choose the pairs of one or two held-out sets.

    Args:
        corpora: the corpora.
        num_sets: number of sets.
        taken: keys of sentences that no held-out pair may have.
        progress: called every BLOCK_PAIRS pairs.
        max_share: share of all pairs that a set has at most.

    Raises:
        DataError: the corpora are empty, or too few pairs can be held out.
    """
    num_pairs, candidates = _sample(corpora, taken, progress)
    if not num_pairs:
        raise DataError(f"{corpora[0].paths()[0]}: no pairs; expected a corpus to train on")
    size = min(MAX_PAIRS, int(max_share * num_pairs))
    if not size:
        raise DataError(
            f"{corpora[0].paths()[0]}: too few pairs ({num_pairs}) to hold out {max_share:.0%} of "
            "them; name a dev and a test set with --dev and --test"
        )
    keys: list[Keys] = [{each.keys[side]: array("q") for each in candidates} for side in (0, 1)]
    _count(corpora, keys, num_pairs, progress)
    chosen = _select(candidates, keys, size * num_sets, corpora[0].languages, taken)
    size = min(size, len(chosen) // num_sets)
    if not size:
        cause = _describe_refusal(candidates, corpora[0].languages)
        raise DataError(
            f"no pair can be held out: {cause}; name a dev and a test set with --dev and --test"
        )
    chosen = chosen[: size * num_sets]
    # Sets take turns, so that they are alike; within a set the order is that of the corpora.
    sets = [
        sorted(chosen[number::num_sets], key=lambda item: min(item[0]))
        for number in range(num_sets)
    ]
    removed = frozenset().union(*(numbers for numbers, _ in chosen))
    return HeldOut(num_pairs, [[each.pair for _, each in one] for one in sets], removed)


def write_training(
    corpora: Sequence[PairFiles], held_out: HeldOut, paths: Sequence[tuple[Path, Path]],
    progress: Progress,
) -> list[int]:  # fmt: skip
    """Write the training pairs of each corpus to two files, compressed by suffix; count them.

    Raises:
        DataError: each pair of all corpora is held out, or shares a side with one that is.
    """
    number = 0
    counts = [0] * len(corpora)
    for place, (corpus, of_corpus) in enumerate(zip(corpora, paths, strict=True)):
        with ExitStack() as stack:
            files = [_open(stack, path) for path in of_corpus]
            for block in _blocks(corpus):
                numbers = range(number, number + len(block))
                number += len(block)
                kept = block
                if not held_out.removed.isdisjoint(numbers):
                    rows = zip(numbers, block, strict=True)
                    kept = [pair for row, pair in rows if row not in held_out.removed]
                counts[place] += len(kept)
                for side, file in enumerate(files):
                    file.write(join_lines([pair[side] for pair in kept]))
                progress("writing", number, held_out.num_pairs)
    if not any(counts):
        raise DataError(
            "no pair is left for training: each is held out, or shares a side with one that is; "
            "name a dev and a test set with --dev and --test"
        )
    return counts


def count_pairs(corpora: Sequence[PairFiles], progress: Progress) -> int:
    """Read all pairs and return their number; DataError if a corpus has none."""
    number = 0
    for corpus in corpora:
        before = number
        for block in _blocks(corpus):
            number += len(block)
            progress("reading", number, 0)
        if number == before:
            raise DataError(f"{corpus.paths()[0]}: no pairs; expected a corpus to train on")
    return number


def join_lines(lines: Sequence[bytes]) -> bytes:
    """Return lines with line feeds, as bytes."""
    return b"".join([line + b"\n" for line in lines])


def _open(stack: ExitStack, path: Path) -> Any:
    file = stack.enter_context(path.open("wb"))
    compressed = compress_to(file, path.suffix)
    return compressed if compressed is file else stack.enter_context(compressed)


def _blocks(corpus: PairFiles) -> Iterator[list[RawPair]]:
    block: list[RawPair] = []
    for pair in corpus.read_raw():
        block.append(pair)
        if len(block) == BLOCK_PAIRS:
            yield block
            block = []
    if block:
        yield block


def _sample(
    corpora: Sequence[PairFiles], taken: frozenset[bytes], progress: Progress
) -> tuple[int, list[_Candidate]]:
    """Return the number of pairs and the candidates: those with the smallest digests."""
    heap: list[_Candidate] = []
    ranks: set[int] = set()
    number = 0
    for corpus in corpora:
        for block in _blocks(corpus):
            for pair in block:
                digest = hashlib.blake2b(b"\n".join(pair), digest_size=8).digest()
                rank = -int.from_bytes(digest, "big")
                # Copies of a pair have the same digest.
                if (len(heap) == NUM_CANDIDATES and rank < heap[0].rank) or rank in ranks:
                    continue
                keys = line_key(pair[0]), line_key(pair[1])
                if not all(keys) or not taken.isdisjoint(keys):
                    continue
                ranks.add(rank)
                heapq.heappush(heap, _Candidate(rank, pair, keys))
                if len(heap) > NUM_CANDIDATES:
                    ranks.remove(heapq.heappop(heap).rank)
            number += len(block)
            progress("sampling", number, 0)
    return number, sorted(heap, reverse=True)


def _count(
    corpora: Sequence[PairFiles], keys: list[Keys], num_pairs: int, progress: Progress
) -> None:
    """Fill in the numbers of the pairs that share a side with a candidate."""
    number = 0
    for corpus in corpora:
        for block in _blocks(corpus):
            for row, pair in enumerate(block, start=number):
                for side, of_side in enumerate(keys):
                    found = of_side.get(line_key(pair[side]))
                    # One more than allowed is enough to refuse the candidate.
                    if found is not None and len(found) <= MAX_COPIES:
                        found.append(row)
            number += len(block)
            progress("counting", number, num_pairs)


def _select(
    candidates: list[_Candidate],
    keys: list[Keys],
    wanted: int,
    languages: tuple[str, str],
    taken: frozenset[bytes],
) -> list[tuple[set[int], _Candidate]]:
    """Return the candidates to hold out, with the numbers of the pairs lost to training."""
    sharing = [
        (set(keys[0][each.keys[0]]) | set(keys[1][each.keys[1]]), each) for each in candidates
    ]
    # Those without copies first: they cost no other training pair. The sort is stable.
    sharing.sort(key=lambda item: len(item[0]))
    chosen: list[tuple[set[int], _Candidate]] = []
    removed: set[int] = set()
    # Keys of the held-out lines of each side: a repair can make two lines equal.
    used: tuple[set[bytes], set[bytes]] = (set(taken), set(taken))
    # Those that need a repair last: their text changes.
    for is_repaired in (False, True):
        for numbers, candidate in sharing:
            if len(chosen) == wanted or len(numbers) > MAX_COPIES:
                break
            # Two held-out pairs with a common side could be in dev and test.
            if not removed.isdisjoint(numbers):
                continue
            if pair := _clean(candidate.pair, languages, is_repaired):
                src, tgt = map(line_key, pair)
                if src in used[0] or tgt in used[1]:
                    continue
                used[0].add(src)
                used[1].add(tgt)
                chosen.append((numbers, replace(candidate, pair=pair)))
                removed |= numbers
    return chosen


def _describe_refusal(candidates: list[_Candidate], languages: tuple[str, str]) -> str:
    """Describe why no candidate can be held out, for an error message."""
    if not candidates:
        return "each has a side without letters, or one that is in a given set"
    rules: Counter[str] = Counter()
    for each in candidates:
        with suppress(UnicodeDecodeError):
            src, tgt = (line.decode() for line in each.pair)
            src, tgt, _ = repair(src, tgt, CleaningConfig(), languages)
            rules[drop_reason(src, tgt, CleaningConfig(), languages)] += 1
    del rules[""]
    if not rules:
        return f"each is dropped by cleaning, or shares a side with more than {MAX_COPIES} others"
    rule, count = rules.most_common(1)[0]
    advice = "; check the languages" if rule in ("language", "script") else ""
    return f"the cleaning rule {rule} drops {count:,} of {len(candidates):,} pairs{advice}"


def _clean(pair: RawPair, languages: tuple[str, str], is_repaired: bool) -> RawPair | None:
    """Return a pair that the cleaning rules keep, repaired if so chosen; None for others.

    Without `is_repaired` there may be nothing to repair but spaces, which stay.
    """
    cleaning = CleaningConfig()
    try:
        src, tgt, rules = repair(pair[0].decode(), pair[1].decode(), cleaning, languages)
    except UnicodeDecodeError:
        return None
    if drop_reason(src, tgt, cleaning, languages):
        return None
    if is_repaired:
        return src.encode(), tgt.encode()
    return pair if {"control_characters", "nfc"}.issuperset(rules) else None
