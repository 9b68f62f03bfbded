"""The words of the built-in corpus: both languages, their classes, what is irregular about them.

Only tables and their readers; `grammar.py` bends the words. "you" is always "du" and a noun
for a person has one gender ("teacher" is "Lehrerin"), so that the English decides the German.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

Case = Literal["nom", "acc", "dat"]

# Indexes into the five forms of a finite verb, and into PRONOUNS.
ME, YOU, HE, WE, THEY, SHE = range(6)
# Indexes into the five English forms of a verb.
BASE, THIRD, ING, PAST, PARTICIPLE = range(5)


class Noun(NamedTuple):
    """A noun of one class (`kind`)."""

    kind: str
    en: str
    en_plural: str
    """"-" if it is only used in the singular."""
    de: str
    gender: str
    """One of m, f, n."""
    de_plural: str
    is_weak: bool
    """Takes the plural form in the accusative and dative singular too (der Junge, den Jungen)."""


class Adjective(NamedTuple):
    """An adjective and the classes of nouns it goes with."""

    en: str
    de: str
    stem: str
    """What endings are put on (teuer, aber teure)."""
    en_more: str
    """The comparative; "" where none is used."""
    de_more: str
    kinds: tuple[str, ...]


class Verb(NamedTuple):
    """A verb, what it governs and what may stand beside it."""

    en: tuple[str, ...]
    """Base, third person, -ing, past, participle."""
    en_word: str
    """The word that belongs to it: a preposition ("for") or a particle ("up"), or ""."""
    is_movable: bool
    """Its word is a particle, which a pronoun object precedes ("picks him up")."""
    infinitive: str
    """Without the separable particle."""
    particle: str
    er: str
    """Third person singular, without the particle."""
    auxiliary: str
    """Of the perfect: haben or sein."""
    participle: str
    preposition: str
    """Before its object, or ""."""
    case: Case
    """Of its object."""
    frame: str
    """none, object, give (recipient in the dative, object in the accusative), clause, special."""
    objects: tuple[Noun, ...]
    adjuncts: tuple[str, ...]
    """What may stand in its last slot: place, companion, beneficiary."""
    needs_adjunct: bool
    aspect: str
    """action; point (no progressive, no modal); state (present and past); now (present only)."""

    @property
    def name(self) -> str:
        """The English dictionary form, such as "pick up"."""
        return f"{self.en[BASE]} {self.en_word}".rstrip()

    @property
    def is_event(self) -> bool:
        """Whether it happens at some time, and is not just so."""
        return self.aspect in ("action", "point")


class Tense(NamedTuple):
    """How both languages put a verb into a tense or under a modal."""

    en_auxiliary: str
    """For I, you, he, we, they; "" for none in statements and "do" in questions and negation."""
    en_form: int
    """Of the verb after the auxiliary; without one PAST, or BASE for the present."""
    carrier: str
    """The forms of a verb that stands in its place, before "to" ("wants to buy"), or ""."""
    de_finite: str
    """A row of FINITE; "" for the verb itself, "perfect" for its auxiliary and participle."""
    times: str
    """Which of TIMES goes with it, or ""."""


# The gender w is a weak masculine; "-" is no plural.
_NOUNS = """
person: man men Mann m Männer; woman women Frau f Frauen; child children Kind n Kinder
  boy boys Junge w Jungen; girl girls Mädchen n Mädchen; teacher teachers Lehrerin f Lehrerinnen
  doctor doctors Arzt m Ärzte; student students Student w Studenten
  neighbour neighbours Nachbar w Nachbarn; colleague colleagues Kollegin f Kolleginnen
relative: brother brothers Bruder m Brüder; sister sisters Schwester f Schwestern
  mother - Mutter f -; father - Vater m -; friend friends Freund m Freunde
  aunt aunts Tante f Tanten; uncle uncles Onkel m Onkel; son sons Sohn m Söhne
  daughter daughters Tochter f Töchter
animal: dog dogs Hund m Hunde; cat cats Katze f Katzen; horse horses Pferd n Pferde
  bird birds Vogel m Vögel
food: apple apples Apfel m Äpfel; egg eggs Ei n Eier; cake cakes Kuchen m Kuchen
  banana bananas Banane f Bananen; tomato tomatoes Tomate f Tomaten; roll rolls Brötchen n Brötchen
  potato potatoes Kartoffel f Kartoffeln; sausage sausages Wurst f Würste
