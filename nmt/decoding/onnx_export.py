"""Export of checkpoints as ONNX graphs, to a directory of their own or to a cache.

Every export is compared with the model in PyTorch before it gets its name. The cache is that of
`nmt.decoding.graph_cache`.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from nmt.checkpoint.format import WEIGHTS
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.config.decoding import Precision
from nmt.config.experiment import Experiment
from nmt.corpus.prepared import open_prepared
from nmt.corpus.shortlist import Table, learn_shortlist
from nmt.corpus.subword import BOS, CASE_MARKS, EOS, PAD
from nmt.decoding import exported_model
from nmt.decoding.exported_model import (
    CONFIG,
    DECODER,
    ENCODER,
    README,
    SHORTLIST,
    SHORTLIST_DECODER,
    SHORTLIST_FILES,
    SHORTLIST_GRAPH,
    TOKENIZER,
    ExportedModel,
    ExportInfo,
    format_info,
    read_exported,
)
from nmt.decoding.graph_cache import (
    cache_folders,
    entry_name,
    find_graphs,
    has_graphs,
    package_versions,
)
from nmt.decoding.interface import Best, Query
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.model.graph_recorder import OPSET
from nmt.model.onnx_graph import Port, decoder_step_graph, encoder_graph, ports_of, shortlist_graph
from nmt.model.seq2seq import Seq2Seq

TOLERANCE = 1e-4
"""Largest difference of log-probabilities from PyTorch in fp32, in nats."""
INT8_TOLERANCE = 0.5
"""Largest mean difference in int8, in nats; a larger one means that a graph is broken."""
MAX_CACHED = 20
"""Models per precision in the user's cache; the oldest graphs are removed."""


def export_onnx(
    folder: Path, out: Path, precision: Precision | None = None, prepared: Path | None = None
) -> ExportedModel:
    """Write a checkpoint as ONNX graphs, with all that a translation program needs.

    Args:
        folder: checkpoint, or run whose best checkpoint is meant.
        out: directory to write; it must not exist.
        precision: fp32 or int8; None: int8 if the checkpoint is stored so, else fp32.
        prepared: prepared corpus of the experiment, to add a shortlist learnt from it.

    Raises:
        CheckpointError: there is no checkpoint, it is corrupt, `out` exists or cannot be written,
            or the graphs differ from the model.
        ConfigError: the precision is bf16.
    """
    if out.exists():
        raise CheckpointError(f"{out} already exists: name another directory, or remove it")
    if precision == "bf16":
        rule = "ONNX graphs are fp32 or int8; bf16 needs --format checkpoint"
        raise ConfigError("--precision", precision, rule)
    checkpoint = load_checkpoint(folder)
    precision = precision or ("int8" if checkpoint.precision == "int8" else "fp32")
    shortlist = _learn_shortlist(checkpoint, prepared) if prepared else None
    model = checkpoint.model()
    temp = out.with_name(f".{out.name}.{secrets.token_hex(4)}.writing")
    try:
        temp.mkdir(parents=True)
        text = checkpoint.subword.to_json()
        (temp / TOKENIZER).write_text(text, encoding="utf-8", newline="")
        ports = write_graphs(model, temp, precision)
        largest, mean = compare_with_torch(model, temp, precision)
        names = [ENCODER, DECODER, TOKENIZER]
        if shortlist is not None:
            write_shortlist(model, temp, precision, shortlist)
            names += SHORTLIST_FILES
        info = ExportInfo(
            exported_model.FORMAT, precision, checkpoint.info.update,
            checkpoint.info.files[WEIGHTS].sha256, largest, mean, OPSET, package_versions(),
            _tokens(checkpoint.experiment), model.vocab_size, model.decoder.state_size,
            checkpoint.experiment.model_dump(mode="json"),
            {name: exported_model.describe(temp / name) for name in names},
        )  # fmt: skip
        (temp / CONFIG).write_text(format_info(info), encoding="utf-8", newline="")
        (temp / README).write_text(_readme(info, ports), encoding="utf-8", newline="")
        temp.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out} was not written: {error.strerror}") from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return read_exported(out)


