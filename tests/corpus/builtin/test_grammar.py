from dataclasses import replace

import pytest

from nmt.corpus.builtin.choice import NOUNS, VERBS
from nmt.corpus.builtin.grammar import (
    Clause,
    Phrase,
    Text,
    english,
    german_command,
    german_infinitive,
    german_last,
    german_main,
    name,
    noun_phrase,
    prepositional,
    pronoun,
    relative_pronoun,
    statement,
)
from nmt.corpus.builtin.lexicon import ADJECTIVES, HE, ME, SHE, THEY, WE, YOU, number_words

ADJECTIVE = {adjective.en: adjective for adjective in ADJECTIVES}
ALREADY, OFTEN = Text("already", "schon"), Text("often", "oft")
YESTERDAY, TODAY = Text("yesterday", "gestern"), Text("today", "heute")
ANNA = name("Anna")


def phrase(determiner: str, *words: str, is_plural: bool = False) -> Phrase:
    *adjectives, noun = words
    return noun_phrase(
        NOUNS[noun], determiner, [ADJECTIVE[adjective] for adjective in adjectives], is_plural
    )


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
        (phrase("our", "expensive", "bicycle"), "our expensive bicycle",
         "unser teures Fahrrad", "unser teures Fahrrad", "unserem teuren Fahrrad"),
        (phrase("their", "tired", "sister"), "their tired sister",
         "ihre müde Schwester", "ihre müde Schwester", "ihrer müden Schwester"),
        (phrase("Anna's", "big", "blue", "coat"), "Anna's big blue coat",
         "Annas großer blauer Mantel", "Annas großen blauen Mantel", "Annas großem blauem Mantel"),
        (phrase("twenty-one", "green", "apple", is_plural=True), "twenty-one green apples",
         "einundzwanzig grüne Äpfel", "einundzwanzig grüne Äpfel", "einundzwanzig grünen Äpfeln"),
        (phrase("my", "young", "brother", is_plural=True), "my young brothers",
         "meine jungen Brüder", "meine jungen Brüder", "meinen jungen Brüdern"),
        (phrase("this", "new", "car", is_plural=True), "these new cars",
         "diese neuen Autos", "diese neuen Autos", "diesen neuen Autos"),
        (phrase("the", "boy"), "the boy", "der Junge", "den Jungen", "dem Jungen"),
        (name("Mr. Weber"), "Mr. Weber", "Herr Weber", "Herrn Weber", "Herrn Weber"),
    ],
)  # fmt: skip
def test_a_phrase_bends_with_gender_number_case_and_article(
    thing: Phrase, en: str, nom: str, acc: str, dat: str
) -> None:
    assert (thing.en, thing.de) == (en, (nom, acc, dat))