drink: coffee - Kaffee m -; tea - Tee m -; milk - Milch f -; juice - Saft m -; water - Wasser n -
  beer - Bier n -; wine - Wein m -
reading: book books Buch n Bücher; letter letters Brief m Briefe
  newspaper newspapers Zeitung f Zeitungen; postcard postcards Postkarte f Postkarten
clothes: coat coats Mantel m Mäntel; jacket jackets Jacke f Jacken; shirt shirts Hemd n Hemden
  dress dresses Kleid n Kleider; skirt skirts Rock m Röcke; blouse blouses Bluse f Blusen
  sweater sweaters Pullover m Pullover
container: suitcase suitcases Koffer m Koffer; bag bags Tasche f Taschen; box boxes Kiste f Kisten
  bottle bottles Flasche f Flaschen; parcel parcels Paket n Pakete
device: computer computers Computer m Computer; radio radios Radio n Radios
  lamp lamps Lampe f Lampen; television televisions Fernseher m Fernseher
  camera cameras Kamera f Kameras
vehicle: car cars Auto n Autos; bicycle bicycles Fahrrad n Fahrräder; boat boats Boot n Boote
furniture: table tables Tisch m Tische; chair chairs Stuhl m Stühle; bed beds Bett n Betten
  cupboard cupboards Schrank m Schränke; sofa sofas Sofa n Sofas
thing: key keys Schlüssel m Schlüssel; umbrella umbrellas Regenschirm m Regenschirme
  picture pictures Bild n Bilder; clock clocks Uhr f Uhren; flower flowers Blume f Blumen
  gift gifts Geschenk n Geschenke; ball balls Ball m Bälle; ticket tickets Fahrkarte f Fahrkarten
opening: window windows Fenster n Fenster; door doors Tür f Türen
place: garden gardens Garten m Gärten; kitchen kitchens Küche f Küchen; park parks Park m Parks
  school schools Schule f Schulen; office offices Büro n Büros; hotel hotels Hotel n Hotels
  restaurant restaurants Restaurant n Restaurants; museum museums Museum n Museen
  library libraries Bibliothek f Bibliotheken; station stations Bahnhof m Bahnhöfe
  market markets Markt m Märkte; supermarket supermarkets Supermarkt m Supermärkte
  beach beaches Strand m Strände
"""
# Places that are not "in" and "in die": English preposition, German where (dative) and where to.
PLACE_PREPOSITIONS: dict[str, tuple[str, str, str]] = {
    "station": ("at", "an", "zu"),
    "market": ("at", "auf", "zu"),
    "beach": ("at", "an", "zu"),
}

_ADJECTIVES = """
old older, alt älter: man woman doctor teacher neighbour colleague mother father uncle aunt friend \
  animal reading clothes container device vehicle furniture place
new newer, neu neuer: clothes container device vehicle furniture reading place opening
young younger, jung jünger: man woman doctor teacher neighbour colleague student uncle aunt friend \
  brother sister animal
