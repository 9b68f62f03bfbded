"""Subword vocabularies: lossless encoding and deterministic training."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import CleaningConfig, SubwordConfig
from nmt.corpus.subword import (
    BOS,
    EOS,
    FIRST_BYTE,
    NUM_RESERVED,
    PAD,
    SPECIAL,
    Subword,
    choose_alphabet,
)
from nmt.corpus.text import normalise
from nmt.errors import DataError

LINES = [
    "A dog runs through the green field.",
    "Ein Hund rennt durch das grüne Feld.",
    "Two dogs run through a field of 12 flowers.",
    "Zwei Hunde rennen durch ein Feld mit 12 Blumen.",
    "The man's hat is brown, isn't it? <s> <0x41> </s>",
    "Der Hut des Mannes ist braun, oder? <s> <0x41> </s>",
] * 20
KINDS = ("bpe", "unigram")
VOCABULARIES = {
    kind: Subword.train(LINES, SubwordConfig(kind=kind, vocab_size=400)) for kind in KINDS
}
HARD = [
    "",
    " ",
    "   ",
    "leading",
    " leading space",
    "trailing space ",
    "two  and   three",
    "▁meta▁ symbol ▁",
    "<s></s><pad><unk> <s>",
    "<0x41><0x0A> <0xE2><0x96><0x81>",
    "emoji 👩‍👩‍👧 ❤️ 🏳️‍🌈 🇩🇪",
    "中文字符，没有空格。日本語もある",
    "0123456789 ½ ² ٣٤",
    "tab\tand\nline feed\r",
    "\u2028\u0085\u200b\ufeff\ufffd",
    "e\u0301 ﬁ Å",
    "a" * 1000,
    "…" * 200,
    "\x00\x01\x7f",
    "\U0010ffff\ue000",
]
# Text that looks like reserved pieces, and anything else.
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",))),
        st.sampled_from(["▁", " ", "  ", "<s>", "</s>", "<pad>", "<0x41>", "<unk>", "Hund", "é"]),
    )
).map("".join)


@pytest.fixture(params=KINDS)
def subword(request: pytest.FixtureRequest) -> Subword:
    return VOCABULARIES[request.param]


@pytest.mark.parametrize("text", [*LINES[:6], *HARD])
def test_hard_text_is_restored(subword: Subword, text: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    ids = subword.encode(text)
    assert subword.decode(ids) == text
    assert not {PAD, BOS, EOS}.intersection(ids)


@given(TEXT)
def test_any_text_is_restored(text: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    for subword in VOCABULARIES.values():
        ids = subword.encode(text)
        assert subword.decode(ids) == text
        assert all(EOS < token < subword.num_pieces for token in ids)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_normalised_line_is_restored(text: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    line = normalise(text, CleaningConfig())
    for subword in VOCABULARIES.values():
        assert subword.decode(subword.encode(line)) == line


@given(st.lists(TEXT, max_size=5))
def test_encoding_does_not_depend_on_the_batch(texts: list[str]) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    for subword in VOCABULARIES.values():
        assert subword.encode_batch(texts) == [subword.encode(text) for text in texts]


@given(st.lists(st.integers(0, 399)))
def test_any_ids_decode(ids: list[int]) -> None:
    for subword in VOCABULARIES.values():
        subword.decode([token for token in ids if token < subword.num_pieces]).encode()


def test_special_ids_and_invalid_bytes_decode(subword: Subword) -> None:
    euro = [FIRST_BYTE + byte for byte in "€".encode()]
    assert subword.decode([BOS, *euro, EOS, PAD]) == "€"
    assert subword.decode(euro[:2]) == "\ufffd"


def test_an_empty_line_has_no_tokens(subword: Subword) -> None:
    assert subword.encode("") == []
    assert subword.decode([]) == ""


def test_a_word_has_the_same_pieces_anywhere(subword: Subword) -> None:
    hund = subword.encode("Hund")
    assert subword.encode("Hund Hund") == hund + hund


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hund", [" Hund"]),
        ("a" * 100, [" " + "a" * 64, "a" * 36]),
        ("…" * 70 + "12", [" " + "…" * 64, "…" * 6, "1", "2"]),
        ("中文" * 33 + "。是", [" " + "中文" * 32, "中文", "。", "是"]),
        ("two dogs", [" two", " dogs"]),
    ],
)
def test_tokens_are_split_where_encoding_splits_text(
    subword: Subword, text: str, parts: list[str]
) -> None:
    ids = subword.encode(text)
    split = subword.split(ids)
    assert [token for part in split for token in part] == ids
    texts = [b"".join(subword.token_bytes[token] for token in part).decode() for part in split]
    assert texts == parts


def test_piece_names_are_readable(subword: Subword) -> None:
    ids = subword.encode("Hund €")
    assert subword.pieces(ids[-3:]) == ["<0xE2>", "<0x82>", "<0xAC>"]
    assert "".join(subword.pieces(ids[:-3])) == "▁Hund▁"
    assert subword.pieces([PAD, BOS, EOS]) == list(SPECIAL)


def test_digits_are_single_pieces(subword: Subword) -> None:
    pieces = subword.pieces(subword.encode("12 3456"))
    assert all(sum(map(str.isdecimal, piece)) <= 1 for piece in pieces if piece[0] != "<")


def test_no_learnt_piece_looks_like_a_reserved_one(subword: Subword) -> None:
    names = subword.pieces(range(subword.num_pieces))
    assert len(names) == len(set(names)) == subword.num_pieces
    assert names[:NUM_RESERVED] == [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]


def test_a_vocabulary_is_restored_from_json(subword: Subword) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    again = Subword.from_json(subword.to_json())
    assert again.to_json() == subword.to_json()
    assert again.fingerprint == subword.fingerprint
    assert [again.encode(text) for text in HARD] == [subword.encode(text) for text in HARD]


def test_other_readers_of_the_file_decode_the_same(subword: Subword) -> None:
    other = tokenizers.Tokenizer.from_str(subword.to_json())
    assert [other.decode(subword.encode(text)) for text in LINES[:6]] == LINES[:6]


def test_vocabularies_of_other_text_have_other_fingerprints() -> None:
    prints = {subword.fingerprint for subword in VOCABULARIES.values()}
    prints.add(Subword.train(LINES[2:4], SubwordConfig(vocab_size=400)).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_little_text_gives_a_small_vocabulary(kind: str) -> None:
    config = SubwordConfig.model_validate({"kind": kind, "vocab_size": 8000})
    subword = Subword.train(["ab ab abc", "cab"], config)
    assert NUM_RESERVED < subword.num_pieces < NUM_RESERVED + 20
    assert subword.decode(subword.encode("abcdé")) == "abcdé"


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_leaves_the_bytes(kind: str) -> None:
    subword = Subword.train([], SubwordConfig.model_validate({"kind": kind}))
    assert subword.decode(subword.encode("abcdé")) == "abcdé"


@pytest.mark.parametrize("kind", KINDS)
def test_rare_characters_are_encoded_as_bytes(kind: str) -> None:
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 200)]
    lines = ["".join(characters), *("".join(pair) for pair in pairwise(characters[:10] * 9))]
    subword = Subword.train(lines, SubwordConfig.model_validate({"kind": kind, "vocab_size": 300}))
    assert subword.num_pieces <= 300
    assert len(subword.encode(characters[0])) <= 2
    assert len(subword.encode(characters[-1])) == 4  # the space before it, and three bytes
    assert subword.decode(subword.encode(lines[0])) == lines[0]


def test_the_alphabet_reaches_the_coverage() -> None:
    counts = Counter({"a": 50_000, "b": 49_990, "c": 6, "d": 3, "e": 1})
    assert choose_alphabet(counts, 10) == {"a", "b"}
    assert choose_alphabet(Counter("cab"), 10) == {"a", "b", "c"}
    assert choose_alphabet(Counter("cab"), 2) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"model": {"type": "BPE"}}'])
def test_invalid_vocabularies_are_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        Subword.from_json(text)
    assert str(caught.value) == (
        "tokenizer.json: not a vocabulary of nmt (tokenizers cannot load it); "
        "expected the file that `nmt prepare` wrote"
    )


def test_a_vocabulary_of_another_tool_is_refused(subword: Subword) -> None:
    text = subword.to_json().replace("<pad>", "<PAD>")
    with pytest.raises(DataError) as caught:
        Subword.from_json(text)
    assert str(caught.value) == (
        "tokenizer.json: not a vocabulary of nmt (its first pieces are not <pad>, <s>, </s> and "
        "the 256 bytes); expected the file that `nmt prepare` wrote"
    )


def test_a_vocabulary_with_added_tokens_is_refused(subword: Subword) -> None:
    other = tokenizers.Tokenizer.from_str(subword.to_json())
    other.add_special_tokens(["<s>"])
    with pytest.raises(DataError, match="not a vocabulary of nmt"):
        Subword.from_json(other.to_str())


LEARN = """
import sys
from nmt.config.corpus import SubwordConfig
from nmt.corpus.subword import Subword
lines = sys.stdin.read().split("\\n")
for kind in ("bpe", "unigram"):
    print(Subword.train(lines, SubwordConfig(kind=kind, vocab_size=420)).fingerprint)