def _tokens(experiment: Experiment) -> dict[str, int]:
    """Return the special tokens that a translation program needs, by name."""
    tokens = {"pad": PAD, "bos": BOS, "eos": EOS}
    return tokens | CASE_MARKS if experiment.marks_case else tokens


def _learn_shortlist(checkpoint: Checkpoint, prepared: Path) -> Table:
    """Learn a shortlist from the prepared corpus of a checkpoint.

    Raises:
        DataError: the corpus is not prepared, or its vocabulary is not that of the model.
    """
    experiment = checkpoint.experiment.with_settings("corpus", prepared=str(prepared))
    shards, subword = open_prepared(experiment)
    if subword.fingerprint != checkpoint.subword.fingerprint:
        raise DataError(
            f"{prepared}: its vocabulary is not that of {checkpoint.path}: "
            "export without --shortlist, or prepare the corpus of the model"
        )
    return learn_shortlist(shards, subword.num_pieces)


def write_shortlist(model: Seq2Seq, folder: Path, precision: Precision, table: Table) -> None:
    """Write the files of a shortlist."""
    np.save(folder / SHORTLIST, table)
    graph = shortlist_graph(model)
    (folder / SHORTLIST_GRAPH).write_bytes(graph.SerializeToString())
    encoder = encoder_graph(model, precision)
    decoder = decoder_step_graph(model, precision, encoder, with_shortlist=True)
    (folder / SHORTLIST_DECODER).write_bytes(decoder.SerializeToString())


def cached_graphs(checkpoint: Checkpoint, precision: Precision) -> Path:
    """Return a directory with the graphs of a checkpoint; build them at the first use.

    Raises:
        CheckpointError: the graphs differ from the model, or cannot be written anywhere.
    """
    if (found := find_graphs(checkpoint, precision)) is not None:
        return found
    name, parents = entry_name(checkpoint, precision), cache_folders(checkpoint)
    model = checkpoint.model()
    for parent in parents:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            temp = Path(tempfile.mkdtemp(prefix=".", suffix=".writing", dir=parent))
            # A checkpoint has no use for graphs of other weights, or of another version.
            num_kept = 0 if parent == parents[0] else MAX_CACHED - 1
            _remove_old(parent.glob(f"{precision}-*"), num_kept)
            return _build(model, temp, parent / name, precision)
        except OSError:
            continue
    # Neither is writable and has room: for this process only.
    try:
        temp = Path(tempfile.mkdtemp(prefix="nmt-onnx-"))
        atexit.register(shutil.rmtree, temp, ignore_errors=True)
        return _build(model, temp, temp / name, precision)
    except OSError as error:
        folders = f"{parents[0]}, {parents[1]} or the folder of temporary files"
        raise CheckpointError(
            f"its graphs cannot be written to {folders}: {error.strerror}; free some space, or use "
            "--engine torch"
        ) from None


def _remove_old(entries: Iterable[Path], num_kept: int) -> None:
    """Remove all but the newest directories, unless another process is doing it."""
    with suppress(FileNotFoundError):
        for old in sorted(entries, key=os.path.getmtime, reverse=True)[num_kept:]:
            shutil.rmtree(old, ignore_errors=True)


def _build(model: Seq2Seq, temp: Path, target: Path, precision: Precision) -> Path:
    """Write graphs to a temporary directory and rename it to `target`."""
    try:
        part = temp / target.name
        part.mkdir()
        write_graphs(model, part, precision)
        compare_with_torch(model, part, precision)
        try:
            part.rename(target)
        except OSError:
            # Another process may have been faster: its graphs are the same.
            if not has_graphs(target):
                raise
    finally:
        if temp != target.parent:
            shutil.rmtree(temp, ignore_errors=True)
    return target


