"""Preparing a corpus: from raw text to the folder that training reads.

    prepared/<name>/
      manifest.json                    written last: a folder that has it is complete
      tokenizer.json                   the vocabulary
      shards/00000.arrow ...           the pairs, one shard per chunk of a raw corpus
      dev.src dev.tgt                  the dev set, not cleaned, as plain UTF-8 with line feeds
      tests/<name>.src|.tgt            the test sets, likewise; .ref1 ... further references
      work/                            results of finished tasks, to resume from; removed at the end

Preparing is a list of independent tasks (`read_tasks.py`, `prepare_tasks.py`, `judge_tasks.py`) in
stages, run in this process or on Ray:

    reading       each raw file once: count lines, check UTF-8, compute the digest, cut into chunks
                  of corpus.shard_pairs lines
    cleaning      each chunk: repair, drop, count; duplicates within the chunk
    duplicates    each range of the digests of all chunks: pairs that occur in an earlier chunk;
                  the same for near duplicates
    learning      lengths, last marks, word translations, from an even sample
    judging       each chunk: drop what is improbable by these models
    subwords      one vocabulary, from an even sample of all pairs kept
    encoding      each chunk: token ids, one shard

Finished tasks are not repeated (`task_cache.py`). Chunks are cut by line numbers and merged in
order, so that the bytes depend neither on the process that runs a task nor on the order of tasks.
"""

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from nmt.config.corpus import CleaningConfig, CorpusConfig
from nmt.config.experiment import Experiment
from nmt.config.preset import check_possible, resolve
from nmt.config.settings import drop_legacy_values, has_legacy_value
from nmt.corpus import clean, drop_stages, prepare_tasks, prepared, read_tasks, task_cache
from nmt.corpus.folder_lock import check_replaceable, finish_replacing, new_folder, replace_folder
from nmt.corpus.io import atomic_write
from nmt.corpus.manifest import FORMAT, MANIFEST, CorpusInfo, FileInfo, Manifest, ShardInfo
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepare_tasks import Chunk, EncodedChunk, VocabularyInfo
from nmt.corpus.read_tasks import ChunkFiles, ReadFiles
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.task_cache import ProgressCallback, RunTasks, Stages, Task, Tree
from nmt.corpus.text import line_counts_message
from nmt.errors import DataError

log = logging.getLogger(__name__)

TASKS_VERSION = 7
"""Increased when the results of tasks change: unfinished work of another version starts over."""


def prepare(
    experiment: Experiment,
    run_tasks: RunTasks = task_cache.run_locally,
    progress: ProgressCallback = task_cache.no_progress,
    *,
    is_forced: bool = False,
    dropped: Path | None = None,
) -> Manifest:
    """Prepare the corpus; resume an interrupted preparation; do nothing if it is complete.

    Args:
        experiment: the experiment.
        run_tasks: runs the tasks of a stage, in this process or elsewhere.
        progress: called with the progress of each stage.
        is_forced: prepare again beside a complete folder, then replace it.
        dropped: file for the pairs dropped and repaired (`verdicts.py`).

    Returns:
        The manifest of the prepared corpus.

    Raises:
        DataError: raw text is not as expected, cleaning drops more than max_dropped allows, or the
            folder was prepared from other files or with other settings.
    """
    folder = prepared.prepared_folder(experiment)
    finish_replacing(folder)
    is_complete = (folder / MANIFEST).exists()
    if is_complete and not is_forced:
        if dropped is not None:
            raise DataError(
                f"{folder}: prepared already, so no pair is dropped now; add --force to prepare "
                f"again, or leave out --dropped"
            )
        manifest = _check_complete(prepared.resolve_by_prepared(experiment), folder)
        log.info("%s is prepared already: nothing to do", folder)
        return manifest
    # Errors that are quick to find come before the folder is created.
    check_raw(experiment)
    if is_complete:
        # Refused now rather than after hours; locked again when the folder is replaced.
        check_replaceable(folder)
    target = new_folder(folder) if is_complete else folder
    state = work_state(experiment) | {"dropped": dropped is not None}
    with task_cache.open_work(target, state) as work:
        text = _prepare(experiment, Stages(work, run_tasks, progress), dropped).to_json()
        # Parsed as a reader does: contradicting numbers show that unfinished work is damaged.
        manifest = Manifest.from_json(text, str(target / MANIFEST))
        # Last: a folder with a manifest is complete.
        with atomic_write(target / MANIFEST) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        # Before work/ is removed: if a run holds the folder now, the next try only replaces it.
        if is_complete:
            replace_folder(folder, target)
            work = folder / task_cache.WORK
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def check_raw(experiment: Experiment) -> list[str]:
    """Check the raw files, as far as that is quick, before a cluster is used.

    Returns:
        Reference lines of the dev set.

    Raises:
        DataError: a file is missing or does not start as text; any error in dev and test sets.
    """
    corpus = experiment.corpus
    prepare_tasks.given_vocabulary(corpus.subword)
    for text in (*corpus.train, corpus.dev, *corpus.tests):
        PairFiles.of(text, corpus).check()
    for text in corpus.tests:
        files = PairFiles.of(text, corpus)
        num_pairs = sum(1 for _ in files.read())
        if not num_pairs:
            raise DataError(f"test set {text.name}: no lines; expected one pair or more")
        files.read_refs(num_pairs)
    return [tgt for _, tgt in PairFiles.of(corpus.dev, corpus).read()]


