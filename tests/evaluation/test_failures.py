"""Failures by rule: planted ones of each kind, in several languages and scripts."""

import pytest

from nmt.evaluation import test_sets
from nmt.evaluation.failure_rules import FailureRules, split_units
from nmt.evaluation.failures import find_failures

PAIRS = {
    ("en", "de"): [
        ("Two dogs run over 35 fields in 1990.", "Zwei Hunde laufen 1990 über 35 Felder."),
        ("The man in the red shirt sleeps.", "Der Mann im roten Hemd schläft."),
    ],
    ("en", "zh"): [
        ("Two dogs run over 35 fields in 1990.", "1990年，两只狗跑过三十五块田地。"),
        ("The man in the red shirt sleeps.", "穿红衬衫的男人在睡觉。"),
    ],
    ("ar", "en"): [
        ("ركض كلبان عبر ٣٥ حقلا.", "Two dogs ran across 35 fields."),
        ("الرجل ذو القميص الأحمر نائم.", "The man in the red shirt sleeps."),
    ],
}


def failures_of(src: str, tgt: str, languages: tuple[str, str] = ("en", "de")) -> set[str]:
    """Return the rules by which a translation fails."""
    sides = zip(*PAIRS.get(languages, [(src, src)]), strict=True)
    rules = FailureRules.fit(*map(list, sides), languages)
    return {rule for rule, has_failed in rules.judge(src, tgt).items() if has_failed}


@pytest.mark.parametrize("languages", list(PAIRS))
def test_good_translations_do_not_fail(languages: tuple[str, str]) -> None:
    for src, tgt in PAIRS[languages]:
        assert failures_of(src, tgt, languages) == set()


@pytest.mark.parametrize(
    ("rule", "languages", "src", "tgt"),
    [
        ("numbers", ("en", "de"), "It costs 1,500 euros.", "Es kostet 1.600 Euro."),
        ("numbers", ("en", "de"), "It has 35 rooms.", "Es hat viele Zimmer."),
        ("numbers", ("en", "de"), "It has many rooms.", "Es hat 47 Zimmer."),
        ("numbers", ("en", "de"), "Take 3 of them.", "Nimm 4 davon."),
        ("numbers", ("ar", "en"), "عبر ٣٥ حقلا كبيرا.", "Across 53 large fields."),
        ("numbers", ("en", "zh"), "There are 35 books here.", "这里有很多书。"),
        ("repetition", ("en", "de"), "A man sits.", "Ein Mann, ein Mann sitzt."),
        ("repetition", ("en", "de"), "A man sits.", "Ein Mann und und und sitzt."),
        ("repetition", ("en", "de"), "A man sits.", "Ein Samamamamann sitzt."),
        ("repetition", ("en", "zh"), "A man sits in a park.", "一个男人一个男人坐着。"),
        ("repetition", ("en", "hi"), "The dog runs.", "कुत्ता दौड़ कुत्ता दौड़ रहा है।"),
        ("untranslated", ("en", "de"), "A man sits here.", "A man sits here."),
        ("untranslated", ("en", "de"), "A man sits here.", "a man sits, here!"),
        ("untranslated", ("en", "de"), "A man sits in an old house.", "Ein Mann sits in an old."),
        ("untranslated", ("en", "de"), "Ten men sit there.", "Ten people are sitting outside now."),
        ("untranslated", ("en", "zh"), "Ten men sit there.", "Ten men."),
        ("untranslated", ("ar", "en"), "الرجل ذو القميص نائم.", "الرجل نائم جدا."),
        ("empty", ("en", "de"), "A man sits.", ""),
        ("empty", ("en", "de"), "A man sits.", "..."),
        ("empty", ("ar", "en"), "الرجل نائم.", " "),
        ("truncated", ("en", "de"), "A man in a hat sits under a big old tree.", "Ein Mann"),
        ("truncated", ("en", "zh"), "A man in a hat sits under a big old tree.", "男人"),
        ("too_long", ("en", "de"), "A man sits.", "Ein Mann sitzt auf einer langen Bank im Park."),
        ("single_words", ("en", "de"), "Really?", "Eine blonde Frau bückt sich."),
        ("single_words", ("en", "de"), "Kitchen", "Kitchen"),
        ("single_words", ("en", "zh"), "Kitchen", "有一个女人在厨房里做饭给孩子吃"),
        ("single_words", ("zh", "en"), "厨房", "厨房"),
        ("single_words", ("zh", "en"), "厨房", "A woman is cooking in the kitchen."),
        ("negation", ("en", "de"), "I don't know him.", "Ich kenne ihn."),
        ("negation", ("en", "de"), "I know him.", "Ich kenne ihn nicht."),
        ("negation", ("fr", "ru"), "Je ne le sais pas.", "Я это знаю."),
        ("negation", ("nb-NO", "en"), "Jeg vet det ikke.", "I know it."),
        ("negation", ("nn", "en"), "Eg veit det ikkje.", "I know it."),
        ("names", ("en", "de"), "We met Susan today.", "Wir trafen heute Peter."),
        ("names", ("de", "en"), "Wir trafen heute Peter.", "Today we met Susan."),
    ],
)
def test_planted_failures_are_found(
    rule: str, languages: tuple[str, str], src: str, tgt: str
) -> None:
    assert rule in failures_of(src, tgt, languages)


