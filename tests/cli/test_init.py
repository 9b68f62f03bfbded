"""`nmt init`: detection, held-out pairs and wrong inputs."""

import errno
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from nmt.config.files import load_experiment
from nmt.corpus.hold_out import line_key
from nmt.corpus.pair_files import PairFiles

Nmt = Callable[..., Any]
Pairs = list[tuple[str, str]]
NOUNS = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut"), ("table", "Tisch")]
VERBS = [("sees", "sieht"), ("likes", "mag"), ("finds", "findet"), ("buys", "kauft")]
PAIRS: Pairs = [
    (f"The {a} {v} the {b} in the garden.", f"Der {x} {w} den {y} in dem Garten.")
    for a, x in NOUNS
    for v, w in VERBS
    for b, y in NOUNS
]
"""100 pairs."""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a corpus in every format."""
    monkeypatch.chdir(tmp_path)
    for side, name in enumerate(("a.en", "a.de")):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    rows = [f"{n}\t{src}\teng\t{tgt}\n" for n, (src, tgt) in enumerate(PAIRS)]
    Path("a.tsv").write_text("".join(rows))
    Path("head.tsv").write_text(
        "id\tGerman\tEnglish\n" + "".join(f"7\t{tgt}\t{src}\n" for src, tgt in PAIRS)
    )
    units = "".join(
        f'<tu><tuv xml:lang="en-US"><seg>{src}</seg></tuv><tuv xml:lang="de"><seg>{tgt}</seg></tuv>'
        "</tu>"
        for src, tgt in PAIRS
    )
    Path("a.tmx").write_text(f'<tmx><header srclang="en-US"/><body>{units}</body></tmx>')
    records = [{"translation": {"en": src, "de": tgt}} for src, tgt in PAIRS]
    Path("a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), "a.parquet")
    with zipfile.ZipFile("a.zip", "w") as archive:
        for side, suffix in enumerate(("en", "de")):
            archive.writestr(f"x.{suffix}", "".join(f"{pair[side]}\n" for pair in PAIRS))
    return tmp_path


def pairs_of(file: str, kind: str) -> Pairs:
    corpus = load_experiment(file).corpus
    texts = {"train": corpus.train, "dev": [corpus.dev], "tests": corpus.tests}[kind]
    return [pair for text in texts for pair in PairFiles.of(text, corpus).read()]


def key(line: str) -> str:
    return re.sub(r"[\W\d_]+", "", line.lower())


@pytest.mark.parametrize(
    "options",
    [
        "--src a.en --tgt a.de", "--tsv a.tsv", "--tsv head.tsv --languages en,de",
        "--tmx a.tmx", "--jsonl a.jsonl", "--parquet a.parquet", "--zip a.zip",
        "--tsv head.tsv --columns English,German", "--tsv head.tsv --columns 3,2",
    ],
)  # fmt: skip
def test_every_format_gives_the_same_experiment(options: str, raw: Path, nmt: Nmt) -> None:
    answer = nmt(f"init mine {options}")
    assert answer.status == 0, answer.err
    assert answer.err.splitlines() == [
        "mine.yaml: 100 pairs, English (en) to German (de); dev 5 and test 5 pairs held out; "
        "preset auto",
        "next: nmt doctor mine.yaml && nmt train mine.yaml",
    ]
    tree = yaml.safe_load(Path("mine.yaml").read_text())
    assert (tree["name"], tree["preset"]) == ("mine", "auto")
    sets = [pairs_of("mine.yaml", kind) for kind in ("train", "dev", "tests")]
    assert [len(pairs) for pairs in sets] == [90, 5, 5]
    assert sorted(pair for pairs in sets for pair in pairs) == sorted(PAIRS)


def test_no_side_of_a_held_out_pair_is_in_training(raw: Path, nmt: Nmt) -> None:
    copies = [(src.upper(), f"{tgt[:-1]}!!") for src, tgt in PAIRS[:40]]
    others = [(f"{n}. {src}", "Etwas ganz anderes.") for n, (src, _) in enumerate(PAIRS[30:60])]
    Path("more.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in copies + others))
    answer = nmt("init mine --src a.en --tgt a.de --tsv more.tsv")
    assert "170 pairs, English (en) to German (de); dev 8 and test 8 pairs held out" in answer.err
    train = pairs_of("mine.yaml", "train")
    held_out = [pairs_of("mine.yaml", kind) for kind in ("dev", "tests")]
    for side in (0, 1):
        known = {key(pair[side]) for pair in train}
        keys = [{key(pair[side]) for pair in pairs} for pairs in held_out]
        assert not known & (keys[0] | keys[1])
        assert not keys[0] & keys[1]


def test_held_out_pairs_do_not_depend_on_the_order(raw: Path, nmt: Nmt) -> None:
    Path("b.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in reversed(PAIRS)))
    nmt("init one --src a.en --tgt a.de")
    nmt("init two --tsv b.tsv")
    for kind in ("dev", "tests"):
        assert sorted(pairs_of("one.yaml", kind)) == sorted(pairs_of("two.yaml", kind))


@pytest.mark.parametrize(
    ("one", "other", "is_equal"),
    [
        ("Straße 3!", "strasse", True),
        ("2. हिन्दी, की", "हिन्दी की।", True),
        ("हिन्दी की", "हिन्दू को", False),
        ("ดี", "ดู", False),
    ],
)
def test_vowel_signs_tell_sentences_apart(one: str, other: str, is_equal: bool) -> None:
    assert (line_key(one.encode()) == line_key(other.encode())) == is_equal


def test_given_sets_leave_the_corpus_in_its_files(raw: Path, nmt: Nmt) -> None:
    for side, name in enumerate(("dev.en", "dev.de")):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS[:7]))
    Path("t.tsv").write_text("A dog runs.\tEin Hund rennt.\n")
    answer = nmt("init mine --tmx a.tmx --dev dev.en --dev dev.de --test t.tsv --test dev.en "
                 "--test dev.de")  # fmt: skip
    assert answer.err.startswith(
        "mine.yaml: 100 pairs, English (en) to German (de); dev 7 and test 8 pairs given;"
    )
    assert not Path("mine.data").exists()
    tree = yaml.safe_load(Path("mine.yaml").read_text())["corpus"]
    assert tree["train"] == [{"name": "a", "tmx": "a.tmx"}]
    assert tree["dev"] == {"name": "dev", "src": "dev.en", "tgt": "dev.de"}
    assert [test["name"] for test in tree["tests"]] == ["t", "dev"]


def test_reversed_columns_without_names_are_exchanged(raw: Path, nmt: Nmt) -> None:
    Path("b.tsv").write_text("".join(f"{tgt}\t{src}\n" for src, tgt in PAIRS))
    Path("dev.tsv").write_text("A dog runs.\tEin Hund rennt.\n")
    answer = nmt("init mine --tsv b.tsv --languages en,de --dev dev.tsv --test dev.tsv")
    assert answer.status == 0, answer.err
    assert pairs_of("mine.yaml", "train") == PAIRS


def test_reversed_files_are_reported(raw: Path, nmt: Nmt) -> None:
    assert nmt("init mine --src a.en --tgt a.de --languages de,en").err.startswith(
        "warning: a.en and a.de: the text looks like English (en) to German (de): check the order "
        "of the sides\n"
    )


def test_an_experiment_can_be_in_another_folder(raw: Path, nmt: Nmt) -> None:
    Path("sub").mkdir()
    assert nmt("init sub/mine --src a.en --tgt a.de").status == 0
    assert len(pairs_of("sub/mine.yaml", "train")) == 90


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_command_leaves_nothing(
    error: Any, raw: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    before = sorted(raw.rglob("*"))
    monkeypatch.setattr("nmt.corpus.hold_out.write_training", fail)
    assert nmt("init mine --src a.en --tgt a.de").status in (130, 2)
    assert sorted(raw.rglob("*")) == before


MANY = "".join("a dog runs\tein Hund rennt\n" for _ in range(30))
TMX = "<tmx><body>{}</body></tmx>"
UNIT = '<tu><tuv xml:lang="en"><seg>a dog</seg></tuv><tuv xml:lang="{}"><seg>x</seg></tuv></tu>'
FORMATS = "--tsv, --tmx, --parquet, --jsonl, --zip"
GIVE = "give them with --languages SRC,TGT"
CHECK = "check --languages and --columns"
WRONG: list[tuple[str, dict[str, str | bytes], str]] = [
    ("x", {}, f"no corpus is given: use --src and --tgt, or {FORMATS}"),
    ("x --src a.en", {}, "--tgt is given 0 times, but --src is given 1 time: give one --tgt per "
     "--src"),
    ("x! --tsv a.tsv", {}, "NAME is 'x!', but it must be 1 to 100 of A-Z a-z 0-9 . _ - and start "
     "with a letter or digit"),
    ("x --tsv a.tsv", {"x.yaml": ""}, "x.yaml: exists already; choose another name, or remove it"),
    ("x --tsv a.tsv", {"x.data": ""}, "x.data: exists already; choose another name, or remove it"),
    ("none/x --tsv a.tsv", {}, "NAME is none/x, but directory none does not exist: create it "
     "first"),
    ("x --src a.en --tgt b.de", {}, "b.de: file not found; check the path"),
    ("x --tsv .", {}, ".: is a folder; name a file in it"),
    ("x --tsv /dev/null", {}, "/dev/null: not a regular file, but it is read several times; save "
     "it first"),
    ("x --tsv a.tsv --columns 2", {}, "--columns is 2, but two columns are expected, such as 2,4 "
     "or en,de"),
    ("x --src a.en --tgt a.de --columns 1,2", {}, "--columns is 1,2, but the files of --src and "
     "--tgt have no columns: omit it"),
    ("x --tsv a.tsv --languages en", {}, "--languages is en, but two language codes are expected, "
     "such as en,de"),
    ("x --tsv a.tsv --languages en,x/y", {}, "--languages is en,x/y, but two language codes are "
     "expected, such as en,de"),
    ("/ --tsv a.tsv", {}, "NAME is '/', but the name of a file is expected"),
    ("x --src a.en --tgt b.en", {"b.en": "eins\n"}, "a.en and b.en: both sides are named English "
     f"(en): check the files, or {GIVE}"),
    ("x --src \udcff.en --tgt a.de", {"\udcff.en": "one\n"}, "corpus corpus: src is "
     "'\\udcff.en', but it must be text without NUL bytes and lone surrogates"),
    ("x --tsv a.tsv --dev \udcff.tsv", {"\udcff.tsv": "one\n"}, "corpus dev: tsv is "
     "'\\udcff.tsv', but it must be text without NUL bytes and lone surrogates"),
    ("x --src a.en --tgt b.de", {"b.de": "eins\n"}, "corpus a: a.en has 100 lines, b.de has 1: the "
     "two files must be line-parallel; find the first pair that does not match, or download both "
     "again"),
    ("x --tsv b.tsv --languages en,de", {"b.tsv": ""}, "b.tsv: no pairs; expected a corpus to "
     "train on"),
    ("x --tsv b.tsv --languages en,de", {"b.tsv": "a dog\tein Hund\n"}, "b.tsv: too few "
     "pairs (1) to hold out 5% of them; name a dev and a test set with --dev and --test"),
    ("x --tsv b.tsv", {"b.tsv": MANY.replace("ein Hund rennt", "a dog runs")}, "b.tsv: both sides "
     f"look like English (en): check the files, or {GIVE}"),
    ("x --tsv b.tsv", {"b.tsv": "12\t13\n" * 30}, "b.tsv: the languages are not certain: " + GIVE),
    ("x --tsv b.tsv --languages en,de", {"b.tsv": "12\t13\n" * 30}, "no pair can be held out: each "
     "has a side without letters, or one that is in a given set; name a dev and a test set with "
     "--dev and --test"),
    ("x --tsv a.tsv --test a.tsv", {}, "no pair can be held out: each has a side without letters, "
     "or one that is in a given set; name a dev and a test set with --dev and --test"),
    ("x --tsv a.tsv --languages fr,es", {}, "no pair can be held out: the cleaning rule language "
     "drops 100 of 100 pairs; check the languages; name a dev and a test set with --dev and "
     "--test"),
    ("x --tsv a.tsv --dev a.en", {}, "--dev is a.en, but it has one side: name both, --dev SOURCE "
     "--dev TARGET"),
    ("x --tsv a.tsv --dev a.tsv --dev a.tsv", {}, "--dev is 2 sets, but there can be only one"),
    ("x --tsv a.tsv --test b.tsv", {"b.tsv": ""}, "b.tsv: no pairs; expected a set of pairs"),
    ("x --src b.en --tgt a.de", {"b.en": "a\n".encode("utf-16")}, "b.en, line 1: the file is "
     "UTF-16, but UTF-8 is expected; convert it (`iconv -f UTF-16 -t UTF-8`)"),
    ("x --tsv b.tsv.bz2", {"b.tsv.bz2": MANY}, "b.tsv.bz2, line 1: the bzip2 data is damaged "
     "(Invalid data stream); copy or download the file again, and check that its format is that "
     "of its name"),
    ("x --tsv b.tsv", {"b.tsv": MANY + "a cat\n"}, "b.tsv, line 31: no tab; expected source, tab, "
     "target: fix or delete the line"),
    ("x --tsv b.tsv --columns 1,3", {"b.tsv": MANY}, "--columns is 3, but b.tsv has 2 columns: "
     "choose two of them"),
    ("x --tsv head.tsv --columns English,fr", {}, "--columns is fr, but head.tsv has id, German, "
     "English: choose two of them"),
    ("x --parquet a.parquet --columns 1,2", {}, "--columns is 1, but a.parquet has en, de: choose "
     "two of them"),
    ("x --jsonl a.jsonl --columns en,fr", {}, "--columns is fr, but a.jsonl has en, de: choose two "
     "of them"),
    ("x --tmx b.tmx", {"b.tmx": "a dog"}, "b.tmx, line 1: not valid XML (syntax error); expected "
     "TMX"),
    ("x --tmx b.tmx", {"b.tmx": ""}, "b.tmx: is empty; expected a TMX file"),
    ("x --tmx b.tmx", {"b.tmx": "<html/>"}, "b.tmx, line 1: <html> where <tmx> was expected; "
     "expected TMX"),
    ("x --tmx b.tmx", {"b.tmx": '<!DOCTYPE tmx [<!ENTITY a "aaaa">]>' + TMX.format("")}, "b.tmx, "
     "line 1: a DTD inside the file, which could expand without limit; remove it; expected TMX"),
    ("x --tmx a.tmx --languages en,fr", {}, "a.tmx: no translation unit in English (en) and French "
     "(fr); it has en-US, de: " + CHECK),
    ("x --tmx a.tmx --columns en-US,fr", {}, "a.tmx: no translation unit in "
     "en-US and fr; it has en-US, de: " + CHECK),
    ("x --tmx b.tmx", {"b.tmx": TMX.format(UNIT.format("de") + UNIT.format("fr"))}, "b.tmx: source "
     f"and target are not certain, it has en, de, fr: {GIVE}"),
    ("x --jsonl b.jsonl", {"b.jsonl": "{"}, "b.jsonl, line 1: not JSON (Expecting property name "
     "enclosed in double quotes); expected an object per line, such as "
     '{"translation": {"en": "...", "de": "..."}}'),
    ("x --jsonl b.jsonl", {"b.jsonl": '["a"]'}, "b.jsonl, line 1: list where an object was "
     "expected; write an object per line (`jq -c '.[]'` splits an array)"),
    ("x --jsonl b.jsonl", {"b.jsonl": '{"en": "a", "de": "b"}\n{"en": "a"}'}, "b.jsonl, line 2: no "
     "key de; it has en: fix or delete the line"),
    ("x --jsonl b.jsonl", {"b.jsonl": '{"en": "a", "de": 5}'}, "b.jsonl, record 1: de is a int, "
     "but text was expected; choose other columns, or fix the record"),
    ("x --jsonl b.jsonl", {"b.jsonl": '{"x": "a", "y": "b"}'}, "b.jsonl: source and target are not "
     f"certain, it has x, y: {GIVE} or --columns SRC,TGT"),
    ("x --parquet b.parquet", {"b.parquet": b"PAR1"}, "b.parquet: not a readable Parquet file "
     "(Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes)); copy or "
     "download it again"),
    ("x --parquet a.parquet --languages en,fr", {}, "a.parquet: no column for French (fr); it has "
     "en, de: " + CHECK),
    ("x --zip b.zip", {"b.zip": b"PK"}, "b.zip: not a zip archive (File is not a zip file); "
     "download it again"),
    ("x --zip a.zip --languages en,fr", {}, "a.zip: no member for French (fr); it has x.en, x.de: "
     + CHECK),
    ("x --zip a.zip --columns x.en,y.de", {}, "a.zip: no member for y.de; it has x.en, x.de: "
     + CHECK),
    ("x --src a.en --tgt a.de --dev a.parquet --languages en,fr", {}, "a.parquet: no column for "
     "French (fr); it has en, de: " + CHECK),
    ("x --tmx a.tmx --languages en,en-US", {}, "a.tmx: tag en-US is both source and target: "
     + CHECK),
    ("x --zip a.zip --languages en,en-US", {}, "a.zip: member x.en is both source and target: "
     + CHECK),
    ("x --src b.en --tgt a.de --test b.tsv", {"b.en": "The dog barks in the garden.\n" * 100,
     "b.tsv": "Cats sleep.\tKatzen schlafen.\n"}, "no pair is left for training: each is held "
     "out, or shares a side with one that is; name a dev and a test set with --dev and --test"),
    ("x --src b.en --tgt b.de", {"b.en": "\n" * 30, "b.de": "\n" * 30}, "no pair can be held out: "
     "each has a side without letters, or one that is in a given set; name a dev and a test set "
     "with --dev and --test"),
    ("x --jsonl b.jsonl", {"b.jsonl": '{"source": null, "target": null}\n' * 30}, "b.jsonl: the "
     f"languages are not certain: {GIVE}"),
    ("x --tsv a.tsv --src b.en --tgt b.de --dev a.tsv --test a.tsv", {"b.en": "", "b.de": ""},
     "b.en: no pairs; expected a corpus to train on"),
    ("x --jsonl b.jsonl --languages en,en-US", {"b.jsonl": '{"en": "a", "de": "b"}'}, "b.jsonl: "
     "key en is both source and target: " + CHECK),
]  # fmt: skip
"""Arguments, files and the error message."""


@pytest.mark.parametrize(("arguments", "files", "message"), WRONG)
def test_wrong_input_is_reported_in_one_line(
    arguments: str, files: dict[str, str | bytes], message: str, raw: Path, nmt: Nmt
) -> None:
    """Actionable errors (nmt/README.md, Guarantees): nothing is written."""
    for name, content in files.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(raw.rglob("*"))
    answer = nmt(f"init {arguments}")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.replace(f"{raw}/", "") == f"nmt: {message}\n"
    assert sorted(raw.rglob("*")) == before


def write_pairs(name: str, pairs: Pairs) -> None:
    for side, language in enumerate(("en", "de")):
        Path(f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs))


@pytest.mark.parametrize("kind", ["dev", "test"])
def test_reversed_sets_are_reported(kind: str, raw: Path, nmt: Nmt) -> None:
    answer = nmt(f"init mine --src a.en --tgt a.de --{kind} a.de --{kind} a.en")
    assert answer.err.startswith(
        "warning: a.de and a.en: the text looks like German (de) to English (en): check the order "
        "of the sides\n"
    )


def test_a_reversed_set_without_names_is_exchanged(raw: Path, nmt: Nmt) -> None:
    Path("dev.tsv").write_text("Ein Hund rennt in dem Garten.\tA dog runs in the garden.\n")
    assert nmt("init mine --tsv a.tsv --dev dev.tsv --test dev.tsv").status == 0
    pair = ("A dog runs in the garden.", "Ein Hund rennt in dem Garten.")
    assert pairs_of("mine.yaml", "dev") == pairs_of("mine.yaml", "tests") == [pair]


def test_a_corpus_without_a_pair_left_is_left_out(raw: Path, nmt: Nmt) -> None:
    options = "--src b.en --tgt b.de"
    write_pairs("b", PAIRS[:60])
    for number, pair in enumerate(PAIRS[60:]):
        write_pairs(f"one{number}", [pair])
        options += f" --src one{number}.en --tgt one{number}.de"
    answer = nmt(f"init mine {options}")
    corpus = load_experiment("mine.yaml").corpus
    num_empty = 41 - len(corpus.train)
    assert num_empty > 0
    assert f"left out: {num_empty} of 41 corpora: no pair is left\n" in answer.out + answer.err
    assert all(list(PairFiles.of(text, corpus).read()) for text in corpus.train)
    assert len(list(Path("mine.data").iterdir())) == 4 + 2 * len(corpus.train)


def test_repaired_pairs_are_held_out_if_all_need_it(raw: Path, nmt: Nmt) -> None:
    write_pairs("b", [(f"<p>{src} R&amp;D", f"<p>{tgt} R&amp;D") for src, tgt in PAIRS])
    answer = nmt("init mine --src b.en --tgt b.de")
    assert answer.status == 0, answer.err
    held_out = pairs_of("mine.yaml", "dev") + pairs_of("mine.yaml", "tests")
    assert len(held_out) == 10
    assert {(src.removesuffix(" R&D"), tgt.removesuffix(" R&D")) for src, tgt in held_out} <= {
        *PAIRS
    }
    assert all(src.startswith("<p>") for src, _ in pairs_of("mine.yaml", "train"))


@pytest.mark.parametrize(
    "row", ["1\teng\t{}\t7\tdeu\t{}\n", "en\tde\t{}\t{}\n", "{}\t{}\ten\tde\n"]
)
def test_language_codes_in_each_row_are_no_header(row: str, raw: Path, nmt: Nmt) -> None:
    Path("b.tsv").write_text("".join(row.format(*pair) for pair in PAIRS))
    for name, options in (("detected", ""), ("given", "--languages en,de")):
        answer = nmt(f"init {name} --tsv b.tsv {options}")
        assert answer.status == 0, answer.err
        kinds = ("train", "dev", "tests")
        found = [pair for kind in kinds for pair in pairs_of(f"{name}.yaml", kind)]
        assert sorted(found) == sorted(PAIRS)


@pytest.mark.parametrize("option", ["--jsonl b.jsonl", "--parquet b.parquet"])
def test_an_identifier_is_no_language(option: str, raw: Path, nmt: Nmt) -> None:
    records = [{"id": f"x{n}", "en": src, "de": tgt} for n, (src, tgt) in enumerate(PAIRS)]
    Path("b.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), "b.parquet")
    answer = nmt(f"init mine {option}")
    assert answer.status == 0, answer.err
    assert set(pairs_of("mine.yaml", "train")) < set(PAIRS)


def test_a_full_disk_is_reported_with_the_folder(
    raw: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nmt.corpus.hold_out.write_training", fail)
    assert nmt("init mine --src a.en --tgt a.de").err == (
        "nmt: mine.data: cannot be written: No space left on device; make room and try again\n"
    )


def test_a_path_through_a_symbolic_link_is_kept(raw: Path, nmt: Nmt) -> None:
    Path("disk/inner").mkdir(parents=True)
    Path("link").symlink_to("disk/inner")
    write_pairs("disk/b", PAIRS[:50])
    write_pairs("b", PAIRS[50:])
    sets = "--dev a.en --dev ./disk/../a.de --test a.en --test a.de"
    answer = nmt(f"init mine --src link/../b.en --tgt link/../b.de {sets}")
    assert answer.status == 0, answer.err
    assert pairs_of("mine.yaml", "train") == PAIRS[:50]
    assert load_experiment("mine.yaml").corpus.dev.tgt == "a.de"


def test_a_language_named_like_an_identifier_is_asked_for(raw: Path, nmt: Nmt) -> None:
    records = [{"no": f"{tgt} Ja.", "en": src, "sv": tgt} for src, tgt in PAIRS]
    Path("b.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert (
        "b.jsonl: source and target are not certain, it has no, en, sv"
        in nmt("init mine --jsonl b.jsonl").err
    )


@pytest.mark.parametrize("form", ["{}", "<p>{}</p>", "<div>{}</div>"])
def test_lines_that_a_repair_makes_equal_are_in_one_set(form: str, raw: Path, nmt: Nmt) -> None:
    forms = ["<p>{}</p>", "<td>{}</td>", "<li>{}</li>", form]
    pairs = [tuple(each.format(line) for line in pair) for each in forms for pair in PAIRS[:30]]
    write_pairs("b", pairs)
    answer = nmt("init mine --src b.en --tgt b.de")
    assert answer.status == 0, answer.err
    held_out = pairs_of("mine.yaml", "dev") + pairs_of("mine.yaml", "tests")
    assert len(held_out) == len(set(held_out)) == 12


def test_codes_that_differ_between_rows_are_no_header(raw: Path, nmt: Nmt) -> None:
    codes = ("en\tde", "de\ten")
    rows = [f"{codes[n % 2]}\t{src}\t{tgt}\n" for n, (src, tgt) in enumerate(PAIRS)]
    Path("b.tsv").write_text("".join(rows))
    assert nmt("init mine --tsv b.tsv --languages en,de").status == 0
    assert set(pairs_of("mine.yaml", "train")) < set(PAIRS)


def test_a_term_like_the_name_of_its_column_keeps_the_header(raw: Path, nmt: Nmt) -> None:
    rows = [("source", "target"), ("source", "Quelle"), *PAIRS]
    Path("b.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in rows))
    assert nmt("init mine --tsv b.tsv --languages en,de").status == 0
    assert ("source", "target") not in pairs_of("mine.yaml", "train")