"""


def test_training_is_deterministic_across_processes() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    text = "\n".join(LINES)
    outputs = set()
    for threads, is_parallel in [("1", "false"), ("3", "true")]:
        env = {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": is_parallel}
        result = subprocess.run(
            [sys.executable, "-c", LEARN],
            input=text,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(result.stdout)
    assert len(outputs) == 1
    expected = [
        Subword.train(LINES, SubwordConfig.model_validate({"kind": k, "vocab_size": 420}))
        for k in KINDS
    ]
    assert outputs.pop().split() == [subword.fingerprint for subword in expected]


FORK = """
import os
from nmt.config.corpus import SubwordConfig
from nmt.corpus.subword import Subword
subword = Subword.train(["a b", "b c"] * 9, SubwordConfig())
ids = subword.encode_batch(["a b"] * 100)
child = os.fork()
assert subword.encode_batch(["a b"] * 100) == ids
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_forking_after_encoding_gives_no_warning() -> None:
    env = {name: text for name, text in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    result = subprocess.run([sys.executable, "-c", FORK], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_golden_vocabulary_is_unchanged() -> None:
    """Checkpoints of today translate with later versions of tokenizers."""
    subword = Subword.train(["low low low lower lowest"] * 3, SubwordConfig(vocab_size=300))
    names = subword.pieces(range(NUM_RESERVED, subword.num_pieces))
    assert names[:8] == ["▁", "e", "l", "o", "r", "s", "t", "w"]
    assert names[8:] == ["▁l", "ow", "▁low", "▁lowe", "st", "▁lower", "▁lowest"]
    assert subword.pieces(subword.encode("lower slow")) == ["▁lower", "▁", "s", "l", "ow"]
    tree = json.loads(subword.to_json())
    assert tree["normalizer"] == {"type": "Prepend", "prepend": " "}
