import hashlib
import re
from itertools import chain
from pathlib import Path

import pytest

from nmt.config.corpus import SubwordConfig
from nmt.corpus.builtin.generator import (
    MAX_PAIRS,
    MAX_WORDS,
    Combination,
    Sampler,
    generate,
    is_reserved,
    words_of,
    write,
)
from nmt.corpus.builtin.grammar import NOUNS, NUMBERS, POSSESSIVES, VERBS, Pair
from nmt.corpus.subword import Subword
from nmt.errors import DataError

Corpus = dict[str, list[Pair]]
Sampled = list[tuple[Pair, list[Combination]]]
ADJECTIVES = {adjective.en for noun in NOUNS for adjective in noun.adjectives}
DETERMINERS = {"the", "a", "an", "this", "these", *(word.en for word in POSSESSIVES + NUMBERS)}
NOUN_OF = {form: noun for noun in NOUNS for form in noun.en}
VERBS_OF = {
    tuple(f"{form} {verb.en_word}".split()): verb
    for verb in VERBS
    if verb.objects
    for form in verb.en
}
UNTIDY = r"[,.]{2}| [,.?!]|None|_|[^,] in dem |can not"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate()


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    """More sentences than the corpus was made of."""
    sampler = Sampler(seed=1)
    return [sampler.sentence() for _ in range(40_000)]


def combinations_in(english: str) -> set[tuple[str, str]]:
    """Return the adjective before each noun, and the verb before these and the determiner."""
    words = re.findall(r"[\w'-]+", english.lower())
    combinations = set()
    for end, word in enumerate(words):
        if word not in NOUN_OF:
            continue
        noun, start = NOUN_OF[word], end
        while words[start - 1] in ADJECTIVES:
            start -= 1
            combinations.add((words[start], noun.en[0]))
        if words[start - 1] in DETERMINERS:
            start -= 1
        for length in (1, 2):
            verb = VERBS_OF.get(tuple(words[max(start - length, 0) : start]))
            if verb and noun in verb.objects:
                combinations.add((verb.de, noun.en[0]))
    return combinations


