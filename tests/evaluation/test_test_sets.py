"""Test sets: from files, from a prepared corpus, from sacreBLEU; and what each gets wrong."""

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
    assert socket.getdefaulttimeout() == test_sets.FETCH_TIMEOUT_S
    raise URLError(f"Name or service not known for {url[:8]}")


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="")
    return file


def test_files_are_read_line_by_line_and_left_as_they_are(tmp_path: Path) -> None:
    """P6."""
    src = write(tmp_path / "set.en", "a\u2028b \n\n c\n")
    ref = write(tmp_path / "set.de", "A\u2028B \n\n C\n")
    found = test_sets.from_files(src, [ref])
    assert found == test_sets.TestSet("set", ("a\u2028b ", "", " c"), (("A\u2028B ", "", " C"),))


def test_files_may_be_packed_and_references_several(tmp_path: Path) -> None:
    src = tmp_path / "newstest2014.en.gz"
    src.write_bytes(gzip.compress(b"a\n"))
    refs = [write(tmp_path / "r1", "A\n"), write(tmp_path / "r2", "B\n")]
    found = test_sets.from_files(src, refs)
    assert found == test_sets.TestSet("newstest2014", ("a",), (("A",), ("B",)))


@pytest.mark.parametrize(
    ("file", "name"),
    [("flickr.en", "flickr"), ("flickr.en.zst", "flickr"), ("src", "src"), (".en", ".en")],
)
def test_a_set_without_a_name_has_that_of_its_source(file: str, name: str, tmp_path: Path) -> None:
    assert test_sets.name_of(tmp_path / file) == name


def test_line_counts_that_differ(tmp_path: Path) -> None:
    """P9."""
    src, ref = write(tmp_path / "s.en", "a\nb\n"), write(tmp_path / "s.de", "A\n")
    with pytest.raises(DataError) as error:
        test_sets.from_files(src, [ref])
    assert str(error.value) == (
        f"{src} has 2 lines, but {ref} has 1; a reference needs one line for each source line"
    )


def test_an_empty_file(tmp_path: Path) -> None:
    """P9."""
    src, ref = write(tmp_path / "s.en", ""), write(tmp_path / "s.de", "")
    with pytest.raises(DataError) as error:
        test_sets.from_files(src, [ref])
    assert str(error.value) == f"{src} is empty; a test set needs one line or more"


def test_a_set_of_the_prepared_corpus(tmp_path: Path) -> None:
    write(tmp_path / "tests/flickr.src", "a\n")
    write(tmp_path / "tests/flickr.tgt", "A\n")
    found = test_sets.find("flickr", tmp_path, "en", "de")
    assert found == test_sets.TestSet("flickr", ("a",), (("A",),))


def test_a_name_that_the_prepared_corpus_lacks(tmp_path: Path) -> None:
    """P9."""
    write(tmp_path / "tests/flickr16.src", "a\n")
    with pytest.raises(DataError) as error:
        test_sets.find("flickr", tmp_path, "en", "de")
    assert str(error.value) == (
        f"{tmp_path} has no test set 'flickr'; did you mean flickr16?; "
        "name it in corpus.tests and run `nmt prepare` again"
    )


def test_a_corpus_prepared_without_test_sets(tmp_path: Path) -> None:
    """P9."""
    with pytest.raises(DataError) as error:
        test_sets.find("flickr", tmp_path, "en", "de")
    assert str(error.value) == (
        f"{tmp_path} has no test set 'flickr'; name it in corpus.tests and run `nmt prepare` again"
    )


def test_a_set_of_sacrebleu_in_its_cache(cache: Path) -> None:
    for field, text in [("src", "a\nb\n"), ("ref", "A\nB\n"), ("docid", "1\n1\n")]:
        write(cache / f"wmt16.en-de.{field}", text)
    for field in ("genre", "origlang"):
        write(cache / f"wmt16.en-de.{field}", "x\nx\n")
    found = test_sets.find("sacrebleu:wmt16", cache, "en", "de")
    assert found == test_sets.TestSet("sacrebleu:wmt16", ("a", "b"), (("A", "B"),))
    assert found.file_name == "sacrebleu_wmt16"


def test_a_set_of_sacrebleu_that_cannot_be_fetched(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P9."""
    with pytest.raises(DataError) as error:
        test_sets.find("sacrebleu:wmt16", cache, "en", "de")
    assert str(error.value) == (
        f"sacreBLEU's wmt16 en-de is not in its cache ({cache}) and cannot be fetched: "
        "Name or service not known for https://; where there is a network, run: "
        "sacrebleu -t wmt16 -l en-de --echo src, and copy that folder here"
    )
    assert caplog.records == []
    assert socket.getdefaulttimeout() is None
    assert not logging.getLogger("sacrebleu").disabled


def test_a_download_of_sacrebleu_that_is_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: io.BytesIO(b"not what was meant"))
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt16", "en", "de")
    assert str(error.value) == (
        f"sacreBLEU's wmt16 en-de was fetched, but is not what was published; remove {cache} "
        "and try again"
    )


def test_an_unknown_set_of_sacrebleu() -> None:
    """P9."""
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt_16", "en", "de")
    assert str(error.value) == "sacreBLEU has no test set 'wmt_16'; did you mean wmt16?"


def test_a_language_pair_that_a_set_of_sacrebleu_lacks() -> None:
    """P9."""
    with pytest.raises(DataError) as error:
        test_sets.from_sacrebleu("wmt16/B", "en", "de")
    assert str(error.value) == (
        "sacreBLEU's wmt16/B has no en-de (corpus.src-corpus.tgt); it has en-fi"
    )
