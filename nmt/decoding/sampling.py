"""Samples: each token drawn from what the model thinks of the next one.

What is drawn for a line depends on the seed, the tokens of its source and the number of the sample:
not on the lines around it or on their order (P7), and the first of five samples is the one sample
that is drawn alone. Equal lines get equal samples.
Shapes: R rows, V vocabulary, L most tokens.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig


def luck(source: Sequence[int], num_samples: int, length: int, seed: int) -> Tensor:
    """Numbers from 0 to 1, uniform, for the tokens of the samples of a source: [num_samples, L]."""
    rows = []
    for number in range(num_samples):
        name = f"{seed} {number} {' '.join(map(str, source))}"
        digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def draw(log_probs: Tensor, numbers: Tensor, decoding: DecodingConfig) -> Tensor:
    """A token of each row.

    Args:
        log_probs: of each next token, [R, V]; -inf for what must not be drawn.
        numbers: uniform from 0 to 1, [R].
        decoding: temperature, top_k and top_p.

    Returns:
        The token where the sum of probabilities, likeliest first if only the likeliest count,
        passes the number, [R].
    """
    ids = None
    values = log_probs / decoding.temperature
    if decoding.top_k or decoding.top_p < 1:
        values, ids = values.sort(dim=1, descending=True, stable=True)
        values = values[:, : decoding.top_k or None]
    sums = values.softmax(dim=1).double().cumsum(dim=1)  # [R, V]
    # The first token counts always, each other one while those before it have less than top_p.
    num_counted = (sums[:, :-1] < decoding.top_p).sum(dim=1, keepdim=True)
    marks = numbers[:, None] * sums.gather(1, num_counted)
    picks = torch.searchsorted(sums, marks, right=True).clamp(max=values.size(1) - 1)
    picks = torch.minimum(picks, num_counted)
    return (picks if ids is None else ids.gather(1, picks)).squeeze(1)
