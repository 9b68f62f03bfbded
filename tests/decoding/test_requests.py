from pathlib import Path

import pytest

from nmt.decoding.requests import Glossary, Request, read_json_lines
from nmt.errors import DataError


def test_a_line_of_json_says_what_is_asked_and_keeps_the_rest() -> None:
    line = (
        '{"id": 7, "text": "a dog", "constraints": ["Hund"], "avoid": ["Katze"], '
        '"target_prefix": "Der"}'
    )
    first, second = read_json_lines([line, " "], "in.jsonl")
    assert (first.text, first.constraints, first.avoid) == ("a dog", ("Hund",), ("Katze",))
    assert (first.target_prefix, first.fields["id"], first.where) == ("Der", 7, "in.jsonl, line 1")
    assert second == Request("", where="in.jsonl, line 2")


def test_what_is_null_is_not_asked() -> None:
    (request,) = read_json_lines(['{"text": "a", "avoid": null, "target_prefix": null}'], "x")
    assert (request.avoid, request.target_prefix) == ((), "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{text: 1}", "x, line 2: not JSON: Expecting property name enclosed in double quotes; "
         'expected an object such as {"text": "..."}'),
        ('["a"]', 'x, line 2: JSON, but no object; expected {"text": "..."}'),
        ('{"src": "a"}', 'x, line 2: JSON, but an object without text; expected {"text": "..."}'),
        ('{"text": 3}', "x, line 2: text is 3, but it must be text"),
        ('{"text": "a", "constraints": "Hund"}',
         'x, line 2: constraints is "Hund", but it must be a list of texts'),
        ('{"text": "a", "avoid": ["b", 1]}',
         'x, line 2: avoid is ["b", 1], but it must be a list of texts'),
        ('{"text": "a", "target_prefix": ["Der"]}',
         'x, line 2: target_prefix is ["Der"], but it must be text'),
        ("[" * 100_000, "x, line 2: not JSON: nested too deep; expected an object such as "
         '{"text": "..."}'),
    ],
)  # fmt: skip
def test_a_wrong_line_of_json_is_told(line: str, message: str) -> None:
    """P9."""
    with pytest.raises(DataError) as caught:
        list(read_json_lines(['{"text": "a"}', line], "x"))
    assert str(caught.value) == message


def test_a_glossary_asks_for_the_terms_of_a_line_the_longest_first(tmp_path: Path) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text("New York\tNew York\n\nYork\tYork\ndog\tHund\n")
    glossary = Glossary.read(path)
    wanted = glossary.applied(Request("dogs of New York, a dog", constraints=("Haus",)))
    assert wanted.constraints == ("Haus", "New York", "Hund")
    assert Glossary({}).applied(Request("dog")).constraints == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog\tHund\ncat\n", "line 2: expected source term, tab, target term; mend or delete "
         "the line"),
        ("dog\tHund\tKöter\n", "line 1: expected source term, tab, target term; mend or delete "
         "the line"),
        ("dog\tHund\ndog\tKöter\n", "line 2: 'dog' has two translations; keep one of them"),
    ],
)  # fmt: skip
def test_a_wrong_glossary_is_told(text: str, problem: str, tmp_path: Path) -> None:
    """P9."""
    path = tmp_path / "terms.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Glossary.read(path)
    assert str(caught.value) == f"{path}, {problem}"
