"""Minimum risk training: sampled translations, weighted by the gradient of their expected BLEU.

The risk of a pair is the expectation of 1 - BLEU over translations drawn from the model (Shen et
al. 2016, equation 6). With N samples y_k of probability p(y_k) and BLEU r_k its gradient is
estimated as -1/N sum_k (r_k - b_k) d log p(y_k) (REINFORCE, Williams 1992). The baseline b_k, the
mean BLEU of the other samples, reduces the variance and adds no bias (Kool et al. 2019). BLEU is
that of subword pieces.

Shapes: B pairs, S source positions, T target positions, N samples of a pair, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nmt.batching.batch import Batch
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.model.seq2seq import Seq2Seq

MAX_ORDER = 4
"""Longest n-gram of BLEU."""
MAX_LENGTH_RATIO, EXTRA_LENGTH = 1.25, 5
"""A sample ends after this many tokens per token of its reference, plus some."""
KEPT_SHARE = 0.8
"""Finished pairs leave the batch when fewer than this share is unfinished: each time the state is
copied."""


class SampledTargets(NamedTuple):
    """References and samples of B pairs: (1 + N) B rows.

    References come first, then the first sample of each pair, and so on.
    """

    tgt_in: Tensor
    """Decoder input, BOS first, padded with PAD, [(1 + N) B, T]."""
    real: Tensor
    """Flat indices of the positions that are not padding, ascending."""
    tgt_out: Tensor
    """Expected output at these positions."""
    weights: Tensor
    """Weight of the negative log-likelihood of each sampled token; these are the last tokens."""
    risk: Tensor
    """Sum over pairs of 1 - BLEU, mean of the samples, times the tokens of the reference."""


@torch.no_grad()
def add_samples(model: Seq2Seq, batch: Batch, num_samples: int) -> SampledTargets:
    """Sample translations of the sources of a batch and compare them with the references.

    A pair weighs as much as its reference has tokens, as in cross entropy.

    Args:
        model: samples without dropout; its mode is restored.
        batch: on the device of the model.
        num_samples: N, 2 or more.
    """
    num_tokens = batch.tgt_lengths
    limits = (MAX_LENGTH_RATIO * num_tokens).long() + EXTRA_LENGTH
    was_training = model.training
    model.eval()
    samples, lengths = sample(model, batch.src, batch.src_lengths, num_samples, limits)
    model.train(was_training)
    bleu = _bleu_of(samples, lengths, batch.tgt_in[:, 1:], num_tokens - 1)  # [B, N]
    # r_k - b_k is N / (N - 1) times the difference from the mean of all samples.
    advantages = (bleu - bleu.mean(dim=1, keepdim=True)) / (num_samples - 1)
    advantages *= num_tokens[:, None]
    risk = ((1 - bleu.mean(dim=1)) * num_tokens).sum()
    # From pair by pair to sample by sample.
    order = torch.arange(len(samples), device=samples.device).view(-1, num_samples).T.flatten()
    samples, lengths = samples[order], lengths[order]
    is_real = torch.arange(samples.size(1), device=samples.device) < lengths[:, None]
    inputs = torch.cat([samples.new_full((len(samples), 1), BOS), samples[:, :-1]], dim=1)
    inputs = inputs.masked_fill(~is_real, PAD)
    width = max(inputs.size(1), batch.tgt_in.size(1))
    # Flat indices in rows of `width` columns; the rows of the samples follow those of the pairs.
    row, column = batch.real // batch.tgt_in.size(1), batch.real % batch.tgt_in.size(1)
    sampled = _pad(is_real, width).flatten().nonzero()[:, 0] + len(batch.src) * width
    return SampledTargets(
        torch.cat([_pad(batch.tgt_in, width), _pad(inputs, width)]),
        torch.cat([row * width + column, sampled]),
        torch.cat([batch.tgt_out, samples[is_real]]),
        advantages.T.flatten().repeat_interleave(lengths),
        risk,
    )


def _bleu_of(samples: Tensor, lengths: Tensor, refs: Tensor, ref_lengths: Tensor) -> Tensor:
    """Return BLEU of the samples of each pair, [B, N], with or without EOS at their end."""
    num_samples = len(samples) // len(refs)
    has_eos = samples.gather(1, (lengths - 1)[:, None])[:, 0] == EOS
    refs = refs.repeat_interleave(num_samples, dim=0)
    ref_lengths = ref_lengths.clamp_min(0).repeat_interleave(num_samples)
    return sentence_bleu(samples, lengths - has_eos.long(), refs, ref_lengths).view(-1, num_samples)


def sample(
    model: Seq2Seq, src: Tensor, src_lengths: Tensor, num_samples: int, max_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw translations from the distribution of a model in evaluation mode.

    Args:
        src: source ids, [B, S].
        src_lengths: real tokens of each source, [B].
        num_samples: N.
        max_lengths: tokens after which the samples of each source end without EOS, [B].

    Returns:
        Token ids, EOS after the end, [B N, T], those of a pair together, and the tokens of each,
        EOS included, [B N].
    """
    memory = model.encode(src, src_lengths)
    state = model.start(memory, num_samples)
    num_rows, max_length = len(src) * num_samples, int(max_lengths.max())
    tokens = src.new_full((num_rows, max_length), EOS)
    lengths = max_lengths.repeat_interleave(num_samples)
    is_open = torch.ones(num_rows, dtype=torch.bool, device=src.device)
    last = src.new_full((num_rows,), BOS)
    # Numbers of the rows that are still in the batch.
    rows = torch.arange(num_rows, device=src.device)
    for position in range(max_length):
        logits, state, _ = model.step(last, state, memory)
        logits[:, :EOS] = -torch.inf  # padding and BOS
        last = _draw(logits).masked_fill(~is_open[rows], EOS)
        tokens[rows, position] = last
        has_ended = is_open[rows] & ((last == EOS) | (lengths[rows] == position + 1))
        lengths[rows[has_ended]] = position + 1
        is_open[rows[has_ended]] = False
        is_left = is_open[rows].view(-1, num_samples).any(dim=1)
        num_left = int(is_left.sum())
        if num_left == 0:
            break
        if num_left < KEPT_SHARE * len(is_left):
            pairs = is_left.nonzero()[:, 0]
            kept = is_left.repeat_interleave(num_samples).nonzero()[:, 0]
            memory, state = memory.select(pairs), state.select(kept)
            rows, last = rows[kept], last[kept]
    return tokens[:, : position + 1], lengths


