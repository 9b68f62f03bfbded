"""Vocabulary of the built-in corpus: tables of words with their irregular forms.

"you" is always "du" and a noun for a person has one gender ("teacher" is "Lehrerin"), so that an
English sentence has one German translation.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Noun(NamedTuple):
    """Noun; verbs and adjectives select it by its kind or its English word."""

    kind: str
    en: str
    en_plural: str
    de: str
    gender: int  # 0 masculine, 1 feminine, 2 neuter
    de_plural: str  # "-" if there is none


class Verb(NamedTuple):
    """Verb with its frame and the nouns that can be its object."""

    name: str  # English dictionary form, such as "pick up"
    frame: str  # case of the object (acc, dat), or none, clause, copula
    is_action: bool  # False: only in the present and past
    en: tuple[str, str, str, str]  # base, third person, -ing, past
    en_word: str  # preposition ("for") or particle ("+up", which a pronoun object precedes)
    particle: str  # separable German prefix
    infinitive: str
    er: str  # third person singular
    participle: str
    auxiliary: str
    preposition: str  # German preposition before the object
    objects: tuple[Noun, ...]
    has_place: bool  # True if it can have a place


_NOUNS = """
person: man/men Mann m Männer; woman/women Frau f Frauen; child/children Kind n Kinder
  girl Mädchen n Mädchen; teacher Lehrerin f Lehrerinnen; doctor Arzt m Ärzte
  pupil Schüler m Schüler; colleague Kollegin f Kolleginnen; guest Gast m Gäste
relative: brother Bruder m Brüder; sister Schwester f Schwestern; uncle Onkel m Onkel
  friend Freund m Freunde; son Sohn m Söhne; daughter Tochter f Töchter; aunt Tante f Tanten
animal: dog Hund m Hunde; cat Katze f Katzen; horse Pferd n Pferde; bird Vogel m Vögel
food: apple Apfel m Äpfel; egg Ei n Eier; cake Kuchen m Kuchen; banana Banane f Bananen
  potato Kartoffel f Kartoffeln; sausage Wurst f Würste; tomato Tomate f Tomaten
drink: coffee Kaffee m -; tea Tee m -; milk Milch f -; juice Saft m -; beer Bier n -; wine Wein m -
reading: book Buch n Bücher; letter Brief m Briefe; newspaper Zeitung f Zeitungen
clothes: coat Mantel m Mäntel; jacket Jacke f Jacken; shirt Hemd n Hemden; dress Kleid n Kleider
  skirt Rock m Röcke; blouse Bluse f Blusen
container: suitcase Koffer m Koffer; bag Tasche f Taschen; box Kiste f Kisten
  bottle Flasche f Flaschen; parcel Paket n Pakete
device: computer Computer m Computer; lamp Lampe f Lampen; phone Telefon n Telefone
vehicle: car Auto n Autos; bicycle Fahrrad n Fahrräder; boat Boot n Boote
furniture: table Tisch m Tische; chair Stuhl m Stühle; bed Bett n Betten; sofa Sofa n Sofas
thing: key Schlüssel m Schlüssel; umbrella Regenschirm m Regenschirme; picture Bild n Bilder
  clock Uhr f Uhren; flower Blume f Blumen; ball Ball m Bälle; ticket Fahrkarte f Fahrkarten
opening: window Fenster n Fenster; door Tür f Türen
place: garden Garten m Gärten; kitchen Küche f Küchen; park Park m Parks; school Schule f Schulen
  office Büro n Büros; hotel Hotel n Hotels; museum Museum n Museen; library Bibliothek f -