def compare_with_torch(
    model: Seq2Seq, folder: Path, precision: Precision, threads: int = 1
) -> tuple[float, float]:
    """Compare the log-probabilities and the attention of graphs with those of the model.

    Random tokens of sources of several lengths are decoded with two hypotheses each.

    Returns:
        The largest and the mean difference of the log-probabilities, in nats.

    Raises:
        CheckpointError: a difference exceeds TOLERANCE, in int8 INT8_TOLERANCE on average; that of
            attention is summed over the source.
    """
    random = np.random.default_rng(1)
    lengths, beam, num_steps = np.array([16, 9, 1, 4]), 2, 5
    num_rows = beam * len(lengths)
    src = random.integers(EOS + 1, model.vocab_size, (len(lengths), lengths.max()))
    src[np.arange(src.shape[1]) >= lengths[:, None]] = PAD
    engine, query = OnnxEngine([folder], threads), Query(Best(1), None, np.arange(num_rows), True)
    state = engine.start(src, lengths, beam)
    in_log_probs, in_attention = [], []
    with torch.inference_mode():
        memory = model.encode(torch.from_numpy(src), torch.from_numpy(lengths))
        torch_state = model.start(memory, beam)
        tokens = np.full(num_rows, BOS)
        for _ in range(num_steps):
            result, state = engine.step(state, tokens, None, query)
            logits, torch_state, attention = model.step(
                torch.from_numpy(tokens), torch_state, memory
            )
            assert result.distributions is not None
            assert result.attention is not None
            log_probs = logits.log_softmax(dim=-1).numpy()
            in_log_probs.append(np.abs(result.distributions - log_probs))
            in_attention.append(np.abs(result.attention - attention.numpy()).sum(axis=1))
            tokens = random.integers(EOS + 1, model.vocab_size, num_rows)
    is_exact = precision == "fp32"
    limit = TOLERANCE if is_exact else INT8_TOLERANCE
    for name, found in (("log-probability", in_log_probs), ("attention", in_attention)):
        value = float(np.max(found) if is_exact else np.mean(found))
        # Not `value > limit`: NaN must not pass.
        if not value <= limit:
            raise CheckpointError(
                f"the {precision} graphs differ from the model by {value:.1e} in {name}, expected "
                f"{limit:.0e} or less: use --engine torch, and report it with the versions "
                f"{', '.join(f'{each} {number}' for each, number in package_versions().items())}"
            )
    return float(np.max(in_log_probs)), float(np.mean(in_log_probs))


def write_graphs(model: Seq2Seq, folder: Path, precision: Precision) -> dict[str, list[Port]]:
    """Write both graphs and return their inputs and outputs by file.

    Raises:
        CheckpointError: the model has an operation that no graph can have.
    """
    try:
        encoder = encoder_graph(model, precision)
        decoder = decoder_step_graph(model, precision, encoder)
    except NotImplementedError as error:
        raise CheckpointError(f"{error}, or use --engine torch") from None
    (folder / ENCODER).write_bytes(encoder.SerializeToString())
    (folder / DECODER).write_bytes(decoder.SerializeToString())
    return {ENCODER: ports_of(encoder), DECODER: ports_of(decoder)}


def _readme(info: ExportInfo, ports: dict[str, list[Port]]) -> str:
    """Return the README of an exported model."""
    experiment = info.experiment["corpus"]
    rows = [
        f"| `{file}` | {port.kind} | `{port.name}` | {port.dtype} | {port.shape} |"
        for file, of_graph in ports.items()
        for port in of_graph
    ]
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    return _README.format(
        src=experiment["src"], tgt=experiment["tgt"], precision=info.precision,
        opset=info.opset, versions=versions, ports="\n".join(rows), program=program_of(info.tokens),
        largest=info.largest_difference, mean=info.mean_difference,
    )  # fmt: skip


