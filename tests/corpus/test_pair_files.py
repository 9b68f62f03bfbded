"""Formats of raw corpora: their pairs, compression, columns and memory."""

import bz2
import gzip
import json
import lzma
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nmt.config.corpus import ParallelText
from nmt.config.experiment import Experiment
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepare import prepare
from nmt.errors import DataError

Pairs = list[tuple[str, str]]
PAIRS: Pairs = [("one dog", "ein Hund"), ("", ""), ('"two"', "zwei „drei“"), ("a\u2028b", "ä b")]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}


def files(folder: Path, languages: tuple[str, str] = ("en", "de"), **text: str) -> PairFiles:
    return PairFiles(ParallelText(name="caps", **text), str(folder), languages)


def pairs_of(folder: Path, **text: str) -> Pairs:
    return list(files(folder, **text).read())


def error_of(folder: Path, **text: str) -> str:
    with pytest.raises(DataError) as caught:
        list(files(folder, **text).read())
    return str(caught.value).replace(f"{folder}/", "")


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def unit(**variants: str) -> str:
    tuvs = (
        f'<tuv xml:lang="{tag.replace("_", "-")}"><seg>{text}</seg></tuv>'
        for tag, text in variants.items()
    )
    return f"<tu>{''.join(tuvs)}</tu>"


def tmx(*units: str, before: str = "") -> bytes:
    text = f'{before}<tmx version="1.4"><header srclang="en"/><body>{"".join(units)}</body></tmx>'
    return text.encode()


def write_tsv(path: Path, pairs: Pairs) -> bytes:
    return "".join(f"{src}\t{tgt}\n" for src, tgt in pairs).encode()


def write_tmx(path: Path, pairs: Pairs) -> bytes:
    return tmx(*(unit(en=escape(src), de=escape(tgt)) for src, tgt in pairs))


def write_jsonl(path: Path, pairs: Pairs) -> bytes:
    records = [{"translation": {"en": src, "de": tgt}} for src, tgt in pairs]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write_parquet(path: Path, pairs: Pairs) -> bytes:
    pq.write_table(pa.table({"translation": [{"en": s, "de": t} for s, t in pairs]}), path)
    return path.read_bytes()


def write_zip(path: Path, pairs: Pairs) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "Corpus")
        for side, suffix in enumerate(("en", "de")):
            lines = "".join(f"{pair[side]}\n" for pair in pairs)
            archive.writestr(f"Caps.de-en.{suffix}", lines)
    return path.read_bytes()


