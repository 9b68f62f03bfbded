"""Inspection of a model on a few lines: attention, gates, cell states and token probabilities.

A line is translated as by `nmt translate`, or its target is given. Then the model runs once more
with teacher forcing on the tokens (`nmt.model.activations`). Gates are summarised over the units of
a layer: mean, quartiles, and share of units beyond the limits at which they hardly learn.

Shapes: P positions, H state size, N heads, T target tokens, S source tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nmt.checkpoint.load import Checkpoint
from nmt.config.experiment import Experiment
from nmt.corpus.subword import BOS, EOS, Subword
from nmt.corpus.text import normalise
from nmt.decoding.preprocess import Preprocessor
from nmt.decoding.requests import Request
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translation import Candidate
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError, DataError
from nmt.model.activations import Activations, LstmActivations, record_activations

MAX_LINES = 5
MAX_TOKENS = 60
"""Tokens of a source or target with EOS. Longer ones would not be readable on a page."""
NUM_ALTERNATIVES = 4
"""Most probable tokens shown beside each target token."""


class Limits(NamedTuple):
    """Values beyond which a quantity is saturated."""

    low: float
    high: float


GATES = {"input gate": Limits(0.1, 0.9), "forget gate": Limits(0.1, 0.9),
         "output gate": Limits(0.1, 0.9)}  # fmt: skip
"""Gates are between 0 and 1; below the lower limit they are nearly closed."""
STATES = {"candidate": Limits(-0.9, 0.9), "cell state": Limits(-math.atanh(0.9), math.atanh(0.9))}
"""Beyond the limits the tanh of the candidate, or that of the cell state, is beyond -0.9 or 0.9."""
QUANTITIES = GATES | STATES


class Spread(NamedTuple):
    """Distribution of values over units."""

    mean: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    below: float
    """Share of values below the lower limit."""
    above: float
    """Share of values above the upper limit."""

    @property
    def saturated(self) -> float:
        """Share of values beyond either limit."""
        return self.below + self.above


@dataclass(frozen=True)
class LayerPositions:
    """Gates and states of one LSTM layer on one line."""

    name: str
    """Name of `LstmLayer`."""
    tokens: list[str]
    """Tokens that the layer reads, in the order of the text."""
    spreads: dict[str, list[Spread]]
    """Distribution at each position, by name of QUANTITIES."""


class TokenChoice(NamedTuple):
    """Target token and the most probable tokens in its place."""

    token: str
    log_prob: float
    """Natural logarithm."""
    rank: int
    """1 for the most probable token."""
    alternatives: list[tuple[str, float]]
    """Most probable other tokens and their log-probabilities."""


@dataclass(frozen=True, eq=False)
class InspectedLine:
    """Line with its target and the activations of the model."""

    src: str
    tgt: str
    notes: list[str]
    src_tokens: list[str]
    tgt_tokens: list[str]
    choices: list[TokenChoice]
    """One per target token."""
    attentions: list[Tensor]
    """Attention weights of each attention layer, [N, T, S]."""
    layers: list[LayerPositions]


@dataclass(frozen=True, eq=False)
class Inspection:
    """Inspected lines, and the layers over all of them."""

    checkpoint: Checkpoint
    is_forced: bool
    """True if the targets were given."""
    lines: list[InspectedLine]
    layers: dict[str, dict[str, Spread]]
    """Distribution over units and positions of all lines, by layer and name of QUANTITIES."""


def inspect_lines(
    checkpoint: Checkpoint, sources: Sequence[Request], targets: Sequence[Request] = ()
) -> Inspection:
    """Translate lines, or read given targets, and record the activations of the model.

    Args:
        checkpoint: the model.
        sources: lines, at most MAX_LINES.
        targets: a target per line; none: translate.

    Raises:
        ConfigError: the numbers of lines and targets differ.
        DataError: there are too many lines, or a line is blank or too long.
    """
    experiment, subword = checkpoint.experiment, checkpoint.subword
    if targets:
        # As `nmt score`: the target has no masks, so neither has the source.
        experiment = experiment.with_settings("decoding", protect=[])
    src_ids = _source_tokens(Preprocessor(subword, experiment), sources)
    tgt_ids = _given_tokens(subword, experiment, sources, targets)
    texts, notes = [request.text for request in targets], [list[str]() for _ in sources]
    model = checkpoint.model()
    if not targets:
        translator = Translator(TorchEngine([model]), subword, experiment)
        translations = translator.translate_detailed(sources)
        texts = [translation.text for translation in translations]
        found = [_found_tokens(subword, each.best) for each in translations]
        tgt_ids, notes = [ids for ids, _ in found], [of_line for _, of_line in found]
    lines, recorded = [], []
    for number, (src, tgt) in enumerate(zip(src_ids, tgt_ids, strict=True)):
        activations = record_activations(model, src, [BOS, *tgt[:-1]])
        tokens = src, tgt
        lines.append(
            _line(subword, sources[number].text, texts[number], notes[number], tokens, activations)
        )
        recorded.append(activations)
    return Inspection(checkpoint, bool(targets), lines, _over_lines(recorded))


def _source_tokens(preprocessor: Preprocessor, sources: Sequence[Request]) -> list[list[int]]:
    """Return the source ids with EOS, as the search reads them; DataError for other lines."""
    if not sources:
        raise DataError("the input has no lines, but a page shows at least one")
    if len(sources) > MAX_LINES:
        raise DataError(
            f"{sources[MAX_LINES].where}: a page shows at most {MAX_LINES} lines: give fewer"
        )
    found = []
    for request in sources:
        segments = list(preprocessor.segments([request]))
        if not segments:
            raise DataError(f"{request.where}: the line has no text, and the model reads only text")
        # One EOS, although each part has one; parts that are copied have no tokens.
        _check_length(request, 1 + sum(len(part.source[:-1]) for part in segments))
        if len(segments) > 1:
            raise DataError(
                f"{request.where}: more than the {preprocessor.max_tokens} tokens of "
                f"decoding.max_source_length, so it is translated in {len(segments)} parts: give "
                "one part"
            )
        [segment] = segments
        if segment.is_copied:
            raise DataError(f"{request.where}: the line is copied, not translated: give other text")
        found.append(segment.source)
    return found


def _given_tokens(
    subword: Subword, experiment: Experiment, sources: Sequence[Request], targets: Sequence[Request]
) -> list[list[int]]:
    """Return the ids of given targets with EOS; DataError or ConfigError for invalid ones."""
    if targets and len(targets) != len(sources):
        times = f"given {len(targets)} time{'s' * (len(targets) != 1)}"
        number = f"there {'is 1 line' if len(sources) == 1 else f'are {len(sources)} lines'}"
        raise ConfigError("--tgt", times, f"{number}: give one target per line, or none")
    found = []
    for request in targets:
        text = normalise(request.text, experiment.corpus.cleaning)
        if not text.strip():
            raise DataError(f"{request.where}: the target has no text; give its words")
        found.append([*subword.encode(text), EOS])
        _check_length(request, len(found[-1]))
    return found


def _check_length(request: Request, num_tokens: int) -> None:
    if num_tokens > MAX_TOKENS:
        raise DataError(
            f"{request.where}: {num_tokens:,} tokens, but a page shows at most {MAX_TOKENS} per "
            "line: give a shorter one"
        )


def _found_tokens(subword: Subword, best: Candidate) -> tuple[list[int], list[str]]:
    """Return the ids of a translation, at most MAX_TOKENS, and notes about it."""
    notes = []
    if not best.is_finished:
        notes.append("The search stopped at the maximum length: the translation is not finished.")
    if len(best.tokens) > MAX_TOKENS:
        notes.append(f"The first {MAX_TOKENS} of {len(best.tokens)} target tokens are shown.")
    # Names have U+2581 for a space. A token with that character itself is rare: a space is meant.
    ids = sorted(range(subword.num_pieces), key=lambda token: b" " in subword.token_bytes[token])
    by_name = dict(zip(subword.pieces(ids), ids, strict=True))
    return [by_name[token] for token in best.tokens[:MAX_TOKENS]], notes


def _line(
    subword: Subword, src: str, tgt: str, notes: list[str], ids: tuple[list[int], list[int]],
    recorded: Activations,
) -> InspectedLine:  # fmt: skip
    src_ids, tgt_ids = ids
    tokens = {"encoder": subword.pieces(src_ids), "decoder": subword.pieces([BOS, *tgt_ids[:-1]])}
    layers = []
    for each in recorded.lstms:
        spreads = {
            name: _spreads(values, QUANTITIES[name]) for name, values in _quantities(each).items()
        }
        layers.append(LayerPositions(each.layer.name, tokens[each.layer.side], spreads))
    choices = [
        _choice(subword, token, log_probs)
        for token, log_probs in zip(tgt_ids, recorded.log_probs, strict=True)
    ]
    tgt_tokens = subword.pieces(tgt_ids)
    return InspectedLine(
        src, tgt, notes, tokens["encoder"], tgt_tokens, choices, recorded.attentions, layers
    )


def _choice(subword: Subword, token: int, log_probs: Tensor) -> TokenChoice:
    """Compare a target token with the most probable ones; `log_probs` are those of all, [V]."""
    values, ids = log_probs.topk(min(NUM_ALTERNATIVES + 1, len(log_probs)))
    best = zip(subword.pieces(ids.tolist()), ids.tolist(), values.tolist(), strict=True)
    others = [(name, value) for name, other, value in best if other != token][:NUM_ALTERNATIVES]
    own = log_probs[token].item()
    rank = 1 + int((log_probs > own).sum())
    return TokenChoice(subword.pieces([token])[0], own, rank, others)


def _quantities(lstm: LstmActivations) -> dict[str, Tensor]:
    """Return the values of QUANTITIES, [P, H] each."""
    gates = lstm.gates
    values = gates.input, gates.forget, gates.output, gates.candidate, lstm.cell
    return dict(zip(QUANTITIES, values, strict=True))


def _spreads(values: Tensor, limits: Limits) -> list[Spread]:
    """Return the distribution of each row of [P, H]."""
    quartiles = values.quantile(values.new_tensor([0.25, 0.75]), dim=1)
    shares = [
        (values < limits.low).float().mean(dim=1), (values > limits.high).float().mean(dim=1)
    ]  # fmt: skip
    columns = [values.mean(dim=1), *quartiles, *shares]
    return [Spread(*row) for row in torch.stack(columns, dim=1).tolist()]


def _over_lines(recorded: Sequence[Activations]) -> dict[str, dict[str, Spread]]:
    """Return the distributions over units and positions of all lines."""
    layers: dict[str, dict[str, Spread]] = {}
    for lstms in zip(*(each.lstms for each in recorded), strict=True):
        found = [_quantities(each) for each in lstms]
        layers[lstms[0].layer.name] = {
            name: _spreads(torch.cat([each[name].flatten() for each in found])[None], limits)[0]
            for name, limits in QUANTITIES.items()
        }
    return layers