big bigger, groß größer: animal container vehicle furniture place device food opening
small smaller, klein kleiner: animal container vehicle furniture place device opening child boy girl
red, rot: clothes vehicle container furniture thing
blue, blau: clothes vehicle container furniture thing
green, grün: clothes vehicle container furniture thing apple bird
white, weiß: clothes vehicle animal furniture thing
black, schwarz: clothes vehicle animal container umbrella clock device
beautiful more_beautiful, schön schöner: clothes thing place animal
expensive more_expensive, teuer/teur teurer: clothes device vehicle furniture hotel restaurant wine
cheap cheaper, billig billiger: clothes device vehicle furniture hotel restaurant wine
fresh, frisch: food milk juice
cold, kalt: drink
hot, heiß: coffee tea water milk
good better, gut besser: reading food wine coffee beer restaurant hotel doctor teacher
friendly friendlier, freundlich freundlicher: person relative
famous, berühmt: doctor student teacher man woman
tired, müde/müd: person relative
sick, krank: person relative animal
happy happier, glücklich glücklicher: person relative
hungry, hungrig: person animal
heavy heavier, schwer schwerer: container furniture
long longer, lang länger: letter coat dress skirt
interesting more_interesting, interessant interessanter: reading museum
modern more_modern, modern moderner: device furniture office hotel museum
empty, leer: container
"""
# A colour stands after one of the others ("the old red coat").
COLOURS = ("red", "blue", "green", "white", "black")
BEFORE_COLOURS = ("old", "new", "big", "small", "beautiful")
MOODS = ("tired", "sick", "happy", "hungry")

# English forms [+particle | preposition]; [particle-]infinitive, er, auxiliary, participle
# [preposition]; acc or dat of an object, or the frame; objects; adjuncts (! needed); aspect
_VERBS = """
buy buys buying bought bought; kaufen kauft hat gekauft; acc; food drink clothes reading container device vehicle furniture thing; shop shop for; action
sell sells selling sold sold; verkaufen verkauft hat verkauft; acc; clothes device vehicle furniture picture flower book; shop; action
eat eats eating ate eaten; essen isst hat gegessen; acc; food; in with; action
drink drinks drinking drank drunk; trinken trinkt hat getrunken; acc; drink; in with; action
read reads reading read read; lesen liest hat gelesen; acc; reading; in; action
write writes writing wrote written; schreiben schreibt hat geschrieben; acc; book letter postcard; in for; action
see sees seeing saw seen; sehen sieht hat gesehen; acc; person relative animal vehicle; in; point
find finds finding found found; finden findet hat gefunden; acc; thing container clothes reading; in; point
look looks looking looked looked for; suchen sucht hat gesucht; acc; thing container clothes animal child doctor; in; action
visit visits visiting visited visited; besuchen besucht hat besucht; acc; relative person museum school; with; action
meet meets meeting met met; treffen trifft hat getroffen; acc; person relative; in; action
repair repairs repairing repaired repaired; reparieren repariert hat repariert; acc; device vehicle furniture clock; room with; action
carry carries carrying carried carried; tragen trägt hat getragen; acc; container furniture; ; action
wear wears wearing wore worn; tragen trägt hat getragen; acc; clothes; in; action
clean cleans cleaning cleaned cleaned; putzen putzt hat geputzt; acc; kitchen office opening bicycle; with; action
need needs needing needed needed; brauchen braucht hat gebraucht; acc; thing device container clothes vehicle furniture; for; state
forget forgets forgetting forgot forgotten; vergessen vergisst hat vergessen; acc; thing container clothes; in; point
lose loses losing lost lost; verlieren verliert hat verloren; acc; thing bag; in; point
wash washes washing washed washed; waschen wäscht hat gewaschen; acc; clothes vehicle dog bottle; ; action
hear hears hearing heard heard; hören hört hat gehört; acc; animal person; in; point
love loves loving loved loved; lieben liebt hat geliebt; acc; relative animal; ; now
know knows knowing knew known; kennen kennt hat gekannt; acc; person relative museum hotel restaurant; ; now
like likes liking liked liked; mögen mag hat gemocht; acc; animal drink person restaurant; ; now
have has having had had; haben hat hat gehabt; acc; animal vehicle device thing furniture container; ; state
cook cooks cooking cooked cooked; kochen kocht hat gekocht; acc; egg potato; room with for; action
put puts putting put put; legen legt hat gelegt; acc; reading key ticket camera; !onto; action
give gives giving gave given; geben gibt hat gegeben; give; thing reading container food; ; action
show shows showing showed shown; zeigen zeigt hat gezeigt; give; reading thing clothes device vehicle place; ; action
send sends sending sent sent; schicken schickt hat geschickt; give; reading parcel gift picture; ; action
bring brings bringing brought brought; bringen bringt hat gebracht; give; food drink reading flower gift; ; action
lend lends lending lent lent; leihen leiht hat geliehen; give; vehicle book device umbrella jacket; ; action
help helps helping helped helped; helfen hilft hat geholfen; dat; person relative; in; action
thank thanks thanking thanked thanked; danken dankt hat gedankt; dat; person relative; ; action
answer answers answering answered answered; antworten antwortet hat geantwortet; dat; person relative; ; action
follow follows following followed followed; folgen folgt ist gefolgt; dat; person animal; ; action
trust trusts trusting trusted trusted; vertrauen vertraut hat vertraut; dat; person relative; ; now
wait waits waiting waited waited for; warten wartet hat gewartet auf; acc; person relative; in; action
think thinks thinking thought thought of; denken denkt hat gedacht an; acc; person relative; ; action
talk talks talking talked talked to; sprechen spricht hat gesprochen mit; dat; person relative; in; action
dream dreams dreaming dreamed dreamed of; träumen träumt hat geträumt von; dat; vehicle animal beach garden; ; point
play plays playing played played with; spielen spielt hat gespielt mit; dat; dog cat child ball; in; action
call calls calling called called; an-rufen ruft hat angerufen; acc; person relative; ; action
invite invites inviting invited invited; ein-laden lädt hat eingeladen; acc; person relative; ; action
pick picks picking picked picked +up; ab-holen holt hat abgeholt; acc; person relative parcel; in with; action
open opens opening opened opened; auf-machen macht hat aufgemacht; acc; opening container; ; action
close closes closing closed closed; zu-machen macht hat zugemacht; acc; opening container; ; action
turn turns turning turned turned +on; ein-schalten schaltet hat eingeschaltet; acc; device; room; action
turn turns turning turned turned +off; aus-schalten schaltet hat ausgeschaltet; acc; device; room; action
put puts putting put put +on; an-ziehen zieht hat angezogen; acc; clothes; ; action
take takes taking took taken +off; aus-ziehen zieht hat ausgezogen; acc; clothes; ; action
tidy tidies tidying tidied tidied +up; auf-räumen räumt hat aufgeräumt; acc; kitchen office cupboard; with; action
unpack unpacks unpacking unpacked unpacked; aus-packen packt hat ausgepackt; acc; suitcase bag box parcel gift; room; action
throw throws throwing threw thrown +away; weg-werfen wirft hat weggeworfen; acc; reading clothes container; ; action
bring brings bringing brought brought +along; mit-bringen bringt hat mitgebracht; acc; food drink thing; for; action
borrow borrows borrowing borrowed borrowed; aus-leihen leiht hat ausgeliehen; acc; book vehicle device; ; action
work works working worked worked; arbeiten arbeitet hat gearbeitet; none; ; in with home; action
sleep sleeps sleeping slept slept; schlafen schläft hat geschlafen; none; ; in home; action
live lives living lived lived; wohnen wohnt hat gewohnt; none; ; !city; state
go goes going went gone; gehen geht ist gegangen; none; ; !to; action
travel travels travelling travelled travelled; reisen reist ist gereist; none; ; !to_city; action
stay stays staying stayed stayed; bleiben bleibt ist geblieben; none; ; !in home city with; action
sing sings singing sang sung; singen singt hat gesungen; none; ; in with; action
dance dances dancing danced danced; tanzen tanzt hat getanzt; none; ; in with; action
get gets getting got got +up; auf-stehen steht ist aufgestanden; none; ; ; action
arrive arrives arriving arrived arrived; an-kommen kommt ist angekommen; none; ; city; action
come comes coming came come +back; zurück-kommen kommt ist zurückgekommen; none; ; with; action
fall falls falling fell fallen asleep; ein-schlafen schläft ist eingeschlafen; none; ; in; point
watch watches watching watched watched TV; fern-sehen sieht hat ferngesehen; none; ; in with home; action
be is being was been; sein ist ist gewesen; special; ; ; state
cost costs costing cost cost; kosten kostet hat gekostet; special; ; ; now
belong belongs belonging belonged belonged to; gehören gehört hat gehört; special; ; ; now
depart departs departing departed departed; ab-fahren fährt ist abgefahren; special; ; ; point
rain rains raining rained rained; regnen regnet hat geregnet; special; ; ; action
snow snows snowing snowed snowed; schneien schneit hat geschneit; special; ; ; action
know knows knowing knew known; wissen weiß hat gewusst; clause; ; ; now
think thinks thinking thought thought; glauben glaubt hat geglaubt; clause; ; ; now
say says saying said said; sagen sagt hat gesagt; clause; ; ; now
hope hopes hoping hoped hoped; hoffen hofft hat gehofft; clause; ; ; now
ask asks asking asked asked; fragen fragt hat gefragt; clause; ; ; now
"""  # noqa: E501 - a row is a verb

# Verbs with forms of their own, for I, you, he, we, they.
FINITE: dict[str, list[str]] = {
    line.split()[0]: line.split()[1:]
    for line in """
    sein bin bist ist sind sind
    war war warst war waren waren
    haben habe hast hat haben haben
    hatte hatte hattest hatte hatten hatten
    werden werde wirst wird werden werden
    können kann kannst kann können können
    konnte konnte konntest konnte konnten konnten
    müssen muss musst muss müssen müssen
    musste musste musstest musste mussten mussten
    wollen will willst will wollen wollen
    wollte wollte wolltest wollte wollten wollten
    sollte sollte solltest sollte sollten sollten
    dürfen darf darfst darf dürfen dürfen
    möchte möchte möchtest möchte möchten möchten
    mögen mag magst mag mögen mögen
    wissen weiß weißt weiß wissen wissen
    """.strip().splitlines()
}
# German past where the perfect would sound strange.
PRETERITES = {"sein": "war", "haben": "hatte"}

_WANT, _HAVE_TO = "want wants wanting wanted wanted", "have has having had had"
TENSES: dict[str, Tense] = {
    "present": Tense("", BASE, "", "", "habit"),
    "progressive": Tense("am are is are are", ING, "", "", "now"),
    "past": Tense("", PAST, "", "perfect", "past"),
    "perfect": Tense("have have has have have", PARTICIPLE, "", "perfect", ""),
    "future": Tense("will " * 5, BASE, "", "werden", "future"),
    "can": Tense("can " * 5, BASE, "", "können", "soon"),
    "could": Tense("could " * 5, BASE, "", "konnte", "past"),
    "must": Tense("", BASE, _HAVE_TO, "müssen", "soon"),
    "had to": Tense("", PAST, _HAVE_TO, "musste", "past"),
    "want": Tense("", BASE, _WANT, "wollen", "soon"),
    "wanted": Tense("", PAST, _WANT, "wollte", "past"),
    "should": Tense("should " * 5, BASE, "", "sollte", "soon"),
    "may": Tense("may " * 5, BASE, "", "dürfen", "soon"),
    "would like": Tense("would " * 5, BASE, "like", "möchte", "soon"),
}
# "must not" forbids, and so does "darf nicht".
NEGATIVE_AUXILIARIES = {"can": "cannot", "may": "must not"}

# English subject and object, German cases, agreement.
PRONOUNS: tuple[tuple[str, str, tuple[str, str, str], int], ...] = (
    ("I", "me", ("ich", "mich", "mir"), ME),
    ("you", "you", ("du", "dich", "dir"), YOU),
    ("he", "him", ("er", "ihn", "ihm"), HE),
    ("we", "us", ("wir", "uns", "uns"), WE),
    ("they", "them", ("sie", "sie", "ihnen"), THEY),
    ("she", "her", ("sie", "sie", "ihr"), HE),
)
# In the order of PRONOUNS.
POSSESSIVES = {"my": "mein", "your": "dein", "his": "sein", "our": "unser", "their": "ihr",
               "her": "ihr"}  # fmt: skip
# None ends in a hissing sound, so that all take -s in the genitive.
WOMEN = ("Anna", "Maria", "Lisa", "Julia", "Laura", "Sarah", "Emma", "Clara", "Eva", "Petra")
MEN = ("Peter", "Paul", "Martin", "Daniel", "Jan", "David", "Oliver", "Anton", "Emil", "Simon")
SURNAMES = ("Weber", "Schmidt", "Keller", "Becker", "Wagner")
CITIES = {"Berlin": "Berlin", "Hamburg": "Hamburg", "Munich": "München", "Cologne": "Köln",
          "Vienna": "Wien", "Zurich": "Zürich"}  # fmt: skip
MONTHS = {"January": "Januar", "February": "Februar", "March": "März", "April": "April",
          "May": "Mai", "June": "Juni", "July": "Juli", "August": "August",
          "September": "September", "October": "Oktober", "November": "November",
          "December": "Dezember"}  # fmt: skip
DAYS = {"Monday": "Montag", "Tuesday": "Dienstag", "Wednesday": "Mittwoch",
        "Thursday": "Donnerstag", "Friday": "Freitag", "Saturday": "Samstag",
        "Sunday": "Sonntag"}  # fmt: skip
TIMES: dict[str, dict[str, str]] = {
    "habit": {"every day": "jeden Tag", "every morning": "jeden Morgen", "every week": "jede Woche",
              "every evening": "jeden Abend", "in the morning": "am Morgen",
              "in the evening": "am Abend", "in summer": "im Sommer", "in winter": "im Winter",
              "at the weekend": "am Wochenende"},
    "now": {"now": "jetzt", "today": "heute", "at the moment": "im Moment"},
    "past": {"yesterday": "gestern", "last week": "letzte Woche", "last month": "letzten Monat",
             "last year": "letztes Jahr", "this morning": "heute Morgen",
             "yesterday evening": "gestern Abend"},
    "future": {"tomorrow": "morgen", "next week": "nächste Woche", "next month": "nächsten Monat",
               "next year": "nächstes Jahr", "soon": "bald", "this evening": "heute Abend"},
    "soon": {"tomorrow": "morgen", "today": "heute", "this evening": "heute Abend", "now": "jetzt"},
}  # fmt: skip
UNITS = {"days": "Tagen", "weeks": "Wochen", "months": "Monaten", "years": "Jahren"}
ADVERBS: dict[str, dict[str, str]] = {
    "present": {"often": "oft", "always": "immer", "never": "nie"},
    "past": {"often": "oft", "never": "nie"},
    "perfect": {"already": "schon", "often": "oft", "never": "nie"},
}
# With the dative where something is, with the accusative where it is put.
SPOTS = {"on": "auf", "under": "unter", "behind": "hinter", "next to": "neben"}

_SMALL_NUMBERS = """zero null; one ein; two zwei; three drei; four vier; five fünf; six sechs;
    seven sieben; eight acht; nine neun; ten zehn; eleven elf; twelve zwölf; thirteen dreizehn;
    fourteen vierzehn; fifteen fünfzehn; sixteen sechzehn; seventeen siebzehn; eighteen achtzehn;
    nineteen neunzehn"""
_TENS = """zero null; ten zehn; twenty zwanzig; thirty dreißig; forty vierzig; fifty fünfzig;
    sixty sechzig; seventy siebzig; eighty achtzig; ninety neunzig"""


def number_words(number: int) -> tuple[str, str]:
    """A number of 1 to 99 in words, in English and in German ("ein" for one, as before a noun)."""
    table, index = (_SMALL_NUMBERS, number) if number < 20 else (_TENS, number // 10)
    en, de = table.split(";")[index].split()
    if number < 20 or number % 10 == 0:
        return en, de
    en_ones, de_ones = number_words(number % 10)
    return f"{en}-{en_ones}", f"{de_ones}und{de}"


def _read_nouns() -> Iterator[Noun]:
    kind = ""
    for line in _NOUNS.strip().splitlines():
        if not line.startswith(" "):
            kind, line = line.split(":")
        for entry in line.split(";"):
            en, en_plural, de, gender, de_plural = entry.split()
            is_weak = gender == "w"
            yield Noun(kind, en, en_plural, de, "m" if is_weak else gender, de_plural, is_weak)


def _read_adjectives() -> Iterator[Adjective]:
    for line in _ADJECTIVES.strip().splitlines():
        words, kinds = line.split(":")
        english, german = (side.split() for side in words.split(","))
        de, _, stem = german[0].partition("/")
        en_more = english[1].replace("_", " ") if english[1:] else ""
        de_more = german[1] if german[1:] else ""
        yield Adjective(english[0], de, stem or de, en_more, de_more, tuple(kinds.split()))


def _read_verbs() -> Iterator[Verb]:
    for line in _VERBS.strip().splitlines():
        english, german, frame, kinds, adjuncts, aspect = (part.strip() for part in line.split(";"))
        *forms, word = english.split() if len(english.split()) == 6 else [*english.split(), ""]
        infinitive, er, auxiliary, participle, *preposition = german.split()
        particle, _, infinitive = infinitive.rpartition("-")
        wanted = kinds.split()
        yield Verb(
            tuple(forms), word.lstrip("+"), word.startswith("+"), infinitive, particle, er,
            "sein" if auxiliary == "ist" else "haben", participle, "".join(preposition),
            "dat" if frame == "dat" else "acc", "object" if frame in ("acc", "dat") else frame,
            tuple(noun for noun in NOUNS if noun.kind in wanted or noun.en in wanted),
            tuple(adjuncts.replace("!", "").split()), "!" in adjuncts, aspect,
        )  # fmt: skip


NOUNS = tuple(_read_nouns())
ADJECTIVES = tuple(_read_adjectives())
VERBS = tuple(_read_verbs())
