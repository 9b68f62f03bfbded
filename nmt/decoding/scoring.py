"""Scoring: how likely a model finds translations that are given to it.

The search with the choice taken away: the same steps over the same rows, so that a text gets the
log-probability that the search gave it when it found it, memory does not grow with the length of a
line, and what a pair gets does not depend on its company (P7; `stepping` tells how). Probability
is that of one sequence of subwords: the one that the vocabulary makes of the text. The same text
could be spelt in other pieces, and a search may have found such a spelling.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from nmt.corpus.subword import BOS, EOS, PAD
from nmt.corpus.text import normalise, read_lines
from nmt.decoding.hypotheses import length_penalty
from nmt.decoding.interface import (
    COMPACT_SHARE,
    SENTENCES,
    MemoryT,
    StateT,
    StepModel,
    pad_sources,
    padded_length,
)
from nmt.decoding.translator import WINDOW_BATCHES, Translator, plan_batches, windows
from nmt.errors import DataError


@dataclass(frozen=True)
class LineScore:
    """What a model thinks of one translation; natural logarithms."""

    pieces: list[str]
    """The translation in subwords, </s> last; of a blank line only that."""
    token_log_probs: list[float]
    """Log-probability of each piece after those before it."""
    is_possible: bool
    """False where a blank source has a translation: blank always becomes blank."""

    @property
    def log_prob(self) -> float:
        """Of the whole translation, its end counted; 0 for blank to blank, which is certain."""
        return math.fsum(self.token_log_probs) if self.is_possible else -math.inf

    def penalised(self, alpha: float) -> float:
        """Log-probability over the length penalty: what a search with this alpha ranks by."""
        return self.log_prob / length_penalty(len(self.pieces), alpha)


@dataclass
class ScoreTotals:
    """Sums over a corpus. Pairs with a blank source are counted, but have no part in the rest."""

    num_pairs: int = 0
    num_blank: int = 0
    """Pairs with a blank source."""
    num_impossible: int = 0
    """Of those, the ones that have a translation all the same."""
    num_tokens: int = 0
    """Subwords of the others' translations, an end for each."""
    num_words: int = 0
    """Their words, as spaces part them."""
    log_prob: float = 0.0
    """Of all of them."""

    def add(self, tgt: str, score: LineScore) -> None:
        """Count one pair."""
        self.num_pairs += 1
        if score.token_log_probs:
            self.num_tokens += len(score.token_log_probs)
            self.num_words += len(tgt.split())
            self.log_prob += score.log_prob
        else:
            self.num_blank += 1
            self.num_impossible += not score.is_possible


def read_pairs(src: Path, tgt: Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side, untouched.

    Raises:
        DataError: one cannot be read as text, or they differ in length.
    """
    sides = read_lines(src), read_lines(tgt)
    for number, (src_line, tgt_line) in enumerate(zip_longest(*sides), start=1):
        if src_line is None or tgt_line is None:
            longer, shorter = (src, tgt) if tgt_line is None else (tgt, src)
            length = number + sum(1 for side in sides for _ in side)
            raise DataError(
                f"{longer} has {length:,} lines, but {shorter} has {number - 1:,}; line n of one "
                "must translate line n of the other: find where they part, or get both again"
            )
        yield src_line, tgt_line


def score_pairs(
    translator: Translator,
    pairs: Iterable[tuple[str, str]],
    progress: Callable[[int], object] = lambda num_pairs: None,
) -> Iterator[LineScore]:
    """Score translations, one each of a source, in order.

    Args:
        translator: its batch size is that of the scoring; nothing else of its search is read.
        pairs: source and translation, mended like those of training; read a window at a time.
        progress: is told after each batch how many pairs are scored.
    """
    translator.model.eval()  # dropout would go unnoticed
    max_sentences = translator.decoding.batch_sentences
    num_done = 0
    for window in windows(pairs, WINDOW_BATCHES * max_sentences, _num_chars):
        sources, targets = (_encode(translator, side) for side in zip(*window, strict=True))
        spoken = [n for n, source in enumerate(sources) if len(source) > 1]
        scores = [LineScore([], [], len(target) == 1) for target in targets]
        num_done += len(window) - len(spoken)
        # Batches are of one source width; inside, of targets that are about as long.
        spoken.sort(key=lambda n: -len(targets[n]))
        widths = [padded_length(len(sources[n])) for n in spoken]
        for places in plan_batches(range(len(spoken)), widths, max_sentences):
            batch = [spoken[place] for place in places]
            found = log_probs(
                translator.model,
                [sources[n] for n in batch],
                [targets[n] for n in batch],
                translator.device,
            )
            for n, of_tokens in zip(batch, found, strict=True):
                scores[n] = LineScore(translator.subword.pieces(targets[n]), of_tokens, True)
            num_done += len(batch)
            progress(num_done)
        yield from scores


@torch.inference_mode()
def log_probs(
    model: StepModel[MemoryT, StateT],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    device: str | torch.device = "cpu",
) -> list[list[float]]:
    """Log-probability, natural, of each token of each target after those before it.

    Args:
        model: in eval mode, on `device`.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        targets: token ids with EOS, one for each source, none empty; quickest if alike in length.
        device: where the model is.
    """
    assert len({padded_length(len(source)) for source in sources}) == 1
    longest_first = sorted(range(len(targets)), key=lambda n: (-len(targets[n]), n))
    lengths = [len(targets[n]) for n in longest_first]
    rows = longest_first + longest_first[:1] * (-len(targets) % SENTENCES)
    src, src_lengths = pad_sources([sources[n] for n in rows], torch.device(device))
    said = [[BOS, *targets[n], *[PAD] * (lengths[0] - len(targets[n]))] for n in rows]
    tgt = torch.tensor(said, device=device)
    # Copied, as the search does it: what is rounded does not depend on who has left the batch.
    memory = model.encode(src, src_lengths).select(torch.arange(len(rows), device=device))
    state = model.start(memory, 1)
    found = torch.zeros(len(rows), lengths[0], device=device)
    num_live = len(lengths)
    for position in range(lengths[0]):
        while lengths[num_live - 1] <= position:
            num_live -= 1
        num_rows = num_live + -num_live % SENTENCES
        if num_rows <= (1 - COMPACT_SHARE) * len(tgt):
            kept = torch.arange(num_rows, device=device)
            memory, state, tgt = memory.select(kept), state.select(kept), tgt[:num_rows]
        logits, state, _ = model.step(tgt[:, position], state, memory)
        of_next = tgt[:, position + 1, None]
        found[: len(tgt), position] = logits.log_softmax(dim=-1).gather(1, of_next).squeeze(1)
    by_row = found.tolist()
    in_order = sorted(zip(longest_first, lengths, by_row, strict=False))
    return [of_tokens[:length] for _, length, of_tokens in in_order]


def _encode(translator: Translator, lines: Sequence[str]) -> list[list[int]]:
    """Token ids with EOS; of a blank line only that."""
    texts = [normalise(line, translator.cleaning) for line in lines]
    texts = [text if text.strip() else "" for text in texts]
    return [[*ids, EOS] for ids in translator.subword.encode_batch(texts)]


def _num_chars(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
