"""Subword vocabulary shared by both languages: lossless encoding of text as token ids.

Byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018), applied by
`tokenizers`. Text is first split into letters with the space before them, single digits, and runs
of anything else. A piece never spans two such parts, so that no piece learnt from text can look
like `</s>` or `<0x41>`, the names of the special and the byte pieces. A character that is not a
piece is encoded as the bytes of its UTF-8 form: there is no <unk>.

A space stays a space: no other character stands for it, so that text with U+2581 is restored
exactly. Encoding puts one space before every text, so that a word has the same pieces at the start
and inside; decoding removes it.

Training gives the same vocabulary in every process. BPE counts in integers and breaks ties by the
order of pieces, whatever the number of threads; `unigram.py` trains the unigram model.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

# Any value lets a process fork after encoding without a warning on stderr; false, because a task of
# preparing has one core. tokenizers reads it at each call.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nmt.config.corpus import SubwordConfig
from nmt.corpus import unigram
from nmt.corpus.text import fold_case
from nmt.errors import DataError

PAD = 0
BOS = 1
EOS = 2
SPECIAL = ("<pad>", "<s>", "</s>")
"""Names of the ids 0 to 2, which no text produces."""
FIRST_BYTE = len(SPECIAL)
"""Id of byte 0; the other 255 follow."""
NUM_RESERVED = FIRST_BYTE + 256
"""Number of special and byte pieces; learnt pieces have the ids from here on."""
CASE_MARKS = {"upper": FIRST_BYTE + 0xF5, "title": FIRST_BYTE + 0xF6}
"""Tokens before a source line in lower case that had another one: bytes that UTF-8 never has."""
COVERAGE = 0.9999
"""Share of all characters in the text that are pieces; the rarest ones are encoded as bytes."""

MAX_PIECE = 65
"""Characters of the longest piece: a part of `_PARTS`."""

Merges = dict[tuple[int, int], tuple[int, int]]
"""Left and right token to the rank of their merge, best first, and the merged token."""

LogProbs = dict[tuple[int, ...], tuple[int, float]]
"""The tokens of a piece's characters to its own token and its natural log-probability."""

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Parts end after 64 characters: encoding time grows faster than the length of a part, and a line
# without spaces is one part.
_PARTS = (
    r" ?[\p{L}\p{M}\x{200C}\x{200D}]{1,64}"
    r"| ?\p{N}"
    r"| ?[^ \p{L}\p{M}\p{N}\x{200C}\x{200D}]{1,64}"
    r"| +(?= )| "
)


