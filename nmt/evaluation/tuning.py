"""The search tuned on the dev set: which beam and length penalty score best, with no retraining."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from nmt.config.decoding import DecodingConfig
from nmt.evaluation.scores import Bleu, bleu


@dataclass(frozen=True)
class DecodingTrial:
    """One setting of the search, and what it reached."""

    beam: int
    length_penalty: float
    bleu: Bleu


def tune(
    translate: Callable[[DecodingConfig], list[str]],
    decoding: DecodingConfig,
    beams: Sequence[int],
    penalties: Sequence[float],
    refs: Sequence[str],
    tgt_language: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[DecodingTrial]:
    """Try each beam with each length penalty; the best first, of equal ones the smaller beam.

    Args:
        translate: the dev set with some settings, a translation for each of `refs`.
        decoding: the settings that stay.
    """
    grid = list(product(sorted(set(beams)), sorted(set(penalties))))
    trials = []
    for done, (beam, penalty) in enumerate(grid):
        progress(done, len(grid))
        changes = {"beam": beam, "length_penalty": penalty}
        hyps = translate(DecodingConfig.model_validate(decoding.model_dump() | changes))
        trials.append(DecodingTrial(beam, penalty, bleu(hyps, refs, tgt_language)))
    return sorted(trials, key=lambda trial: (-trial.bleu.score, trial.beam, trial.length_penalty))


def table(trials: Sequence[DecodingTrial], decoding: DecodingConfig) -> str:
    """Lines for people, the settings that were those of the model marked."""
    lines = [f"{'beam':>4}  {'length_penalty':>14}  {'dev BLEU':>8}"]
    for trial in trials:
        is_now = (trial.beam, trial.length_penalty) == (decoding.beam, decoding.length_penalty)
        mark = "  as it was" if is_now else ""
        lines.append(
            f"{trial.beam:>4}  {trial.length_penalty:>14g}  {trial.bleu.score:>8.2f}{mark}"
        )
    return "\n".join(lines)
