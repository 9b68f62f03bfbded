import pytest

from nmt.corpus.builtin.grammar import (
    HE,
    ME,
    NOUNS,
    NUMBERS,
    PRONOUNS,
    THEY,
    VERBS,
    WE,
    YOU,
    Clause,
    Pair,
    Phrase,
    english,
    german,
    noun_phrase,
    prepositional,
)

SHE = 5
NOUN = {noun.en[0]: noun for noun in NOUNS}
VERB = {verb.de: verb for verb in VERBS}
ADJECTIVE = {adjective.en: adjective for noun in NOUNS for adjective in noun.adjectives}
ANNA = Phrase("Anna", ("Anna",) * 3)
YESTERDAY, TODAY = Pair("yesterday", "gestern"), Pair("today", "heute")


def phrase(article: str, *words: str, is_plural: bool = False) -> Phrase:
    *adjective, noun = words
    return noun_phrase(
        NOUN[noun], article, ADJECTIVE[adjective[0]] if adjective else Pair(), is_plural
    )


@pytest.mark.parametrize(
    ("thing", "en", "nom", "acc", "dat"),
    [
        (phrase("the", "old", "table"), "the old table",
         "der alte Tisch", "den alten Tisch", "dem alten Tisch"),
        (phrase("a", "old", "table"), "an old table",
         "ein alter Tisch", "einen alten Tisch", "einem alten Tisch"),
        (phrase("", "cold", "milk"), "cold milk", "kalte Milch", "kalte Milch", "kalter Milch"),
        (phrase("this", "old", "hotel"), "this old hotel",
         "dieses alte Hotel", "dieses alte Hotel", "diesem alten Hotel"),
        (phrase("our", "cheap", "picture"), "our cheap picture",
         "unser billiges Bild", "unser billiges Bild", "unserem billigen Bild"),
        (phrase("their", "happy", "sister"), "their happy sister",
         "ihre glückliche Schwester", "ihre glückliche Schwester", "ihrer glücklichen Schwester"),
        (phrase("twenty-two zweiundzwanzig", "green", "apple", is_plural=True),
         "twenty-two green apples", "zweiundzwanzig grüne Äpfel", "zweiundzwanzig grüne Äpfel",
         "zweiundzwanzig grünen Äpfeln"),
        (phrase("my", "young", "brother", is_plural=True), "my young brothers",
         "meine jungen Brüder", "meine jungen Brüder", "meinen jungen Brüdern"),
        (phrase("this", "new", "sofa", is_plural=True), "these new sofas",
         "diese neuen Sofas", "diese neuen Sofas", "diesen neuen Sofas"),
    ],
)  # fmt: skip
def test_phrase_inflects_for_gender_number_case_and_article(
    thing: Phrase, en: str, nom: str, acc: str, dat: str
) -> None:
    assert (thing.en, thing.de) == (en, (nom, acc, dat))


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(PRONOUNS[YOU], VERB["essen"], object=phrase("a", "egg")),
         "you eat an egg", "du isst ein Ei"),
        (Clause(ANNA, VERB["anrufen"], "present", PRONOUNS[WE], TODAY),
         "Anna calls us today", "Anna ruft uns heute an"),
        (Clause(PRONOUNS[THEY], VERB["ankommen"], "past", place=Pair("in Vienna", "in Wien")),
         "they arrived in Vienna", "sie sind in Wien angekommen"),
        (Clause(PRONOUNS[WE], VERB["helfen"], "can", PRONOUNS[SHE], TODAY),
         "we can help her today", "wir können ihr heute helfen"),
        (Clause(ANNA, VERB["aufmachen"], "future", phrase("the", "window"), is_negated=True),
         "Anna will not open the window", "Anna wird das Fenster nicht aufmachen"),
        (Clause(PRONOUNS[ME], VERB["warten"], object=PRONOUNS[HE], is_negated=True),
         "I do not wait for him", "ich warte nicht auf ihn"),
        (Clause(PRONOUNS[HE], VERB["abholen"], "future", PRONOUNS[ME], TODAY),
         "he will fetch me today", "er wird mich heute abholen"),
        (Clause(ANNA, VERB["essen"], "past", phrase("two zwei", "egg", is_plural=True), YESTERDAY,
                Pair("in the park", "im Park")),
         "Anna ate two eggs in the park yesterday", "Anna hat gestern zwei Eier im Park gegessen"),
        (Clause(ANNA, VERB["mitbringen"], "past", phrase("the", "cake"), front=YESTERDAY),
         "yesterday Anna brought along the cake", "gestern hat Anna den Kuchen mitgebracht"),
    ],
)  # fmt: skip
def test_main_clause_has_the_finite_verb_second(clause: Clause, en: str, de: str) -> None:
    assert (english(clause), german(clause)) == (en, de)


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(ANNA, VERB["anrufen"], object=PRONOUNS[HE]), "Anna calls him", "Anna ihn anruft"),
        (Clause(PRONOUNS[HE], VERB["anrufen"], "past", ANNA, YESTERDAY),
         "he called Anna yesterday", "er gestern Anna angerufen hat"),
        (Clause(PRONOUNS[ME], VERB["putzen"], "must", phrase("my", "kitchen")),
         "I must clean my kitchen", "ich meine Küche putzen muss"),
        (Clause(PRONOUNS[THEY], VERB["ankommen"], "past", front=Pair("when", "wann")),
         "when they arrived", "wann sie angekommen sind"),
    ],
)  # fmt: skip
def test_subordinate_clause_has_the_finite_verb_last(clause: Clause, en: str, de: str) -> None:
    assert (english(clause), german(clause, "last")) == (en, de)


@pytest.mark.parametrize(
    ("clause", "en", "de"),
    [
        (Clause(ANNA, VERB["haben"], object=phrase("a", "dog")),
         "does Anna have a dog", "hat Anna einen Hund"),
        (Clause(ANNA, VERB["helfen"], "past"), "did Anna help", "hat Anna geholfen"),
        (Clause(ANNA, VERB["einschalten"], object=phrase("the", "lamp")),
         "does Anna turn on the lamp", "schaltet Anna die Lampe ein"),
        (Clause(PRONOUNS[ME], VERB["warten"], "can", front=Pair("which dog", "auf welchen Hund")),
         "which dog can I wait for", "auf welchen Hund kann ich warten"),
    ],
)  # fmt: skip
def test_question_inverts_subject_and_verb(clause: Clause, en: str, de: str) -> None:
    assert (english(clause, is_inverted=True), german(clause, "first")) == (en, de)


@pytest.mark.parametrize(
    ("preposition", "thing", "case", "de"),
    [
        ("in", phrase("the", "small", "park"), "dat", "im kleinen Park"),
        ("in", phrase("this", "kitchen"), "dat", "in dieser Küche"),
        ("mit", phrase("the", "child", is_plural=True), "dat", "mit den Kindern"),
        ("auf", PRONOUNS[HE], "acc", "auf ihn"),
    ],
)
def test_preposition_governs_a_case(preposition: str, thing: Phrase, case: str, de: str) -> None:
    assert prepositional(preposition, thing, case) == de


def test_numbers_in_words() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS) == 83
    assert {("twelve", "zwölf"), ("thirty", "dreißig")} < set(NUMBERS)
    assert ("seventy-six", "sechsundsiebzig") in NUMBERS
