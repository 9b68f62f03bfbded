"""The files of an evaluation: what was translated, how, against what, and with which scores.

Their names follow Mozilla's training pipeline: of a set `flickr` from en to de, flickr.en,
flickr.de, flickr.de.ref, flickr.metrics and flickr.metrics.json. A system that was compared with a
baseline has flickr.comparison.json too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from nmt.corpus.io import is_writable
from nmt.corpus.text import open_output
from nmt.errors import DataError
from nmt.evaluation.comparison import Comparison
from nmt.evaluation.scores import ScoreReport
from nmt.evaluation.test_sets import TestSet


def folder_of(bundle: Path) -> Path:
    """Where the results of a checkpoint belong: in the folder of its run, else in its own."""
    is_of_run = bundle.parent.name == "checkpoints"
    return (bundle.parent.parent if is_of_run else bundle) / "evaluation"


def check_folder(folder: Path, inputs: Sequence[str | Path]) -> None:
    """Check before translating that results can be written, and replace no file they are made from.

    Raises:
        DataError: the folder cannot be written, or one of the input files lies in it.
    """
    for file in inputs:
        if folder.is_dir() and folder.samefile(Path(file).parent):
            raise DataError(
                f"{folder}: {file} lies there, and a translation could replace it; "
                "name another folder for the results"
            )
    if not is_writable(folder):
        raise DataError(f"{folder}: results cannot be written there; name another folder for them")


def write(
    folder: Path,
    test_set: TestSet,
    hyps: Sequence[str],
    report: ScoreReport,
    src_lang: str,
    tgt_lang: str,
) -> list[Path]:
    """Write all files of one test set, each whole or not at all; those of before are replaced."""
    assert len(hyps) == len(test_set.src)
    texts = {src_lang: _lines(test_set.src), tgt_lang: _lines(hyps)}
    for number, refs in enumerate(test_set.references):
        texts[f"{tgt_lang}.ref{number or ''}"] = _lines(refs)
    texts["metrics"] = report.text() + "\n"
    texts["metrics.json"] = report.json() + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for ending, text in texts.items():
        written.append(folder / f"{test_set.file_name}.{ending}")
        with open_output(written[-1]) as file:
            file.write(text)
    return written


def write_comparison(folder: Path, test_set: TestSet, comparison: Comparison) -> Path:
    """Write what a comparison found beside the scores of the set: flickr.comparison.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{test_set.file_name}.comparison.json"
    with open_output(path) as file:
        file.write(json.dumps(comparison.tree(), indent=1, ensure_ascii=False) + "\n")
    return path


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
