"""Raw text to a prepared folder: the same bytes whoever does it, and nothing lost in silence."""

import fcntl
import gzip
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nmt.config.experiment import Experiment
from nmt.corpus import prepare as prepare_module
from nmt.corpus.prepare import check_raw, prepare
from nmt.corpus.prepared import check_prepared, read_dev, sized, summary
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.work import run_here
from nmt.errors import DataError

Make = Callable[..., Experiment]
Pairs = list[tuple[str, str]]

NOUNS = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut"), ("table", "Tisch")]
VERBS = [("sees", "sieht"), ("likes", "mag"), ("finds", "findet"), ("buys", "kauft")]
CLEAN: Pairs = [
    (f"The {a} {v} the {b}.", f"Der {x} {w} den {y}.")
    for a, x in NOUNS
    for v, w in VERBS
    for b, y in NOUNS
]
DIRTY: Pairs = [
    ("Two  spaces", "Zwei\u2028Leerzeichen"),  # mended
    CLEAN[3],  # stands in the first corpus
    ("", "Nichts"),
    ("Nothing else", "Sonst nichts"),
    ("Nothing else", "Sonst nichts"),
    ("Berlin", "Berlin"),
    ("e\u0301t\u00e9", "sommer"),  # mended
    CLEAN[99],
]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def text_of(experiment: Experiment) -> list[tuple[str, int, str, str]]:
    """Corpus, line, source and target of every row."""
    shards, subword = check_prepared(experiment)
    rows = []
    for row, (src, tgt) in enumerate(shards.pairs(range(len(shards)))):
        corpus, line = shards.origin(row)
        rows.append((corpus, line, subword.decode(src), subword.decode(tgt)))
    return rows


def error_of(experiment: Experiment, call: Callable[[Experiment], Any] = prepare) -> str:
    with pytest.raises(DataError) as caught:
        call(experiment)
    folder = Path(experiment.corpus.root).parent
    return str(caught.value).replace(f"{folder}/", "").replace(f"{folder}", ".")


def write(experiment: Experiment, name: str, data: str | bytes) -> None:
    data = data.encode() if isinstance(data, str) else data
    Path(experiment.corpus.root, name).write_bytes(data)


# --- what comes out ---


def test_every_pair_kept_comes_back_with_its_origin(make_corpus: Make) -> None:
    """P6."""
    experiment = make_corpus({"clean": CLEAN, "dirty": DIRTY}, shard_pairs=30)
    prepare(experiment)
    expected = [("clean", line, *pair) for line, pair in enumerate(CLEAN, start=1)]
    expected += [
        ("dirty", 1, "Two spaces", "Zwei Leerzeichen"),
        ("dirty", 4, "Nothing else", "Sonst nichts"),
        ("dirty", 7, "été", "sommer"),
    ]
    assert text_of(experiment) == expected


@pytest.mark.parametrize(("shard_pairs", "num_shards"), [(5, 10), (7, 8), (48, 2)])
def test_the_size_of_a_chunk_changes_no_pair(
    make_corpus: Make, shard_pairs: int, num_shards: int
) -> None:
    """P2."""
    experiment = make_corpus({"clean": CLEAN[:40], "dirty": DIRTY}, shard_pairs=shard_pairs)
    manifest = prepare(experiment)
    assert len(manifest.shards) == num_shards
    assert text_of(experiment)[-2:] == [
        ("dirty", 7, "été", "sommer"),
        ("dirty", 8, *CLEAN[99]),
    ]
    assert manifest.corpora[1].dropped["duplicates"] == 2  # CLEAN[3] and the second "Nothing else"


