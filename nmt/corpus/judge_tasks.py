"""Tasks of preparing that learn from a sample of the corpus and judge each pair by it.

Files in work/: `models/sample.src.zst` and .tgt.zst, an even sample of the pairs that are left
after the search for duplicates; `models/pairs.json`, a `PairModel`;
`models/words-<half>-<way>.npz`, `WordTable`s; `judged/<chunk>.npy`, the drop reason of each cleaned
pair, and `judged/<chunk>.adequacy.npy`, its score.

The sample is bounded, so that learning takes the same memory for any corpus; it and the models
depend on nothing but the corpus and the rules.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import CleaningConfig
from nmt.config.settings import parse_record
from nmt.corpus import clean
from nmt.corpus.adequacy import Scores, WordTable, fold_of, score_pairs
from nmt.corpus.io import atomic_write, read_zstd, write_zstd
from nmt.corpus.pair_model import MIN_PAIRS, PairModel
from nmt.corpus.prepare_tasks import SIDES, Chunk, Later, Sample, load_file, read_clean, save_array
from nmt.corpus.rules import DROP_REASONS
from nmt.corpus.task_cache import Task, Tree

MODEL_PAIRS = 100_000
"""Pairs of the sample."""


def has_pair_model(cleaning: CleaningConfig) -> bool:
    """Return True if a rule needs the statistics of the corpus."""
    return cleaning.length or cleaning.truncated or cleaning.word_order


def learning_tasks(work: Path, num_pairs: int, cleaning: CleaningConfig) -> dict[str, Task]:
    """Return the tasks that learn the models which the rules need; none for a small corpus."""
    tasks: dict[str, Task] = {}
    if num_pairs < MIN_PAIRS:
        return tasks
    if has_pair_model(cleaning):
        tasks["pairs"] = learn_pairs, (work,)
    if cleaning.min_adequacy is not None:
        for fold in (0, 1):
            for is_reversed in (False, True):
                tasks[f"words-{fold}-{is_reversed:d}"] = learn_words, (work, fold, is_reversed)
    return tasks


def write_sample(work: Path, sample: Sample) -> Tree:
    """Write the sample that the models learn from; return its number of pairs."""
    lines = list(sample)
    for number, side in enumerate(SIDES):
        path = work / f"models/sample.{side}.zst"
        write_zstd(path, (f"{line}\n".encode() for line in lines[number::2]))
    return {"pairs": len(lines) // 2}


def learn_pairs(work: Path) -> Tree:
    """Learn lengths, marks and capitals from the sample."""
    model = PairModel.fit(*_read_sample(work))
    if model is not None:
        with atomic_write(work / "models/pairs.json") as temporary:
            temporary.write_text(json.dumps(asdict(model)), encoding="utf-8")
    return {"is_learnt": int(model is not None)}


def learn_words(work: Path, fold: int, is_reversed: bool) -> Tree:
    """Train IBM Model 1 in one direction on one half of the sample."""
    src, tgt = _read_sample(work)
    rows = [row for row, pair in enumerate(zip(src, tgt, strict=True)) if fold_of(*pair) == fold]
    sides = [[side[row] for row in rows] for side in (src, tgt)]
    table = WordTable.train(*(reversed(sides) if is_reversed else sides))
    table.save(_table_path(work, fold, is_reversed))
    return {"entries": len(table.keys)}


def judge_chunk(work: Path, chunk: Chunk, later: Later, cleaning: CleaningConfig) -> Tree:
    """Apply the rules that need a model of the corpus to a cleaned chunk.

    Args:
        work: folder of unfinished work.
        chunk: a cleaned chunk.
        later: stages before this one that dropped pairs.
        cleaning: the rules.

    Returns:
        Number of pairs dropped by each rule.
    """
    src, tgt, lines = read_clean(work, chunk, replace(later, is_judged=False))
    codes = np.zeros(len(src), dtype=np.uint8)
    path = work / "models/pairs.json"
    if has_pair_model(cleaning) and path.exists():
        model = load_file(path, lambda path: parse_record(PairModel, path.read_bytes()))
        reasons = model.judge(src, tgt, cleaning)
        codes = np.array([clean.reason_code(reason) for reason in reasons], dtype=np.uint8)
    scores = np.full(len(src), np.nan, dtype=np.float32)
    if cleaning.min_adequacy is not None and _table_path(work, 0, False).exists():
        tables = [
            (
                load_file(_table_path(work, fold, False), WordTable.load),
                load_file(_table_path(work, fold, True), WordTable.load),
            )
            for fold in (0, 1)
        ]
        scores = score_pairs(src, tgt, tables)
        codes[(codes == 0) & (scores < cleaning.min_adequacy)] = clean.reason_code("min_adequacy")
    _save_by_row(work, chunk, lines, codes, scores)
    counts = np.bincount(codes, minlength=len(DROP_REASONS) + 1)[1:].tolist()
    return {rule: n for rule, n in zip(DROP_REASONS, counts, strict=True) if n}


def _save_by_row(
    work: Path, chunk: Chunk, lines: npt.NDArray[np.int64], codes: clean.Codes, scores: Scores
) -> None:
    """Save arrays for all pairs of the cleaned chunk; those dropped by then have no reason."""
    is_left = np.isin(load_file(chunk.path(work, "clean", "lines.npy"), np.load), lines)
    arrays: tuple[tuple[str, npt.NDArray[Any], float], ...] = (
        ("npy", codes, 0),
        ("adequacy.npy", scores, np.nan),
    )
    for ending, values, default in arrays:
        rows = np.full(len(is_left), default, dtype=values.dtype)
        rows[is_left] = values
        save_array(chunk.path(work, "judged", ending), rows)


def _read_sample(work: Path) -> tuple[list[str], list[str]]:
    paths = (work / f"models/sample.{side}.zst" for side in SIDES)
    src, tgt = (load_file(path, read_zstd).decode().split("\n")[:-1] for path in paths)
    return src, tgt


def _table_path(work: Path, fold: int, is_reversed: bool) -> Path:
    return work / f"models/words-{fold}-{'backward' if is_reversed else 'forward'}.npz"
