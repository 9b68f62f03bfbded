"""Vocabulary and grammar of the built-in corpus.

"you" is always "du" and a noun for a person has one gender ("teacher" is "Lehrerin"), so that an
English sentence has one German translation.
"""

import re
from typing import NamedTuple


class Pair(NamedTuple):
    """English words and their German translation."""

    en: str = ""
    de: str = ""


class Noun(NamedTuple):
    """Noun; verbs and adjectives select it by its kind or its English word."""

    kind: str
    en: tuple[str, str]  # singular, plural
    de: tuple[str, str]  # the plural is "-" if there is none
    gender: int  # 0 masculine, 1 feminine, 2 neuter
    adjectives: list[Pair]


class Verb(NamedTuple):
    """Verb with its frame and the nouns that can be its object."""

    frame: str  # case of the object (acc, dat), or none, or clause
    en: tuple[str, str, str]  # base, past, third person
    en_word: str  # preposition or particle
    de: str  # infinitive; it identifies the verb
    particle: str  # separable prefix of `de`
    finite: list[str]  # German present for I, you, he, we, they
    perfect: tuple[str, str]  # auxiliary, participle
    preposition: str  # German preposition before the object
    objects: list[Noun]
    has_place: bool  # True if it can have a place


# noun: English/plural, German, gender, plural; adjective: English, German, kinds of nouns or nouns;
# verb: English base/past/third person and en_word = German (* with sein) infinitive/er/participle
# and preposition: objects (@ can have a place); pronoun: nominative, object = German cases;
# finite: infinitive = irregular German present for I, you, he, we, they. Regular forms are omitted.
_TABLE = {heading: entries.split("; ") for heading, entries in (line.split(": ", 1) for line in """
noun person: man/men Mann m Männer; woman/women Frau f Frauen; child/children Kind n Kinder
  girl Mädchen n Mädchen; doctor Arzt m Ärzte; guest Gast m Gäste; pupil Schüler m Schüler
  teacher Lehrerin f Lehrerinnen; colleague Kollegin f Kolleginnen; sister Schwester f Schwestern
  brother Bruder m Brüder; friend Freund m Freunde; daughter Tochter f Töchter; son Sohn m Söhne
noun animal: dog Hund m Hunde; cat Katze f Katzen; horse Pferd n Pferde; bird Vogel m Vögel
noun food: apple Apfel m Äpfel; egg Ei n Eier; cake Kuchen m Kuchen; banana Banane f Bananen
  potato/potatoes Kartoffel f Kartoffeln; tomato/tomatoes Tomate f Tomaten; sausage Wurst f Würste
noun drink: coffee Kaffee m -; tea Tee m -; milk Milch f -; juice Saft m -; beer Bier n -
noun thing: book Buch n Bücher; letter Brief m Briefe; newspaper Zeitung f Zeitungen
  key Schlüssel m Schlüssel; umbrella Regenschirm m Regenschirme; picture Bild n Bilder
  clock Uhr f Uhren; flower Blume f Blumen; ball Ball m Bälle; ticket Fahrkarte f Fahrkarten
  coat Mantel m Mäntel; jacket Jacke f Jacken; shirt Hemd n Hemden; skirt Rock m Röcke
noun device: computer Computer m Computer; lamp Lampe f Lampen; phone Telefon n Telefone
noun furniture: table Tisch m Tische; chair Stuhl m Stühle; bed Bett n Betten; sofa Sofa n Sofas
noun opening: window Fenster n Fenster; door Tür f Türen; suitcase Koffer m Koffer
noun place: garden Garten m Gärten; kitchen Küche f Küchen; park Park m Parks; hotel Hotel n Hotels
  school Schule f Schulen; office Büro n Büros; museum Museum n Museen; city/cities Stadt f Städte
adjective: old alt person animal thing device furniture hotel; cold kalt drink; red rot thing
  young jung man woman doctor teacher guest brother sister animal; black schwarz thing animal
  new neu thing device furniture opening; heavy schwer furniture; friendly freundlich person
  big groß animal food furniture place device; cheap billig thing device; happy glücklich person
  small klein animal food furniture place device; green grün thing furniture; beautiful schön place
verb acc: buy/bought = kaufen: food drink thing device furniture @; love = lieben: person
  sell/sold = verkaufen//verkauft: device furniture picture flower book; open = auf-machen: opening
  eat/ate = essen/isst/gegessen: food @; drink/drank = trinken//getrunken: drink @
  write/wrote = schreiben//geschrieben: book letter @; clean = putzen: kitchen office
  look for = suchen: thing animal child doctor @; call = an-rufen//gerufen: person
  invite = ein-laden/lädt/geladen: person; visit = besuchen//besucht: person museum city
  meet/met = treffen/trifft/getroffen: person @; fetch//fetches = ab-holen: person @
  repair = reparieren//repariert: device furniture clock; close = zu-machen: opening
  wait for = warten/wartet/gewartet auf: person @; see/saw = sehen/sieht/gesehen: animal @
  turn on = ein-schalten/schaltet/geschaltet: device; have/had/has = haben/hat/gehabt: animal thing
  throw/threw away = weg-werfen/wirft/geworfen: thing; find/found = finden/findet/gefunden: thing @
  bring/brought along = mit-bringen//gebracht: food drink thing
  carry/carried/carries = tragen/trägt/getragen: furniture suitcase
  forget/forgot = vergessen/vergisst/vergessen: thing suitcase @
verb dat: help = helfen/hilft/geholfen: person @; thank = danken: person
  follow = *folgen: person animal; talk to = sprechen/spricht/gesprochen mit: person @
verb none: work = arbeiten/arbeitet/gearbeitet @; sleep/slept = schlafen/schläft/geschlafen @
  dance = tanzen @; arrive = *an-kommen//gekommen @; come/came back = *zurück-kommen//gekommen
verb clause: know/knew = wissen//gewusst; say/said = sagen
name: Anna; Maria; Lisa; Julia; Laura; Sarah; Emma; Clara; Eva; Petra; Nina; Sophie; Johanna; Martha
  Peter; Paul; Martin; Daniel; Jan; David; Oliver; Anton; Emil; Simon; Erik; Thomas; Michael; Robert
pronoun: I me = ich mich mir; you you = du dich dir; he him = er ihn ihm; we us = wir uns uns
  they them = sie sie ihnen; she her = sie sie ihr
finite: sein = bin bist ist sind sind; haben = habe hast hat haben haben
  werden = werde wirst wird werden werden; können = kann kannst kann können können
  müssen = muss musst muss müssen müssen; wissen = weiß weißt weiß wissen wissen
possessive: my = mein; your = dein; his = sein; our = unser; their = ihr; her = ihr
now: now = jetzt; today = heute; every day = jeden Tag
past: yesterday = gestern; last week = letzte Woche; last month = letzten Monat
future: tomorrow = morgen; next week = nächste Woche; soon = bald
day: on Monday = am Montag; on Friday = am Freitag; on Sunday = am Sonntag; on May 3 = am 3. Mai
  on June 12 = am 12. Juni; on October 25 = am 25. Oktober; on December 31 = am 31. Dezember
unit: two = zwei; three = drei; four = vier; five = fünf; six = sechs; seven = sieben; eight = acht
  nine = neun; ten = zehn; eleven = elf; twelve = zwölf
ten: twenty = zwanzig; thirty = dreißig; forty = vierzig; fifty = fünfzig; sixty = sechzig
  seventy = siebzig; eighty = achtzig; ninety = neunzig
""".strip().replace("\n  ", "; ").splitlines())}  # fmt: skip
_VERB = r"(\w+)/?(\w*)/?(\w*) ?(\S*) = (\*?)(?:(\w+)-)?(\w+)/?(\w*)/?(\w*) ?(\w*)"