@pytest.mark.parametrize("part_pairs", [7, 1000])
def test_copies_are_found_whatever_the_parts(
    make_corpus: Make, monkeypatch: pytest.MonkeyPatch, part_pairs: int
) -> None:
    monkeypatch.setattr(prepare_module, "PART_PAIRS", part_pairs)
    experiment = make_corpus({"a": CLEAN[:20], "b": CLEAN[10:30]}, shard_pairs=6)
    manifest = prepare(experiment)
    assert [corpus.kept for corpus in manifest.corpora] == [20, 10]
    assert [row[1] for row in text_of(experiment)] == [*range(1, 21), *range(11, 21)]


def test_the_tallies_obey_their_law(make_corpus: Make) -> None:
    """P6."""
    manifest = prepare(make_corpus({"clean": CLEAN, "dirty": DIRTY}))
    dirty = manifest.corpora[1]
    assert (dirty.read, dirty.kept) == (8, 3)
    assert {why: count for why, count in dirty.dropped.items() if count} == {
        "empty": 1,
        "copies": 1,
        "duplicates": 3,
    }
    assert dirty.mended == {"control_characters": 1, "nfc": 1}


def test_a_person_sees_what_became_of_the_corpus(make_corpus: Make) -> None:
    leak = [("Nothing else", "Sonst\u00a0nichts"), ("New", "Neu")]
    experiment = make_corpus({"clean": CLEAN, "dirty": DIRTY}, dev=leak)
    manifest = prepare(experiment)
    counts = [(info.src_tokens, info.tgt_tokens) for info in manifest.corpora]
    assert summary(manifest) == [
        "clean: 100 pairs read = 100 kept + 0 dropped; mended: none",
        f"clean: {counts[0][0]} en tokens ({counts[0][0] / 100:.1f} a pair), "
        f"{counts[0][1]} de tokens ({counts[0][1] / 100:.1f} a pair)",
        "dirty: 8 pairs read = 3 kept + 5 dropped (1 empty, 1 copies, 3 duplicates); "
        "mended: 1 control_characters, 1 nfc; 1 kept also stand in the dev or a test set",
        f"dirty: {counts[1][0]} en tokens ({counts[1][0] / 3:.1f} a pair), "
        f"{counts[1][1]} de tokens ({counts[1][1] / 3:.1f} a pair)",
        f"vocabulary: {manifest.num_pieces} pieces of the 400 asked for (bpe); "
        f"longest pair: {manifest.longest} tokens",
    ]


def test_dev_and_test_sets_are_laid_in_untouched(make_corpus: Make, tmp_path: Path) -> None:
    """P6."""
    odd = [("  two  spaces\u2028 ", "e\u0301"), ("", ""), ("Berlin", "Berlin")]
    experiment = make_corpus({"train": CLEAN}, dev=odd)
    settings = experiment.model_dump()
    raw = Path(experiment.corpus.root)
    (raw / "t.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\teins\r\ntwo\tzwei"))
    settings["corpus"]["tests"] = [{"name": "flickr", "tsv": "t.tsv.gz"}]
    experiment = Experiment.model_validate(settings)
    prepare(experiment)
    folder = tmp_path / "prepared"
    assert read_dev(folder) == tuple(map(list, zip(*odd, strict=True)))
    assert (folder / "dev.src").read_bytes() == (raw / "dev.en").read_bytes()
    assert (folder / "tests" / "flickr.src").read_bytes() == b"one\ntwo\n"
    assert (folder / "tests" / "flickr.tgt").read_bytes() == b"eins\nzwei\n"


def test_packed_files_and_tsv_give_the_same_pairs_as_plain_files(make_corpus: Make) -> None:
    plain = make_corpus({"train": CLEAN})
    prepare(plain)
    rows = text_of(plain)
    raw = Path(plain.corpus.root)
    (raw / "t.tsv.gz").write_bytes(
        gzip.compress("".join(f"{src}\t{tgt}\t0.9\r\n" for src, tgt in CLEAN).encode())
    )
    settings = plain.model_dump()
    settings["corpus"]["train"] = [{"name": "train", "tsv": "t.tsv.gz"}]
    settings["corpus"]["prepared"] = str(raw.parent / "other")
    packed = Experiment.model_validate(settings)
    prepare(packed)
    assert text_of(packed) == rows


