"""Pairs from text of one language: models write the other side of it, in tasks on Ray.

Back-translation (Sennrich et al. 2016) where the model is one of the other direction,
sequence-level distillation (Kim & Rush 2016) where it is a better one, or several, of the same. The
text is cut into files of CHUNK_LINES lines; each is a task of one core whose result is a file too,
so that an interrupted job goes on where it stopped. All files lie where every host sees them. A
line's translation does not depend on its company (P7), so neither do the pairs on the tasks.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import torch

from nmt.checkpoint.format import TOKENIZER
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.config.corpus import CorpusConfig
from nmt.config.decoding import DecodingConfig
from nmt.corpus.clean import KEPT, drop_reason, format_tally, held_out_digests, select_lines
from nmt.corpus.io import atomic_write
from nmt.corpus.manifest import FileInfo
from nmt.corpus.task_cache import ProgressCallback, RunTasks, no_progress, run_locally
from nmt.corpus.text import open_output, read_lines
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.translator import Translator
from nmt.errors import DataError

CHUNK_LINES = 2000
STATE = "state.json"


def check_models(bundles: Sequence[Checkpoint]) -> None:
    """Raise DataError where models cannot be searched as one."""
    for other in bundles[1:]:
        if other.info.files[TOKENIZER] != bundles[0].info.files[TOKENIZER]:
            raise DataError(
                f"{other.path} and {bundles[0].path} have different vocabularies: models can only "
                "translate together with one"
            )


def backtranslate(
    bundles: Sequence[Checkpoint],
    decoding: DecodingConfig,
    mono: Path,
    corpus: CorpusConfig,
    out: Path,
    run_tasks: RunTasks = run_locally,
    progress: ProgressCallback = no_progress,
) -> tuple[Counter[str], Counter[str]]:
    """Write OUT.<language> for the language of the text and for that of its translations.

    Args:
        bundles: one model, or several to be searched as one.
        mono: lines of the models' source language.
        corpus: of what is to be trained: its dev and test sets are kept out, its rules hold.
        out: path of the pairs, less the language; unfinished work lies in OUT.work.

    Returns:
        What became of the lines, and what of the pairs made of the kept ones.
    """
    model = bundles[0].experiment.corpus
    held_out = held_out_digests(corpus, model.src)
    work = out.with_name(f"{out.name}.work")
    lines_tally = _cut(mono, corpus, held_out, work, _state(bundles, decoding, mono, corpus))
    runs = tuple(str(bundle.path.resolve()) for bundle in bundles)
    chunks = sorted(work.glob("*.src"))
    todo = [chunk for chunk in chunks if not chunk.with_suffix(".hyp").exists()]
    tasks = [(runs, decoding.model_dump_json(), chunk) for chunk in todo]
    done = len(chunks) - len(todo)
    progress("translating", done, len(chunks))
    for _ in run_tasks(translate_chunk, tasks):
        done += 1
        progress("translating", done, len(chunks))
    pairs_tally: Counter[str] = Counter()
    with ExitStack() as stack:
        src_file = stack.enter_context(open_output(out.with_name(f"{out.name}.{model.src}")))
        tgt_file = stack.enter_context(open_output(out.with_name(f"{out.name}.{model.tgt}")))
        for src, hyp in _pairs(chunks):
            reason = drop_reason(src, hyp, corpus.cleaning)
            pairs_tally[reason or KEPT] += 1
            if not reason:
                src_file.write(f"{src}\n")
                tgt_file.write(f"{hyp}\n")
    shutil.rmtree(work)
    return lines_tally, pairs_tally


def translate_chunk(runs: tuple[str, ...], decoding: str, chunk: Path) -> None:
    """Translate a file of lines to one beside it, whole or not at all."""
    translator = _translator(runs, decoding)
    with open_output(chunk.with_suffix(".hyp")) as file:
        for translation in translator.translate(read_lines(chunk)):
            file.write(f"{translation.text}\n")


# Once in each process: tasks of one job follow each other there.
@lru_cache(maxsize=1)
def _translator(runs: tuple[str, ...], decoding: str) -> Translator:
    bundles = [load_checkpoint(Path(run)) for run in runs]
    models = [bundle.model() for bundle in bundles]
    update = {"decoding": DecodingConfig.model_validate_json(decoding)}
    return Translator(
        models[0] if len(models) == 1 else Ensemble(models),
        bundles[0].subword,
        bundles[0].experiment.model_copy(update=update),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


def _cut(
    mono: Path, corpus: CorpusConfig, held_out: set[bytes], work: Path, state: str
) -> Counter[str]:
    """Cut what is worth translating into chunks, where that is to do; tells of all lines."""
    file = work / STATE
    if file.exists():
        begun = json.loads(file.read_text(encoding="utf-8"))
        if begun["of"] == state:
            return Counter(begun["lines"])
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            f"{work}: cannot be made: {error.strerror}; name another OUT, in a folder that you may "
            "write to"
        ) from None
    tally: Counter[str] = Counter()
    lines = select_lines([mono], corpus.cleaning, held_out, tally)
    for number, first in enumerate(lines):
        with atomic_write(work / f"{number:06}.src") as temporary:
            some = chain([first], islice(lines, CHUNK_LINES - 1))
            text = "".join(f"{line}\n" for line in some)
            temporary.write_text(text, encoding="utf-8", newline="\n")
    if not tally[KEPT]:
        shutil.rmtree(work)
        raise DataError(
            f"{mono}: nothing to translate, {format_tally(tally)}; name a file of text in the "
            "source language of the model"
        )
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps({"of": state, "lines": tally}), encoding="utf-8")
    return tally


def _state(
    bundles: Sequence[Checkpoint], decoding: DecodingConfig, mono: Path, corpus: CorpusConfig
) -> str:
    """Names all that the result depends on."""
    parts = [
        *(f"{bundle.path.resolve()} {bundle.info.files}" for bundle in bundles),
        decoding.model_dump_json(),
        FileInfo.from_path(mono, mono.name).sha256,
        corpus.model_dump_json(include={"cleaning", "dev", "tests", "root"}),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pairs(chunks: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for chunk in chunks:
        yield from zip(read_lines(chunk), read_lines(chunk.with_suffix(".hyp")), strict=True)