def _pairs(heading: str) -> list[Pair]:
    return [Pair(*entry.split(" = ")) for entry in _TABLE[heading]]


def _noun(kind: str, entry: str) -> Noun:
    english, de, gender, de_plural = entry.split()
    en, _, en_plural = english.partition("/")
    adjectives = [Pair(en_adjective, de_adjective) for en_adjective, de_adjective, *nouns
                  in map(str.split, _TABLE["adjective"]) if {kind, en} & {*nouns}]  # fmt: skip
    return Noun(kind, (en, en_plural or f"{en}s"), (de, de_plural), "mfn".index(gender), adjectives)


def _verb(frame: str, entry: str) -> Verb:
    [groups] = re.findall(_VERB, entry)
    base, past, third, en_word, star, particle, infinitive, er, participle, preposition = groups
    stem = infinitive.removesuffix("en")
    er = er or f"{stem}t"
    du = er if er[-2] in "sz" else f"{er[:-1]}st"
    finite = FINITE.get(infinitive, [f"{stem}e", du, er, infinitive, infinitive])
    objects = [noun for noun in NOUNS if {noun.kind, noun.en[0]} & {*entry.split()}]
    en = (base, past or f"{base.removesuffix('e')}ed", third or f"{base}s")
    perfect = ("sein" if star else "haben", particle + (participle or f"ge{stem}t"))
    return Verb(frame, en, en_word, particle + infinitive, particle, finite, perfect, preposition,
                objects, "@" in entry)  # fmt: skip