@pytest.mark.parametrize(
    ("languages", "src", "tgt"),
    [
        # Number words, separators, units, clocks and digits of other scripts.
        (("en", "de"), "I have 3 of the 100.", "Ich habe drei von den hundert."),
        (("en", "de"), "It costs 1,500 euros.", "Es kostet 1500 Euro."),
        (("en", "de"), "It has 35 rooms.", "Es hat fünfunddreißig Zimmer."),
        (("en", "de"), "We met at 3:30 pm.", "Wir trafen uns um 15:30."),
        (("en", "zh"), "I have 35 of them.", "我有三十五个。"),
        # Repetition that the source has, or that is good language.
        (("en", "de"), "No, no, no, Tom!", "Nein, nein, nein, Tom!"),
        (("en", "de"), "The men who like them.", "Die Männer, die die mögen."),
        (("en", "zh"), "Please have a discussion.", "请讨论讨论。"),
        # A name is the same in both languages, and inflected or spelt alike.
        (("en", "de"), "Yes!", "Ja!"),
        (("en", "de"), "I saw Mary in Australia.", "Ich sah Maria in Australien."),
        (("en", "ru"), "I saw Mary in London.", "Я видел Мэри в Лондоне."),
        # Days and languages are no names; a question at the end is no negation.
        (("en", "de"), "He speaks French on Tuesdays.", "Er spricht dienstags Französisch."),
        (("en", "de"), "You know him, don't you?", "Du kennst ihn, nicht wahr?"),
        (("en", "de"), "...", "..."),
    ],
)
def test_good_translations_with_differences_do_not_fail(
    languages: tuple[str, str], src: str, tgt: str
) -> None:
    assert failures_of(src, tgt, languages) == set()


def test_rules_without_a_table_are_left_out_with_a_reason() -> None:
    def left_out(*languages: str) -> list[str]:
        src, tgt = languages
        return list(FailureRules.fit(["a b"], ["c d"], (src, tgt)).left_out())

    assert left_out("en", "de") == []
    assert left_out("en", "zh") == [
        "negation: no rule for zh (there is for da, de, en, es, fr, it, nl, no, pl, pt, ru, sv, uk)"
    ]
    assert left_out("ja", "zh")[1] == (
        "names: no rule for ja and zh (there is for da, es, fr, it, nl, no, pl, pt, sv, en)"
    )
    assert left_out("cs", "sk")[0] == "untranslated: cs and sk are written alike"
    assert "untranslated" not in failures_of("Dobrý den všem.", "Dobrý den všem.", ("cs", "sk"))


def test_words_are_those_of_each_script() -> None:
    assert split_units("Don't stop, 你好！") == ["dont", "stop", "你", "好"]
    assert split_units("कुत्ता दौड़ता है।") == ["कुत्ता", "दौड़ता", "है"]
    assert split_units(" — ... ") == []


def test_lengths_are_learnt_from_larger_test_sets() -> None:
    words = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
    refs = [" ".join(words[: 2 + n % 9]) + "." for n in range(200)]
    src = [ref.replace("e", "ee") for ref in refs]
    rules = FailureRules.fit(src, refs, ("xx", "yy"))
    assert not any(rules.judge(*pair)["truncated"] for pair in zip(src, refs, strict=True))
    assert rules.judge(src[8], refs[1])["truncated"]
    assert rules.judge(src[1], refs[8])["too_long"]


def test_report_counts_false_alarms_and_prefers_clear_examples() -> None:
    src = ("It has 35 rooms.", "It has 36 rooms.", "It has many rooms.")
    refs = ("Es hat viele Zimmer.", "Es hat 36 Zimmer.", "Es hat viele Zimmer.")
    hyps = ["Es hat Zimmer.", "Es hat 63 Zimmer.", "Es hat viele Zimmer."]
    report = find_failures(hyps, test_sets.TestSet("news", src, (refs,)), ("en", "de"), 1)
    numbers = report.rules[0]
    assert (numbers.rule, numbers.segments, numbers.output, numbers.reference) == (
        "numbers",
        2,
        2,
        1,
    )
    assert [example.line for example in numbers.examples] == [2]
    text = report.text("news, tiny").splitlines()
    assert text[:3] == [
        "news, tiny, failures by rule (reference: false alarms):",
        "                segments        output    reference",
        "  numbers              2  2 (100.00 %)  1 (50.00 %)",
    ]
    start = text.index("numbers: a number is missing, invented or changed")
    assert text[start + 1 : start + 5] == [
        "  line 2",
        "    source     It has 36 rooms.",
        "    output     Es hat 63 Zimmer.",
        "    reference  Es hat 36 Zimmer.",
    ]