def test_seed_gives_the_same_corpus_on_every_machine(corpus: Corpus) -> None:
    assert corpus["train"][:3] == [
        (
            "My sisters will help the pupil in four beautiful cities soon.",
            "Meine Schwestern werden bald dem Schüler in vier schönen Städten helfen.",
        ),
        (
            "Today you can clean a beautiful kitchen.",
            "Heute kannst du eine schöne Küche putzen.",
        ),
        (
            "Their sister will work in a small school soon.",
            "Ihre Schwester wird bald in einer kleinen Schule arbeiten.",
        ),
    ]
    pairs = [*corpus["train"][:1000], *corpus["dev"], *corpus["test"]]
    text = "".join(f"{en}\t{de}\n" for en, de in pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ebcd0ff94e5956e3"


def test_other_seed_gives_another_corpus() -> None:
    assert generate(50, 0, 0, seed=1) != generate(50, 0, 0, seed=2)


def test_sets_have_the_requested_sizes(corpus: Corpus) -> None:
    assert [len(pairs) for pairs in corpus.values()] == [24_000, 500, 500]
    assert [len(pairs) for pairs in generate(2000, 7, 0).values()] == [2000, 7, 0]


def test_english_sentences_are_unique(corpus: Corpus) -> None:
    english = [en for pairs in corpus.values() for en, _ in pairs]
    assert len(set(english)) == len(english)


def test_english_sentence_has_one_translation(
    sampled: Sampled,
) -> None:
    pairs = {pair for pair, _ in sampled}
    assert len(pairs) == len({en for en, _ in pairs})
    assert len(pairs) > 0.9 * len(sampled)


def test_training_has_no_reserved_combination(corpus: Corpus) -> None:
    seen = {combination for en, _ in corpus["train"] for combination in combinations_in(en)}
    assert ("kaufen", "apple") in seen or ("essen", "apple") in seen
    assert len(seen) > 500
    assert [combination for combination in sorted(seen) if is_reserved(combination)] == []


def test_held_out_sentences_have_reserved_combinations(corpus: Corpus, sampled: Sampled) -> None:
    held_out = {en for en, _ in chain(corpus["dev"], corpus["test"])}
    reserved = {pair.en for pair, found in sampled if any(map(is_reserved, found))}
    assert held_out <= reserved
    visible = [any(map(is_reserved, combinations_in(en))) for en in held_out]
    assert sum(visible) > 0.6 * len(held_out)


def test_held_out_words_occur_in_training(corpus: Corpus) -> None:
    known = words_of(*chain.from_iterable(corpus["train"]))
    assert words_of(*chain.from_iterable(corpus["dev"] + corpus["test"])) - known == set()


def test_sentences_are_tidy(corpus: Corpus) -> None:
    for en, de in chain.from_iterable(corpus.values()):
        assert 2 <= len(en.split()) <= MAX_WORDS, en
        for text in (en, de):
            assert text == " ".join(text.split()), text
            assert text[0].isupper(), text
            assert re.search(r"[.?]$", text), text
            assert not re.search(UNTIDY, text), text


@pytest.mark.parametrize(
    "pattern",
    [
        r", (weil|dass|ob) .*(t|e|n)\.$",
        r"^Wenn .*, \w+ ",
        r"^Das ist .*, (die|das|den|dem|der|mit \w+|auf \w+) ",
        r"^(Gestern|Morgen|Jetzt) \w+ ",
        r"\b(an|ein|auf|zu|ab|mit|weg|zurück)[.?]",
        r"\b(angerufen|eingeladen|aufgemacht|zurückgekommen) (hat|ist)\b",
        r"\bnicht\b",
        r"^(Wann|Warum|Welche\w*) .*\?$",
        r"\b\w+und(zwanzig|dreißig|vierzig)\b",
        r"am \d+\. \w+",
        r"\bim \w+",
        r"\b(ihm|ihr|ihnen|mir|dir|uns)\b",
    ],
)
def test_each_phenomenon_is_frequent(corpus: Corpus, pattern: str) -> None:
    assert sum(bool(re.search(pattern, de)) for _, de in corpus["train"]) >= 50


def test_relative_pronoun_agrees_with_its_noun(corpus: Corpus) -> None:
    found = set()
    for _, de in corpus["train"]:
        if match := re.match(r"Das ist (der|die|das) \w+, (?:(auf|mit) )?(\w+) ", de):
            found.add(match.groups())
    assert found == {
        ("der", None, "den"), ("die", None, "die"), ("das", None, "das"),
        ("der", None, "dem"), ("die", None, "der"), ("das", None, "dem"),
        ("der", "auf", "den"), ("die", "auf", "die"), ("das", "auf", "das"),
        ("der", "mit", "dem"), ("die", "mit", "der"), ("das", "mit", "dem"),
    }  # fmt: skip


def test_words_give_a_vocabulary_of_2000_pieces(corpus: Corpus) -> None:
    lines = list(chain.from_iterable(corpus["train"]))
    assert Subword.train(lines, SubwordConfig(vocab_size=2000)).num_pieces == 2000


def test_write_creates_six_files(tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    write(tmp_path / "demo", num_train=2000, num_dev=20, num_test=30)
    names = ["dev.de", "dev.en", "test.de", "test.en", "train.de", "train.en"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    test = generate(2000, 20, 30)["test"]
    german = (tmp_path / "demo" / "test.de").read_bytes().decode()
    assert german == "".join(f"{de}\n" for _, de in test)


def test_write_replaces_no_other_text(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    sizes = {"num_train": 2000, "num_dev": 20, "num_test": 30}
    write(tmp_path, **sizes)
    write(tmp_path, **sizes)
    (tmp_path / "dev.de").write_text("mein Text\n")
    (tmp_path / "train.en").unlink()
    with pytest.raises(DataError) as error:
        write(tmp_path, **sizes)
    assert str(error.value) == (
        f"{tmp_path}/dev.de exists and is not the built-in corpus: move it away, or choose another "
        "folder with corpus.root=FOLDER"
    )
    assert (tmp_path / "dev.de").read_text() == "mein Text\n"
    assert not (tmp_path / "train.en").exists()


def test_too_many_pairs_are_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        generate(num_train=MAX_PAIRS)
    assert str(error.value) == (
        "the built-in corpus was requested with 400000 + 500 + 500 pairs: it has 0 to 400000 in "
        "total; request fewer"
    )


def test_too_few_training_pairs_are_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        write(tmp_path / "demo", num_train=2, num_dev=1, num_test=1)
    assert str(error.value) == (
        "the built-in corpus was requested with 2 + 1 + 1 pairs: 2 training pairs do not contain "
        "the words of that many dev and test pairs; request more training pairs"
    )
    assert not (tmp_path / "demo").exists()