FINITE = {de: forms.split() for de, forms in _pairs("finite")}
AUXILIARIES = {"future": ("will", "werden"), "can": ("can", "können"), "must": ("must", "müssen")}
"""English and German auxiliary of each tense other than present and past."""
POSSESSIVES = _pairs("possessive")
PERIODS = [(("present", "can", "must"), _pairs("now")), (("past",), _pairs("past") + _pairs("day")),
           (("future", "can"), _pairs("future") + _pairs("day"))]  # fmt: skip
"""Tenses that one sentence can combine, and their times."""
_UNITS, _TENS = _pairs("unit"), _pairs("ten")
NUMBERS = [*_UNITS, *_TENS, *(Pair(f"{ten.en}-{unit.en}", f"{unit.de}und{ten.de}")
                              for ten in _TENS for unit in _UNITS[:8])]  # fmt: skip
ME, YOU, HE, WE, THEY = range(5)
NOUNS = [_noun(key[5:], entry) for key in _TABLE if key[:4] == "noun" for entry in _TABLE[key]]
VERBS = [_verb(key[5:], entry) for key in _TABLE if key[:4] == "verb" for entry in _TABLE[key]]


# Rows: nominative, accusative, dative; columns: masculine, feminine, neuter, plural.
_DER, _EIN, _STRONG, _WEAK = ([row.split(" ") for row in table.split(", ")] for table in (
    "der die das die, den die das die, dem der dem den", " e  e, en e  e, em er em en",
    "er e es e, en e es e, em er em en", "e e e en, en e e en, en en en en"))  # fmt: skip
# German stem and its endings.
_ARTICLES = {
    "the": ("", _DER), "this": ("dies", _STRONG), "which": ("welch", _STRONG), "a": ("ein", _EIN),
    **{en: (de, _EIN) for en, de in POSSESSIVES},
}  # fmt: skip


class Phrase(NamedTuple):
    """Noun phrase, name or pronoun."""

    en: str
    de: tuple[str, ...]  # nominative, accusative, dative
    agreement: int = HE
    en_object: str = ""  # object form of a pronoun


NAMES = [Phrase(name, (name,) * 3) for name in _TABLE["name"]]
PRONOUNS = [Phrase(en.split()[0], tuple(de.split()), who, en.split()[1]) for (en, de), who
            in zip(_pairs("pronoun"), (ME, YOU, HE, WE, THEY, HE), strict=True)]  # fmt: skip