def test_the_vocabulary_is_learnt_from_an_even_sample(
    make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "nmt.corpus.chunks.Subword.train",
        lambda lines, config, train=Subword.train: (
            seen.extend(lines),
            train(lines, config),
        )[1],
    )
    pairs = [(f"number {n} a", f"Nummer {n} b") for n in range(20)]
    prepare(
        make_corpus(
            {"train": pairs},
            shard_pairs=6,
            subword={"vocab_size": 300, "max_sentences": 8},
        )
    )
    assert seen == [line for n in (0, 5, 10, 15) for line in pairs[n]]


# --- the same bytes ---


def test_preparing_twice_gives_the_same_bytes(make_corpus: Make, tmp_path: Path) -> None:
    """P2."""
    for name in ("one", "two"):
        prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared=name, shard_pairs=20))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert sorted(files_of(tmp_path / "one"))[:3] == ["dev.src", "dev.tgt", "manifest.json"]


def run_backwards(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    return run_here(function, list(reversed(tasks)))


def test_the_order_of_tasks_changes_no_byte(make_corpus: Make, tmp_path: Path) -> None:
    """P2."""
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="one", shard_pairs=20))
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="two", shard_pairs=20), run_backwards)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("num_done", [0, 4, 8, 12, 13, 16])
def test_an_interrupted_prepare_goes_on_to_the_same_bytes(
    make_corpus: Make, tmp_path: Path, num_done: int
) -> None:
    """P4."""
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="whole", shard_pairs=20))
    left = num_done

    def run_until_power_cut(
        function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        nonlocal left
        for task in tasks:
            if not left:
                raise PowerCutError
            left -= 1
            yield function(*task)

    experiment = make_corpus({"a": CLEAN, "b": DIRTY}, prepared="cut", shard_pairs=20)
    for _ in range(2):  # making the corpus again would be a change of its files
        with pytest.raises(PowerCutError):
            prepare(experiment, run_until_power_cut)
        left = 1
    calls = 0

    def count(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        nonlocal calls
        calls += len(tasks)
        return run_here(function, tasks)

    prepare(experiment, count)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    num_tasks = 5 + 6 + 1 + 1 + 6  # reading, cleaning, duplicates, subwords, encoding
    assert calls == num_tasks - num_done - 1


def test_half_prepared_is_not_prepared(make_corpus: Make) -> None:
    """P9."""

    def cut(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        raise PowerCutError

    experiment = make_corpus({"train": CLEAN})
    with pytest.raises(PowerCutError):
        prepare(experiment, cut)
    assert error_of(experiment, check_prepared) == (
        "prepared: prepared in part only; run `nmt prepare` again: it goes on where it stopped"
    )


@pytest.mark.parametrize("change", ["settings", "files"])
def test_unfinished_work_of_other_settings_or_files_is_not_used(
    make_corpus: Make, tmp_path: Path, change: str
) -> None:
    def cut_before_encoding(
        function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        if (tmp_path / "prepared" / "tokenizer.json").exists():
            raise PowerCutError
        return run_here(function, tasks)

    experiment = make_corpus({"train": CLEAN + DIRTY}, shard_pairs=50)
    with pytest.raises(PowerCutError):
        prepare(experiment, cut_before_encoding)
    if change == "settings":
        settings = experiment.model_dump()
        settings["corpus"]["cleaning"]["copies"] = False
        experiment = Experiment.model_validate(settings)
        num_kept = 104
    else:
        write(experiment, "train.en", "".join(f"{src}!\n" for src, _ in CLEAN + DIRTY))
        num_kept = 104  # CLEAN[3]! and CLEAN[99]! again; "!" is no letter, but not nothing
    manifest = prepare(experiment)
    assert (manifest.pairs, len(text_of(experiment))) == (num_kept, num_kept)


def test_a_finished_prepare_says_so_and_does_nothing(
    make_corpus: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_corpus({"train": CLEAN})
    manifest = prepare(experiment)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*")}

    def refuse(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        raise AssertionError

    with caplog.at_level(logging.INFO):
        assert prepare(experiment, refuse) == manifest
    assert caplog.messages == [f"{tmp_path}/prepared is prepared already: nothing to do"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "prepared").rglob("*")} == before


def test_a_prepared_folder_serves_without_the_raw_files(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    manifest = prepare(experiment)
    shutil.rmtree(experiment.corpus.root)
    assert prepare(experiment) == manifest


def test_progress_is_told_of_each_stage(make_corpus: Make) -> None:
    heard: list[tuple[str, int, int]] = []
    prepare(
        make_corpus({"train": CLEAN}, shard_pairs=60),
        run_here,
        lambda stage, done, total: heard.append((stage, done, total)),
    )
    assert heard == [
        *(("reading", done, 3) for done in range(4)),
        *(("cleaning", done, 2) for done in range(3)),
        *(("duplicates", done, 1) for done in range(2)),
        *(("subwords", done, 1) for done in range(2)),
        *(("encoding", done, 2) for done in range(3)),
    ]


# --- what can be wrong ---


def test_a_missing_raw_file_is_named_before_anything_is_done(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    Path(experiment.corpus.root, "train.de").unlink()
    message = (
        "raw/train.de: there is no such file; check corpus.root and the names in the experiment"
    )
    assert error_of(experiment, check_raw) == message
    assert error_of(experiment) == message
    assert not Path(experiment.prepared).exists()


def test_sides_of_different_length_are_refused_with_both_counts(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    write(experiment, "train.de", "".join(f"{tgt}\n" for _, tgt in CLEAN[:-1]))
    assert error_of(experiment) == (
        "corpus train: raw/train.en has 100 lines, but raw/train.de has 99; "
        "line n of one must translate line n of the other: find where they part, or get both again"
    )


def test_an_empty_corpus_is_refused(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    write(experiment, "train.en", "")
    write(experiment, "train.de", "")
    assert error_of(experiment) == "raw/train.en: no lines; expected a corpus to train on"


def test_an_empty_dev_set_is_refused(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    write(experiment, "dev.en", "")
    write(experiment, "dev.de", "")
    assert error_of(experiment) == "raw/dev.en: no lines; expected a set of pairs"


def test_a_dev_set_that_is_not_utf_8_is_refused(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    write(experiment, "dev.de", b"sch\xf6n\n")
    assert error_of(experiment) == (
        "raw/dev.de, line 1: byte 0xF6 at position 4 is not UTF-8; "
        "convert the file (`iconv -f ISO-8859-1 -t UTF-8`) or mend the line"
    )


def test_a_nul_byte_is_named_with_its_line(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    write(experiment, "train.de", b"eins\nzw\0ei\n")
    assert error_of(experiment) == (
        "raw/train.de, line 2: a NUL byte, which is never text; the file is damaged or not UTF-8: "
        "get it again, or delete the NULs (`tr -d '\\000'`) if the lines are whole"
    )


def test_a_tsv_row_without_a_tab_is_named(make_corpus: Make) -> None:
    settings = make_corpus({"train": CLEAN}).model_dump()
    settings["corpus"]["train"] = [{"name": "train", "tsv": "t.tsv"}]
    experiment = Experiment.model_validate(settings)
    write(experiment, "t.tsv", "one\teins\ntwo zwei\n")
    assert error_of(experiment) == (
        "raw/t.tsv, line 2: no tab; expected source, tab, target: mend or delete the line"
    )


def test_a_line_that_is_not_utf_8_is_dropped_and_counted(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:3]}, cleaning={"max_dropped": 0.5})
    write(experiment, "train.de", b"Gut.\nSch\xf6n.\nBesser.\n")
    manifest = prepare(experiment)
    assert (manifest.corpora[0].kept, manifest.corpora[0].dropped["invalid_utf8"]) == (2, 1)


def test_a_line_that_is_not_utf_8_is_an_error_where_that_rule_is_off(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:3]}, cleaning={"invalid_utf8": False})
    write(experiment, "train.de", b"Gut.\nSch\xf6n.\nBesser.\n")
    assert error_of(experiment) == (
        "raw/train.de, line 2: byte 0xF6 at position 4 is not UTF-8; "
        "convert the file (`iconv -f ISO-8859-1 -t UTF-8`) or mend the line"
    )


ALL_NEW = ["subwords 0/1", "subwords 1/1", "encoding 0/1", "encoding 1/1"]


def test_too_much_dropped_stops_with_the_tally_and_goes_on_when_allowed(make_corpus: Make) -> None:
    """P6: nothing is dropped in silence."""
    pairs = [*CLEAN[:2], *[("1", "2")] * 3, ("", "")]
    experiment = make_corpus({"train": pairs})
    assert error_of(experiment) == (
        "cleaning dropped 4 of 6 pairs (1 empty, 3 no_letters), more than "
        "corpus.cleaning.max_dropped (50%) allows; look at the corpus, or raise the limit and run "
        "`nmt prepare` again"
    )
    settings = experiment.model_dump()
    settings["corpus"]["cleaning"]["max_dropped"] = 0.7
    done: list[str] = []
    prepare(
        Experiment.model_validate(settings),
        run_here,
        lambda stage, now, total: done.append(f"{stage} {now}/{total}"),
    )
    assert done == ["reading 3/3", "cleaning 1/1", *ALL_NEW]


def test_nothing_left_is_an_error_whatever_is_allowed(make_corpus: Make) -> None:
    experiment = make_corpus({"train": [("1", "2")]}, cleaning={"max_dropped": 1.0})
    assert error_of(experiment) == (
        "cleaning dropped all 1 pairs (1 no_letters): nothing is left to train on; "
        "look at the corpus, and at corpus.cleaning"
    )


def test_training_without_preparing_says_what_to_run(make_corpus: Make) -> None:
    assert error_of(make_corpus({"train": CLEAN}), check_prepared) == (
        "prepared: no prepared corpus here (manifest.json is missing); "
        "run `nmt prepare` with this experiment first"
    )


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("cleaning", "max_ratio", 3.0, "cleaning.max_ratio 4.0, but the experiment says 3.0"),
        ("cleaning", "nfc", False, "cleaning.nfc true, but the experiment says false"),
        ("subword", "kind", "unigram", 'subword.kind "bpe", but the experiment says "unigram"'),
        ("subword", "vocab_size", 500, "subword.vocab_size 400, but the experiment says 500"),
        (None, "tgt", "fr", 'tgt "de", but the experiment says "fr"'),
    ],
)
@pytest.mark.parametrize("call", [prepare, check_prepared])
def test_a_folder_prepared_with_other_settings_names_the_setting(
    make_corpus: Make,
    call: Callable[[Experiment], Any],
    section: str | None,
    key: str,
    value: object,
    message: str,
) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    tree = settings["corpus"][section] if section else settings["corpus"]
    tree[key] = value
    assert error_of(Experiment.model_validate(settings), call) == (
        f"prepared: prepared with corpus.{message}; "
        "set it back, or remove the folder and run `nmt prepare` again"
    )


@pytest.mark.parametrize("key", ["root", "shard_pairs"])
def test_settings_that_change_no_pair_may_change(make_corpus: Make, key: str) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    settings["corpus"][key] = {"root": "/nowhere", "shard_pairs": 5}[key]
    check_prepared(Experiment.model_validate(settings))


def test_a_new_test_set_does_not_stop_training(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    settings["corpus"]["tests"] = [{"name": "new", "tsv": "new.tsv"}]
    check_prepared(Experiment.model_validate(settings))


def test_raw_files_that_changed_after_preparing_are_named(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    write(experiment, "train.de", "".join(f"{tgt}\n" for _, tgt in reversed(CLEAN[:9])))
    assert error_of(experiment) == (
        "raw/train.de: not the file that prepared was prepared from; "
        "remove the folder and run `nmt prepare` again, or set corpus.prepared to another"
    )


def test_another_vocabulary_than_that_of_the_shards_is_refused(
    make_corpus: Make, tmp_path: Path
) -> None:
    """P5."""
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    path = tmp_path / "prepared" / "tokenizer.json"
    path.write_text(path.read_text().replace("  ", "").replace('"dropout":null', '"dropout":0.1'))
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    manifest["files"][0]["size"] = path.stat().st_size
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    assert error_of(experiment, check_prepared) == (
        "prepared/tokenizer.json: not the vocabulary that the shards were made with; "
        "remove the folder and run `nmt prepare` again"
    )


def test_two_at_once_are_kept_apart(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    (tmp_path / "prepared" / "work").mkdir(parents=True)
    with (tmp_path / "prepared" / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert error_of(experiment) == (
            "prepared: another `nmt prepare` is at work on it; wait for it, or stop it"
        )
    prepare(experiment)


def test_a_folder_that_cannot_be_made_is_named(make_corpus: Make, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file")
    assert error_of(make_corpus({"train": CLEAN[:9]})) == (
        "prepared: cannot be written: Not a directory; set corpus.prepared to another folder"
    )


# --- real text ---


@pytest.mark.parametrize(
    ("case", "kept", "dropped"),
    [
        ("utf8", 200, {}),
        ("bom_crlf", 200, {}),
        ("crlf", 200, {}),
        ("no_final_newline", 200, {}),
        ("ls_ps_nel", 200, {}),
        ("invalid_utf8", 180, {"invalid_utf8": 20}),
    ],
)
def test_broken_bytes_that_can_be_read_are(
    shared_data: Path, tmp_path: Path, case: str, kept: int, dropped: dict[str, int]
) -> None:
    experiment = broken(shared_data, tmp_path, case)
    info = prepare(experiment).corpora[0]
    assert (info.read, info.kept) == (200, kept)
    assert {why: count for why, count in info.dropped.items() if count} == dropped
    assert len(Shards.open(tmp_path / "prepared")) == kept


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "latin1",
            "bytes_latin1.de.gz, line 1, byte 0xE4 at position 19: 199 of the 199 lines that hold "
            "more than ASCII are not UTF-8; convert the file (`iconv -f ISO-8859-1 -t UTF-8`) or "
            "delete these lines",
        ),
        (
            "cp1252",
            "bytes_cp1252.de.gz, line 1, byte 0xE4 at position 19: 200 of the 200 lines that hold "
            "more than ASCII are not UTF-8; convert the file (`iconv -f WINDOWS-1252 -t UTF-8`) or "
            "delete these lines",
        ),
        (
            "utf16le",
            "bytes_utf16le.en.gz, line 1: the file is UTF-16, but UTF-8 is expected; "
            "convert it (`iconv -f UTF-16 -t UTF-8`)",
        ),
        (
            "cr_only",
            "bytes_cr_only.en.gz, line 1: carriage returns but no line feed; expected line feeds "
            "at the ends of lines: convert the file (`tr '\\r' '\\n'`)",
        ),
        (
            "nul",
            "bytes_nul.en.gz, line 1: a NUL byte, which is never text; the file is damaged or not "
            "UTF-8: get it again, or delete the NULs (`tr -d '\\000'`) if the lines are whole",
        ),
        (
            "line_count_off_by_one",
            "corpus broken: FOLDER/bytes_line_count_off_by_one.en.gz has 200 lines, but "
            "FOLDER/bytes_line_count_off_by_one.de.gz has 199; line n of one must translate line n "
            "of the other: find where they part, or get both again",
        ),
    ],
)
def test_broken_bytes_that_cannot_be_read_are_errors(
    shared_data: Path, tmp_path: Path, case: str, message: str
) -> None:
    """P9."""
    with pytest.raises(DataError) as caught:
        prepare(broken(shared_data, tmp_path, case))
    folder = f"{shared_data}/dirty_ende"
    assert str(caught.value).replace(folder, "FOLDER").removeprefix("FOLDER/") == message


def broken(shared_data: Path, tmp_path: Path, case: str) -> Experiment:
    good = {"src": "bytes_utf8.en.gz", "tgt": "bytes_utf8.de.gz"}
    train = {"src": f"bytes_{case}.en.gz", "tgt": f"bytes_{case}.de.gz"}
    corpus = {
        "root": str(shared_data / "dirty_ende"),
        "prepared": str(tmp_path / "prepared"),
        "train": [{"name": "broken", **train}],
        "dev": {"name": "good", **good},
        "subword": {"vocab_size": 600},
    }
    return Experiment.model_validate({"name": "broken", "corpus": corpus})


PEAK = """
import sys
from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
prepare(Experiment.model_validate_json(sys.stdin.read()))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(make_corpus: Make, tmp_path: Path) -> None:
    """P8."""
    peaks = []
    for num_pairs in (20_000, 200_000):
        pairs = [
            (f"{n % 97} {NOUNS[n % 5][0]}s and {n} trees", f"{n % 97} {NOUNS[n % 5][1]} und {n}")
            for n in range(num_pairs)
        ]
        experiment = make_corpus(
            {"train": pairs},
            prepared=f"of-{num_pairs}",
            shard_pairs=5_000,
            subword={"vocab_size": 400, "max_sentences": 20_000},
        )
        text = experiment.model_dump_json()
        run = subprocess.run(
            [sys.executable, "-c", PEAK], input=text, capture_output=True, text=True
        )
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 15, peaks  # MB, of about 140


def test_multi30k_is_prepared(shared_data: Path, tmp_path: Path) -> None:
    corpus = {
        "root": str(shared_data / "multi30k"),
        "prepared": str(tmp_path / "prepared"),
        "train": [{"name": "multi30k", "src": "train.en.gz", "tgt": "train.de.gz"}],
        "dev": {"name": "val", "src": "val.en.gz", "tgt": "val.de.gz"},
    }
    experiment = Experiment.model_validate({"name": "multi30k", "corpus": corpus})
    manifest = prepare(experiment)
    info = manifest.corpora[0]
    assert (info.read, info.kept, info.dropped["duplicates"], info.dropped["no_letters"]) == (
        29_000,
        28_995,
        3,
        2,
    )
    assert manifest.num_pieces == 8000
    assert manifest.src_tokens / manifest.pairs < 14.5
    shards, subword = check_prepared(experiment)
    assert subword.decode(shards.pairs([0])[0][1]) == (
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    )


def test_a_tag_is_a_piece_that_no_text_has(make_corpus: Callable[..., Experiment]) -> None:
    """Tagged pairs have one source token more; a weight is no matter of shards."""
    pairs = [("A dog runs.", "Ein Hund rennt."), ("Two cats sleep.", "Zwei Katzen schlafen.")]
    experiment = make_corpus({"plain": pairs[:1], "made": pairs[1:]})
    texts = experiment.corpus.train
    tagged = [texts[0], texts[1].model_copy(update={"tag": 1})]
    corpus = experiment.corpus.model_copy(update={"train": tagged})
    experiment = experiment.model_copy(update={"corpus": corpus})
    prepare(experiment)
    shards, subword = check_prepared(experiment)
    plain, made = (src.tolist() for src, _ in shards.pairs([0, 1]))
    assert subword.pieces(made[:1]) == ["<0xFF>"]
    assert subword.decode(plain) == "A dog runs."
    assert subword.decode(made[1:]) == "Two cats sleep."
    assert shards.corpora.tolist() == [0, 1]
    heavier = [texts[0].model_copy(update={"weight": 2.0}), tagged[1]]
    corpus = corpus.model_copy(update={"train": heavier})
    check_prepared(experiment.model_copy(update={"corpus": corpus}))


def test_the_vocabulary_of_preset_auto_is_that_for_the_pairs_that_were_kept(
    make_corpus: Make,
) -> None:
    tree = make_corpus({"a": CLEAN[:60]}).model_dump(mode="json", exclude_unset=True)
    del tree["corpus"]["subword"]
    auto = Experiment.model_validate({**tree, "preset": "auto"})
    with pytest.raises(DataError, match="run `nmt prepare` with this experiment first"):
        sized(auto)
    prepare(auto)
    told: list[str] = []
    found = sized(auto, told.append)
    assert found.corpus.subword.vocab_size == 2000
    assert told[0].startswith("preset auto: 60 pairs -> width 128, 2 + 2 layers, dropout 0.4")
    shards, _ = check_prepared(found)
    assert shards.manifest.settings["corpus.subword.vocab_size"] == 2000
    assert prepare(auto) == shards.manifest


def with_cases(experiment: Experiment, **cases: str) -> Experiment:
    """With its first corpus once more for each of these names, its source in that case."""
    texts = list(experiment.corpus.train)
    texts += [
        texts[0].model_copy(update={"name": name, "src_case": case, "weight": 0.1})
        for name, case in cases.items()
    ]
    corpus = experiment.corpus.model_copy(update={"train": texts})
    return experiment.model_copy(update={"corpus": corpus})


def test_a_corpus_stands_beside_itself_in_other_letters(make_corpus: Make) -> None:
    pairs = [("A dog runs.", "Ein Hund rennt."), ("Two cats sleep.", "Zwei Katzen schlafen.")]
    experiment = with_cases(make_corpus({"plain": pairs}), upper="upper", title="title")
    manifest = prepare(experiment)
    assert [info.kept for info in manifest.corpora] == [2, 2, 2]
    assert text_of(experiment)[2:] == [
        ("upper", 1, "A DOG RUNS.", "Ein Hund rennt."),
        ("upper", 2, "TWO CATS SLEEP.", "Zwei Katzen schlafen."),
        ("title", 1, "A Dog Runs.", "Ein Hund rennt."),
        ("title", 2, "Two Cats Sleep.", "Zwei Katzen schlafen."),
    ]
    assert error_of(with_cases(make_corpus({"plain": pairs}), upper="title", title="title")) != ""


@pytest.mark.parametrize("shard_pairs", [7, 1000])
def test_other_letters_do_not_take_the_vocabulary(make_corpus: Make, shard_pairs: int) -> None:
    plain = make_corpus({"plain": CLEAN}, shard_pairs=shard_pairs)
    sizes = []
    for experiment in (plain, with_cases(plain, upper="upper")):
        settings = experiment.corpus.model_copy(
            update={"prepared": f"{experiment.corpus.prepared}-{len(experiment.corpus.train)}"}
        )
        experiment = experiment.model_copy(update={"corpus": settings})
        prepare(experiment)
        _, subword = check_prepared(experiment)
        pieces = subword.pieces(range(259, subword.num_pieces))
        sizes.append(sum(piece.strip("▁").isupper() and len(piece) > 2 for piece in pieces))
        assert subword.decode(subword.encode("THE DOG")) == "THE DOG"
    assert sizes[0] == 0
    assert 0 < sizes[1] < 40


def test_pairs_in_other_letters_do_not_count_for_the_preset(make_corpus: Make) -> None:
    auto = make_corpus({"plain": CLEAN[:60]}).model_copy(update={"preset": "auto"})
    experiment = with_cases(auto, upper="upper")
    prepare(experiment)
    told: list[str] = []
    sized(experiment, told.append)
    assert told[0].startswith("preset auto: 60 pairs -> ")
