"""Synthetic training pairs: models translate monolingual text, in tasks on Ray.

With a model of the opposite direction this is back-translation (Sennrich et al. 2016, "Improving
Neural Machine Translation Models with Monolingual Data"); with one or several of the same direction
it is sequence-level distillation (Kim & Rush 2016); with reference translations of the text the
candidate nearest to the reference is kept (their section 3.3, sequence-level interpolation).

The text is split into files of CHUNK_LINES lines. Each is a task of one core, or of a GPU, that
writes a file, so that an interrupted job resumes; all files have the same path on every host. A
translation does not depend on its batch (batch-invariant translation), so the pairs do not depend
on the number of tasks.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice, repeat
from pathlib import Path

from nmt.config.corpus import CorpusConfig
from nmt.config.decoding import DecodingConfig, EngineName
from nmt.config.settings import Count, drop_legacy_values, parse_record
from nmt.corpus.clean import KEPT, format_tally, held_out_digests, select_lines
from nmt.corpus.io import atomic_write, lock_work
from nmt.corpus.manifest import FileInfo
from nmt.corpus.rules import drop_reason
from nmt.corpus.task_cache import ProgressCallback, RunTasks, no_progress, run_locally
from nmt.corpus.text import normalise, open_output, read_lines
from nmt.decoding.engines import Model, make_engine
from nmt.decoding.interface import GPU_BATCH_SENTENCES
from nmt.decoding.loading import open_model
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError, DataError
from nmt.evaluation.sacrebleu_metrics import sentence_bleu

CHUNK_LINES = 2000
"""Lines of a task: seconds to minutes of work, which an interruption can lose."""
STATE = "state.json"
_OWN_FILES = r"state\.json|\d{6}\.\w+"
"""Names of files of unfinished work."""


@dataclass(frozen=True)
class _SplitState:
    """Content of state.json, written when all chunks are."""

    of: str
    """Digest of everything that the pairs depend on."""
    lines: dict[str, Count]
    """Lines kept, and dropped by reason."""


def check_reference(mono: Path, ref: Path, decoding: DecodingConfig) -> None:
    """Check that each line has a reference, and several candidates to choose from.

    Raises:
        ConfigError: the search finds one candidate only.
        DataError: the files are not line-parallel.
    """
    if decoding.method != "beam" or decoding.beam < 2:
        rule = "a reference chooses from a beam: set decoding.method=beam and a beam of 2 or more"
        raise ConfigError("decoding", f"{decoding.method} with beam {decoding.beam}", rule)
    counts = [sum(1 for _ in read_lines(path)) for path in (mono, ref)]
    if counts[0] != counts[1]:
        raise DataError(
            f"{mono} has {counts[0]:,} lines, {ref} has {counts[1]:,}: the two files must be "
            "line-parallel"
        )


def backtranslate(
    checkpoints: Sequence[Model], decoding: DecodingConfig, mono: Path, corpus: CorpusConfig,
    out: Path, engine: EngineName = "auto", run_tasks: RunTasks = run_locally,
    progress: ProgressCallback = no_progress, ref: Path | None = None,
) -> tuple[Counter[str], Counter[str]]:  # fmt: skip
    """Write OUT.<source language> and OUT.<target language>, with the languages of the models.

    Args:
        checkpoints: one model, or several for an ensemble.
        decoding: settings of the search.
        mono: lines in the models' source language.
        corpus: corpus to be trained; lines of its dev and test sets are left out, and its cleaning
            rules are applied.
        out: path of the pairs without the language; unfinished work is in OUT.work.
        engine: as of `nmt.decoding.engines.make_engine`.
        run_tasks: runs the tasks, in any order.
        progress: receives the number of chunks done.
        ref: reference translations of `mono`, line by line (`check_reference`). Of each beam the
            candidate with the best sentence BLEU is kept.

    Returns:
        Counts of lines and of pairs, each kept and dropped by reason.

    Raises:
        DataError: a file cannot be read or written, no line or pair is left, or the languages are
            equal.
    """
    model = checkpoints[0].experiment.corpus
    if model.src == model.tgt:
        raise DataError(
            f"{checkpoints[0].path} translates {model.src} to {model.tgt}: both sides would be "
            f"{out}.{model.src}; use `nmt translate`"
        )
    held_out = held_out_digests(corpus, model.src)
    work = out.with_name(f"{out.name}.work")
    state = _fingerprint(checkpoints, decoding, mono, corpus, held_out, ref)
    with lock_work(work, _OWN_FILES, "name another OUT"):
        line_counts = _split_text(mono, ref, corpus, held_out, work, state)
        pair_counts = _translate_chunks(
            checkpoints, decoding, corpus, out, work, engine, run_tasks, progress
        )
        _remove_work(work)
    return line_counts, pair_counts


def _translate_chunks(
    checkpoints: Sequence[Model], decoding: DecodingConfig, corpus: CorpusConfig, out: Path,
    work: Path, engine: EngineName, run_tasks: RunTasks, progress: ProgressCallback,
) -> Counter[str]:  # fmt: skip
    """Translate the chunks of `work`, write all pairs, and return their counts."""
    model = checkpoints[0].experiment.corpus
    runs = tuple(str(checkpoint.path.resolve()) for checkpoint in checkpoints)
    chunks = sorted(work.glob("*.src"))
    # A chunk with a .hyp file is finished: it appears when it is complete.
    tasks = [
        (runs, engine, decoding.model_dump_json(), model.tgt, chunk)
        for chunk in chunks
        if not chunk.with_suffix(".hyp").exists()
    ]
    num_done = len(chunks) - len(tasks)
    progress("translating", num_done, len(chunks))
    for number, _ in enumerate(run_tasks(translate_chunk, tasks), start=num_done + 1):
        progress("translating", number, len(chunks))
    pair_counts: Counter[str] = Counter()
    with ExitStack() as stack:
        src_file = stack.enter_context(open_output(out.with_name(f"{out.name}.{model.src}")))
        tgt_file = stack.enter_context(open_output(out.with_name(f"{out.name}.{model.tgt}")))
        # The cleaning rules again: this time on pairs, for example their length ratio.
        for src, hyp in _read_pairs(chunks):
            reason = drop_reason(src, hyp, corpus.cleaning)
            pair_counts[reason or KEPT] += 1
            if not reason:
                src_file.write(f"{src}\n")
                tgt_file.write(f"{hyp}\n")
        if not pair_counts[KEPT]:
            _remove_work(work)
            raise DataError(
                f"no pair of {out} is left, {format_tally(pair_counts)}; use a model that was "
                "trained longer, or other cleaning rules"
            )
    return pair_counts


def translate_chunk(
    runs: tuple[str, ...], engine: EngineName, decoding: str, language: str, chunk: Path
) -> None:
    """Translate a file of lines to CHUNK.hyp, which appears when it is complete.

    With a file CHUNK.ref, of each beam the candidate with the best sentence BLEU is kept.
    """
    translator = _load_translator(runs, engine, decoding)
    refs = chunk.with_suffix(".ref")
    with open_output(chunk.with_suffix(".hyp")) as file:
        if not refs.exists():
            for translation in translator.stream(read_lines(chunk)):
                file.write(f"{translation.text}\n")
            return
        found = translator.stream(read_lines(chunk), num_best=translator.decoding.beam)
        for translation, ref in zip(found, read_lines(refs), strict=True):
            texts = [candidate.text for candidate in translation.n_best]
            # Of equal ones the most probable.
            best = max(texts, key=lambda text: sentence_bleu(text, ref, language))
            file.write(f"{best}\n")


# Cached: the tasks of a job that run in the same process share the model.
@lru_cache(maxsize=1)
def _load_translator(runs: tuple[str, ...], engine: EngineName, decoding: str) -> Translator:
    models = [open_model(run) for run in runs]
    from nmt.jobs.tasks import task_device  # imports Ray, which tasks of this process do without

    settings, device = DecodingConfig.model_validate_json(decoding), task_device()
    if device == "cuda":
        size = max(settings.batch_sentences, GPU_BATCH_SENTENCES)
        settings = settings.model_copy(update={"batch_sentences": size})
    update = {"decoding": settings}
    runner = make_engine(models, engine, device)
    return Translator(runner, models[0].subword, models[0].experiment.model_copy(update=update))


def _split_text(
    mono: Path, ref: Path | None, corpus: CorpusConfig, held_out: set[bytes], work: Path, state: str
) -> Counter[str]:
    """Split the usable lines into chunks, unless that is done; return counts of all lines."""
    file = work / STATE
    # A damaged state counts as another one.
    with suppress(FileNotFoundError, ValueError):
        stored = parse_record(_SplitState, file.read_bytes())
        if stored.of == state:
            return Counter(stored.lines)
    # Chunks of other models, settings or text; the state first, as in `_remove_work`.
    file.unlink(missing_ok=True)
    for path in work.iterdir():
        if path.name != "lock":
            path.unlink()
    counts: Counter[str] = Counter()
    selected = select_lines(read_lines(mono), corpus.cleaning, held_out, counts)
    pairs = _add_references(selected, ref, corpus)
    for number, first in enumerate(pairs):
        sides = zip(*chain([first], islice(pairs, CHUNK_LINES - 1)), strict=True)
        names = ("src", "ref") if ref is not None else ("src",)
        for side, lines in zip(names, sides, strict=False):
            with atomic_write(work / f"{number:06}.{side}") as temporary:
                text = "".join(f"{line}\n" for line in lines)
                temporary.write_text(text, encoding="utf-8", newline="\n")
    if not counts[KEPT]:
        shutil.rmtree(work)
        raise DataError(
            f"{mono}: nothing to translate, {format_tally(counts)}; name a file of text in the "
            "source language of the model"
        )
    # Written last: it marks the chunks as complete.
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(asdict(_SplitState(state, dict(counts)))), encoding="utf-8")
    return counts


def _remove_work(work: Path) -> None:
    # The state first: with it, the chunks that an interruption leaves would count as all of them.
    (work / STATE).unlink(missing_ok=True)
    shutil.rmtree(work)


def _add_references(
    lines: Iterable[tuple[int, str]], ref: Path | None, corpus: CorpusConfig
) -> Iterator[tuple[str, str]]:
    """Yield selected lines with their references; without a file with empty ones."""
    refs, num_read = read_lines(ref) if ref is not None else repeat(""), 0
    for number, line in lines:
        reference = next(islice(refs, number - num_read, None))
        num_read = number + 1
        yield line, normalise(reference, corpus.cleaning)


def _fingerprint(
    checkpoints: Sequence[Model], decoding: DecodingConfig, mono: Path, corpus: CorpusConfig,
    held_out: set[bytes], ref: Path | None = None,
) -> str:  # fmt: skip
    """Return a digest of everything that the pairs depend on."""
    of_corpus = corpus.model_dump(mode="json", include={"cleaning", "dev", "tests", "root"})
    # Without settings at their legacy value: a new one must not make finished chunks useless.
    settings = [
        drop_legacy_values(type(decoding), decoding.model_dump(mode="json")),
        drop_legacy_values(type(corpus), of_corpus),
    ]
    parts = [
        *(f"{checkpoint.path.resolve()} {checkpoint.info.files}" for checkpoint in checkpoints),
        json.dumps(settings),
        FileInfo.from_path(mono, mono.name).sha256,
        hashlib.sha256(b"".join(sorted(held_out))).hexdigest(),
    ]
    if ref is not None:
        parts.append(FileInfo.from_path(ref, ref.name).sha256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_pairs(chunks: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for chunk in chunks:
        hyp = chunk.with_suffix(".hyp")
        try:
            yield from zip(read_lines(chunk), read_lines(hyp), strict=True)
        except ValueError:
            raise DataError(
                f"{hyp}: damaged: not as many lines as {chunk.name}; remove {chunk.parent} "
                "and run the same command again"
            ) from None
