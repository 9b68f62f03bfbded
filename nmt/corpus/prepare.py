"""Preparing: raw text to a folder that training needs nothing else than.

    prepared/<name>/
      manifest.json                    written last: a folder that has it is complete
      tokenizer.json                   the vocabulary
      shards/00000.arrow ...           the pairs, one shard for each chunk of a raw corpus
      dev.src dev.tgt                  the dev set as it is, as plain UTF-8 with line feeds
      tests/<name>.src|.tgt            the test sets, likewise
      work/                            what an interrupted prepare goes on from; removed at the end

Everything is a list of independent tasks (`prepare_tasks.py`), run by `run_locally` or by Ray.

    reading       each raw file once: count lines, check UTF-8, take the digest, cut into chunks of
                  corpus.shard_pairs lines, so that a later task finds its lines by themselves
    cleaning      each chunk: drop, mend, tally; duplicates within the chunk
    duplicates    each share of the digests of all chunks: pairs that stood in an earlier chunk
    subwords      one vocabulary, from an even sample of all kept pairs
    encoding      each chunk: token ids, one shard

Finished tasks are not repeated (`task_cache.py`). Chunks are cut by line numbers and merged in
order, so that the bytes depend neither on the process that runs a task nor on the order of tasks.
"""

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nmt.config.corpus import CleaningConfig, ParallelText
from nmt.config.experiment import Experiment
from nmt.config.preset import resolve
from nmt.corpus import clean
from nmt.corpus.io import atomic_write, read_blocks
from nmt.corpus.manifest import (
    FORMAT,
    MANIFEST,
    CorpusInfo,
    FileInfo,
    Manifest,
    ShardInfo,
)
from nmt.corpus.prepare_tasks import (
    Chunk,
    Sample,
    clean_chunk,
    copy_held_out,
    encode_chunk,
    find_duplicates,
    split_raw,
    train_subword,
)
from nmt.corpus.prepared import (
    check_settings,
    corpus_settings,
    count_original_pairs,
    prepared_folder,
    resolve_auto_preset,
)
from nmt.corpus.shards import Shards
from nmt.corpus.task_cache import (
    ProgressCallback,
    RunTasks,
    Stages,
    Task,
    Tree,
    no_progress,
    open_work,
    run_locally,
)
from nmt.corpus.text import line_counts_message, read_pairs
from nmt.errors import DataError

log = logging.getLogger(__name__)

PART_PAIRS = 1_000_000
"""Pairs whose digests one task of the duplicates stage holds: 80 MB with what sorting needs."""


def prepare(
    experiment: Experiment,
    run_tasks: RunTasks = run_locally,
    progress: ProgressCallback = no_progress,
) -> Manifest:
    """Make the prepared folder; go on where an interrupted prepare stopped; do nothing if complete.

    Raises:
        DataError: raw text that is not what it should be, more dropped than max_dropped allows, or
            a folder that was prepared from other files or with other settings.
    """
    folder = prepared_folder(experiment)
    if (folder / MANIFEST).exists():
        manifest = _check_complete(resolve_auto_preset(experiment), folder)
        log.info("%s is prepared already: nothing to do", folder)
        return manifest
    check_raw(experiment)
    with open_work(folder, _state(experiment)) as work:
        manifest = _prepare(experiment, Stages(work, run_tasks, progress))
        with atomic_write(folder / MANIFEST) as temporary:
            temporary.write_text(manifest.to_json(), encoding="utf-8", newline="\n")
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def check_raw(experiment: Experiment) -> None:
    """Check the raw files as far as that is quick: for before a cluster is touched.

    Raises:
        DataError: one is missing or does not begin as text; anything that is wrong in dev and test.
    """
    for path in _raw_paths(experiment):
        if not path.is_file():
            raise DataError(
                f"{path}: there is no such file; check corpus.root and the names in the experiment"
            )
        next(read_blocks(path), None)
    for text in (experiment.corpus.dev, *experiment.corpus.tests):
        for _ in read_pairs(text, os.path.abspath(experiment.corpus.root)):
            pass


