"""Which continuations of its hypotheses a sentence goes on with.

Shapes: B slots for sentences, K beam, R = B * K rows, V vocabulary.
"""

import torch
from torch import Tensor

BLOCK = 64
"""Tokens whose best one stands for all of them in the first round of `best_continuations`."""


def best_continuations(log_probs: Tensor, totals: Tensor) -> Tensor:
    """The K best continuations of each sentence; of equal ones the lower row, then token, first.

    In two rounds, because `topk` over all of [B, K * V] costs a third of the output layer: the K
    best blocks of BLOCK tokens by their best token, then the K best tokens inside those blocks and
    behind the last whole block.

    Args:
        log_probs: of each next token, contiguous, [R, V].
        totals: of each hypothesis, [B, K].

    Returns:
        row * V + token of each, [B, K], best first.
    """
    (num_sentences, beam), (num_rows, vocab) = totals.shape, log_probs.shape
    num_blocks, device = vocab // BLOCK, totals.device
    cut = num_blocks * BLOCK
    firsts = torch.arange(0, num_rows * vocab, vocab, device=device).view_as(totals)
    ids = (firsts[:, :, None] + torch.arange(cut, vocab, device=device)).flatten(1)
    values = (log_probs[:, cut:] + totals.view(-1, 1)).view(num_sentences, -1)
    if num_blocks > 0:
        maxima = log_probs[:, :cut].view(num_rows, num_blocks, BLOCK).amax(dim=2)
        maxima = (maxima + totals.view(-1, 1)).view(num_sentences, -1)
        best = _top(maxima, torch.arange(maxima.size(1), device=device), beam)
        rows = best // num_blocks
        starts = firsts.gather(1, rows) + best % num_blocks * BLOCK
        inside_ids = starts[:, :, None] + torch.arange(BLOCK, device=device)
        # The windows overlap, one for each id: a view, of which K a sentence are copied.
        inside = log_probs.view(-1).unfold(0, BLOCK, 1)[starts] + totals.gather(1, rows)[:, :, None]
        ids = torch.cat([inside_ids.flatten(1), ids], dim=1)
        values = torch.cat([inside.flatten(1), values], dim=1)
    return ids.gather(1, _top(values, ids, beam))


def diverse_continuations(
    log_probs: Tensor, totals: Tensor, num_free: Tensor, diversity: float
) -> Tensor:
    """The K best of each sentence in G groups of K / G hypotheses that follow one another.

    A group pays `diversity` for a token as often as the groups before it chose that at this step
    (Vijayakumar et al. 2018, with Hamming diversity). What is paid counts for this choice alone,
    not in the totals: a score stays what the model thinks.

    Args:
        log_probs, totals: as of `best_continuations`.
        num_free: how many of its best a group has places for, [B, G].
        diversity: in nats.
    """
    num_sentences, vocab = totals.size(0), log_probs.size(1)
    num_groups = num_free.size(1)
    of_groups = log_probs.view(num_sentences, num_groups, -1, vocab)
    totals = totals.view(num_sentences, num_groups, -1)
    num_said = log_probs.new_zeros(num_sentences, vocab)
    size, chosen = totals.size(2), []
    ranks = torch.arange(size, device=totals.device)
    firsts = torch.arange(num_sentences, device=totals.device)[:, None] * num_groups * size
    for group in range(num_groups):
        costly = (of_groups[:, group] - diversity * num_said[:, None]).view(-1, vocab)
        found = best_continuations(costly, totals[:, group].contiguous())
        places, tokens = found // vocab % size, found % vocab
        picks = (firsts + group * size + places) * vocab + tokens
        values = totals[:, group].gather(1, places) + log_probs.view(-1)[picks]
        has_place = (values != -torch.inf) & (ranks < num_free[:, group, None])
        num_said.scatter_add_(1, tokens, has_place.to(num_said.dtype))
        chosen.append(picks)
    return torch.cat(chosen, dim=1)


def _top(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k largest in each row, best first; of equal ones the lower id first."""
    # topk leaves the order of equal values open. The bits of a float, turned over where it is
    # negative, are an integer of the same order; with the id below them no two keys are equal.
    bits = values.view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - ids
    return keys.topk(k, dim=1).indices
