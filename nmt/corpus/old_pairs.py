"""Text of an earlier experiment for mixed fine-tuning (Chu et al. 2017): a sample of its pairs.

The pairs come from its prepared corpus, else from its raw files. Corpora that are tagged, recased
or not in use are left out: the sample is plain text of the old domain.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmt.config.corpus import RECORD_FORMATS, CorpusConfig, ParallelText
from nmt.corpus.formats.record_file import RawPair
from nmt.corpus.hold_out import BLOCK_PAIRS
from nmt.corpus.manifest import MANIFEST
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepare_tasks import TOKENIZER
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.errors import DataError


@dataclass(frozen=True)
class OldSample:
    """Pairs of an earlier experiment."""

    num_pairs: int
    num_all: int
    """Pairs that they were chosen from."""
    origin: str
    """Prepared corpus, or the raw files, for log lines."""


def write_sample(
    corpus: CorpusConfig, prepared: Path, size: int, seed: int, paths: tuple[Path, Path]
) -> OldSample:
    """Write a random sample of the pairs of an experiment, in their order, as two text files.

    Args:
        corpus: corpora of the experiment.
        prepared: its prepared corpus.
        size: number of pairs at most.
        seed: seed of the choice.
        paths: files to write.

    Raises:
        DataError: neither the prepared corpus nor the raw files can be read.
    """
    texts = [each for each in corpus.train if each.weight and not each.tag and not each.is_recased]
    if not texts:
        raise DataError("every corpus of the earlier run is tagged, recased or of weight 0")
    try:
        names = {text.name for text in texts}
        num_pairs, num_all = _sample_prepared(prepared, names, size, seed, paths)
        origin = str(prepared)
    except DataError as error:
        try:
            files = [PairFiles.of(text, corpus) for text in texts]
            num_pairs, num_all = _sample_raw(files, size, seed, paths)
        except DataError as other:
            raise DataError(f"{error} | {other}") from None
        origin = f"the raw files in {corpus.root}"
    return OldSample(num_pairs, num_all, origin)


def find_tests(corpus: CorpusConfig, prepared: Path) -> tuple[list[ParallelText], list[str]]:
    """Return the test sets of an experiment with absolute paths, and the names of missing ones.

    Without test sets, the dev set.
    """
    found, missing = [], []
    sets = [(f"tests/{text.name}", text) for text in corpus.tests] or [("dev", corpus.dev)]
    for name, text in sets:
        copy = _prepared_copy(prepared, name, text)
        raw = _with_absolute_paths(text, corpus)
        if copy is not None:
            found.append(copy)
        elif all(path.is_file() for path in PairFiles.of(raw, corpus).paths()):
            found.append(raw)
        else:
            missing.append(text.name)
    return found, missing


def replace_missing_sets(corpus: CorpusConfig, prepared: Path) -> CorpusConfig:
    """Return the corpus with dev and test sets of the prepared one in place of missing files."""

    def find(name: str, text: ParallelText) -> ParallelText:
        if all(path.is_file() for path in PairFiles.of(text, corpus).paths()):
            return text
        return _prepared_copy(prepared, name, text) or text

    tests = [find(f"tests/{text.name}", text) for text in corpus.tests]
    return corpus.model_copy(update={"dev": find("dev", corpus.dev), "tests": tests})


def _sample_prepared(
    folder: Path, names: set[str], size: int, seed: int, paths: tuple[Path, Path]
) -> tuple[int, int]:
    """Write sampled pairs of a prepared corpus as text; return their number, and that of all."""
    shards = Shards.open(folder)
    subword = Subword.read(folder / TOKENIZER)
    if subword.fingerprint != shards.manifest.tokenizer_fingerprint:
        raise DataError(f"{folder / TOKENIZER}: not the vocabulary of the shards")
    corpora = [n for n, info in enumerate(shards.manifest.corpora) if info.name in names]
    rows = np.flatnonzero(np.isin(shards.corpora, corpora))
    if not len(rows):
        raise DataError(f"{folder}: has none of the corpora {', '.join(sorted(names))}")
    chosen = _choose(rows, size, seed)
    blocks = (chosen[first : first + BLOCK_PAIRS] for first in range(0, len(chosen), BLOCK_PAIRS))
    pairs = chain.from_iterable(map(shards.pairs, blocks))
    texts = ((subword.decode(src).encode(), subword.decode(tgt).encode()) for src, tgt in pairs)
    _write(texts, paths)
    return len(chosen), len(rows)


def _sample_raw(
    corpora: Sequence[PairFiles], size: int, seed: int, paths: tuple[Path, Path]
) -> tuple[int, int]:
    """Write sampled pairs of raw files; return their number, and that of all."""

    def read() -> Iterator[RawPair]:
        return chain.from_iterable(files.read_raw() for files in corpora)

    num_all = sum(1 for _ in read())
    if not num_all:
        raise DataError(f"{corpora[0].paths()[0]}: no pairs")
    is_chosen = np.zeros(num_all, dtype=bool)
    is_chosen[_choose(np.arange(num_all), size, seed)] = True
    _write(compress(read(), is_chosen), paths)
    return min(size, num_all), num_all


def _choose(rows: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Return a random choice of row numbers, in their order."""
    choice = np.random.default_rng(seed).choice(rows, min(size, len(rows)), replace=False)
    return np.sort(choice)


def _write(pairs: Iterable[RawPair], paths: tuple[Path, Path]) -> None:
    with paths[0].open("wb") as src, paths[1].open("wb") as tgt:
        for pair in pairs:
            src.write(pair[0] + b"\n")
            tgt.write(pair[1] + b"\n")


def _prepared_copy(folder: Path, name: str, text: ParallelText) -> ParallelText | None:
    """Return a dev or test set as the prepared corpus has it; None: it has none."""
    src, tgt = (Path(folder, f"{name}.{side}").absolute() for side in ("src", "tgt"))
    if not (folder / MANIFEST).is_file() or not (src.is_file() and tgt.is_file()):
        return None
    refs = [src.with_suffix(f".ref{n}") for n in range(1, len(text.refs) + 1)]
    paths = {"src": str(src), "tgt": str(tgt), "refs": [str(ref) for ref in refs if ref.is_file()]}
    return ParallelText.model_validate({"name": text.name, **paths})


def _with_absolute_paths(text: ParallelText, corpus: CorpusConfig) -> ParallelText:
    root = Path(corpus.root).absolute()
    keys = [key for key in ("src", "tgt", *RECORD_FORMATS) if getattr(text, key)]
    changes: dict[str, object] = {key: str(root / getattr(text, key)) for key in keys}
    return text.model_copy(update=changes | {"refs": [str(root / ref) for ref in text.refs]})