@pytest.mark.parametrize(
    ("front", "clause", "en", "de"),
    [
        ("", Clause(pronoun(YOU), VERBS["read"], "present", phrase("a", "letter")),
         "you read a letter", "du liest einen Brief"),
        ("time", Clause(ANNA, VERBS["call"], "past", phrase("her", "brother"), time=YESTERDAY),
         "yesterday Anna called her brother", "gestern hat Anna ihren Bruder angerufen"),
        ("time", Clause(ANNA, VERBS["call"], "progressive", pronoun(WE), time=TODAY),
         "today Anna is calling us", "heute ruft Anna uns an"),
        ("", Clause(pronoun(THEY), VERBS["arrive"], "perfect", last=Text("in Vienna", "in Wien")),
         "they have arrived in Vienna", "sie sind in Wien angekommen"),
        ("", Clause(pronoun(WE), VERBS["help"], "can", pronoun(SHE), time=TODAY),
         "we can help her today", "wir können ihr heute helfen"),
        ("", Clause(ANNA, VERBS["open"], "may", phrase("the", "window"), is_negated=True),
         "Anna must not open the window", "Anna darf das Fenster nicht aufmachen"),
        ("", Clause(ANNA, VERBS["invite"], "must", phrase("the", "boy"), is_negated=True),
         "Anna does not have to invite the boy", "Anna muss den Jungen nicht einladen"),
        ("", Clause(ANNA, VERBS["buy"], "would like", phrase("no", "dog"), is_negated=True),
         "Anna would not like to buy a dog", "Anna möchte keinen Hund kaufen"),
        ("", Clause(pronoun(ME), VERBS["wait for"], "present", pronoun(HE), is_negated=True),
         "I do not wait for him", "ich warte nicht auf ihn"),
        ("", Clause(pronoun(HE), VERBS["pick up"], "future", pronoun(ME), time=TODAY),
         "he will pick me up today", "er wird mich heute abholen"),
        ("", Clause(pronoun(SHE), VERBS["give"], "past", phrase("a", "ball"), ANNA),
         "she gave Anna a ball", "sie hat Anna einen Ball gegeben"),
        ("", Clause(ANNA, VERBS["be"], "past", last=Text("tired", "müde"), is_negated=True),
         "Anna was not tired", "Anna war nicht müde"),
        ("", Clause(pronoun(YOU), VERBS["fall asleep"], "perfect", adverb=ALREADY),
         "you have already fallen asleep", "du bist schon eingeschlafen"),
        ("", Clause(ANNA, VERBS["read"], "present", phrase("the", "book"), adverb=OFTEN),
         "Anna often reads the book", "Anna liest das Buch oft"),
        ("last", Clause(ANNA, VERBS["sleep"], last=Text("in the park", "im Park")),
         "in the park Anna sleeps", "im Park schläft Anna"),
        ("", Clause(ANNA, VERBS["eat"], "past", phrase("two", "egg", is_plural=True),
                    last=Text("in the park", "im Park")),
         "Anna ate two eggs in the park", "Anna hat im Park zwei Eier gegessen"),
        ("", Clause(ANNA, VERBS["show"], "want", phrase("my", "car"), phrase("the", "child")),
         "Anna wants to show the child my car", "Anna will dem Kind mein Auto zeigen"),
        ("", Clause(ANNA, VERBS["put"], "must", phrase("a", "key"),
                    last=Text("on the bed", "auf das Bett")),
         "Anna has to put a key on the bed", "Anna muss einen Schlüssel auf das Bett legen"),
    ],
)  # fmt: skip
def test_a_statement_has_the_german_verb_second_and_its_rest_last(
    front: str, clause: Clause, en: str, de: str
) -> None:
    assert statement(clause, front)[:2] == (en, de)


@pytest.mark.parametrize(
    ("clause", "opener", "en", "de"),
    [
        (Clause(ANNA, VERBS["call"], "present", pronoun(HE)), Text("because", "weil"),
         "because Anna calls him", "weil Anna ihn anruft"),
        (Clause(pronoun(HE), VERBS["call"], "past", ANNA, time=YESTERDAY), Text("that", "dass"),
         "that he called Anna yesterday", "dass er gestern Anna angerufen hat"),
        (Clause(pronoun(ME), VERBS["tidy up"], "want", phrase("my", "kitchen")), Text("if", "wenn"),
         "if I want to tidy up my kitchen", "wenn ich meine Küche aufräumen will"),
        (Clause(ANNA, VERBS["live"], last=Text("in Cologne", "in Köln")), Text("whether", "ob"),
         "whether Anna lives in Cologne", "ob Anna in Köln wohnt"),
    ],
)  # fmt: skip
def test_a_side_clause_has_the_german_verb_last(
    clause: Clause, opener: Text, en: str, de: str
) -> None:
    assert (english(clause, opener.en), german_last(clause, opener.de)) == (en, de)


@pytest.mark.parametrize(
    ("clause", "opener", "en", "de"),
    [
        (Clause(ANNA, VERBS["have"], "present", phrase("a", "dog")), Text("", ""),
         "does Anna have a dog", "hat Anna einen Hund"),
        (Clause(ANNA, VERBS["be"], last=Text("tired", "müde")), Text("", ""),
         "is Anna tired", "ist Anna müde"),
        (Clause(ANNA, VERBS["help"], "past"), Text("who", "wem"),
         "who did Anna help", "wem hat Anna geholfen"),
        (Clause(pronoun(YOU), VERBS["go"], "would like"), Text("where", "wohin"),
         "where would you like to go", "wohin möchtest du gehen"),
        (Clause(ANNA, VERBS["turn on"], "progressive", phrase("the", "lamp")), Text("why", "warum"),
         "why is Anna turning on the lamp", "warum schaltet Anna die Lampe ein"),
    ],
)  # fmt: skip
def test_a_question_inverts_the_subject(clause: Clause, opener: Text, en: str, de: str) -> None:
    assert english(clause, opener.en, is_question=True) == en
    assert german_main(clause, opener.de) == de


