"""Subwords: one vocabulary for both languages, and text to tokens and back without loss.

Byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018), applied by
`tokenizers`. Text is cut before either: letters with the space before them, single digits, runs of
anything else. A piece never spans two such parts, so that no piece learnt from text can look like
`</s>` or `<0x41>`, the names of the special and the byte pieces. A character that is no piece of
its own falls to the bytes of its UTF-8 form: there is no <unk>.

A space is a space: no other character stands for it, so that text with U+2581 comes back as it
was. One space is put before every text, for a word to have the same piece at the start and in the
middle, and is taken off by decoding.

Learning gives the same vocabulary in every process. BPE counts in whole numbers and breaks ties by
the order of pieces, whatever the number of threads; the unigram model is learnt by `unigram.py`.
"""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

# Set at all, a process may fork after encoding without a warning on stderr; off, because a task of
# preparing has one core of its own. tokenizers reads it at each call.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nmt.config.corpus import SubwordConfig
from nmt.corpus import unigram
from nmt.errors import DataError

PAD = 0
BOS = 1
EOS = 2
SPECIAL = ("<pad>", "<s>", "</s>")
"""Names of the ids 0 to 2, which no text produces."""
FIRST_BYTE = len(SPECIAL)
"""Id of byte 0; the other 255 follow."""
NUM_RESERVED = FIRST_BYTE + 256
"""Special and byte pieces; learnt pieces have the ids from here on."""
COVERAGE = 0.9999
"""Share of all characters that are pieces of their own; the rarest fall to bytes."""

Merges = dict[tuple[int, int], tuple[int, int]]
"""Left and right token to the rank of their merge, the smallest first, and the merged token."""

LogProbs = dict[tuple[int, ...], tuple[int, float]]
"""The tokens of characters to the token that they make, and its natural log-probability."""

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Runs end after 64 characters: a word's time grows faster than its length, and some lines are one.
_PARTS = (
    r" ?[\p{L}\p{M}\x{200C}\x{200D}]{1,64}"
    r"| ?\p{N}"
    r"| ?[^ \p{L}\p{M}\p{N}\x{200C}\x{200D}]{1,64}"
    r"| +(?= )| "
)


