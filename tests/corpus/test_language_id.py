"""Language identification."""

import pytest

from nmt.corpus.language_id import identify, language_codes, language_of

GERMAN = "Ein kleiner Junge schaukelt und lächelt."


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("A little boy swings and smiles.", "en"),
        (GERMAN, "de"),
        (GERMAN.upper(), "de"),
        ("Маленький мальчик качается и улыбается.", "ru"),
        ("男の子が笑っています。", "ja"),
    ],
)
def test_a_line_is_identified(line: str, language: str) -> None:
    assert next(iter(identify(line))) == language


def test_no_text_has_no_language() -> None:
    assert language_of([]) == ("", 0.0)
    assert language_of(["", " ", "\n"]) == ("", 0.0)
    assert [identify(line) for line in ("", " ", "\n")] == [{}] * 3
    assert language_of(["", GERMAN]) == language_of([GERMAN])
    assert identify("two\nlines") == identify("two lines")


def test_a_text_is_identified_by_most_of_it() -> None:
    assert language_of(["Yes.", GERMAN, GERMAN])[0] == "de"


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("en", {"en"}),
        ("en_US", {"en"}),
        ("eng", {"en"}),
        ("zh-Hant", {"zh", "yue", "wuu"}),
        ("nb", {"no", "nn", "da"}),
        ("tlh", set()),
        ("hi_Deva", {"hi", "mr", "ne", "bh", "mai"}),
        ("hi-Latn-IN", set()),
        ("uz_Cyrl", set()),
        ("mon_Mong", set()),
        ("srp_Cyrl", {"hr", "bs", "sr", "sh"}),
        ("pan_Arab", set()),
        ("ku", {"ku", "ckb"}),
    ],
)
def test_language_names_have_the_codes_of_the_model(name: str, codes: set[str]) -> None:
    assert language_codes(name) == codes
