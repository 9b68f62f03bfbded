from pathlib import Path
from typing import Any

import pytest

from nmt.config.corpus import CleaningConfig
from nmt.decoding.requests import Glossary, Request, parse_json_line
from nmt.errors import DataError

CLEANING = CleaningConfig()


def test_json_lines_keep_other_keys() -> None:
    line = (
        '{"id": 7, "text": "a dog", "constraints": ["Hund"], "avoid": ["Katze"], '
        '"target_prefix": "Der"}'
    )
    first = parse_json_line(line, "in.jsonl, line 1")
    second = parse_json_line(" ", "in.jsonl, line 2")
    assert (first.text, first.constraints, first.avoid) == ("a dog", ("Hund",), ("Katze",))
    assert (first.target_prefix, first.fields["id"], first.where) == ("Der", 7, "in.jsonl, line 1")
    assert second == Request("", where="in.jsonl, line 2")


def test_null_means_absent() -> None:
    request = parse_json_line('{"text": "a", "avoid": null, "target_prefix": null}', "x")
    assert (request.avoid, request.target_prefix) == ((), "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{text: 1}", "x, line 2: not JSON: Expecting property name enclosed in double quotes; "
         'expected an object such as {"text": "..."}'),
        ('["a"]', 'x, line 2: JSON, but not an object; expected {"text": "..."}'),
        ('{"src": "a"}', 'x, line 2: JSON, but an object without text; expected {"text": "..."}'),
        ('{"text": 3}', "x, line 2: text is 3, but it must be a string"),
        ('{"text": "a", "constraints": "Hund"}',
         'x, line 2: constraints is "Hund", but it must be a list of strings'),
        ('{"text": "a", "avoid": ["b", 1]}',
         'x, line 2: avoid is ["b", 1], but it must be a list of strings'),
        ('{"text": "a", "target_prefix": ["Der"]}',
         'x, line 2: target_prefix is ["Der"], but it must be a string'),
        ('{"text": "a \\ud83d"}', "x, line 2: '\\ud83d' is half of a character (a lone surrogate): "
         "complete or remove it"),
        ('{"text": "a", "avoid": ["\\udc00"]}', "x, line 2: '\\udc00' is half of a character (a "
         "lone surrogate): complete or remove it"),
        ('{"text": "a", "b": {"\\ud83d": 1}}', "x, line 2: '\\ud83d' is half of a character (a "
         "lone surrogate): complete or remove it"),
        ('{"text": "a", "b": [NaN]}', "x, line 2: a number is NaN or infinite: write it as a "
         "string, or remove it"),
        ('{"text": "a", "b": -1e999}', "x, line 2: a number is NaN or infinite: write it as a "
         "string, or remove it"),
        (f'{{"text": "a", "b": {"1" * 5000}}}', "x, line 2: a number has more than 4,300 digits: "
         "write it as a string, or remove it"),
        ("[" * 100_000, "x, line 2: not JSON: nested too deeply; expected an object such as "
         '{"text": "..."}'),
    ],
)  # fmt: skip
def test_invalid_json_lines_are_refused(line: str, message: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as caught:
        parse_json_line(line, "x, line 2")
    assert str(caught.value) == message


def test_both_halves_of_a_surrogate_pair_are_text() -> None:
    assert parse_json_line('{"text": "a \\ud83d\\ude00"}', "x").text == "a \U0001f600"


@pytest.mark.parametrize("key", ["text", "target_prefix"])
def test_text_with_a_lone_surrogate_is_refused(key: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as caught:
        Request(**{"text": "a", key: "b \udcff", "where": "line 3"})  # type: ignore[arg-type]
    assert str(caught.value) == (
        "line 3: '\\udcff' is half of a character (a lone surrogate): complete or remove it"
    )


def test_a_glossary_prefers_the_longest_term(tmp_path: Path) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text("New York\tNew York\n\nYork\tYork\ndog\tHund\n")
    glossary = Glossary.read(path, CLEANING)
    request = glossary.apply(Request("dogs of New York, a dog", constraints=("Haus",)))
    assert request.constraints == ("Haus", "New York", "Hund")
    assert Glossary({}, CLEANING).apply(Request("dog")).constraints == ()


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("北京大学", "我在北京大学学习。"),
        ("iPhone", "我有iPhone手机"),
        ("ฉันรัก", "ฉันรักคุณ"),
        ("big rolls", "some big\u00a0rolls."),
        ("big\u00a0rolls", "some big  rolls."),
        ("caf\u00e9", "a cafe\u0301 here"),
        ("cafe\u0301", "a caf\u00e9 here"),
        ("soft", "so\u00adft"),
    ],
)
def test_a_glossary_matches_normalised_text(term: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "terms.tsv").write_text(f"{term}\tHund\n", encoding="utf-8")
    glossary = Glossary.read(tmp_path / "terms.tsv", CLEANING)
    assert glossary.apply(Request(text)).constraints == ("Hund",)