def program_of(tokens: Mapping[str, int]) -> str:
    """Return the program of the README for a model with these special tokens."""
    if not tokens.keys() & CASE_MARKS.keys():
        return PROGRAM
    program = PROGRAM.replace("tokenizer.encode(line).ids", "encode(line)")
    return program.replace("lines = [line", f"\n{ENCODE_CASE}lines = [line")


PROGRAM = """\
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
pad, bos, eos = (config["tokens"][name] for name in ("pad", "bos", "eos"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
encoder = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
decoder = onnxruntime.InferenceSession(str(folder / "decoder_step.onnx"))

lines = [line.rstrip("\\n") for line in sys.stdin] or sys.exit()
sources = [[*tokenizer.encode(line).ids, eos] for line in lines]
lengths = np.array([len(source) for source in sources])
src = np.array([source + [pad] * (max(lengths) - len(source)) for source in sources])
names = [output.name for output in encoder.get_outputs()]
memory = dict(zip(names, encoder.run(names, {"src": src, "src_lengths": lengths})))
rows, limits = np.arange(len(sources)), 2 * lengths + 20
states = np.zeros((len(sources), config["state_size"]), np.float32)
targets = np.full((len(sources), 1), bos)
while targets.shape[1] <= max(limits) and not (targets == eos).any(axis=1).all():
    last = {"tokens": targets[:, -1], "parents": rows, "num_best": np.array([eos + 1])}
    inputs = {**memory, **last, "states": states}
    ids, states = decoder.run(["best_ids", "next_states"], inputs)
    tokens = ids[rows, (ids >= eos).argmax(axis=1)]
    targets = np.concatenate([targets, tokens[:, None]], axis=1)
for line, target, limit in zip(lines, targets[:, 1:].tolist(), limits):
    end = (target[:limit] + [eos]).index(eos)
    print(tokenizer.decode(target[:end]) if line.strip() else "")
"""
"""Program of the README: greedy search with ONNX Runtime, tokenizers and NumPy."""

ENCODE_CASE = """\
def encode(line):
    # A line in upper or title case is read as a token and in lower case.
    lower = line.lower()
    capitals = sum(each != each.lower() for each in line)
    for case, size in (("upper", sum(map(str.isalpha, line))), ("title", 1 + line.count(" "))):
        words = [word[:1].title() + word[1:] for word in lower.split(" ")]
        text = lower.upper() if case == "upper" else " ".join(words)
        if capitals > max(1, size // 2) and text == line:
            return [config["tokens"][case], *tokenizer.encode(lower).ids]
    return tokenizer.encode(line).ids


"""
"""Function of that program for models that mark case."""

_README = """\
# Translation model {src}-{tgt} for ONNX Runtime

LSTM encoder and decoder with attention in {precision}, ONNX opset {opset}, exported with
{versions}. Log-probabilities differ from those of the model in PyTorch by at most {largest:.1e}, on
average by {mean:.1e}. `nmt translate` reads this directory; the program below needs `onnxruntime`,
`tokenizers` and `numpy` only.

| file | | name | type | shape |
|---|---|---|---|---|
{ports}

- `batch` sentences have `source` tokens each, padding included. `src_lengths` are their real
  tokens, with the end of the sentence.
- A step decodes one token of each of `rows` hypotheses. Row r reads sentence r // (rows / batch)
  and continues row `parents[r]` of `states`, which are zeros at first; `next_states` are the
  `states` of the next step. `keys`, `values` and `mask` are the outputs of the encoder.
- `best_ids` and `best_log_probs` are the `num_best` most likely next tokens of each row, best
  first. Ids below that of the end of a sentence are no words: request as many tokens more.
- `log_probs` are those of all next tokens, and minus infinity for ids beyond the vocabulary.
  `attention` is that of the last layer.
- `config.json` has the ids of special tokens, the number of state values, the rules by which
  training normalised text (`experiment.corpus.cleaning`; NFC above all), and digests of the files.

Greedy search for the lines of standard input, `python translate.py DIRECTORY < in > out`:

```python
{program}```
"""
