import hashlib
import re
from itertools import chain
from pathlib import Path

import pytest

from nmt.corpus.builtin.generate import MAX_PAIRS, Split, generate, is_reserved, words_of, write
from nmt.corpus.builtin.grammar import Text
from nmt.corpus.builtin.lexicon import ADJECTIVES, NOUNS, POSSESSIVES, VERBS, number_words
from nmt.corpus.builtin.sentences import MAX_WORDS, Speaker
from nmt.errors import DataError

DETERMINERS = {"the", "a", "an", "any", "this", "these", *POSSESSIVES}
DETERMINERS |= {number_words(number)[0] for number in range(2, 100)}
NOUN_OF = {form: noun for noun in NOUNS for form in (noun.en, noun.en_plural)}
ADJECTIVE_WORDS = {adjective.en for adjective in ADJECTIVES}
VERBS_OF = {
    tuple(f"{form} {verb.en_word}".split()): verb
    for verb in VERBS
    if verb.objects
    for form in verb.en
}
UNTIDY = r"[,.]{2}| [,.?!]|None|_|[^,] (in dem|in das|an dem|von dem|zu dem|zu der) "


@pytest.fixture(scope="module")
def corpus() -> Split:
    return generate()


@pytest.fixture(scope="module")
def said() -> list[Text]:
    """More than what the corpus was made of."""
    speaker = Speaker(seed=1)
    return [speaker.sentence() for _ in range(40_000)]


def combinations_beside(english: str) -> set[tuple[str, str]]:
    """The adjectives before each noun, and the verb before these and the determiner."""
    words = re.findall(r"[\w'-]+", english.lower())
    found = set()
    for end, word in enumerate(words):
        if word not in NOUN_OF:
            continue
        noun, start = NOUN_OF[word], end
        while words[start - 1] in ADJECTIVE_WORDS:
            start -= 1
            found.add((words[start], noun.en))
        if words[start - 1] in DETERMINERS or words[start - 1].endswith("'s"):
            start -= 1
        for length in (1, 2):
            verb = VERBS_OF.get(tuple(words[max(start - length, 0) : start]))
            if verb and noun in verb.objects:
                found.add((verb.name, noun.en))
    return found


def test_the_same_seed_makes_the_same_corpus_on_every_machine(corpus: Split) -> None:
    assert corpus.train[:3] == [
        ("My mother can arrive.", "Meine Mutter kann ankommen."),
        ("Today Mr. Keller can call the girl.", "Heute kann Herr Keller das Mädchen anrufen."),
        ("They had to dance at the big station.", "Sie mussten am großen Bahnhof tanzen."),
    ]
    pairs = [*corpus.train[:1000], *corpus.dev, *corpus.test]
    text = "".join(f"{en}\t{de}\n" for en, de in pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4ec5945a453df7e5"


def test_another_seed_makes_another_corpus() -> None:
    assert generate(50, 0, 0, seed=1).train != generate(50, 0, 0, seed=2).train


def test_the_parts_are_as_large_as_asked(corpus: Split) -> None:
    assert [len(part) for part in corpus] == [24_000, 500, 500]
    assert [len(part) for part in generate(2000, 7, 0)] == [2000, 7, 0]


def test_no_english_sentence_comes_twice(corpus: Split) -> None:
    english = [en for part in corpus for en, _ in part]
    assert len(set(english)) == len(english)


def test_an_english_sentence_has_one_german(said: list[Text]) -> None:
    pairs = {(en, de) for en, de, _ in said}
    assert len(pairs) == len({en for en, _ in pairs})
    assert len(pairs) > 0.95 * len(said)


def test_training_never_sees_a_reserved_combination(corpus: Split) -> None:
    seen = {combination for en, _ in corpus.train for combination in combinations_beside(en)}
    assert ("buy", "apple") in seen or ("eat", "apple") in seen
    assert len(seen) > 1000
    assert [combination for combination in sorted(seen) if is_reserved(combination)] == []


def test_every_held_out_sentence_has_a_reserved_combination(
    corpus: Split, said: list[Text]
) -> None:
    held_out = {en for en, _ in chain(corpus.dev, corpus.test)}
    reserved = {text.en for text in said if any(map(is_reserved, text.combinations))}
    assert held_out <= reserved
    beside = [any(map(is_reserved, combinations_beside(en))) for en in held_out]
    assert sum(beside) > 0.6 * len(held_out)


def test_every_held_out_word_was_trained_on(corpus: Split) -> None:
    known = words_of(*chain.from_iterable(corpus.train))
    assert words_of(*chain.from_iterable(corpus.dev + corpus.test)) - known == set()


def test_sentences_are_tidy(corpus: Split) -> None:
    for en, de in chain.from_iterable(corpus):
        assert 2 <= len(en.split()) <= MAX_WORDS, en
        for text in (en, de):
            assert text == " ".join(text.split()), text
            assert text[0].isupper() or text[0] == "„", text
            assert re.search(r"[.?!][\"“]?$", text), text
            assert not re.search(UNTIDY, text), text


@pytest.mark.parametrize(
    "pattern",
    [
        r", (weil|obwohl|dass|wenn|ob|während) .*(t|e|n)\.$",
        r"^(Weil|Obwohl|Wenn|Während) .*, \w+ ",
        r", (der|die|das|den|dem|denen) ",
        r"^Gestern \w+ ",
        r"\b(an|ein|auf|zu|aus|ab|mit|weg)[.?!]",
        r"\b(angerufen|eingeladen|aufgemacht|zurückgekommen) (hat|ist)\b",
        r"\b(nicht|kein(e|en|em|er)?)\b",
        r"^(Wer|Wen|Wem|Was|Wo|Wohin|Wann|Warum|Welche\w*|Wie viele?|Wie alt) .*\?$",
        r"\b\w+und(zwanzig|dreißig|vierzig)\b",
        r"\d,\d\d Euro",
        r"\d\.\d{3} Euro",
        r"\d\.\d\d Uhr",
        r"um (halb|Viertel) ",
        r"am \d+\. \w+",
        r"„.*“",
        r"\bHerrn\b",
        r"!$",
    ],
)
def test_each_phenomenon_is_frequent(corpus: Split, pattern: str) -> None:
    found = sum(bool(re.search(pattern, de)) for _, de in corpus.train)
    assert found >= 50


def test_write_makes_six_files_with_one_sentence_a_line(tmp_path: Path) -> None:
    write(tmp_path / "demo", num_train=2000, num_dev=20, num_test=30)
    names = ["dev.de", "dev.en", "test.de", "test.en", "train.de", "train.en"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    split = generate(2000, 20, 30)
    german = (tmp_path / "demo" / "test.de").read_bytes().decode()
    assert german == "".join(f"{de}\n" for _, de in split.test)


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(DataError) as error:
        generate(num_train=MAX_PAIRS)
    assert str(error.value) == (
        "The built-in corpus was asked for 400000 + 500 + 500 pairs, but it gives 0 to 400000 in "
        "all; ask for fewer."
    )


def test_too_few_training_pairs_for_the_held_out_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        write(tmp_path / "demo", num_train=2, num_dev=1, num_test=1)
    assert str(error.value) == (
        "The built-in corpus was asked for 2 + 1 + 1 pairs, but 2 training pairs hold too few "
        "words for so many dev and test pairs; ask for more of the first."
    )
    assert not (tmp_path / "demo").exists()
