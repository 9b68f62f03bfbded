import pytest

from nmt.corpus.builtin.grammar import (
    Clause,
    Phrase,
    Text,
    english,
    german,
    noun_phrase,
    prepositional,
    relative_pronoun,
)
from nmt.corpus.builtin.lexicon import (
    HE,
    ME,
    NOUNS,
    NUMBERS,
    PRONOUNS,
    SHE,
    THEY,
    VERBS,
    WE,
    YOU,
)

NOUN = {noun.en: noun for noun in NOUNS}
VERB = {verb.name: verb for verb in reversed(VERBS)}
ANNA = Phrase("Anna", ("Anna",) * 3)
YESTERDAY, TODAY = Text("yesterday", "gestern"), Text("today", "heute")


def phrase(determiner: str, *words: str, is_plural: bool = False) -> Phrase:
    *adjective, noun = words
    return noun_phrase(NOUN[noun], determiner, "".join(adjective), is_plural)


def pronoun(index: int) -> Phrase:
    en, en_object, de, agreement = PRONOUNS[index]
    return Phrase(en, de, agreement, en_object)


@pytest.mark.parametrize(
    ("thing", "en", "nom", "acc", "dat"),
    [
        (phrase("the", "old", "table"), "the old table",
         "der alte Tisch", "den alten Tisch", "dem alten Tisch"),
        (phrase("a", "old", "table"), "an old table",
         "ein alter Tisch", "einen alten Tisch", "einem alten Tisch"),
        (phrase("", "cold", "milk"), "cold milk", "kalte Milch", "kalte Milch", "kalter Milch"),
        (phrase("no", "cold", "milk"), "any cold milk",
         "keine kalte Milch", "keine kalte Milch", "keiner kalten Milch"),
        (phrase("this", "old", "hotel"), "this old hotel",
         "dieses alte Hotel", "dieses alte Hotel", "diesem alten Hotel"),
        (phrase("our", "cheap", "bicycle"), "our cheap bicycle",
         "unser billiges Fahrrad", "unser billiges Fahrrad", "unserem billigen Fahrrad"),
        (phrase("their", "happy", "sister"), "their happy sister",
         "ihre glückliche Schwester", "ihre glückliche Schwester", "ihrer glücklichen Schwester"),
        (phrase("twenty-two zweiundzwanzig", "green", "apple", is_plural=True),
         "twenty-two green apples", "zweiundzwanzig grüne Äpfel", "zweiundzwanzig grüne Äpfel",
         "zweiundzwanzig grünen Äpfeln"),
        (phrase("my", "young", "brother", is_plural=True), "my young brothers",
         "meine jungen Brüder", "meine jungen Brüder", "meinen jungen Brüdern"),
        (phrase("this", "new", "car", is_plural=True), "these new cars",
         "diese neuen Autos", "diese neuen Autos", "diesen neuen Autos"),
    ],
)  # fmt: skip
def test_phrase_inflects_for_gender_number_case_and_article(
    thing: Phrase, en: str, nom: str, acc: str, dat: str
) -> None:
    assert (thing.en, thing.de) == (en, (nom, acc, dat))


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(pronoun(YOU), VERB["eat"], object=phrase("a", "egg")),
         "you eat an egg", "du isst ein Ei"),
        (Clause(ANNA, VERB["call"], "progressive", pronoun(WE), TODAY),
         "Anna is calling us today", "Anna ruft uns heute an"),
        (Clause(pronoun(THEY), VERB["arrive"], "past", complement=Text("in Vienna", "in Wien")),
         "they arrived in Vienna", "sie sind in Wien angekommen"),
        (Clause(pronoun(WE), VERB["help"], "can", pronoun(SHE), TODAY),
         "we can help her today", "wir können ihr heute helfen"),
        (Clause(ANNA, VERB["open"], "future", phrase("the", "window"), is_negated=True),
         "Anna will not open the window", "Anna wird das Fenster nicht aufmachen"),
        (Clause(ANNA, VERB["have"], "past", phrase("no", "dog"), is_negated=True),
         "Anna did not have a dog", "Anna hatte keinen Hund"),
        (Clause(pronoun(ME), VERB["wait for"], object=pronoun(HE), is_negated=True),
         "I do not wait for him", "ich warte nicht auf ihn"),
        (Clause(pronoun(HE), VERB["pick up"], "future", pronoun(ME), TODAY),
         "he will pick me up today", "er wird mich heute abholen"),
        (Clause(ANNA, VERB["be"], "past", complement=Text("happy", "glücklich"), is_negated=True),
         "Anna was not happy", "Anna war nicht glücklich"),
        (Clause(ANNA, VERB["eat"], "past", phrase("two zwei", "egg", is_plural=True), YESTERDAY,
                Text("in the park", "im Park")),
         "Anna ate two eggs in the park yesterday", "Anna hat gestern zwei Eier im Park gegessen"),
    ],
)  # fmt: skip
def test_main_clause_has_the_finite_verb_second(clause: Clause, en: str, de: str) -> None:
    assert (english(clause), german(clause)) == (en, de)


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(ANNA, VERB["call"], object=pronoun(HE)), "Anna calls him", "Anna ihn anruft"),
        (Clause(pronoun(HE), VERB["call"], "past", ANNA, YESTERDAY),
         "he called Anna yesterday", "er gestern Anna angerufen hat"),
        (Clause(pronoun(ME), VERB["clean"], "must", phrase("my", "kitchen")),
         "I must clean my kitchen", "ich meine Küche putzen muss"),
    ],
)  # fmt: skip
def test_subordinate_clause_has_the_finite_verb_last(clause: Clause, en: str, de: str) -> None:
    assert (english(clause), german(clause, "last")) == (en, de)


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(ANNA, VERB["have"], object=phrase("a", "dog")),
         "does Anna have a dog", "hat Anna einen Hund"),
        (Clause(ANNA, VERB["be"], complement=Text("happy", "glücklich")),
         "is Anna happy", "ist Anna glücklich"),
        (Clause(ANNA, VERB["help"], "past"), "did Anna help", "hat Anna geholfen"),
        (Clause(ANNA, VERB["turn on"], "progressive", phrase("the", "lamp")),
         "is Anna turning on the lamp", "schaltet Anna die Lampe ein"),
    ],
)  # fmt: skip
def test_question_inverts_subject_and_verb(clause: Clause, en: str, de: str) -> None:
    assert (english(clause, is_inverted=True), german(clause, "first")) == (en, de)