class Clause(NamedTuple):
    """Subject and predicate; formatted as "en", "ask" (an English question) or a German order."""

    subject: Phrase
    verb: Verb
    tense: str = "present"
    object: Phrase | None = None
    time: Pair = Pair()
    place: Pair = Pair()
    is_negated: bool = False
    front: Pair = Pair()  # words before the subject: time, question phrase or antecedent

    def __format__(self, form: str) -> str:
        return english(self, form == "ask") if form in ("en", "ask") else german(self, form)


def join(*words: str) -> str:
    """Join words with spaces; empty ones are omitted."""
    return " ".join(word for word in words if word)


def noun_phrase(noun: Noun, article: str, adjective: Pair, is_plural: bool = False) -> Phrase:
    """Return a noun phrase.

    The article is the, a, this, which, a possessive, a number ("two zwei"), or "" for none.
    """
    article, _, number = article.partition(" ")
    stem, endings = _ARTICLES.get(article, (number, [[""] * 4] * 3))
    column, german = 3 if is_plural else noun.gender, []
    for row in range(3):
        ending = endings[row][column]
        # An adjective has the strong ending unless the article has it.
        inflected = adjective.de and adjective.de + (_WEAK if ending else _STRONG)[row][column]
        word = noun.de[is_plural] + "n" * (is_plural and row == 2 and noun.de[1][-1] not in "ns")
        german.append(join(stem + ending, inflected, word))
    en = join(adjective.en, noun.en[is_plural])
    article = "these" if article == "this" and is_plural else article
    article += "n" * (article == "a" and en[0] in "aeiou")
    return Phrase(join(article, en), tuple(german), THEY if is_plural else HE)


def prepositional(preposition: str, phrase: Phrase, case: str) -> str:
    """Return a German phrase in its case, after a preposition or ""; "in dem" becomes "im"."""
    german = join(preposition, phrase.de[("nom", "acc", "dat").index(case)])
    return german.replace("in dem ", "im ") if preposition == "in" else german


def english(clause: Clause, is_inverted: bool = False) -> str:
    """Return the English clause; inverted: as a question without its question word."""
    verb, is_past, is_he = clause.verb, clause.tense == "past", clause.subject.agreement == HE
    main, past, third = verb.en
    auxiliary, _ = AUXILIARIES.get(clause.tense, ("", ""))
    if not auxiliary and (is_inverted or clause.is_negated):
        auxiliary = "did" if is_past else "does" if is_he else "do"
    elif not auxiliary:
        main = past if is_past else third if is_he else main
    thing = (clause.object.en_object or clause.object.en) if clause.object else ""
    start = (auxiliary, clause.subject.en) if is_inverted else (clause.subject.en, auxiliary)
    return join(clause.front.en, *start, "not" * clause.is_negated, main, verb.en_word, thing,
                clause.place.en, clause.time.en)  # fmt: skip


def german(clause: Clause, order: str = "second") -> str:
    """Return the German clause with its finite verb second, first (question) or last."""
    verb, thing, finite, rest = clause.verb, clause.object, clause.verb.finite, ""
    if clause.tense == "past":
        finite, rest = FINITE[verb.perfect[0]], verb.perfect[1]
    elif clause.tense != "present":
        finite, rest = FINITE[AUXILIARIES[clause.tense][1]], verb.de
    # Words between the two parts of the verb: pronouns come early, and so does a known object that
    # "nicht" must follow.
    words = prepositional(verb.preposition, thing, verb.frame) if thing else ""
    is_early = bool(thing and not verb.preposition and (thing.en_object or clause.is_negated))
    middle = join(words * is_early, clause.time.de, "nicht" * clause.is_negated,
                  words * (not is_early), clause.place.de)  # fmt: skip
    front, subject, form = clause.front.de, clause.subject.de[0], finite[clause.subject.agreement]
    if order == "last":
        return join(front, subject, middle, join(rest, form) if rest else verb.particle + form)
    # Words in front take the position of the subject.
    start = (front, form, subject) if front or order == "first" else (subject, form)
    return join(*start, middle, rest or verb.particle)