def _draw(logits: Tensor) -> Tensor:
    """Draw a token for each row of logits, [R, V], by inverse transform sampling."""
    totals = logits.softmax(dim=1).cumsum(dim=1)
    # Above 0 and at most the total: no token of probability 0 is drawn.
    numbers = (1 - torch.rand(len(logits), 1, device=logits.device)) * totals[:, -1:]
    return torch.searchsorted(totals, numbers)[:, 0]


def sentence_bleu(hyps: Tensor, hyp_lengths: Tensor, refs: Tensor, ref_lengths: Tensor) -> Tensor:
    """Compute BLEU of each hypothesis, 0 to 1, [R].

    With 1 added to the counts of 2-grams to 4-grams (Lin & Och 2004, section 4).

    Args:
        hyps: token ids without EOS, [R, T].
        hyp_lengths: real tokens of each hypothesis, [R].
        refs: token ids of the references without EOS, [R, T'].
        ref_lengths: real tokens of each reference, [R].
    """
    is_hyp = torch.arange(hyps.size(1), device=hyps.device) < hyp_lengths[:, None]
    is_ref = torch.arange(refs.size(1), device=refs.device) < ref_lengths[:, None]
    # [r, i, j]: the n-gram at i of a hypothesis equals that at j of the reference, or at j of
    # the hypothesis itself.
    same_ref = in_ref = (hyps[:, :, None] == refs[:, None]) & is_hyp[:, :, None] & is_ref[:, None]
    same_hyp = in_hyp = (hyps[:, :, None] == hyps[:, None]) & is_hyp[:, :, None] & is_hyp[:, None]
    log_precisions = torch.zeros(len(hyps), device=hyps.device)
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            in_ref = in_ref[:, :-1, :-1] & same_ref[:, order - 1 :, order - 1 :]
            in_hyp = in_hyp[:, :-1, :-1] & same_hyp[:, order - 1 :, order - 1 :]
        # An n-gram counts at most as often as it occurs in the reference.
        matches = (in_hyp.tril(-1).sum(dim=2) < in_ref.sum(dim=2)).sum(dim=1)
        total = (hyp_lengths - order + 1).clamp_min(0)
        added = int(order > 1)
        log_precisions += ((matches + added) / (total + added).clamp_min(1)).log()
    brevity = (1 - ref_lengths / hyp_lengths.clamp_min(1)).clamp_max(0)
    return (log_precisions / MAX_ORDER + brevity).exp()


def _pad(rows: Tensor, width: int) -> Tensor:
    """Append columns of 0 (PAD) up to `width`."""
    return torch.nn.functional.pad(rows, (0, width - rows.size(1)))