@pytest.mark.parametrize(
    ("noun", "is_plural", "de"),
    [
        ("man", False, ("der", "den", "dem")),
        ("woman", False, ("die", "die", "der")),
        ("child", False, ("das", "das", "dem")),
        ("woman", True, ("die", "die", "denen")),
    ],
)
def test_relative_pronoun_agrees_with_its_noun(
    noun: str, is_plural: bool, de: tuple[str, ...]
) -> None:
    assert relative_pronoun(NOUN[noun], is_plural).de == de


@pytest.mark.parametrize(
    ("preposition", "thing", "case", "de"),
    [
        ("in", phrase("the", "small", "park"), "dat", "im kleinen Park"),
        ("in", phrase("this", "kitchen"), "dat", "in dieser Küche"),
        ("mit", phrase("the", "child", is_plural=True), "dat", "mit den Kindern"),
        ("auf", pronoun(HE), "acc", "auf ihn"),
    ],
)
def test_preposition_governs_a_case(preposition: str, thing: Phrase, case: str, de: str) -> None:
    assert prepositional("", preposition, thing, case).de == de


def test_numbers_in_words() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS) == 83
    assert {("twelve", "zwölf"), ("thirty", "dreißig")} < set(NUMBERS)
    assert ("seventy-six", "sechsundsiebzig") in NUMBERS
