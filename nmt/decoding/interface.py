"""Interface between the search and an engine, and the shapes that it guarantees.

The search runs on host arrays (numpy) and an engine runs the model: `TorchEngine` on any device,
`OnnxEngine` on CPUs. An engine keeps encoder outputs and decoder states; a step takes tokens and
returns candidates for the next ones, so that no array of the size of the vocabulary is returned.

Translation is batch-invariant (fp32, CPU): a row's result does not depend on other rows. Engines
see to it that their kernels round alike for any number of rows. Sums over the source are split into
blocks by its padded length, so the padded length is a function of the sentence alone
(`padded_length`).

Shapes: B sentences, K beam, R = B * K rows, k candidates, V vocabulary, S padded source length.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from nmt.corpus.subword import PAD

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

BATCH_MULTIPLE = 4
"""Batches have a multiple of this many sentences where there are enough."""

COMPACT_SHARE = 0.1
"""Share of a batch that must be finished before the remaining sentences are compacted."""

GPU_BATCH_SENTENCES = 512
"""Sentences of a batch on a GPU where decoding.batch_sentences is smaller and not set by a call."""
BATCH_TOKENS = 8192
"""Source tokens of a batch on a CPU, padding included."""

StateT = TypeVar("StateT")


class Best(NamedTuple):
    """Choice of the most likely tokens of each row: best first, of equal ones the lower id."""

    size: int
    """Number of candidates; fewer if the vocabulary is smaller."""


class Given(NamedTuple):
    """Choice of given tokens, whatever is forbidden."""

    tokens: IntArray
    """Next token of each row, [R]."""


class Draw(NamedTuple):
    """Choice of a token drawn from the distribution of each row."""

    numbers: npt.NDArray[np.float64]
    """Uniform random numbers, [R]: the drawn token is where the cumulative probability exceeds
    the number."""
    temperature: float
    """Divisor of the log-probabilities."""
    top_k: int
    """Number of most likely tokens to draw from; 0: all."""
    top_p: float
    """Probability mass of the most likely tokens to draw from; 1: all."""


class Query(NamedTuple):
    """Results requested from a step."""

    choice: Best | Given | Draw
    """Candidates of each row. Ids below EOS are never chosen by `Best` and `Draw`."""
    forbidden: tuple[IntArray, IntArray] | None = None
    """Further tokens that must not be chosen: rows and ids, of equal length."""
    full_rows: IntArray | None = None
    """Rows whose log-probabilities of all tokens are returned."""
    with_attention: bool = False


class StepResult(NamedTuple):
    """Results of a step, in arrays that later steps do not overwrite."""

    ids: IntArray
    """Chosen tokens, [R, k]."""
    log_probs: FloatArray
    """Their natural log-probabilities, [R, k], normalised over all tokens, forbidden ones included;
    -inf for those that fill a row with fewer than k possible tokens."""
    attention: FloatArray | None = None
    """Attention over the source, [R, S]; None unless requested."""
    distributions: FloatArray | None = None
    """Log-probabilities of `full_rows`, forbidden tokens included, [len(full_rows), V]."""


class Engine(Protocol[StateT]):
    """Model, or ensemble of models, that can be searched."""

    @property
    def batch_tokens(self) -> int:
        """Maximum source tokens of a batch, padding included: long lines go in smaller batches."""

    def start(self, src: IntArray, src_lengths: IntArray, beam: int) -> StateT:
        """Encode sources and return the state of B * beam rows before the first token.

        Args:
            src: token ids, [B, S].
            src_lengths: real tokens of each source, [B].
            beam: rows per sentence: row r reads sentence r // beam.
        """

    def step(
        self, state: StateT, tokens: IntArray, parents: IntArray | None, query: Query
    ) -> tuple[StepResult, StateT]:
        """Decode one token per row.

        Args:
            state: the latest state; it is not used again.
            tokens: last token of each row, [R].
            parents: row of `state`, of the same sentence, that each row continues, [R]; None: each
                continues itself.
            query: results to return.
        """

    def select(self, state: StateT, sentences: IntArray) -> StateT:
        """Return the state of some of the sentences, with all their rows, in this order."""


def padded_length(num_tokens: int) -> int:
    """Round a source length up to a multiple of 16; from 128 tokens on to a coarser one.

    Padding is at most a quarter of the length from 64 tokens on.
    """
    # An eighth of the next power of two from 128 on: few distinct widths, little padding.
    step = max(16, 1 << max(0, (num_tokens - 1).bit_length() - 3))
    return -(-num_tokens // step) * step


def pad_sources(sources: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Return source ids, [B, S], and the number of real tokens of each source, [B]."""
    lengths = np.array([len(source) for source in sources])
    src = np.full((len(sources), max(map(padded_length, lengths.tolist()))), PAD)
    for row, source in zip(src, sources, strict=True):
        row[: len(source)] = source
    return src, lengths
