"""Files of an evaluation: source, translation, references and scores of each test set.

Names follow Mozilla's training pipeline. A set `flickr` from en to de has flickr.en, flickr.de,
flickr.de.ref, flickr.metrics and flickr.metrics.json, and flickr.comparison.json if the system was
compared with a baseline.
"""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from nmt.corpus.io import is_writable
from nmt.corpus.text import open_output
from nmt.errors import DataError
from nmt.evaluation.comparison import Comparison
from nmt.evaluation.scores import ScoreReport
from nmt.evaluation.test_sets import TestSet

COMPARISON = "comparison.json"
"""Suffix of a comparison with a baseline."""


def default_folder(checkpoint: Path) -> Path:
    """Return the results folder of a checkpoint: in its run if it has one, else in itself."""
    has_run = checkpoint.parent.name == "checkpoints"
    return (checkpoint.parent.parent if has_run else checkpoint) / "evaluation"


def check_folder(folder: Path, inputs: Sequence[str | Path]) -> None:
    """Check before translating that results can be written and replace none of the inputs.

    Raises:
        DataError: the folder is not writable, or contains an input file.
    """
    # A set named like an input file would overwrite it.
    for file in inputs:
        if folder.is_dir() and folder.samefile(Path(file).parent):
            raise DataError(
                f"{folder}: contains {file}, which a translation could overwrite: choose another "
                "folder for the results"
            )
    if not is_writable(folder):
        problem = "not a folder" if folder.is_file() else "not writable"
        raise DataError(f"{folder}: {problem}: choose another folder for the results")


def write(
    folder: Path, test_set: TestSet, hyps: Sequence[str], report: ScoreReport, src_lang: str,
    tgt_lang: str,
) -> list[Path]:  # fmt: skip
    """Write the files of one test set, each atomically, and return their paths.

    A comparison of other lines under these names is removed, and so are further references of an
    earlier evaluation.
    """
    assert len(hyps) == len(test_set.src)
    texts = {source_suffix(src_lang, tgt_lang): _join(test_set.src), tgt_lang: _join(hyps)}
    # A single reference has no number.
    for number, refs in enumerate(test_set.references):
        texts[f"{tgt_lang}.ref{number or ''}"] = _join(refs)
    old = {suffix: _path(folder, test_set, suffix) for suffix in texts}
    if any(
        not p.is_file() or p.read_bytes() != texts[suffix].encode() for suffix, p in old.items()
    ):
        _path(folder, test_set, COMPARISON).unlink(missing_ok=True)
    # Without its scores a file is not one of an evaluation.
    has_scores = _path(folder, test_set, "metrics.json").is_file()
    for number in count(len(test_set.references)):
        further = _path(folder, test_set, f"{tgt_lang}.ref{number}")
        if not (has_scores and further.is_file()):
            break
        further.unlink()
        _path(folder, test_set, COMPARISON).unlink(missing_ok=True)
    texts["metrics"] = report.text() + "\n"
    texts["metrics.json"] = report.json() + "\n"
    return [_write(folder, test_set, suffix, text) for suffix, text in texts.items()]


def source_suffix(src_lang: str, tgt_lang: str) -> str:
    """Return the suffix of a file of sources: the language, if that of translations differs."""
    return src_lang if src_lang != tgt_lang else f"{src_lang}.src"


def write_comparison(folder: Path, test_set: TestSet, comparison: Comparison) -> Path:
    """Write the comparison of a test set as JSON, and return its path."""
    text = json.dumps(comparison.tree(), indent=1, ensure_ascii=False) + "\n"
    return _write(folder, test_set, COMPARISON, text)


def _write(folder: Path, test_set: TestSet, suffix: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, test_set, suffix)
    with open_output(path) as file:
        file.write(text)
    return path


def _path(folder: Path, test_set: TestSet, suffix: str) -> Path:
    return folder / f"{test_set.file_name}.{suffix}"


def _join(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
