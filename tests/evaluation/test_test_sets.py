"""Test sets from files, from a prepared corpus and from sacreBLEU, and their errors."""

import gzip
import io
import logging
import socket
import urllib.request
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

import pytest
from sacrebleu.dataset import DATASETS

from nmt.errors import DataError
from nmt.evaluation import test_sets


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sacreBLEU's cache of wmt16, empty, on a machine without a network."""
    folder = tmp_path / "wmt16"
    monkeypatch.setattr(DATASETS["wmt16"], "_outdir", str(folder))
    monkeypatch.setattr(DATASETS["wmt16"], "_rawdir", str(folder / "raw"))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return folder


def no_network(url: str) -> NoReturn:
    assert socket.getdefaulttimeout() == test_sets.DOWNLOAD_TIMEOUT_S
    raise URLError(f"Name or service not known for {url[:8]}")


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="")
    return file


def test_files_are_read_unchanged(tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    src = write(tmp_path / "set.en", "a\u2028b \n\n c\n")
    ref = write(tmp_path / "set.de", "A\u2028B \n\n C\n")
    found = test_sets.from_files(src, [ref])
    assert found == test_sets.TestSet("set", ("a\u2028b ", "", " c"), (("A\u2028B ", "", " C"),))


def test_files_may_be_compressed_and_references_several(tmp_path: Path) -> None:
    src = tmp_path / "newstest2014.en.gz"
    src.write_bytes(gzip.compress(b"a\n"))
    refs = [write(tmp_path / "r1", "A\n"), write(tmp_path / "r2", "B\n")]
    found = test_sets.from_files(src, refs)
    assert found == test_sets.TestSet("newstest2014", ("a",), (("A",), ("B",)))


@pytest.mark.parametrize(
    ("file", "name"),
    [("flickr.en", "flickr"), ("flickr.en.zst", "flickr"), ("src", "src"), (".en", ".en")],
)
def test_the_default_name_is_that_of_the_source(file: str, name: str, tmp_path: Path) -> None:
    assert test_sets.name_of(tmp_path / file) == name


def test_references_need_as_many_lines_as_the_source(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    src, ref = write(tmp_path / "s.en", "a\nb\n"), write(tmp_path / "s.de", "A\n")
    with pytest.raises(DataError) as error:
        test_sets.from_files(src, [ref])
    assert str(error.value) == (
        f"{ref} has 1 lines, {src} has 2: the two files must be line-parallel"
    )


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    src, ref = write(tmp_path / "s.en", ""), write(tmp_path / "s.de", "")
    with pytest.raises(DataError) as error:
        test_sets.from_files(src, [ref])
    assert str(error.value) == f"{src} is empty: a test set needs at least one line"


def test_a_set_of_a_prepared_corpus_is_found(tmp_path: Path) -> None:
    write(tmp_path / "tests/flickr.src", "a\n")
    write(tmp_path / "tests/flickr.tgt", "A\n")
    found = test_sets.find("flickr", tmp_path, "en", "de")
    assert found == test_sets.TestSet("flickr", ("a",), (("A",),))


def test_an_unknown_set_of_a_prepared_corpus_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    write(tmp_path / "tests/flickr16.src", "a\n")
    with pytest.raises(DataError) as error:
        test_sets.find("flickr", tmp_path, "en", "de")
    assert str(error.value) == (
        f"{tmp_path} has no test set 'flickr'; did you mean flickr16?; "
        "name it in corpus.tests and run `nmt prepare` again"
    )


def test_missing_prepared_corpus_is_named(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        test_sets.find("flickr", tmp_path / "prepared/a", "en", "de")
    assert str(error.value) == (
        f"{tmp_path}/prepared/a: no prepared corpus here, and no test set 'flickr'; use --src and "
        "--ref, or run the command where the model was trained"
    )


def test_a_prepared_corpus_without_test_sets_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        test_sets.find("flickr", tmp_path, "en", "de")
    assert str(error.value) == (
        f"{tmp_path} has no test set 'flickr'; name it in corpus.tests and run `nmt prepare` again"
    )


def test_a_set_is_read_from_the_cache_of_sacrebleu(cache: Path) -> None:
    for field, text in [("src", "a\nb\n"), ("ref", "A\nB\n"), ("docid", "1\n1\n")]:
        write(cache / f"wmt16.en-de.{field}", text)
    for field in ("genre", "origlang"):
        write(cache / f"wmt16.en-de.{field}", "x\nx\n")
    found = test_sets.find("sacrebleu:wmt16", cache, "en", "de")
    assert found == test_sets.TestSet("sacrebleu:wmt16", ("a", "b"), (("A", "B"),))
    assert found.file_name == "sacrebleu_wmt16"


def test_a_failed_download_names_the_next_step(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        test_sets.find("sacrebleu:wmt16", cache, "en", "de")
    assert str(error.value) == (
        f"sacreBLEU's wmt16 en-de is not in its cache ({cache}) and cannot be "
        "downloaded: Name or service not known for https://; on a machine with network access run "
        "sacrebleu -t wmt16 -l en-de --echo src, and copy that folder here"
    )
    assert caplog.records == []
    assert socket.getdefaulttimeout() is None
    assert not logging.getLogger("sacrebleu").disabled


def test_a_corrupt_download_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: io.BytesIO(b"not what was meant"))
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt16", "en", "de")
    assert str(error.value) == (
        f"sacreBLEU's wmt16 en-de: the download has a wrong checksum: remove {cache} and try again"
    )


def test_an_unknown_set_of_sacrebleu_is_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt_16", "en", "de")
    assert str(error.value) == "sacreBLEU has no test set 'wmt_16'; did you mean wmt16?"


def test_an_unknown_language_pair_is_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt16/B", "en", "de")
    assert str(error.value) == (
        "sacreBLEU's wmt16/B has no en-de (corpus.src-corpus.tgt); it has en-fi"
    )