@pytest.mark.parametrize(
    ("verb", "thing", "en", "de"),
    [
        ("close", phrase("the", "door"), "close the door", "mach die Tür zu"),
        ("read", phrase("this", "book"), "read this book", "lies dieses Buch"),
        ("throw away", phrase("the", "coat"), "throw away the coat", "wirf den Mantel weg"),
        ("invite", pronoun(ME), "invite me", "lade mich ein"),
        ("repair", phrase("your", "clock"), "repair your clock", "repariere deine Uhr"),
        ("help", pronoun(THEY), "help them", "hilf ihnen"),
    ],
)
def test_a_command_begins_with_the_imperative(verb: str, thing: Phrase, en: str, de: str) -> None:
    clause = Clause(Phrase("", ("", "", ""), YOU), VERBS[verb], object=thing)
    assert (english(clause), german_command(clause)) == (en, de)


def test_a_command_to_us_ends_with_the_infinitive() -> None:
    clause = Clause(Phrase("let us", ("", "", ""), WE), VERBS["call"], object=pronoun(SHE))
    assert (english(clause), german_infinitive(clause, "lass uns")) == (
        "let us call her",
        "lass uns sie anrufen",
    )


def test_a_relative_pronoun_takes_the_gender_of_its_noun_and_the_case_of_its_verb() -> None:
    clause = Clause(ANNA, VERBS["see"], "past")
    man = relative_pronoun(NOUNS["man"], is_plural=False)
    assert german_last(clause, man.german("acc")) == "den Anna gesehen hat"
    women = relative_pronoun(NOUNS["woman"], is_plural=True)
    assert german_last(replace(clause, verb=VERBS["help"]), women.german("dat")) == (
        "denen Anna geholfen hat"
    )
    child = relative_pronoun(NOUNS["child"], is_plural=False)
    playing = Clause(child, VERBS["sleep"], last=Text("at home", "zu Hause"))
    assert (english(playing), german_last(playing)) == (
        "who sleeps at home",
        "das zu Hause schläft",
    )


@pytest.mark.parametrize(
    ("preposition", "thing", "case", "de"),
    [
        ("in", phrase("the", "small", "park"), "dat", "im kleinen Park"),
        ("in", phrase("the", "small", "park"), "acc", "in den kleinen Park"),
        ("in", phrase("the", "hotel"), "acc", "ins Hotel"),
        ("in", phrase("this", "kitchen"), "dat", "in dieser Küche"),
        ("zu", phrase("the", "station"), "dat", "zum Bahnhof"),
        ("an", phrase("the", "beach"), "dat", "am Strand"),
        ("mit", phrase("the", "child", is_plural=True), "dat", "mit den Kindern"),
        ("für", pronoun(HE), "acc", "für ihn"),
        ("von", phrase("the", "beach"), "dat", "vom Strand"),
        ("von", relative_pronoun(NOUNS["beach"], is_plural=False), "dat", "von dem"),
    ],
)
def test_a_preposition_governs_a_case_and_contracts(
    preposition: str, thing: Phrase, case: str, de: str
) -> None:
    assert prepositional("", preposition, thing, "acc" if case == "acc" else "dat").de == de


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, ("one", "ein")),
        (12, ("twelve", "zwölf")),
        (17, ("seventeen", "siebzehn")),
        (21, ("twenty-one", "einundzwanzig")),
        (30, ("thirty", "dreißig")),
        (76, ("seventy-six", "sechsundsiebzig")),
    ],
)
def test_numbers_in_words(number: int, words: tuple[str, str]) -> None:
    assert number_words(number) == words