"""
_ADJECTIVES = """
old alt person relative animal reading clothes device vehicle furniture hotel museum;
new neu clothes container device vehicle furniture reading opening; cold kalt drink;
young jung man woman doctor teacher guest brother sister aunt uncle animal;
big groß animal container vehicle furniture place device food opening;
small klein animal container vehicle furniture place device child girl;
red rot clothes vehicle container furniture thing; black schwarz clothes vehicle animal container;
green grün clothes vehicle container furniture thing apple; beautiful schön clothes thing place;
cheap billig clothes device vehicle furniture hotel wine; heavy schwer container furniture;
good gut reading food drink hotel doctor teacher; friendly freundlich person relative;
happy glücklich person relative
"""
# English forms = German forms (* with sein): objects (@ can have a place)
_VERBS = """
acc action: buy/bought = kaufen: food drink clothes book device furniture thing @
  sell/sold = verkaufen: clothes device vehicle furniture picture flower book
  eat/ate = essen/isst/gegessen: food @; drink/drank = trinken//getrunken: drink @
  write/wrote = schreiben//geschrieben: book letter @; wash = waschen/wäscht/gewaschen: clothes
  look for = suchen: thing container clothes animal child doctor @
  visit = besuchen: relative person museum school; call = an-rufen//gerufen: person relative
  meet/met = treffen/trifft/getroffen: person relative @; open = auf-machen: opening container
  repair = reparieren: device vehicle furniture clock; close = zu-machen: opening container
  carry = tragen/trägt/getragen: container furniture; turn +on = ein-schalten: device
  clean = putzen: kitchen office opening bicycle; turn +off = aus-schalten: device
  wait for = warten auf: person relative @; invite = ein-laden/lädt/geladen: person relative
  pick +up = ab-holen: person relative parcel @
  throw/threw +away = weg-werfen/wirft/geworfen: reading clothes container
  bring/brought +along = mit-bringen//gebracht: food drink thing
acc state: see/saw = sehen/sieht/gesehen: person relative animal vehicle @
  find/found = finden//gefunden: thing container clothes reading @
  forget/forgot = vergessen/vergisst/vergessen: thing container clothes @
  need = brauchen: thing device container clothes vehicle furniture
  have/had = haben/hat: animal vehicle device thing furniture container
  know/knew = kennen//gekannt: person relative museum; love = lieben: relative animal
dat action: help = helfen/hilft/geholfen: person relative @; thank = danken: person relative
  answer = antworten: person relative; follow = *folgen: person animal
  talk to = sprechen/spricht/gesprochen mit: person relative @
none action: work = arbeiten @; sleep/slept = schlafen/schläft/geschlafen @; dance = tanzen @
  sing/sang = singen//gesungen @; arrive = *an-kommen//gekommen @
  come/came +back = *zurück-kommen//gekommen
copula state: be/were = *sein/ist/gewesen
clause state: know/knew = wissen/weiß/gewusst; hope = hoffen; say/said = sagen; ask = fragen
"""
_FINITE = (
    "sein bin bist ist sind sind, war war warst war waren waren, haben habe hast hat haben haben, "
    "hatte hatte hattest hatte hatten hatten, werden werde wirst wird werden werden, "
    "können kann kannst kann können können, müssen muss musst muss müssen müssen, "
    "wissen weiß weißt weiß wissen wissen"
)
FINITE = {forms.split()[0]: forms.split()[1:] for forms in _FINITE.split(", ")}
"""Irregular finite forms for I, you, he, we, they."""
BASE, THIRD, ING, PAST = range(4)
# English auxiliary, English form, key of FINITE ("perfect", or "" for the verb itself).
TENSES = {
    "present": ("", BASE, ""), "progressive": ("am are is are are", ING, ""),
    "past": ("", PAST, "perfect"), "future": ("will " * 5, BASE, "werden"),
    "can": ("can " * 5, BASE, "können"), "must": ("must " * 5, BASE, "müssen"),
}  # fmt: skip
ME, YOU, HE, WE, THEY, SHE = range(6)
# English subject and object, German cases, agreement.
PRONOUNS = (
    ("I", "me", ("ich", "mich", "mir"), ME), ("you", "you", ("du", "dich", "dir"), YOU),
    ("he", "him", ("er", "ihn", "ihm"), HE), ("we", "us", ("wir", "uns", "uns"), WE),
    ("they", "them", ("sie", "sie", "ihnen"), THEY), ("she", "her", ("sie", "sie", "ihr"), HE),
)  # fmt: skip
POSSESSIVES = {"my": "mein", "your": "dein", "his": "sein", "our": "unser", "their": "ihr",
               "her": "ihr"}  # fmt: skip
NAMES = (
    "Anna", "Maria", "Lisa", "Julia", "Laura", "Sarah", "Emma", "Clara", "Eva", "Petra", "Nina",
    "Peter", "Paul", "Martin", "Daniel", "Jan", "David", "Oliver", "Anton", "Emil", "Simon", "Erik",
)  # fmt: skip
_DAYS = "; ".join(f"on {en} = am {de}" for en, de in (
    ("Monday", "Montag"), ("Tuesday", "Dienstag"), ("Friday", "Freitag"), ("Sunday", "Sonntag"),
    ("May 3", "3. Mai"), ("June 12", "12. Juni"), ("October 25", "25. Oktober")))  # fmt: skip


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Read "english = german; english = german"."""
    return tuple((en, de) for en, de in (pair.split(" = ") for pair in text.split("; ")))