@pytest.mark.parametrize(
    ("term", "text"),
    [("dog", "dogs"), ("क", "की"), ("ก", "กำ"), ("dog", "hotdog"), ("می", "می\u200cخواهم")],
)
def test_a_glossary_matches_no_part_of_a_word(term: str, text: str) -> None:
    assert Glossary({term: "x"}, CLEANING).apply(Request(text)).constraints == ()


def test_terms_equal_after_normalising_have_one_translation(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = tmp_path / "terms.tsv"
    path.write_text("caf\u00e9\tCafé\ncafe\u0301\tKaffee\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 'café' has two translations: keep one of them"):
        Glossary.read(path, CLEANING)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog\tHund\ncat\n", "line 2: expected source term, tab, target term: fix or delete "
         "the line"),
        ("dog\tHund\tKöter\n", "line 1: expected source term, tab, target term: fix or delete "
         "the line"),
        ("dog\tHund\ndog\tKöter\n", "line 2: 'dog' has two translations: keep one of them"),
    ],
)  # fmt: skip
def test_an_invalid_glossary_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = tmp_path / "terms.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Glossary.read(path, CLEANING)
    assert str(caught.value) == f"{path}, {problem}"


@pytest.mark.parametrize("key", ["constraints", "avoid"])
def test_a_string_instead_of_strings_is_refused(key: str) -> None:
    constraints: Any = {key: "Hund"}
    with pytest.raises(DataError) as error:
        Request("a dog", where="line 2", **constraints)
    assert str(error.value) == f"line 2: {key} is a string, but it must be a tuple of strings"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"text": 5}, "5 is int, but it must be a string"),
        ({"text": b"a"}, "b'a' is bytes, but it must be a string"),
        ({"target_prefix": None}, "None is NoneType, but it must be a string"),
        ({"constraints": [1]}, "1 is int, but it must be a string"),
        ({"constraints": None}, "constraints is NoneType, but it must be a tuple of strings"),
        ({"avoid": 5}, "avoid is int, but it must be a tuple of strings"),
    ],
)
def test_a_request_of_other_types_is_refused(fields: dict[str, Any], problem: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        Request(**({"text": "a dog"} | fields))
    assert str(error.value) == f"the text: {problem}"


@pytest.mark.parametrize(
    ("line", "terms"),
    [
        ("see https://a.org/dog now", ()),
        ('a <b class="dog">cat</b>', ("Katze",)),
        ("a {dog} and a dog", ("Hund",)),
        ("dog&nbsp;cat", ("Hund", "Katze")),
        ("a <b>hot</b> dog", ("Hotdog",)),
        ("{name} 23 24", ()),
        ("bus 12", ("Linie 12",)),
    ],
)
def test_no_term_is_found_in_a_protected_span(line: str, terms: tuple[str, ...]) -> None:
    terms_of = {"dog": "Hund", "cat": "Katze", "hot dog": "Hotdog", "25": "x", "bus 12": "Linie 12"}
    glossary = Glossary(terms_of, CLEANING, ["tags", "urls", "placeholders", "numbers"])
    assert glossary.apply(Request(line)).constraints == terms
    assert Glossary(terms_of, CLEANING).apply(Request("a.org/dog")).constraints == ("Hund",)


@pytest.mark.parametrize("key", ["constraints", "avoid"])
@pytest.mark.parametrize("kind", [iter, list, tuple])
def test_constraints_of_any_iterable_are_kept(key: str, kind: Any) -> None:
    request = Request("a dog", **{key: kind(["Hund", "Katze"])})
    assert getattr(request, key) == ("Hund", "Katze")
