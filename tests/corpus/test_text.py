"""Lines of text and their normalisation."""

import gzip
import io
import lzma
import sys
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import Case, CleaningConfig
from nmt.corpus.io import read_blocks, split_lines
from nmt.corpus.text import (
    EncodingChecker,
    change_case,
    fold_case,
    normalise,
    open_output,
    read_lines,
    split_sentences,
)
from nmt.errors import DataError

ALL = CleaningConfig()
NOTHING = CleaningConfig(nfc=False, control_characters=False)


def write(folder: Path, **lines: str) -> None:
    for name, text in lines.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode())


# --- normalisation ---


@pytest.mark.parametrize(
    ("line", "normalised"),
    [
        ("plain text", "plain text"),
        ("", ""),
        ("  two  spaces   around ", "two spaces around"),
        ("tab\tis\ta space", "tab is a space"),
        ("line\u2028separator", "line separator"),
        ("paragraph\u2029separator", "paragraph separator"),
        ("next\u0085line", "next line"),
        ("carriage\rreturn", "carriage return"),
        ("bell\x07 and escape\x1b[0m", "bell and escape [0m"),
        ("no-break\u00a0and narrow\u202fand wide\u3000space", "no-break and narrow and wide space"),
        ("zero\u200bwidth", "zerowidth"),
        ("soft\u00adhyphen", "softhyphen"),
        ("byte order\ufeff mark", "byte order mark"),
        ("right\u200fto\u202bleft\u202c", "righttoleft"),
        ("e\u0301", "é"),
        ("e\u200b\u0301", "é"),
        ("Å", "Å"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
        ("क्\u200dष", "क्\u200dष"),
        ("\u200cword \u200d\u200c other\u200d", "word other"),
        ("a \u200d b", "a b"),
        ("\u200b \u200b", ""),
        ("❤\ufe0f stays", "❤\ufe0f stays"),
        ("▁ and <s> stay", "▁ and <s> stay"),
    ],
)
def test_a_line_is_normalised(line: str, normalised: str) -> None:
    assert normalise(line, ALL) == normalised


@given(st.text(st.one_of(st.characters(), st.sampled_from(" \u200c\u200d\u200b\t\u0301e"))))
def test_normalisation_is_idempotent(line: str) -> None:
    once = normalise(line, ALL)
    assert normalise(once, ALL) == once


@given(st.text())
def test_a_normalised_line_has_no_line_break(line: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert len(normalise(line, ALL).splitlines()) <= 1


@given(st.text())
def test_a_line_is_unchanged_with_both_rules_off(line: str) -> None:
    assert normalise(line, NOTHING) == line


def test_each_normalisation_works_alone() -> None:
    line = "e\u0301\t1"
    assert normalise(line, CleaningConfig(nfc=False)) == "e\u0301 1"
    assert normalise(line, CleaningConfig(control_characters=False)) == "é\t1"


# --- lines and pairs ---


def test_odd_line_separators_stay_inside_their_line() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    data = "one\u2028still\u2029one\u0085 one\r one\x0b\x0c\x1c\ntwo\n".encode()
    assert list(read_lines(io.BytesIO(data))) == [
        "one\u2028still\u2029one\u0085 one\r one\x0b\x0c\x1c",
        "two",
    ]


def test_an_invalid_byte_is_reported_with_its_position(tmp_path: Path) -> None:
    path = tmp_path / "a.de"
    path.write_bytes(b"gut\n" + "schön\n".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    assert str(caught.value) == (
        f"{path}, line 2: byte 0xF6 at position 4 is not UTF-8; convert the file from its encoding "
        "(`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists others) or "
        "fix the line"
    )


# --- encoding ---


def check(lines: list[bytes], *, is_strict: bool = False) -> EncodingChecker:
    encoding = EncodingChecker("a.de", is_strict=is_strict)
    encoding.check(1, b"".join(line + b"\n" for line in lines))
    encoding.finish()
    return encoding


def test_a_few_damaged_lines_are_counted() -> None:
    encoding = check([b"plain", "schön".encode(), b"sch\xf6n"])
    assert (encoding.num_beyond_ascii, encoding.num_invalid) == (2, 1)


def test_mostly_invalid_lines_are_another_encoding() -> None:
    good, bad = "schön".encode(), b"\x84sch\xf6n\x93"
    check([good] + [bad] * 9)
    with pytest.raises(DataError) as caught:
        check([b"plain", *[bad] * 10, good])
    assert str(caught.value) == (
        "a.de, line 2, byte 0x84 at position 1: 10 of the 11 non-ASCII lines are not UTF-8; "
        "convert the file from its encoding (`iconv -f WINDOWS-1252 -t UTF-8` if it is Western "
        "European; `iconv -l` lists others) or delete these lines"
    )


def test_a_strict_check_fails_at_the_first_error() -> None:
    with pytest.raises(DataError) as caught:
        check([b"plain", b"sch\xf6n"], is_strict=True)
    assert str(caught.value) == (
        "a.de, line 2: byte 0xF6 at position 4 is not UTF-8; convert the file from its encoding "
        "(`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists others) or "
        "fix the line"
    )


# --- output ---


@pytest.mark.parametrize("name", ["out.txt", "out.gz", "out.xz", "out.zst"])
def test_output_is_read_back(tmp_path: Path, name: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    with open_output(tmp_path / name) as out:
        out.write("schön\n\nzwei\u2028\n")
    assert list(read_lines(tmp_path / name)) == ["schön", "", "zwei\u2028"]


def test_other_programs_decompress_the_output(tmp_path: Path) -> None:
    for name in ("out.gz", "out.xz", "out.zst"):
        with open_output(tmp_path / name) as out:
            out.write("schön\n")
    for name, module in (("out.gz", gzip), ("out.xz", lzma), ("out.zst", zstandard)):
        with module.open(tmp_path / name, "rb") as file:
            assert file.read() == "schön\n".encode()


def test_compressed_output_is_deterministic(tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        with open_output(tmp_path / name) as out:
            out.write("schön\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_a_failed_output_leaves_no_file(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(UnicodeEncodeError), open_output(tmp_path / "out.gz") as out:
        out.writelines(["one\n", "\ud800\n"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [None, "-"])
def test_standard_output_is_utf_8_and_stays_open(
    monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    with open_output(target) as out:
        out.write("schön\n")
    assert buffer.getvalue() == "schön\n".encode()
    assert not buffer.closed


# --- damaged files ---


@pytest.mark.parametrize(
    "case", ["utf8", "bom_crlf", "crlf", "no_final_newline", "ls_ps_nel", "invalid_utf8"]
)
def test_broken_files_keep_their_200_lines(shared_data: Path, case: str) -> None:
    for side in ("en", "de"):
        path = shared_data / "dirty_ende" / f"bytes_{case}.{side}.gz"
        assert sum(len(split_lines(block)) for _, block in read_blocks(path)) == 200


@pytest.mark.parametrize("case", ["utf8", "bom_crlf", "crlf", "no_final_newline"])
def test_files_of_the_same_text_have_the_same_lines(shared_data: Path, case: str) -> None:
    folder = shared_data / "dirty_ende"
    good = list(read_lines(folder / "bytes_utf8.de.gz"))
    assert list(read_lines(folder / f"bytes_{case}.de.gz")) == good


def test_unusual_separators_are_normalised(shared_data: Path) -> None:
    folder = shared_data / "dirty_ende"
    normalised = [normalise(line, ALL) for line in read_lines(folder / "bytes_ls_ps_nel.en.gz")]
    assert all(line.isprintable() for line in normalised)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nul", ", line 1: a NUL byte: "),
        ("utf16le", ", line 1: the file is UTF-16, but UTF-8 is expected; "),
        ("cr_only", ", line 1: carriage returns but no line feed; "),
        ("latin1", ", line 1: byte 0xE4 at position 19 is not UTF-8; "),
        ("cp1252", ", line 1: byte 0xE4 at position 19 is not UTF-8; "),
    ],
)
def test_binary_files_are_refused(shared_data: Path, case: str, message: str) -> None:
    path = shared_data / "dirty_ende" / f"bytes_{case}.de.gz"
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("as_is", "a straße, über McDonald's."),
        ("upper", "A STRASSE, ÜBER MCDONALD'S."),
        ("title", "A Straße, Über McDonald's."),
    ],
)
def test_the_case_of_a_line_is_changed(case: Case, line: str) -> None:
    assert change_case("a straße, über McDonald's.", case) == line


@pytest.mark.parametrize(
    ("line", "case"),
    [
        ("A STRASSE, ÜBER 3 FLÜSSE!", "upper"),
        ("Η ΟΔΟΣ", "upper"),
        ("МИР 2", "upper"),
        ("A Dog In Paris", "title"),
        ("A dog", "as_is"),
        ("Paris", "as_is"),
        ("3D", "as_is"),
        ("McDonald's", "as_is"),
        # Another script beside Latin letters; scripts without case.
        ("他在NASA工作", "as_is"),
        ("他 在 Paris Hilton 工作", "as_is"),
        ("कुत्ता", "as_is"),
        ("", "as_is"),
        # Its lower case has one more character.
        ("İSTANBUL", "as_is"),
    ],
)
def test_the_case_of_a_line_is_found_and_restored(line: str, case: Case) -> None:
    found, folded = fold_case(line)
    assert found == case
    assert change_case(folded, case) == line


@given(st.text(alphabet="aAßẞǅİIς Σ\u0345.1"))
def test_folding_case_loses_nothing(line: str) -> None:
    case, folded = fold_case(line)
    assert change_case(folded, case) == line
    assert len(folded.encode()) == len(line.encode())


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met J. Smith of the U.S. Army.", "He left!", '"Really?" she asked.', "Yes."],
        ["It cost approx. 5 dollars, e.g. today.", "Wait...", "What?", "(No.)", "Well"],
        ["Das ist z. B. ein Hund.", "Am 3. Oktober war es.", "Im Jahr 1990.", "„Ja.“", "Er ging."],
        ["i went home.", "then i slept."],
        ["« Bonjour ! »", "Il part."],
        ["वह घर गया।", "उसने खाना खाया॥", "वह सो गया।"],
        ["وہ گھر گیا۔", "کیا آپ ٹھیک ہیں؟", "ہاں۔"],
        ["Ես տուն գնացի։", "Այո։"],
        ["ቤት ሄድኩ።", "አንተስ፧", "ደህና።"],
        ["သူအိမ်ပြန်သွားတယ်။", "ငါစားတယ်။"],
        ["ខ្ញុំទៅផ្ទះ។", "គាត់ញ៉ាំបាយ។"],
        ["Πού είσαι;", "Εδώ είμαι."],
        ["Вы г. Иванов?", "Да.", "Он и т. д. ушёл."],
    ],
)
def test_sentence_ends_of_each_script(sentences: list[str]) -> None:
    assert [text for text, _ in split_sentences(" ".join(sentences))] == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["「はい。」", "彼は言った。", "「いいえ。」と言った。"],
        ["はい｡", "いいえ！？", "ね"],
        ["我在家。", "你呢？", "“走吧！”", "他说。"],
    ],
)
def test_sentence_ends_without_spaces(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == [(text, "") for text in sentences]


@pytest.mark.parametrize("marks", ["." * 100_000, "?!" * 50_000, "\u2026." * 50_000])
@pytest.mark.parametrize("after", ["x", ")x", "\u3002x"])
def test_a_run_of_marks_takes_linear_time(marks: str, after: str) -> None:
    started = time.process_time()
    sentences = split_sentences(f"Ab {marks}{after} Yes. No")
    assert "".join(map("".join, sentences)) == f"Ab {marks}{after} Yes. No"
    assert [text for text, _ in sentences][-1] == "No"
    assert time.process_time() - started < 0.5


def test_a_run_of_joiners_takes_linear_time() -> None:
    started = time.process_time()
    for line in ("a" + "\u200d" * 100_000 + "b", "a" + "\u200c\u200d" * 50_000 + "b"):
        assert normalise(line, ALL) == line
    assert time.process_time() - started < 0.5
