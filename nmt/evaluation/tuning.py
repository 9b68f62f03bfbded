"""Tuning of the search on the dev set by BLEU, without training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from nmt.config.decoding import DecodingConfig
from nmt.evaluation.scores import Score, bleu


@dataclass(frozen=True)
class DecodingTrial:
    """Search settings and their dev BLEU."""

    beam: int
    length_penalty: float
    rerank: str
    bleu: Score


def tune(
    translate: Callable[[DecodingConfig], list[str]], decoding: DecodingConfig,
    beams: Sequence[int], penalties: Sequence[float], reranks: Sequence[str],
    refs: Sequence[str], tgt_language: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[DecodingTrial]:  # fmt: skip
    """Evaluate all combinations of beams, length penalties and ways to choose from the beam.

    Args:
        translate: returns the translations of the dev set with given settings, one per reference.
        decoding: all other settings.
        beams, penalties, reranks: values to try.
        refs: references of the dev set.
        tgt_language: target language; selects BLEU's tokenizer.
        progress: called before each trial with the number of trials done and their total.

    Returns:
        All trials, best first; of equal scores the smaller beam first.
    """
    grid = [
        (beam, penalty, rerank)
        for beam, penalty in product(sorted(set(beams)), sorted(set(penalties)))
        # Greedy search has one candidate.
        for rerank in (reranks if beam > 1 else ["none"])
    ]
    # Validated like a config file, all before the first search: a beam must suit diverse_groups.
    names = "beam", "length_penalty", "rerank"
    settings = [
        DecodingConfig.model_validate(decoding.model_dump() | dict(zip(names, values, strict=True)))
        for values in grid
    ]
    trials = []
    for done, (beam, penalty, rerank) in enumerate(grid):
        progress(done, len(grid))
        hyps = translate(settings[done])
        trials.append(DecodingTrial(beam, penalty, rerank, bleu(hyps, refs, tgt_language)))
    # Of equal scores the faster setting first.
    return sorted(trials, key=lambda trial: (-trial.bleu.value, trial.beam, trial.length_penalty))


def table(trials: Sequence[DecodingTrial], decoding: DecodingConfig) -> str:
    """Format trials as a table in which the settings in `decoding` are marked."""
    lines = [f"{'beam':>4}  {'length_penalty':>14}  {'rerank':>6}  {'dev BLEU':>8}"]
    current = decoding.beam, decoding.length_penalty, decoding.rerank
    for trial in trials:
        is_current = (trial.beam, trial.length_penalty, trial.rerank) == current
        row = f"{trial.beam:>4}  {trial.length_penalty:>14g}  {trial.rerank:>6}"
        lines.append(f"{row}  {trial.bleu.value:>8.2f}" + ("  current" if is_current else ""))
    return "\n".join(lines)