class Subword:
    """A vocabulary: encodes lines as token ids and decodes them."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        """Wrap a tokenizer whose JSON is `text`; use `train` or `from_json`."""
        self._tokenizer = tokenizer
        self._text = text
        self._pieces = _read_pieces(text)
        reserved = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]
        self._bytes = reserved + [piece.encode() for piece in self._pieces[NUM_RESERVED:]]

    @classmethod
    def train(cls, lines: Iterable[str], config: SubwordConfig) -> "Subword":
        """Learn a vocabulary.

        Args:
            lines: normalised lines of both languages; gone through twice, so not a generator.
            config: kind and size; little text makes a smaller vocabulary (`num_pieces`).
        """
        room = config.vocab_size - NUM_RESERVED
        counts = _count_characters(lines)
        alphabet = choose_alphabet(counts, room // 2) | {" "}
        common = _without(counts.keys() - alphabet, lines)
        is_bpe = config.kind == "bpe"
        model = _learn_bpe(common, alphabet, room) if is_bpe else _learn_unigram(common, room)
        tokenizer = _with_rules(model)
        return cls(tokenizer, tokenizer.to_str())

    @classmethod
    def from_json(cls, text: str) -> "Subword":
        """Load what `to_json` wrote; DataError if it is anything else."""
        try:
            return cls(Tokenizer.from_str(text), text)
        except DataError:
            raise
        except Exception:  # that is what tokenizers raises
            raise _not_ours("tokenizers cannot load it") from None

    def to_json(self) -> str:
        """The vocabulary as text, in the format of `tokenizers`."""
        return self._text

    @cached_property
    def fingerprint(self) -> str:
        """Names the vocabulary: the same tokens for the same text, the same meaning of each id."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def num_pieces(self) -> int:
        """Size of the vocabulary that is there, special and byte pieces counted."""
        return len(self._pieces)

    @cached_property
    def merges(self) -> Merges:
        """What byte-pair encoding merges; DataError for a vocabulary of another kind."""
        model = json.loads(self._text)["model"]
        if model["type"] != "BPE":
            raise _not_ours("it has no merges")
        ids = model["vocab"]
        return {
            (ids[left], ids[right]): (rank, ids[left + right])
            for rank, (left, right) in enumerate(model["merges"])
        }

    @property
    def is_bpe(self) -> bool:
        """Whether it has merges; a unigram vocabulary has probabilities."""
        return bool(json.loads(self._text)["model"]["type"] == "BPE")

    @cached_property
    def log_probs(self) -> LogProbs:
        """What the pieces of a unigram vocabulary are made of; DataError for another kind."""
        model = json.loads(self._text)["model"]
        if model["type"] != "Unigram":
            raise _not_ours("it has no probabilities")
        pairs = zip(self.characters, model["vocab"], strict=True)
        return {
            tuple(characters): (token, log_prob)
            for token, (characters, (_, log_prob)) in enumerate(pairs)
        }

    @cached_property
    def characters(self) -> list[list[int]]:
        """For each piece those of its characters; a special or a byte piece is itself."""
        ids = {piece: token for token, piece in enumerate(self._pieces)}
        learnt = [[ids[character] for character in piece] for piece in self._pieces[NUM_RESERVED:]]
        return [[token] for token in range(NUM_RESERVED)] + learnt

    def encode(self, text: str) -> list[int]:
        """Token ids of a normalised line, without BOS and EOS; none for an empty line."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many lines, faster than one by one."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids: exactly the line where `encode` made them of it.

        Of other ids, as a model makes them, PAD, BOS and EOS are nothing, and bytes that are not
        UTF-8 are U+FFFD. A line feed can come out, where a model puts together the byte for one.
        """
        data = b"".join([self._bytes[token] for token in ids])
        return data.decode("utf-8", errors="replace").removeprefix(" ")

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """What each token writes, a space before a word included; nothing for special ones."""
        return self._bytes

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The name of each token, for people: U+2581 for a space, <0x41> for a byte."""
        return [self._pieces[token].replace(" ", "▁") for token in ids]


def tag_token(tag: int) -> int:
    """The piece of a tag, 1 to 8: a byte from 0xFF down to 0xF8, none of which is ever in UTF-8."""
    assert 1 <= tag <= 8, tag
    return FIRST_BYTE + 0x100 - tag


def choose_alphabet(counts: Counter[str], most: int) -> set[str]:
    """The most frequent characters that reach COVERAGE, `most` at most; ties by code point."""
    alphabet: set[str] = set()
    left = COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0 or len(alphabet) == most:
            break
        alphabet.add(character)
        left -= count
    return alphabet


def _count_characters(lines: Iterable[str]) -> Counter[str]:
    counts = np.zeros(sys.maxunicode + 1, dtype=np.int64)
    for batch in _batches(lines):
        codes = np.frombuffer("".join(batch).encode("utf-32-le"), dtype=np.uint32)
        found = np.bincount(codes)
        counts[: len(found)] += found
        counts[ord(" ")] += len(batch)  # the one before every text
    return Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})


def _without(rare: set[str], lines: Iterable[str]) -> Iterable[str]:
    """Lines with spaces for rare characters: no piece is learnt across the place of one."""
    if not rare:
        return lines
    pattern = re.compile(f"[{re.escape(''.join(sorted(rare)))}]")
    return (pattern.sub(" ", line) for line in lines)


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, 1000)):
        yield batch


def _with_rules(model: Any) -> Tokenizer:
    """A tokenizer with our rules around a model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PARTS), "isolated")
    # For other readers of the file; `decode` has a table, and needs no rules for what is no text.
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _learn_bpe(lines: Iterable[str], alphabet: set[str], room: int) -> models.BPE:
    learner = _with_rules(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
    )
    learner.train_from_iterator(_batches(lines), trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocab = {piece: token for token, piece in enumerate([*SPECIAL, *_BYTES, *pieces])}
    merges = [(left, right) for left, right in learnt["merges"]]
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=True)


def _learn_unigram(lines: Iterable[str], room: int) -> models.Unigram:
    rules = pre_tokenizers.Split(Regex(_PARTS), "isolated")
    words: Counter[str] = Counter()
    for line in lines:
        words.update([part for part, _ in rules.pre_tokenize_str(f" {line}")] if line else ())
    reserved = [(name, 0.0) for name in (*SPECIAL, *_BYTES)]
    vocab = [*reserved, *unigram.learn(words, room)]
    # The model wants an id for the unknown; all bytes are pieces, so that it never comes out.
    return models.Unigram(vocab, unk_id=PAD, byte_fallback=True)


def _read_pieces(text: str) -> list[str]:
    """The pieces by id; DataError where the reserved ones are not in their places."""
    tree = json.loads(text)
    vocab = tree["model"]["vocab"]
    if isinstance(vocab, dict):
        pieces = sorted(vocab, key=vocab.__getitem__)
        is_dense = sorted(vocab.values()) == list(range(len(vocab)))
    else:
        pieces = [piece for piece, _ in vocab]
        is_dense = True
    if tuple(pieces[:NUM_RESERVED]) != (*SPECIAL, *_BYTES) or not is_dense or tree["added_tokens"]:
        raise _not_ours("its first pieces are not <pad>, <s>, </s> and the 256 bytes")
    return pieces


def _not_ours(what: str) -> DataError:
    return DataError(
        f"tokenizer.json: not a vocabulary of nmt ({what}); "
        f"expected the file that `nmt prepare` wrote"
    )