def _prepare(experiment: Experiment, stages: Stages, dropped: Path | None) -> Manifest:
    """Run all stages in order and return the manifest."""
    raw, held_out = read_raw_files(experiment, stages)
    num_read = {name: files[0].lines for name, files in raw.items()}
    most = prepared.count_original_pairs(experiment, num_read)
    max_dropped = experiment.corpus.cleaning.max_dropped
    check_possible(experiment, int(most * (1 - max_dropped)), most)
    chunks = cut_chunks(experiment, raw)
    tallies, later = drop_stages.drop_pairs(
        experiment, stages, chunks, keeps_raw=dropped is not None
    )
    if dropped is not None:
        drop_stages.list_dropped(experiment, stages, chunks, later, dropped)
    by_corpus = dict.fromkeys(raw, clean.CleaningTally())
    for chunk in chunks:
        by_corpus[chunk.text.name] += tallies[chunk.key]
    _check_dropped(by_corpus, max_dropped)
    # The size of the vocabulary can depend on the number of pairs kept.
    num_kept = {name: tally.kept for name, tally in by_corpus.items()}
    experiment = resolve(experiment, prepared.count_original_pairs(experiment, num_kept))
    corpus, work = experiment.corpus, stages.work
    kept = {key: tally.kept for key, tally in tallies.items()}
    max_pairs = max(1, corpus.subword.max_sentences // 2)
    sample = prepare_tasks.Sample(work, chunks, kept, later, max_pairs)
    train: Task = (prepare_tasks.train_subword, (work.parent, sample, corpus.subword))
    vocabulary = stages.run("subwords", VocabularyInfo, {"all": train})["all"]
    names = drop_stages.held_out_names(experiment)
    encode: dict[str, Task] = {}
    # Chunks without a pair get no shard, and shards are numbered without gaps.
    for number, chunk in enumerate(chunk for chunk in chunks if kept[chunk.key]):
        shard = f"shards/{number:05}.arrow"
        languages = corpus.src, corpus.tgt
        arguments = work, chunk, later, shard, names, corpus.cleaning, languages
        encode[chunk.key] = prepare_tasks.encode_chunk, arguments
    results = stages.run("encoding", EncodedChunk, encode, used="clean/{}.*")
    encoded = list(results.values())
    return _merge(experiment, raw, held_out, by_corpus, vocabulary, encoded)


def read_raw_files(
    experiment: Experiment, stages: Stages
) -> tuple[dict[str, list[FileInfo]], list[FileInfo]]:
    """Run the reading stage; return the raw files of each corpus, and those of dev and tests."""
    corpus, work = experiment.corpus, stages.work
    # Files of one corpus are read at the same time.
    by_corpus = {
        text.name: _split_tasks(f"{number:03}", PairFiles.of(text, corpus), work, corpus)
        for number, text in enumerate(corpus.train)
    }
    tasks = {key: task for of_corpus in by_corpus.values() for key, task in of_corpus.items()}
    copy = read_tasks.copy_held_out
    tasks["dev"] = copy, (PairFiles.of(corpus.dev, corpus), work.parent, "dev")
    for text in corpus.tests:
        arguments = PairFiles.of(text, corpus), work.parent, f"tests/{text.name}"
        tasks[f"test-{text.name}"] = copy, arguments
    results = stages.run("reading", ReadFiles, tasks)
    root = os.path.abspath(corpus.root)
    raw: dict[str, list[FileInfo]] = {}
    for text in corpus.train:
        files = [results[key].files[0] for key in by_corpus[text.name]]
        paths = Path(root, files[0].name), Path(root, files[-1].name)
        # A file of pairs is first and last.
        if files[0].lines != files[-1].lines:
            counts = (files[0].lines, files[-1].lines)
            raise DataError(line_counts_message(text.name, paths, counts))
        if not files[0].lines:
            raise DataError(f"{paths[0]}: no lines; expected a corpus to train on")
        raw[text.name] = files
    sets = [result for key, result in results.items() if key.startswith(("dev", "test-"))]
    held_out = [file for each in sets for file in each.files]
    return raw, held_out


def _split_tasks(key: str, files: PairFiles, work: Path, corpus: CorpusConfig) -> dict[str, Task]:
    """Return the tasks that read the files of one corpus: one per side, or one for its pairs."""
    is_strict = not corpus.cleaning.invalid_utf8
    chunks = ChunkFiles(work / "raw", key, corpus.shard_pairs)
    if files.text.format != "lines":
        return {key: (read_tasks.split_records, (files, chunks, is_strict))}
    sides = zip(("src", "tgt"), files.paths(), files.text.files, strict=True)
    return {
        f"{key}-{side}": (read_tasks.split_raw, (path, name, chunks, side, is_strict))
        for side, path, name in sides
    }


def cut_chunks(experiment: Experiment, raw: dict[str, list[FileInfo]]) -> list[Chunk]:
    """Return the chunks of all corpora."""
    chunks = []
    # `start` counts through all corpora: it numbers lines for the search for duplicates.
    start = 0
    size = experiment.corpus.shard_pairs
    for number, text in enumerate(experiment.corpus.train):
        total = raw[text.name][0].lines
        for part, first in enumerate(range(0, total, size)):
            num_lines = min(size, total - first)
            chunks.append(Chunk(f"{number:03}-{part:05}", text, first, start, num_lines))
            start += num_lines
    return chunks


def _check_dropped(by_corpus: dict[str, clean.CleaningTally], max_dropped: float) -> None:
    tally = sum(by_corpus.values(), clean.CleaningTally())
    reasons = prepared.format_counts(tally.dropped)
    # Independent of max_dropped: there is nothing to train on.
    if not tally.kept:
        raise DataError(
            f"cleaning dropped all {tally.read:,} pairs ({reasons}): nothing is left to train on; "
            f"check the corpus and corpus.cleaning"
        )
    if tally.num_dropped > max_dropped * tally.read:
        raise DataError(
            f"cleaning dropped {tally.num_dropped:,} of {tally.read:,} pairs ({reasons}), more "
            f"than corpus.cleaning.max_dropped ({max_dropped:.0%}) allows; check the corpus, or "
            f"raise the limit and run `nmt prepare` again"
        )


def _merge(
    experiment: Experiment,
    raw: dict[str, list[FileInfo]],
    held_out: list[FileInfo],
    by_corpus: dict[str, clean.CleaningTally],
    vocabulary: VocabularyInfo,
    encoded: list[EncodedChunk],
) -> Manifest:
    """Build the manifest from the results of all stages."""
    shards = [result.shard for result in encoded]
    corpora = []
    for name, tally in by_corpus.items():
        numbers = [number for number, shard in enumerate(shards) if shard.corpus == name]
        info = CorpusInfo(
            name=name,
            raw=raw[name],
            **_counts(tally, experiment.corpus.cleaning),
            **_sum_tokens([shards[number] for number in numbers]),
            leaked=sum(encoded[number].leaked for number in numbers),
        )
        corpora.append(info)
    return Manifest(
        format=FORMAT,
        src=experiment.corpus.src,
        tgt=experiment.corpus.tgt,
        settings=prepared.corpus_settings(experiment),
        cleaning_fingerprint=clean.fingerprint(experiment.corpus.cleaning),
        tokenizer_fingerprint=vocabulary.fingerprint,
        num_pieces=vocabulary.num_pieces,
        pairs=sum(shard.pairs for shard in shards),
        **_sum_tokens(shards),
        longest=max(shard.longest for shard in shards),
        corpora=corpora,
        shards=shards,
        files=[vocabulary.file, *held_out],
    )


def _counts(tally: clean.CleaningTally, cleaning: CleaningConfig) -> Tree:
    """Return a tally for the manifest, without later rules that are off.

    A corpus that is prepared without a later rule has the manifest of the version before it.
    """
    on = drop_legacy_values(CleaningConfig, cleaning.model_dump())
    later = [name for name, f in CleaningConfig.model_fields.items() if has_legacy_value(f)]
    counts = asdict(tally)
    for rules in (counts["dropped"], counts["normalised"]):
        for rule in later:
            if rule not in on:
                rules.pop(rule, None)
    return counts


def _sum_tokens(shards: list[ShardInfo]) -> Tree:
    return {key: sum(getattr(s, key) for s in shards) for key in ("src_tokens", "tgt_tokens")}


def _check_complete(experiment: Experiment, folder: Path) -> Manifest:
    """Return the manifest of a complete folder; DataError if files or settings differ."""
    shards = Shards.open(folder)
    manifest = shards.manifest
    prepared.check_settings(experiment, folder, manifest)
    shards.verify()
    for info in (file for corpus in manifest.corpora for file in corpus.raw):
        path = Path(os.path.abspath(experiment.corpus.root), info.name)
        # A prepared corpus is usable without the raw files, but those that exist must be its own.
        if path.is_file() and FileInfo.from_path(path, info.name).sha256 != info.sha256:
            raise DataError(
                f"{path}: not the file that {folder} was prepared from; "
                f"remove the folder and run `nmt prepare` again, or set corpus.prepared to another"
            )
    _check_sets(experiment.corpus, folder, manifest)
    given = experiment.corpus.subword.tokenizer
    # As with raw files: usable without it, but not with another one.
    found = Subword.read(Path(given)).fingerprint if given and Path(given).is_file() else None
    if found not in (None, manifest.tokenizer_fingerprint):
        raise DataError(
            f"{given}: not the vocabulary that {folder} was prepared with; remove the folder and "
            "run `nmt prepare` again, or set corpus.prepared to another"
        )
    return manifest


def _check_sets(corpus: CorpusConfig, folder: Path, manifest: Manifest) -> None:
    """Raise DataError if the text of the dev or a test set, where it exists, has changed."""
    prepared_digests = {info.name: info.sha256 for info in manifest.files}
    tests = [(f"tests/{text.name}", text) for text in corpus.tests]
    for name, text in [("dev", corpus.dev), *tests]:
        files = PairFiles.of(text, corpus)
        if not all(path.is_file() for path in files.paths()):
            continue
        found = read_tasks.held_out_digests(files, name)
        # A file of pairs has both sides.
        paths = files.paths() if text.format == "lines" else [files.paths()[0], *files.paths()]
        for path, (copy, digest) in zip(paths, found.items(), strict=True):
            if prepared_digests.get(copy, digest) != digest:
                raise DataError(
                    f"{path}: not the text that {folder} was prepared from; run `nmt prepare "
                    f"--force`, or set corpus.prepared to another folder"
                )


def raw_paths(experiment: Experiment) -> list[Path]:
    """Return the files that a preparation reads."""
    corpus = experiment.corpus
    texts = [*corpus.train, corpus.dev, *corpus.tests]
    paths = [path for text in texts for path in PairFiles.of(text, corpus).paths()]
    return [*paths, *([Path(corpus.subword.tokenizer)] if corpus.subword.tokenizer else [])]


def work_state(experiment: Experiment) -> Tree:
    """Return everything that unfinished work depends on."""
    # Size and time instead of digests: comparing must not read the corpus again.
    stats = [(str(path), path.stat()) for path in raw_paths(experiment)]
    return {
        "format": FORMAT,
        "tasks": TASKS_VERSION,
        "cleaning": clean.fingerprint(experiment.corpus.cleaning),
        "settings": prepared.corpus_settings(experiment),
        "preset": experiment.preset,
        "shard_pairs": experiment.corpus.shard_pairs,
        "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
    }