WRITERS: dict[str, Callable[[Path, Pairs], bytes]] = {
    "tsv": write_tsv, "tmx": write_tmx, "jsonl": write_jsonl, "parquet": write_parquet,
    "zip": write_zip,
}  # fmt: skip
TEXT_FORMATS = ("tsv", "tmx", "jsonl")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_has_the_same_pairs(kind: str, tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    path = tmp_path / f"a.{kind}"
    path.write_bytes(WRITERS[kind](path, PAIRS))
    assert pairs_of(tmp_path, **{kind: path.name}) == PAIRS


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", TEXT_FORMATS)
def test_formats_of_text_can_be_compressed(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}{suffix}"
    path.write_bytes(COMPRESS[suffix](WRITERS[kind](path, PAIRS)))
    assert pairs_of(tmp_path, **{kind: path.name}) == PAIRS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_can_be_compressed(suffix: str, tmp_path: Path) -> None:
    for side, name in enumerate(("a.en", "a.de")):
        data = "".join(f"{pair[side]}\r\n" for pair in PAIRS).encode()
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](data))
    assert pairs_of(tmp_path, src=f"a.en{suffix}", tgt=f"a.de{suffix}") == PAIRS


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_prepares_the_same_corpus(
    kind: str, make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Works from the experiment file; the prepared text is that of plain lines."""
    pairs = [(f"dog number {n}", f"Hund Nummer {n}") for n in range(40)]
    plain = make_corpus({"train": pairs})
    path = tmp_path / "raw" / f"train.{kind}"
    path.write_bytes(WRITERS[kind](path, pairs))
    settings = plain.model_dump()
    settings["corpus"]["train"] = [{"name": "train", kind: path.name}]
    settings["corpus"]["prepared"] = str(tmp_path / "other")
    settings["corpus"]["shard_pairs"] = 15
    other = Experiment.model_validate(settings)
    prepare(
        plain.model_copy(update={"corpus": plain.corpus.model_copy(update={"shard_pairs": 15})})
    )
    info = prepare(other).corpora[0]
    assert (info.raw[0].name, info.raw[0].lines, info.read) == (path.name, 40, 40)
    for name in ("tokenizer.json", "shards/00000.arrow", "shards/00002.arrow"):
        assert (tmp_path / "other" / name).read_bytes() == (
            tmp_path / "prepared" / name
        ).read_bytes()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, [("id", "de"), ("1", "ein Hund")]),
        ({"src_column": "3", "tgt_column": "2"}, [("en", "de"), ("a dog", "ein Hund")]),
        ({"src_column": "en", "tgt_column": "de"}, [("a dog", "ein Hund")]),
        ({"src_column": "en", "tgt_column": "2"}, None),
    ],
)
def test_columns_of_a_tsv_have_names_or_numbers(
    columns: dict[str, str], expected: Pairs | None, tmp_path: Path
) -> None:
    (tmp_path / "a.tsv").write_text("id\tde\ten\tscore\n1\tein Hund\ta dog\t0.9\n")
    if expected is None:
        assert error_of(tmp_path, tsv="a.tsv", **columns) == (
            "a.tsv: no column for 2; it has id, de, en, score: set tgt_column to one of them"
        )
    else:
        assert pairs_of(tmp_path, tsv="a.tsv", **columns) == expected


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"id": 7, "en": "a", "de": "b"}, {}),
        ({"de_DE": "b", "en-US": "a"}, {}),
        ({"target": "b", "source": "a"}, {}),
        ({"German": "b", "English": "a"}, {}),
        ({"text_b": "b", "text_a": "a"}, {"src_column": "text_a", "tgt_column": "text_b"}),
        ({"translation": {"deu": "b", "eng": "a", "fra": "c"}}, {}),
    ],
)
def test_keys_and_columns_are_found(
    record: dict[str, Any], columns: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n")
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert pairs_of(tmp_path, jsonl="a.jsonl", **columns) == [("a", "b")]
    assert pairs_of(tmp_path, parquet="a.parquet", **columns) == [("a", "b")]


def test_a_missing_text_is_an_empty_side(tmp_path: Path) -> None:
    records = [{"translation": {"en": "a", "de": None}}, {"translation": {"en": None, "de": "b"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist([*records, {"translation": None}]), tmp_path / "a.parquet")
    assert pairs_of(tmp_path, jsonl="a.jsonl") == [("a", ""), ("", "b")]
    assert pairs_of(tmp_path, parquet="a.parquet") == [("a", ""), ("", "b"), ("", "")]


def test_a_line_feed_in_a_record_is_a_space(tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    pairs = [("a\nb", "c\r\nd")]
    for kind in ("jsonl", "parquet", "tmx"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(WRITERS[kind](path, pairs))
        assert pairs_of(tmp_path, **{kind: path.name}) == [("a b", "c d")]


def test_a_nul_in_a_record_is_a_space(tmp_path: Path) -> None:
    """Files of lines are written from records, and refuse NUL bytes."""
    for kind in ("jsonl", "parquet"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(WRITERS[kind](path, [("a\0b", "\0"), ("c\0\n", "d")]))
        assert pairs_of(tmp_path, **{kind: path.name}) == [("a b", " "), ("c  ", "d")]


def test_a_header_is_read_where_other_lines_are_invalid(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"en\tde\na\tb\n\xff\tc\n")
    text = files(tmp_path, tsv="a.tsv", src_column="en", tgt_column="de")
    assert list(text.read_raw()) == [(b"a", b"b"), (b"\xff", b"c")]
    (tmp_path / "b.tsv").write_bytes(b"")
    with pytest.raises(DataError, match="no column for en; it has"):
        list(files(tmp_path, tsv="b.tsv", src_column="en", tgt_column="de").read_raw())


@pytest.mark.parametrize("column", ["99999999999999999999", "9" * 5000])
def test_a_number_of_many_digits_is_no_column(column: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n")
    assert error_of(tmp_path, tsv="a.tsv", src_column="1", tgt_column=column) == (
        "a.tsv: no column for 1; it has a, b: set src_column to one of them"
    )


def test_a_folder_in_a_zip_is_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, text in (("x.en/", ""), ("x.en/x.en", "a\n"), ("x.en/x.de", "b\n")):
            archive.writestr(name, text)
    assert pairs_of(tmp_path, zip="a.zip") == [("a", "b")]


def test_hidden_members_of_a_zip_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, text in (("x.en", "a\n"), ("x.de", "b\n"), (".x.en", "c\n"), ("d/.x.de", "c\n")):
            archive.writestr(name, text)
            archive.writestr(f"__MACOSX/._{name}", "\0\5\x16\7")
    assert pairs_of(tmp_path, zip="a.zip") == [("a", "b")]


def test_a_lone_surrogate_is_an_error_where_it_is_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"en": "a", "de": "b"}\n\n{"en": "c", "de": "\\udcff"}\n')
    assert error_of(tmp_path, jsonl="a.jsonl") == (
        "a.jsonl, record 3: de has a lone surrogate, which is no character; fix or delete the "
        "record"
    )


def test_units_of_a_tmx_give_pairs_of_both_languages(tmp_path: Path) -> None:
    (tmp_path / "a.tmx").write_bytes(
        tmx(
            unit(en_US="color", en="colour", fr="couleur", de_DE="Farbe"),
            unit(fr="seul"),
            unit(en_US="only", de="nur"),
            '<tu><tuv lang="en"><seg>old</seg></tuv><tuv lang="de"><seg>alt</seg></tuv>'
            '<tuv lang="de"><seg>betagt</seg></tuv></tu>',
        )
    )
    assert pairs_of(tmp_path, tmx="a.tmx") == [
        ("colour", "Farbe"), ("only", "nur"), ("old", "alt"), ("old", "betagt"),
    ]  # fmt: skip
    american = pairs_of(tmp_path, tmx="a.tmx", src_column="en-US")
    assert american == [("color", "Farbe"), ("only", "nur")]


@pytest.mark.parametrize("languages", [("pt_PT", "pt_BR"), ("pt-PT", "pt-BR")])
def test_variants_of_a_language_are_two_sides(languages: tuple[str, str], tmp_path: Path) -> None:
    units = unit(pt_BR="trem", pt_PT="comboio"), unit(pt_BR="sozinho")
    (tmp_path / "a.tmx").write_bytes(tmx(*units))
    assert list(files(tmp_path, languages, tmx="a.tmx").read()) == [("comboio", "trem")]
    (tmp_path / "a.jsonl").write_text('{"pt_BR": "trem", "pt_PT": "comboio"}\n')
    assert list(files(tmp_path, languages, jsonl="a.jsonl").read()) == [("comboio", "trem")]


def test_markup_in_a_segment_is_left_out(tmp_path: Path) -> None:
    seg = 'a <bpt i="1">&lt;b&gt;</bpt><hi>bold</hi><ept i="1"/> dog &amp; <ph>x</ph>cat'
    (tmp_path / "a.tmx").write_bytes(tmx(unit(en=seg, de="x")))
    assert pairs_of(tmp_path, tmx="a.tmx") == [("a bold dog & cat", "x")]


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "utf-8-sig"])
def test_a_tmx_declares_its_encoding(encoding: str, tmp_path: Path) -> None:
    declared = encoding.removesuffix("-sig")
    document = tmx(unit(en="bear", de="Bär"), before='<!DOCTYPE tmx SYSTEM "tmx14.dtd">').decode()
    text = f'<?xml version="1.0" encoding="{declared}"?>\n{document}'
    (tmp_path / "a.tmx").write_bytes(text.encode(encoding))
    assert pairs_of(tmp_path, tmx="a.tmx") == [("bear", "Bär")]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'<!DOCTYPE tmx [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><tmx>&b;</tmx>',
         "a DTD inside the file, which could expand without limit; remove it"),
        (b"<tmx>" + b"<a>" * 200, "more than 100 nested elements"),
        (b'<tmx a="' + b"a" * 1_500_000, "a tag of more than 1 MiB"),
        (b"<tmx><tu><seg>a</seg>", "not valid XML (no element found)"),
        (b"<tmx><tu><seg>\xff</seg></tu></tmx>",
         "not valid XML (not well-formed (invalid token))"),
        (b'<?xml version="1.0" encoding="shift_jis"?><tmx/>',
         "not valid XML (multi-byte encodings are not supported)"),
    ],
)  # fmt: skip
def test_a_hostile_tmx_is_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    (tmp_path / "a.tmx").write_bytes(data)
    assert error_of(tmp_path, tmx="a.tmx") == f"a.tmx, line 1: {problem}; expected TMX"


def test_an_external_entity_is_not_read(tmp_path: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    (tmp_path / "secret").write_text('<!ENTITY key "secret">')
    doctype = f'<!DOCTYPE tmx SYSTEM "file://{tmp_path}/secret">'
    (tmp_path / "a.tmx").write_bytes(tmx(unit(en="&key;&nbsp;x", de="y"), before=doctype))
    assert pairs_of(tmp_path, tmx="a.tmx") == [("&key;&nbsp;x", "y")]


def test_columns_without_a_name_are_shown(tmp_path: Path) -> None:
    variants = "<tuv><seg>a</seg></tuv><tuv><seg>b</seg></tuv>"
    (tmp_path / "a.tmx").write_bytes(tmx(f"<tu>{variants}</tu>"))
    assert error_of(tmp_path, tmx="a.tmx") == (
        "a.tmx: no translation unit in English (en) and German (de); it has (no name): set "
        "corpus.src and corpus.tgt, or src_column and tgt_column, to two of them"
    )
    (tmp_path / "a.tsv").write_text("\ten\n1\ta\n")
    assert error_of(tmp_path, tsv="a.tsv", src_column="en", tgt_column="de") == (
        "a.tsv: no column for de; it has (no name), en: set tgt_column to one of them"
    )


def test_a_member_of_a_zip_can_be_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x.en", "x.de", "y.en", "y.de"):
            archive.writestr(name, f"{name}\n")
    chosen = pairs_of(tmp_path, zip="a.zip", src_column="y.en", tgt_column="y.de")
    assert chosen == [("y.en", "y.de")]


def test_invalid_utf_8_is_dropped_and_counted(
    make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A lone surrogate of JSON is invalid text, as is a byte that is not UTF-8."""
    pairs = [(f"dog number {n}", f"Hund Nummer {n}") for n in range(40)]
    experiment = make_corpus({"train": pairs})
    lines = write_jsonl(tmp_path, [*pairs, ("a \ud83d", "b")]) + b'{"en": "caf\xe9", "de": "x"}\n'
    lines = lines.replace(b'{"en": "caf', b'{"translation": {"en": "caf').replace(b'x"}', b'x"}}')
    (tmp_path / "raw/train.jsonl").write_bytes(lines)
    settings = experiment.model_dump()
    settings["corpus"]["train"] = [{"name": "train", "jsonl": "train.jsonl"}]
    info = prepare(Experiment.model_validate(settings)).corpora[0]
    assert (info.read, info.kept, info.dropped["invalid_utf8"]) == (42, 40, 2)


def endless(kind: str, path: Path, num_pairs: int) -> None:
    """Write a large file without holding it in memory."""
    pairs = ((f"dog number {n} runs home", f"Hund Nummer {n} rennt heim") for n in range(num_pairs))

    def blocks() -> Iterator[Pairs]:
        block: Pairs = []
        for pair in pairs:
            block.append(pair)
            if len(block) == 2_000:
                yield block
                block = []

    if kind == "parquet":
        schema = pa.schema([("en", pa.string()), ("de", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for block in blocks():
                columns = [pa.array(list(side)) for side in zip(*block, strict=True)]
                writer.write_table(pa.table(columns, schema=schema))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for side, name in enumerate(("a.en", "a.de")):
                pairs = ((f"dog {n}", f"Hund {n}") for n in range(num_pairs))
                with archive.open(name, "w") as member:
                    for block in blocks():
                        member.write("".join(f"{pair[side]}\n" for pair in block).encode())
    else:
        ends = {"tmx": (b"<tmx><body>", b"</body></tmx>")}.get(kind, (b"", b""))
        with path.open("wb") as file:
            file.write(ends[0])
            for block in blocks():
                data = WRITERS[kind](path, block)
                file.write(data[data.index(b"<tu>") : -len(ends[1])] if kind == "tmx" else data)
            file.write(ends[1])


@pytest.mark.parametrize("kind", WRITERS)
def test_memory_does_not_depend_on_the_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.corpus.formats.parquet.BATCH_ROWS", 1000)
    monkeypatch.setattr("nmt.corpus.io.READ_BYTES", 1 << 14)
    peaks = []
    for num_pairs in (4_000, 16_000):
        path = tmp_path / f"{num_pairs}.{kind}"
        endless(kind, path, num_pairs)
        tracemalloc.start()
        found = sum(1 for _ in files(tmp_path, **{kind: path.name}).read_raw())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found == num_pairs
    assert peaks[1] < 1.2 * peaks[0] + 100_000