class Subword:
    """A vocabulary that encodes lines as token ids and decodes them."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        """Wrap a tokenizer whose JSON is `text`; use `train` or `from_json`."""
        self._tokenizer = tokenizer
        self._text = text
        self._pieces = _read_pieces(text)
        reserved = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]
        for mark in CASE_MARKS.values():
            reserved[mark] = b""
        self._bytes = reserved + [piece.encode() for piece in self._pieces[NUM_RESERVED:]]

    @classmethod
    def train(cls, lines: Iterable[str], config: SubwordConfig) -> "Subword":
        """Train a vocabulary.

        Args:
            lines: normalised lines of both languages; iterated twice, so not a generator.
            config: kind and size; little text gives a smaller vocabulary (`num_pieces`).
        """
        max_learnt = config.vocab_size - NUM_RESERVED
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(f" {line}")  # with the space that encoding puts before it
        # Half of the vocabulary at most for characters, so that merges have room.
        alphabet = choose_alphabet(counts, max_learnt // 2) | {" "}
        common = _without(counts.keys() - alphabet, lines)
        if config.kind == "bpe":
            tokenizer = _add_rules(_train_bpe(common, alphabet, max_learnt))
        else:
            tokenizer = _add_rules(_train_unigram(common, max_learnt))
        return cls(tokenizer, tokenizer.to_str())

    @classmethod
    def from_json(cls, text: str | bytes) -> "Subword":
        """Load the text of `to_json`; DataError if it is not a vocabulary of nmt."""
        try:
            text = text if isinstance(text, str) else text.decode()
            tree = json.loads(text, parse_constant=_refuse_constant)
            # Only pieces and merges are taken from the file: any other part, such as a normalizer,
            # would change or stop translation.
            tokenizer = _add_rules(_read_model(tree["model"], _read_pieces(text)))
            own = json.loads(tokenizer.to_str())
        except DataError:
            raise
        except Exception:  # wrong types anywhere; tokenizers raises nothing more specific
            raise _invalid("tokenizers cannot load it") from None
        mine, given = ({**each, **each["model"], "model": None} for each in (own, tree))
        if foreign := [key for key in {**mine, **given} if mine.get(key) != given.get(key)]:
            raise _invalid(f"{foreign[0]} is not that of nmt")
        return cls(tokenizer, text)

    @classmethod
    def read(cls, path: Path) -> "Subword":
        """Read a file with the text of `to_json`.

        Raises:
            DataError: it cannot be read, or is not a vocabulary of nmt.
        """
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None

    def to_json(self) -> str:
        """Return the vocabulary in the format of `tokenizers`."""
        return self._text

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary: equal if all texts and ids have the same meaning."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def num_pieces(self) -> int:
        """Size of the vocabulary, special and byte pieces included."""
        return len(self._pieces)

    @cached_property
    def _model(self) -> dict[str, Any]:
        model: dict[str, Any] = json.loads(self._text)["model"]
        return model

    @property
    def is_bpe(self) -> bool:
        """True if the vocabulary has merges; a unigram vocabulary has probabilities."""
        return bool(self._model["type"] == "BPE")

    @cached_property
    def merges(self) -> Merges:
        """The merges of byte-pair encoding; DataError for a vocabulary of another kind."""
        if not self.is_bpe:
            raise _invalid("it has no merges")
        ids = self._model["vocab"]
        return {
            (ids[left], ids[right]): (rank, ids[left + right])
            for rank, (left, right) in enumerate(self._model["merges"])
        }

    @cached_property
    def log_probs(self) -> LogProbs:
        """Log-probabilities of a unigram vocabulary; DataError for another kind."""
        if self._model["type"] != "Unigram":
            raise _invalid("it has no probabilities")
        pairs = zip(self.characters, self._model["vocab"], strict=True)
        return {
            tuple(characters): (token, log_prob)
            for token, (characters, (_, log_prob)) in enumerate(pairs)
        }

    @cached_property
    def characters(self) -> list[list[int]]:
        """The tokens of each piece's characters; special and byte pieces are their own."""
        ids = {piece: token for token, piece in enumerate(self._pieces)}
        learnt = [[ids[character] for character in piece] for piece in self._pieces[NUM_RESERVED:]]
        return [[token] for token in range(NUM_RESERVED)] + learnt

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a normalised line, without BOS and EOS."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of many lines, faster than one by one."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_sources(self, lines: Sequence[str], marks_case: bool) -> list[list[int]]:
        """Return the token ids of source lines.

        Args:
            lines: normalised lines.
            marks_case: encode a line in upper or title case as its case mark and lower case.
        """
        if not marks_case:
            return self.encode_batch(lines)
        cases, texts = zip(*map(fold_case, lines), strict=True) if lines else ((), ())
        return [
            ids if case == "as_is" else [CASE_MARKS[case], *ids]
            for case, ids in zip(cases, self.encode_batch(texts), strict=True)
        ]

    def spell(self, piece: str) -> list[int]:
        """Return the token ids of a piece of another vocabulary, without a space before it."""
        return [token.id for token in self._tokenizer.model.tokenize(piece)]

    def split(self, ids: Sequence[int]) -> list[list[int]]:
        """Split the token ids of a text into those of the parts that were encoded separately."""
        text = b"".join([self._bytes[token] for token in ids]).decode("utf-8", errors="replace")
        parts = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
        ends = set(accumulate(len(part.encode()) for part, _ in parts))
        split: list[list[int]] = [[]]
        num_bytes = 0
        for token in ids:
            split[-1].append(token)
            num_bytes += len(self._bytes[token])
            if num_bytes in ends:
                split.append([])
        return [part for part in split if part]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; for the ids of `encode`, exactly its line.

        In ids from a model, PAD, BOS, EOS and case marks give no text, and bytes that are not
        UTF-8 give U+FFFD. The result can have a line feed where a model predicts its byte.
        """
        data = b"".join([self._bytes[token] for token in ids])
        return data.decode("utf-8", errors="replace").removeprefix(" ")

    @property
    def learnt_pieces(self) -> dict[str, int]:
        """Ids of the learnt pieces by their text, with the space before a word."""
        return {piece: NUM_RESERVED + n for n, piece in enumerate(self._pieces[NUM_RESERVED:])}

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """UTF-8 bytes of each token, with the space before a word; empty for special tokens."""
        return self._bytes

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return readable names of tokens: U+2581 for a space, <0x41> for a byte."""
        return [self._pieces[token].replace(" ", "▁") for token in ids]