def _prepare(experiment: Experiment, stages: Stages) -> Manifest:
    """All stages in order; the head of this file tells what they are."""
    corpus, work = experiment.corpus, stages.work
    raw, held_out = _read(experiment, stages)
    chunks = _chunks(experiment, raw)
    texts = {text.name: text for text in corpus.train}
    tallies = stages.run(
        "cleaning",
        {
            chunk.key: (clean_chunk, _cleaning(work, chunk, texts[chunk.corpus], corpus.cleaning))
            for chunk in chunks
        },
        used="raw/{}.*",
    )
    num_lines = sum(chunk.num_lines for chunk in chunks)
    is_needed = corpus.cleaning.duplicates and len(chunks) > 1
    num_parts = -(-num_lines // PART_PAIRS) if is_needed else 0
    copies = stages.run(
        "duplicates",
        {
            f"{part:05}": (find_duplicates, (work, chunks, part, num_parts))
            for part in range(num_parts)
        },
    )
    by_chunk = {
        chunk.key: clean.CleaningTally(**tallies[chunk.key]).without_duplicates(
            sum(counts.get(chunk.key, 0) for counts in copies.values())
        )
        for chunk in chunks
    }
    by_corpus = {
        text.name: sum(
            (by_chunk[chunk.key] for chunk in chunks if chunk.corpus == text.name),
            clean.CleaningTally(),
        )
        for text in corpus.train
    }
    _check_dropped(by_corpus, corpus.cleaning.max_dropped)
    experiment = resolve(
        experiment,
        count_original_pairs(experiment, {name: tally.kept for name, tally in by_corpus.items()}),
    )
    corpus = experiment.corpus
    kept = {key: tally.kept for key, tally in by_chunk.items()}
    max_pairs = max(1, corpus.subword.max_sentences // 2)
    recased = frozenset(text.name for text in corpus.train if text.is_recased)
    sample = Sample(work, chunks, kept, num_parts, max_pairs, recased)
    learn: Task = (train_subword, (work.parent, sample, corpus.subword))
    learnt = stages.run("subwords", {"all": learn})["all"]
    names = ["dev", *(f"tests/{text.name}" for text in corpus.tests)]
    encoded = stages.run(
        "encoding",
        {
            chunk.key: (
                encode_chunk,
                (
                    *(work, chunk, num_parts, f"shards/{number:05}.arrow", names),
                    *(corpus.cleaning, texts[chunk.corpus].tag),
                ),
            )
            for number, chunk in enumerate(chunk for chunk in chunks if kept[chunk.key])
        },
        used="clean/{}.*",
    )
    return _merge(experiment, raw, held_out, by_corpus, learnt, list(encoded.values()))


def _cleaning(work: Path, chunk: Chunk, text: ParallelText, cleaning: CleaningConfig) -> Any:
    """What `clean_chunk` is given."""
    return work, chunk, bool(text.tsv), cleaning, (text.src_case, text.tgt_case)


def _read(
    experiment: Experiment, stages: Stages
) -> tuple[dict[str, list[FileInfo]], list[FileInfo]]:
    """Run the reading stage: the raw files of each corpus, and the files of dev and test sets."""
    corpus, work = experiment.corpus, stages.work
    root = os.path.abspath(corpus.root)
    tasks: dict[str, Task] = {}
    for number, text in enumerate(corpus.train):
        for side, name in _sides(text):
            target = work / f"raw/{number:03}-{{}}.{side}.zst"
            is_strict = not corpus.cleaning.invalid_utf8
            arguments = (
                Path(root, name),
                str(target),
                corpus.shard_pairs,
                side == "tsv",
                is_strict,
            )
            tasks[f"{number:03}-{side}"] = split_raw, arguments
    tasks["dev"] = copy_held_out, (corpus.dev, root, work.parent, "dev")
    for text in corpus.tests:
        tasks[f"test-{text.name}"] = copy_held_out, (text, root, work.parent, f"tests/{text.name}")
    results = stages.run("reading", tasks)
    raw: dict[str, list[FileInfo]] = {}
    for number, text in enumerate(corpus.train):
        sides = _sides(text)
        files = [
            replace(FileInfo(**results[f"{number:03}-{side}"]), name=name) for side, name in sides
        ]
        paths = [Path(root, name) for _, name in sides]
        if files[0].lines != files[-1].lines:
            counts = (files[0].lines, files[-1].lines)
            raise DataError(line_counts_message(text.name, (paths[0], paths[-1]), counts))
        if not files[0].lines:
            raise DataError(f"{paths[0]}: no lines; expected a corpus to train on")
        raw[text.name] = files
    held_out = [FileInfo(**file) for result in results.values() for file in result.get("files", [])]
    return raw, held_out


def _sides(text: ParallelText) -> list[tuple[str, str]]:
    return [("tsv", text.tsv)] if text.tsv else [("src", text.src), ("tgt", text.tgt)]


def _chunks(experiment: Experiment, raw: dict[str, list[FileInfo]]) -> list[Chunk]:
    chunks = []
    start = 0
    size = experiment.corpus.shard_pairs
    for number, (name, files) in enumerate(raw.items()):
        total = files[0].lines
        for part, first in enumerate(range(0, total, size)):
            num_lines = min(size, total - first)
            chunks.append(Chunk(f"{number:03}-{part:05}", name, first, start, num_lines))
            start += num_lines
    return chunks


def _check_dropped(by_corpus: dict[str, clean.CleaningTally], max_dropped: float) -> None:
    tally = sum(by_corpus.values(), clean.CleaningTally())
    reasons = ", ".join(f"{count:,} {why}" for why, count in tally.dropped.items() if count)
    if not tally.kept:
        raise DataError(
            f"cleaning dropped all {tally.read:,} pairs ({reasons}): nothing is left to train on; "
            f"look at the corpus, and at corpus.cleaning"
        )
    if tally.num_dropped > max_dropped * tally.read:
        raise DataError(
            f"cleaning dropped {tally.num_dropped:,} of {tally.read:,} pairs ({reasons}), more "
            f"than corpus.cleaning.max_dropped ({max_dropped:.0%}) allows; look at the corpus, or "
            f"raise the limit and run `nmt prepare` again"
        )


def _merge(
    experiment: Experiment,
    raw: dict[str, list[FileInfo]],
    held_out: list[FileInfo],
    by_corpus: dict[str, clean.CleaningTally],
    learnt: Tree,
    encoded: list[Tree],
) -> Manifest:
    shards = [
        ShardInfo(**{**result["shard"], "file": FileInfo(**result["shard"]["file"])})
        for result in encoded
    ]
    corpora = []
    for name, tally in by_corpus.items():
        ours = [number for number, shard in enumerate(shards) if shard.corpus == name]
        info = CorpusInfo(
            name=name,
            raw=raw[name],
            **asdict(tally),
            src_tokens=sum(shards[number].src_tokens for number in ours),
            tgt_tokens=sum(shards[number].tgt_tokens for number in ours),
            leaked=sum(encoded[number]["leaked"] for number in ours),
        )
        assert info.kept == sum(shards[number].pairs for number in ours), info
        corpora.append(info)
    return Manifest(
        format=FORMAT,
        src=experiment.corpus.src,
        tgt=experiment.corpus.tgt,
        settings=corpus_settings(experiment),
        cleaning_fingerprint=clean.fingerprint(experiment.corpus.cleaning),
        tokenizer_fingerprint=learnt["fingerprint"],
        num_pieces=learnt["num_pieces"],
        pairs=sum(shard.pairs for shard in shards),
        src_tokens=sum(shard.src_tokens for shard in shards),
        tgt_tokens=sum(shard.tgt_tokens for shard in shards),
        longest=max(shard.longest for shard in shards),
        corpora=corpora,
        shards=shards,
        files=[FileInfo(**learnt["file"]), *held_out],
    )


def _check_complete(experiment: Experiment, folder: Path) -> Manifest:
    """The manifest of a complete folder; DataError if it is of other files or settings."""
    manifest = Shards.open(folder).manifest
    check_settings(experiment, folder, manifest)
    for info in (file for corpus in manifest.corpora for file in corpus.raw):
        path = Path(os.path.abspath(experiment.corpus.root), info.name)
        # A prepared folder serves without the raw files, but those that are there must be its own.
        if path.is_file() and FileInfo.from_path(path, info.name).sha256 != info.sha256:
            raise DataError(
                f"{path}: not the file that {folder} was prepared from; "
                f"remove the folder and run `nmt prepare` again, or set corpus.prepared to another"
            )
    return manifest


def _raw_paths(experiment: Experiment) -> list[Path]:
    corpus = experiment.corpus
    root = os.path.abspath(corpus.root)
    texts: Iterable[ParallelText] = [*corpus.train, corpus.dev, *corpus.tests]
    return [Path(root, name) for text in texts for _, name in _sides(text)]


def _state(experiment: Experiment) -> Tree:
    """What unfinished work depends on."""
    stats = [(str(path), path.stat()) for path in _raw_paths(experiment)]
    return {
        "format": FORMAT,
        "cleaning": clean.fingerprint(experiment.corpus.cleaning),
        "settings": corpus_settings(experiment),
        "preset": experiment.preset,
        "shard_pairs": experiment.corpus.shard_pairs,
        "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
    }
