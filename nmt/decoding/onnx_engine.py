"""Engine on ONNX Runtime: exported models on CPUs, without torch.

The graphs are those of `nmt.model.onnx_graph`. A step is one call: it reorders the states, runs the
decoder, and returns the best tokens, or log-probabilities where the host chooses: ensembles,
sampling, constraints. Its inputs and outputs are bound to arrays that the steps of a search reuse.

Shapes: B sentences, K beam, R = B * K rows, S padded source length, V vocabulary, Z values of a
row's state.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from nmt.corpus.shortlist import Table, candidates_of
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.decoding import interface
from nmt.decoding.candidates import MAX_ROUNDS, choose, choose_candidates
from nmt.decoding.exported_model import (
    DECODER,
    ENCODER,
    SHORTLIST,
    SHORTLIST_DECODER,
    SHORTLIST_GRAPH,
)
from nmt.decoding.interface import Best, IntArray, Query, StepResult
from nmt.errors import CheckpointError, shorten

Array = npt.NDArray[Any]


class OnnxEngine:
    """Runs an exported model, or an ensemble: the mean of probabilities and of attention."""

    def __init__(
        self, folders: Sequence[Path], threads: int | None = None, *, with_shortlist: bool = False
    ) -> None:
        """Read the graphs of models.

        Args:
            folders: directory with the graphs of each model; all have one vocabulary.
            threads: number of compute threads; None: the limit of the process.
            with_shortlist: restrict each sentence to the candidates of its source; one model,
                exported with a shortlist. Given tokens cannot be scored.

        Raises:
            CheckpointError: a graph cannot be read.
        """
        names: tuple[str, ...] = (ENCODER, DECODER)
        self._table: Table | None = None
        if with_shortlist:
            assert len(folders) == 1
            names = (ENCODER, SHORTLIST_DECODER, SHORTLIST_GRAPH)
            self._table = np.load(folders[0] / SHORTLIST)
        self._folders = list(folders)
        # Bytes, not paths: copies on other machines have no files.
        try:
            self._graphs = [[(folder / name).read_bytes() for name in names] for folder in folders]
        except OSError as error:
            raise _unusable(error.filename, error.strerror) from None
        self.set_threads(threads or default_threads())

    @property
    def batch_tokens(self) -> int:
        """Source tokens of a batch, padding included; see `nmt.decoding.interface.Engine`."""
        return interface.BATCH_TOKENS

    def set_threads(self, threads: int) -> None:
        """Set the number of compute threads."""
        self._threads = threads
        self._models: list[_Model] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_models": []}  # sessions belong to a process

    def start(self, src: IntArray, src_lengths: IntArray, beam: int) -> "OnnxState":
        """Encode sources; see `nmt.decoding.interface.Engine`."""
        columns = None
        if self._table is not None:
            lengths = zip(src, src_lengths, strict=True)
            columns = candidates_of(self._table, [row[:length] for row, length in lengths])
        searches = [model.start(src, src_lengths, beam, columns) for model in self.models]
        return OnnxState(searches, None, columns)

    def step(
        self, state: "OnnxState", tokens: IntArray, parents: IntArray | None, query: Query
    ) -> tuple[StepResult, "OnnxState"]:
        """Decode one token per row; see `nmt.decoding.interface.Engine`."""
        rows = state.continued(parents)
        if (size := _best_in_graph(state, query)) is not None:
            outputs = state.models[0].step(tokens, rows, size + EOS, query.with_attention)
            result = _without_special(outputs.best_ids, outputs.best_log_probs, size)
            if state.columns is not None:
                columns = state.columns.repeat(state.models[0].beam, axis=0)
                result = result._replace(ids=self._candidates_at(columns, result.ids))
            attention = outputs.attention.copy() if query.with_attention else None
        else:
            every = [each.step(tokens, rows, 0, query.with_attention) for each in state.models]
            result = self._choose(state, query, [each.log_probs for each in every])
            attention = None
            if query.with_attention:
                attention = every[0].attention.copy()
                for other in every[1:]:
                    attention += other.attention
                attention /= np.float32(len(every))
        return result._replace(attention=attention), OnnxState(state.models, None, state.columns)

    def _choose(self, state: "OnnxState", query: Query, log_probs: list[Array]) -> StepResult:
        """Choose among the tokens of all log-probabilities, on the host."""
        mean = log_probs[0]
        for other in log_probs[1:]:
            np.logaddexp(mean, other, out=mean)
        # One model is normalised in the graph.
        sums = np.zeros(len(mean), np.float32) if len(log_probs) == 1 else None
        if state.columns is not None and self._table is not None:
            columns = state.columns.repeat(state.models[0].beam, axis=0)
            result = choose_candidates(columns, len(self._table), mean, query, sums)
            return result._replace(ids=self._candidates_at(columns, result.ids))
        result = choose(mean, query, sums)
        if result.distributions is None:
            return result
        vocab_size = state.models[0].model.vocab_size
        return result._replace(distributions=result.distributions[:, :vocab_size])

    def _candidates_at(self, columns: IntArray, places: IntArray) -> IntArray:
        """Return the tokens at places of the candidates of each row, [R, k]; PAD for none."""
        assert self._table is not None
        ids = np.take_along_axis(columns, places, 1)
        # A beam may exceed the candidates of a row; the next step reads embeddings of all tokens.
        return np.where(ids == len(self._table), PAD, ids)

    def select(self, state: "OnnxState", sentences: IntArray) -> "OnnxState":
        """Return the state of some sentences; see `nmt.decoding.interface.Engine`."""
        beam = state.models[0].beam
        rows = (sentences[:, None] * beam + np.arange(beam)).ravel()
        columns = None if state.columns is None else state.columns[sentences]
        models = [each.select(sentences) for each in state.models]
        return OnnxState(models, state.continued(rows), columns)

    @property
    def models(self) -> "list[_Model]":
        """Sessions of the models, created when a process first needs them.

        Raises:
            CheckpointError: a graph cannot be run.
        """
        if not self._models:
            self._models = [
                _open_model(folder, graphs, self._threads)
                for folder, graphs in zip(self._folders, self._graphs, strict=True)
            ]
        return self._models

    def check(self) -> None:
        """Decode one token of an empty sentence.

        Raises:
            CheckpointError: a graph cannot be run, or its weights give no probabilities.
        """
        where = ", ".join(map(str, self._folders))
        query = Query(Best(1))
        try:
            state = self.start(np.array([[EOS]]), np.array([1]), beam=1)
            result, _ = self.step(state, np.array([BOS]), None, query)
        except CheckpointError:
            raise
        except Exception as error:
            raise _unusable(where, error) from None
        if not np.isfinite(result.log_probs).all():
            raise _unusable(where, "probabilities that are NaN or 0")


class OnnxState:
    """State of the rows in each model."""

    def __init__(
        self, models: "list[_Search]", rows: IntArray | None, columns: IntArray | None
    ) -> None:
        """Wrap the searches of models.

        Args:
            models: one search per model.
            rows: rows of their last states that are left; None: all.
            columns: candidates of each sentence, [B, C]; None: the vocabulary.
        """
        self.models, self.rows, self.columns = models, rows, columns

    def continued(self, parents: IntArray | None) -> IntArray:
        """Return the rows of the last states that `parents` name."""
        if self.rows is None:
            return np.arange(self.models[0].num_rows) if parents is None else parents
        return self.rows if parents is None else self.rows[parents]


class _Outputs(NamedTuple):
    """Results of a step, which the next one overwrites."""

    next_states: Array
    """[R, Z]."""
    log_probs: Array
    """[R, V], filled up to a block with impossible tokens; empty if the best are requested."""
    best_ids: Array
    """[R, k]."""
    best_log_probs: Array
    """[R, k]."""
    attention: Array
    """[R, S]; empty unless requested."""


class _Model:
    """Sessions of one model."""

    def __init__(self, graphs: Sequence[bytes], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads of a session must not take time from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.encoder, self.decoder, *self.shortlist = (
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for graph in graphs
        )
        sizes = {each.name: each.shape[-1] for each in self.decoder.get_outputs()}
        self.state_size, self.num_columns = sizes["next_states"], sizes["log_probs"]
        self.vocab_size = int(self.decoder.get_modelmeta().custom_metadata_map["vocab_size"])
        self._source_axes = {
            each.name: each.shape.index("source") for each in self.encoder.get_outputs()
        }

    def start(
        self, src: IntArray, src_lengths: IntArray, beam: int, columns: IntArray | None
    ) -> "_Search":
        """Encode sources and select the output weights of their candidates."""
        # Padding is encoded no further than the longest source, and filled up afterwards: half of
        # the encoder's work for sources of 8 tokens.
        width = src_lengths.max()
        memory = _run(self.encoder, src=src[:, :width], src_lengths=src_lengths)
        if width < src.shape[1]:
            memory = {name: self._pad(name, array, src.shape[1]) for name, array in memory.items()}
        if columns is not None:
            memory |= _run(self.shortlist[0], candidates=columns)
        return _Search(self, memory, beam)

    def _pad(self, name: str, array: Array, size: int) -> Array:
        """Fill up the source positions of an output of the encoder; the mask excludes them."""
        axis = self._source_axes[name]
        shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
        result = np.full(shape, -np.inf if name == "mask" else 0, array.dtype)
        result[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
        return result


class _Search:
    """Encoded sentences in one model, and the arrays of their steps, bound to the graph."""

    def __init__(self, model: _Model, memory: dict[str, Array], beam: int) -> None:
        self.model, self.beam = model, beam
        num_rows = len(memory["mask"]) * beam
        # A step reads and writes it: the graph copies the rows that are continued before all else.
        self._states = np.zeros((num_rows, model.state_size), np.float32)
        self._bound = (0, 0, False)  # arguments of `_bind_rows`
        # Reused by each step: arrays of megabytes that are freed and allocated again cost page
        # faults. Not in the model: threads may search with it at the same time.
        self._log_probs = np.empty(0, np.float32)
        self._bind_memory(memory)

    @property
    def num_columns(self) -> int:
        """Number of tokens that log-probabilities can be of."""
        absent = self.memory.get("is_absent")
        return self.model.vocab_size if absent is None else absent.shape[1]

    def select(self, sentences: IntArray) -> "_Search":
        """Keep the memory of these sentences; the next step selects their states."""
        self._bind_memory({name: array[sentences] for name, array in self.memory.items()})
        return self

    def step(
        self, tokens: IntArray, rows: IntArray, num_best: int, with_attention: bool
    ) -> _Outputs:
        """Run the decoder on tokens that continue rows of the last states.

        Args:
            tokens: last token of each row.
            rows: row of the last states that each continues.
            num_best: number of tokens to return; 0: the log-probabilities of all.
            with_attention: return the attention.
        """
        bound = len(tokens), num_best, with_attention
        if bound != self._bound:
            self._bind_rows(*bound)
            self._bound = bound
        self._tokens[:], self._rows[:] = tokens, rows
        self.model.decoder.run_with_iobinding(self._io)
        return self._outputs

    def _bind_memory(self, memory: dict[str, Array]) -> None:
        self.memory, self.num_rows = memory, len(memory["mask"]) * self.beam
        self._io, self._bound = self.model.decoder.io_binding(), (0, 0, False)
        for name, array in memory.items():
            _bind(self._io.bind_input, name, array)
        _bind(self._io.bind_input, "states", self._states)

    def _bind_rows(self, num_rows: int, num_best: int, with_attention: bool) -> None:
        """Bind the arrays of steps of that many rows; see `step`."""
        source = self.memory["mask"].shape[1] if with_attention else 0
        self._outputs = _Outputs(
            self._states[:num_rows],
            self._log_probs_of(0 if num_best else num_rows),
            np.empty((num_rows, num_best), np.int64),
            np.empty((num_rows, num_best), np.float32),
            np.empty((num_rows, source), np.float32),
        )
        # The session does not own the arrays.
        self._tokens, self._rows = np.empty((2, num_rows), np.int64)
        self._num_best = np.array([num_best or 1])
        inputs = {"tokens": self._tokens, "parents": self._rows, "num_best": self._num_best}
        for name, array in inputs.items():
            _bind(self._io.bind_input, name, array)
        self._io.clear_binding_outputs()
        for name, array in self._outputs._asdict().items():
            if array.size:
                _bind(self._io.bind_output, name, array)

    def _log_probs_of(self, num_rows: int) -> Array:
        """Return memory for the log-probabilities of that many rows."""
        absent = self.memory.get("is_absent")
        size = self.model.num_columns if absent is None else absent.shape[1]
        if self._log_probs.size < num_rows * size:
            self._log_probs = np.empty(num_rows * size, np.float32)
        return self._log_probs[: num_rows * size].reshape(num_rows, size)


def _bind(bind: Callable[..., None], name: str, array: Array) -> None:
    assert array.flags.c_contiguous
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _open_model(folder: Path, graphs: Sequence[bytes], threads: int) -> _Model:
    # ONNX Runtime has an exception per kind of damage, and damaged names are KeyErrors.
    try:
        return _Model(graphs, threads)
    except Exception as error:
        raise _unusable(str(folder), error) from None


def _unusable(where: str, problem: object) -> CheckpointError:
    text = shorten(" ".join(str(problem).split()))
    hint = "remove it; if it is an export, export the model again"
    return CheckpointError(f"{where}: its graphs cannot be run ({text}); {hint}")


def _run(session: Any, **inputs: Array) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _best_in_graph(state: OnnxState, query: Query) -> int | None:
    """Return the number of candidates if the graph can choose them; None: the host does."""
    choice, [search, *others] = query.choice, state.models
    if others or not isinstance(choice, Best) or choice.size > MAX_ROUNDS:
        return None
    if query.forbidden is not None or query.full_rows is not None:
        return None
    return choice.size if choice.size + EOS <= search.num_columns else None


def _without_special(ids: Array, log_probs: Array, size: int) -> StepResult:
    """Return the best `size` tokens of each row that are not below EOS, of `size + EOS` tokens."""
    if (ids[:, :size] < EOS).any():
        order = np.argsort(ids < EOS, axis=1, kind="stable")
        ids, log_probs = (np.take_along_axis(each, order, 1) for each in (ids, log_probs))
    # Copies: the next step overwrites the outputs.
    return StepResult(ids[:, :size].copy(), log_probs[:, :size].copy())


def default_threads() -> int:
    """Return the thread limit of the process, as torch reads it."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) else len(os.sched_getaffinity(0))