def tag_token(tag: int) -> int:
    """Return the token of a tag from 1 to 8: bytes 0xFF down to 0xF8, which UTF-8 never has."""
    assert 1 <= tag <= 8, tag
    return FIRST_BYTE + 0x100 - tag


def choose_alphabet(counts: Counter[str], max_size: int) -> set[str]:
    """Return the most frequent characters that reach COVERAGE; ties by code point."""
    alphabet: set[str] = set()
    remaining = COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if remaining <= 0 or len(alphabet) == max_size:
            break
        alphabet.add(character)
        remaining -= count
    return alphabet


def _without(rare: set[str], lines: Iterable[str]) -> Iterable[str]:
    """Yield lines with spaces for rare characters, so that no piece is learnt across one."""
    if not rare:
        return lines
    pattern = re.compile(f"[{re.escape(''.join(sorted(rare)))}]")
    return (pattern.sub(" ", line) for line in lines)


def _add_rules(model: Any) -> Tokenizer:
    """Return a tokenizer that splits text into parts and applies a model to each."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PARTS), "isolated")
    # For other readers of the file: `decode` uses a table, which also covers invalid bytes.
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _train_bpe(lines: Iterable[str], alphabet: set[str], max_learnt: int) -> models.BPE:
    learner = _add_rules(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=max_learnt,
        # A merge seen once is noise.
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
    )
    learner.train_from_iterator(lines, trainer)
    learnt = json.loads(learner.to_str())["model"]
    # The trainer numbers pieces from 0: shift them behind the reserved ones.
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocab = {piece: token for token, piece in enumerate([*SPECIAL, *_BYTES, *pieces])}
    merges = [(left, right) for left, right in learnt["merges"]]
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=True)


def _train_unigram(lines: Iterable[str], max_learnt: int) -> models.Unigram:
    rules = pre_tokenizers.Split(Regex(_PARTS), "isolated")
    words: Counter[str] = Counter()
    for line in lines:
        words.update([part for part, _ in rules.pre_tokenize_str(f" {line}")] if line else ())
    # Names of reserved pieces never match text: parts are split at `<` and digits.
    reserved = [(name, 0.0) for name in (*SPECIAL, *_BYTES)]
    vocab = [*reserved, *unigram.train_unigram(words, max_learnt)]
    # The model needs an id for unknown text; it is never produced, because all bytes are pieces.
    return models.Unigram(vocab, unk_id=PAD, byte_fallback=True)


def _read_model(model: dict[str, Any], pieces: list[str]) -> Any:
    """Build a model from the pieces and merges, or log-probabilities, of a file."""
    learnt = pieces[NUM_RESERVED:]
    if len(set(pieces)) < len(pieces) or not all(learnt) or max(map(len, pieces)) > MAX_PIECE:
        raise _invalid("a piece is empty, too long or duplicated")
    if model["type"] == "BPE":
        merges = [(left, right) for left, right in model["merges"]]
        if not {part for pair in merges for part in pair} <= set(learnt):
            raise _invalid("a merge has parts that are not learnt pieces")
        return models.BPE(vocab=dict(model["vocab"]), merges=merges, byte_fallback=True)
    vocab = [(piece, float(log_prob)) for piece, log_prob in model["vocab"]]
    if not all(math.isfinite(log_prob) for _, log_prob in vocab):
        raise _invalid("a log-probability is infinite")
    return models.Unigram(vocab, unk_id=PAD, byte_fallback=True)


def _refuse_constant(name: str) -> None:
    raise _invalid(f"{name} is not a number")


def _read_pieces(text: str) -> list[str]:
    """Return the pieces by id; DataError if the reserved ones are not in their places."""
    tree = json.loads(text)
    vocab = tree["model"]["vocab"]
    is_dense = True
    if isinstance(vocab, dict):
        pieces = sorted(vocab, key=vocab.__getitem__)
        # Only BPE files map pieces to ids; unigram files list them in order.
        is_dense = sorted(vocab.values()) == list(range(len(vocab)))
    else:
        pieces = [piece for piece, _ in vocab]
    if tuple(pieces[:NUM_RESERVED]) != (*SPECIAL, *_BYTES) or not is_dense or tree["added_tokens"]:
        raise _invalid("its first pieces are not <pad>, <s>, </s> and the 256 bytes")
    return pieces


def _invalid(problem: str) -> DataError:
    return DataError(
        f"tokenizer.json: not a vocabulary of nmt ({problem}); "
        f"expected the file that `nmt prepare` wrote"
    )