PRESENT_TIMES = _pairs("now = jetzt; today = heute; at the moment = im Moment")
PAST_TIMES = _pairs(f"yesterday = gestern; last week = letzte Woche; {_DAYS}")
FUTURE_TIMES = _pairs(f"tomorrow = morgen; next week = nächste Woche; soon = bald; {_DAYS}")
_UNITS = _pairs(
    "two = zwei; three = drei; four = vier; five = fünf; six = sechs; seven = sieben; "
    "eight = acht; nine = neun; ten = zehn; eleven = elf; twelve = zwölf"
)
_TENS = _pairs(
    "twenty = zwanzig; thirty = dreißig; forty = vierzig; fifty = fünfzig; sixty = sechzig; "
    "seventy = siebzig; eighty = achtzig; ninety = neunzig"
)
NUMBERS = _UNITS + _TENS + tuple(
    (f"{en}-{en_unit}", f"{de_unit}und{de}") for en, de in _TENS for en_unit, de_unit in _UNITS[:8]
)  # fmt: skip


def _entries(table: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, entry): "heading: entry; entry", continued on indented lines."""
    for line in table.strip().replace("\n  ", "; ").splitlines():
        heading, entries = line.split(": ", 1)
        yield from ((heading, entry) for entry in entries.split("; "))


def _with_s(word: str) -> str:
    """Return the regular plural of a noun or third person of a verb."""
    if word[-1] == "y" and word[-2] not in "aeou":
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh", "o")) else "s")


def _noun(kind: str, entry: str) -> Noun:
    english, de, gender, de_plural = entry.split()
    en, _, en_plural = english.partition("/")
    return Noun(kind, en, en_plural or _with_s(en), de, "mfn".index(gender), de_plural)


def _select(words: list[str]) -> tuple[Noun, ...]:
    """Return the nouns of some kinds, or named by their English words."""
    return tuple(noun for noun in NOUNS if noun.kind in words or noun.en in words)


def _verb(heading: str, entry: str) -> Verb:
    governed, at, _ = entry.partition(" @")
    words, _, objects = governed.partition(": ")
    english, german = words.split(" = ")
    forms, _, en_word = english.partition(" ")
    base, _, past = forms.partition("/")
    third = "has" if base == "have" else _with_s(base)
    past = past or (f"{base[:-1]}ied" if third[-3:] == "ies" else f"{base.removesuffix('e')}ed")
    ing = base.removesuffix("e") + "ing"
    forms, _, preposition = german.lstrip("*").partition(" ")
    full, er, participle = [*forms.split("/"), "", ""][:3]
    particle, _, infinitive = full.rpartition("-")
    stem = infinitive.removesuffix("en")
    weak = stem + ("et" if stem[-1] in "td" else "t")
    has_ge = not stem.startswith(("be", "ver")) and not stem.endswith("ier")
    return Verb(
        f"{base} {en_word.strip('+')}".strip(), heading.split()[0], heading.endswith("action"),
        (base, third, ing, past), en_word, particle, infinitive, er or weak,
        particle + (participle or "ge" * has_ge + weak), "sein" if german[0] == "*" else "haben",
        preposition, _select(objects.split()), bool(at),
    )  # fmt: skip


NOUNS = tuple(_noun(*each) for each in _entries(_NOUNS))
VERBS = tuple(_verb(*each) for each in _entries(_VERBS))
ADJECTIVES = {en: (de, _select(kinds)) for en, de, *kinds in map(str.split, _ADJECTIVES.split(";"))}
"""English word: German word, nouns that it goes with."""
