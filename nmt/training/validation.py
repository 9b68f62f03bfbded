"""Validation: the dev set is translated and scored with the averaged weights, by all workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nmt.batching.batch import make_batch
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.corpus.text import normalise
from nmt.decoding.translator import Translator
from nmt.evaluation.scores import bleu
from nmt.model.seq2seq import Seq2Seq
from nmt.training.loss import cross_entropy
from nmt.training.world import World


@dataclass(frozen=True)
class Validation:
    """What came out; the same at every worker."""

    bleu: float
    """sacreBLEU of the translations against the untouched references, 0 to 100."""
    signature: str
    """How it was computed."""
    nll: float
    """Nats for each true token of the dev set."""
    hyps: list[str]
    """The translations, in the order of the dev set."""


def validate(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    dev: tuple[Sequence[str], Sequence[str]],
    world: World,
) -> Validation:
    """Translate and score the dev set; all workers must ask.

    Args:
        model: in evaluation mode.
        dev: source lines and reference lines.
    """
    srcs, refs = dev
    mine = range(world.rank, len(srcs), world.size)
    decoding = experiment.decoding.for_validation()
    translator = Translator(
        model, subword, experiment.model_copy(update={"decoding": decoding}), device=world.device
    )
    my_hyps = [translation.text for translation in translator.translate(srcs[n] for n in mine)]
    hyps = [""] * len(srcs)
    for rank, theirs in enumerate(world.gather(my_hyps)):
        hyps[rank :: world.size] = theirs
    nll, num_tokens = world.sum(
        list(_nll(model, subword, experiment, [(srcs[n], refs[n]) for n in mine], world.device))
    )
    scored = bleu(hyps, refs, experiment.corpus.tgt)
    return Validation(scored.score, f"BLEU|{scored.signature}", nll / max(1, num_tokens), hyps)


@torch.inference_mode()
def _nll(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    pairs: list[tuple[str, str]],
    device: torch.device,
) -> tuple[float, float]:
    """Sum of negative log-likelihoods, in nats, and the number of tokens it is over."""
    cleaning = experiment.corpus.cleaning
    encoded = [
        (subword.encode(normalise(src, cleaning)), subword.encode(normalise(ref, cleaning)))
        for src, ref in pairs
    ]
    encoded.sort(key=lambda pair: max(map(len, pair)))
    total, num_tokens = 0.0, 0
    for start in range(0, len(encoded), 64):
        batch = make_batch(encoded[start : start + 64]).to(device)
        hidden = model(batch.src, batch.src_lengths, batch.tgt_in, batch.real)
        sums = cross_entropy(hidden, model.output_weight, batch.tgt_out, 0.0, torch.float32)
        total += float(sums.nll)
        num_tokens += len(batch.tgt_out)
    return total, num_tokens
