"""Preparing real text and files with damaged bytes."""

from pathlib import Path

import pytest

from nmt.config.corpus import CleaningConfig
from nmt.config.experiment import Experiment
from nmt.config.settings import add_legacy_values
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.corpus.shards import Shards
from nmt.errors import DataError


def broken(shared_data: Path, tmp_path: Path, case: str) -> Experiment:
    good = {"src": "bytes_utf8.en.gz", "tgt": "bytes_utf8.de.gz"}
    train = {"src": f"bytes_{case}.en.gz", "tgt": f"bytes_{case}.de.gz"}
    corpus = {
        "src": "en",
        "tgt": "de",
        "cleaning": add_legacy_values(CleaningConfig, {}),
        "root": str(shared_data / "dirty_ende"),
        "prepared": str(tmp_path / "prepared"),
        "train": [{"name": "broken", **train}],
        "dev": {"name": "good", **good},
        "subword": {"vocab_size": 600},
    }
    return Experiment.model_validate({"name": "broken", "corpus": corpus})


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
def test_readable_damage_keeps_the_other_lines(
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
            "bytes_latin1.de.gz, line 1, byte 0xE4 at position 19: 199 of the 199 non-ASCII lines "
            "are not UTF-8; convert the file from its encoding (`iconv -f ISO-8859-1 -t UTF-8` if "
            "it is Western European; `iconv -l` lists others) or delete these lines",
        ),
        (
            "cp1252",
            "bytes_cp1252.de.gz, line 1, byte 0xE4 at position 19: 200 of the 200 non-ASCII lines "
            "are not UTF-8; convert the file from its encoding (`iconv -f WINDOWS-1252 -t UTF-8` "
            "if it is Western European; `iconv -l` lists others) or delete these lines",
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
            "bytes_nul.en.gz, line 1: a NUL byte: the file is damaged or not UTF-8; download it "
            "again, or delete the NUL bytes (`tr -d '\\000'`) if the lines are complete",
        ),
        (
            "line_count_off_by_one",
            "corpus broken: FOLDER/bytes_line_count_off_by_one.en.gz has 200 lines, "
            "FOLDER/bytes_line_count_off_by_one.de.gz has 199: the two files must be "
            "line-parallel; find the first pair that does not match, or download both again",
        ),
    ],
)
def test_unreadable_files_are_errors(
    shared_data: Path, tmp_path: Path, case: str, message: str
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as caught:
        prepare(broken(shared_data, tmp_path, case))
    folder = f"{shared_data}/dirty_ende"
    assert str(caught.value).replace(folder, "FOLDER").removeprefix("FOLDER/") == message


def test_multi30k_is_prepared(shared_data: Path, tmp_path: Path) -> None:
    corpus = {
        "src": "en",
        "tgt": "de",
        "cleaning": add_legacy_values(CleaningConfig, {}),
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
    shards, subword = open_prepared(experiment)
    assert subword.decode(shards.pairs([0])[0][1]) == (
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    )
