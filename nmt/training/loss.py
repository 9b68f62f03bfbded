"""Label-smoothed cross entropy, R-Drop, Cutoff and minimum risk, in chunks of tokens.

The loss of a chunk of tokens and its gradient with respect to the logits come from one softmax, in
the forward call; backward only scales. So [tokens, vocabulary] is never in memory as a whole, and
no logits are kept (as in the fused linear cross entropy of Liger Kernel, Hsu et al. 2024). The
smoothed part of the target is the same for all tokens: its part of loss and gradient is a vector,
added at the end, not a pass over the logits. For 1,000 tokens, width 128 and 6,000 pieces in bf16
on one core: 22 ms, against 61 to 73 ms for `torch.nn.functional.cross_entropy` on all logits, or
26 ms where the process keeps freed memory, as our workers do.

R-Drop (Liang et al. 2021) runs two passes with different dropout over a batch and adds their
distance. With p and q the distributions of a token, r = log p - log q and z the logits of p:
d KL(p||q) / dz = p * (r - KL(p||q)) and d KL(q||p) / dz = p - q.

Cutoff (Shen et al. 2020, arXiv 2009.13818) erases a part of the input embeddings in the second pass
and adds the Jensen-Shannon divergence: with m = (p + q) / 2, (KL(p||m) + KL(q||m)) / 2. Here
log p/m = log 2 - log(1 + exp(-r)) and d JS / dz = p * (log p/m - KL(p||m)) / 2.

Minimum risk training (Shen et al. 2016) adds the expected 1 - BLEU of sampled translations:
`nmt.training.risk`.

Shapes: B pairs, S source positions, T target positions, N target tokens, D width, V vocabulary,
C tokens of a chunk.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmt.batching.batch import Batch
from nmt.config.experiment import TrainingConfig
from nmt.model.matmul import multiply_rows, sum_outer_products
from nmt.model.seq2seq import Seq2Seq
from nmt.training.risk import SampledTargets, add_samples

DistanceOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Distance of two passes: `_symmetric_kl` or `_jensen_shannon`."""

CHUNK_VALUES = {"cpu": 2**20, "cuda": 2**27}
"""Logits of a chunk by device: few enough to stay in the cache of a CPU, enough to fill a GPU."""


class LossSums(NamedTuple):
    """Sums over target tokens in nats: fp32 scalars on the device."""

    smoothed: Tensor
    """Loss that is optimised, with label smoothing; only this one has a gradient."""
    nll: Tensor
    """Negative log-likelihood without label smoothing."""
    risk: Tensor | None = None
    """Risk of sampled translations, 0 to 1 per target token; None: no minimum risk training."""

    def detach(self) -> "LossSums":
        """Return the sums without graph."""
        return self._replace(smoothed=self.smoothed.detach(), nll=self.nll.detach())


def compute_loss(
    forward: nn.Module,
    model: Seq2Seq,
    batch: Batch,
    config: TrainingConfig,
    dtype: torch.dtype,
) -> LossSums:
    """Run the model over a batch and sum the loss of its target tokens.

    Args:
        forward: maps a batch to decoder outputs of the target tokens, [N, D]: the model, or the
            model in DistributedDataParallel.
        model: gives the weight of the output layer, and samples translations.
        batch: on the device of the model.
        config: label smoothing, R-Drop, Cutoff and minimum risk.
        dtype: dtype of matrix products; in float32 autocast is off.
    """
    weight, smoothing = model.output_weight, config.label_smoothing
    autocast = torch.autocast(batch.src.device.type, dtype, enabled=dtype != torch.float32)
    if config.risk:
        # In a context of its own: autocast must not keep weights that were cast without gradient.
        with autocast:
            targets = add_samples(model, batch, config.risk_samples)
        with autocast:
            hidden: Tensor = forward(batch.src, batch.src_lengths, targets.tgt_in, targets.real)
        return minimum_risk(hidden, weight, targets, smoothing, config.risk, dtype)
    kept: tuple[Tensor, ...] = ()
    if config.rdrop or config.cutoff:
        batch = batch.repeat()
    if config.cutoff:
        kept = draw_cutoff(batch, config.cutoff, config.cutoff_kind, weight.size(1))
    with autocast:
        hidden = forward(batch.src, batch.src_lengths, batch.tgt_in, batch.real, *kept)
    if config.rdrop:
        return r_drop(hidden, weight, batch.tgt_out, smoothing, config.rdrop, dtype)
    if config.cutoff:
        return cutoff(hidden, weight, batch.tgt_out, smoothing, config.cutoff_weight, dtype)
    return cross_entropy(hidden, weight, batch.tgt_out, smoothing, dtype)


def draw_cutoff(batch: Batch, share: float, kind: str, width: int) -> tuple[Tensor, Tensor]:
    """Draw the input embeddings that Cutoff keeps in the second pass (Shen et al. 2020, section 3).

    BOS and EOS stay. Features are the same for all tokens of a side; a span has one token at least.

    Args:
        batch: every pair in the first pass, then in the second (`Batch.repeat`).
        share: share of the tokens or features that is erased.
        kind: token, feature or span.
        width: size D of an embedding.

    Returns:
        0 where an embedding is erased, else 1, of sources and target inputs: [2B, S or T, 1], or
        [2B, 1, D] for features.
    """
    num_pairs, device = len(batch.src) // 2, batch.src.device
    is_real = torch.zeros(batch.tgt_in.numel(), dtype=torch.int64, device=device)
    tgt_lengths = is_real.index_fill_(0, batch.real, 1).view_as(batch.tgt_in).sum(dim=1)
    # First and last position of the text of each side: sources end with EOS, inputs begin with BOS.
    sides = (
        (batch.src, torch.zeros_like(batch.src_lengths), batch.src_lengths - 1),
        (batch.tgt_in, torch.ones_like(tgt_lengths), tgt_lengths),
    )
    masks = []
    for tokens, start, stop in sides:
        start, stop = start[num_pairs:, None], stop[num_pairs:, None]
        place = torch.arange(tokens.size(1), device=device)
        if kind == "feature":
            kept = torch.rand(num_pairs, 1, width, device=device) >= share
        elif kind == "token":
            is_drawn = torch.rand(num_pairs, tokens.size(1), device=device) < share
            kept = ~(is_drawn & (place >= start) & (place < stop))[..., None]
        else:
            count = stop - start
            size = (share * count).round().clamp_min(1).minimum(count)
            draw = torch.rand(num_pairs, 1, device=device)
            first = start + (draw * (count - size + 1)).floor()
            kept = ~((place >= first) & (place < first + size))[..., None]
        masks.append(torch.cat([torch.ones_like(kept), kept]))
    return masks[0], masks[1]


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    dtype: torch.dtype,
    token_weights: Tensor | None = None,
) -> LossSums:
    """Sum the label-smoothed cross entropy of target tokens (Szegedy et al. 2016, section 7).

    Args:
        hidden: inputs of the output layer, [N, D]; N may be 0.
        weight: weight of the output layer, [V, D].
        targets: ids of the target tokens, [N].
        smoothing: probability mass that is spread evenly over the vocabulary, 0 to 1.
        dtype: dtype of the matrix products; sums and softmax are fp32.
        token_weights: factor of each token, [N], without label smoothing; None: 1.
    """
    with_gradient = torch.is_grad_enabled()
    sums = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, smoothing, dtype, token_weights, with_gradient
    )
    return LossSums(*sums)


def minimum_risk(
    hidden: Tensor,
    weight: Tensor,
    targets: SampledTargets,
    smoothing: float,
    alpha: float,
    dtype: torch.dtype,
) -> LossSums:
    """Sum the cross entropy of references and alpha times the risk of samples.

    Args:
        hidden: inputs of the output layer at `targets.tgt_out`.
        weight: weight of the output layer, [V, D].
        targets: references and samples.
        smoothing: as in `cross_entropy`, of the references.
        alpha: weight of the risk.
        dtype: as in `cross_entropy`.
    """
    number = len(targets.tgt_out) - len(targets.weights)  # tokens of the references
    sums = cross_entropy(hidden[:number], weight, targets.tgt_out[:number], smoothing, dtype)
    surrogate = cross_entropy(
        hidden[number:], weight, targets.tgt_out[number:], 0.0, dtype, targets.weights
    ).smoothed
    # The gradient of the estimator, and the value of the risk.
    risk = surrogate - surrogate.detach() + targets.risk
    return LossSums(sums.smoothed + alpha * risk, sums.nll, targets.risk)


def r_drop(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    alpha: float,
    dtype: torch.dtype,
) -> LossSums:
    """Sum half of the R-Drop loss: the mean of two cross entropies and alpha / 2 of their distance.

    The distance is the mean of KL(p||q) and KL(q||p) (Liang et al. 2021, equations 4 and 5, which
    sum both passes).

    Args:
        hidden: inputs of the output layer in the first pass, then in the second, [2N, D].
        weight: weight of the output layer, [V, D].
        targets: ids of the target tokens, [N].
        smoothing: as in `cross_entropy`.
        alpha: weight of the distance.
        dtype: as in `cross_entropy`.
    """
    return _two_passes(hidden, weight, targets, smoothing, alpha, _symmetric_kl, dtype)


def cutoff(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    beta: float,
    dtype: torch.dtype,
) -> LossSums:
    """Sum half of the Cutoff loss: the mean of two cross entropies and beta / 2 of their distance.

    The distance is the Jensen-Shannon divergence (Shen et al. 2020, section 3, with one erased
    input and alpha = 1, which weights both cross entropies equally).

    Args:
        hidden, weight, targets, smoothing, dtype: as in `r_drop`.
        beta: weight of the distance.
    """
    return _two_passes(hidden, weight, targets, smoothing, beta, _jensen_shannon, dtype)


def _two_passes(*arguments: Any) -> LossSums:
    with_gradient = torch.is_grad_enabled()
    sums = _ChunkedTwoPasses.apply(*arguments, with_gradient)  # type: ignore[no-untyped-call]
    return LossSums(*sums)


def _symmetric_kl(probs: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(p||q) + KL(q||p) and its gradient.

    Args:
        probs: p and q, [2, C, V].
        ratio: log p - log q, [C, V].

    Returns:
        The sum over tokens, and its gradient with respect to the logits of p and of q, [2, C, V].
    """
    difference = probs[0] - probs[1]
    kl = torch.stack([probs[0] * ratio, -probs[1] * ratio]).sum(dim=2, keepdim=True)
    gradient = torch.stack([ratio, -ratio]).sub_(kl).mul_(probs)
    gradient[0] += difference
    gradient[1] -= difference
    return (difference * ratio).sum(), gradient


def _jensen_shannon(probs: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(p||m) + KL(q||m) and its gradient; arguments and results as `_symmetric_kl`."""
    # log p/m and log q/m.
    log_ratios = math.log(2) - nn.functional.softplus(torch.stack([-ratio, ratio]))
    kl = (probs * log_ratios).sum(dim=2, keepdim=True)
    return kl.sum(), log_ratios.sub_(kl).mul_(probs)


def tokens_of_chunk(device: str, vocab_size: int, width: int) -> int:
    """Return the number of tokens whose logits are in memory at once."""
    # Each chunk also adds a matrix of the size of the weight to its gradient: in chunks of 64
    # tokens that took half of the time at width 1024 with 32,000 pieces.
    return max(64, width // 2, CHUNK_VALUES.get(device, 2**20) // vocab_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Function of `cross_entropy`; `smoothing_nll` sums log(sum(exp(z))) - mean(z) over tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        token_weights: Tensor | None,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        vocab_size = weight.size(0)
        chunk = tokens_of_chunk(hidden.device.type, vocab_size, hidden.size(1))
        cast_weight = weight.to(dtype)
        mean_weight = weight.mean(dim=0)  # [D]: its product with hidden is the mean logit
        nll = hidden.new_zeros((), dtype=torch.float32)
        smoothing_nll = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, hidden.size(0), chunk):
            inputs = hidden[start : start + chunk].to(dtype)  # [C, D]
            true_ids = targets[start : start + chunk, None]  # [C, 1]
            logits = multiply_rows(inputs, cast_weight.T, chunk)  # [C, V]
            true_logits = logits.gather(1, true_ids).float()
            # Cast, then softmax: on a CPU half the time of softmax(dtype=...).
            probs = logits.float().softmax(dim=1)
            true_nll = -probs.gather(1, true_ids).clamp_min(1e-38).log()
            factors = None
            if token_weights is not None:
                factors = token_weights[start : start + chunk, None]  # [C, 1]
                true_nll *= factors
            nll += true_nll.sum()
            mean = inputs.float() @ mean_weight
            smoothing_nll += (true_nll + true_logits).sum() - mean.sum()
            if with_gradient:
                probs.scatter_add_(1, true_ids, probs.new_full(true_ids.shape, smoothing - 1))
                if factors is not None:
                    probs *= factors
                grad_logits = probs.to(dtype)
                # Above two rows padding would change the order of sums over the vocabulary.
                grad_inputs = multiply_rows(grad_logits, cast_weight, chunk, step=2)
                grad_hidden[start : start + chunk] = grad_inputs
                grad_weight += sum_outer_products(grad_logits, inputs, chunk)
        smoothed = (1 - smoothing) * nll + smoothing * smoothing_nll
        _save_gradients(
            ctx, hidden, grad_hidden, grad_weight, mean_weight, smoothing if with_gradient else 0
        )
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_outputs[0]), *(None,) * 5


class _ChunkedTwoPasses(torch.autograd.Function):
    """Function of `r_drop` and `cutoff`, in the names of the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        alpha: float,
        distance_of: DistanceOf,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        vocab_size, num_tokens = weight.size(0), targets.size(0)
        chunk = tokens_of_chunk(hidden.device.type, 2 * vocab_size, hidden.size(1))
        cast_weight = weight.to(dtype)
        mean_weight = weight.mean(dim=0)  # [D]
        nll, smoothing_nll, distance = hidden.new_zeros(3, dtype=torch.float32).unbind()
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, num_tokens, chunk):
            stop = min(start + chunk, num_tokens)
            # Both passes of the chunk: [2, C, ...].
            rows = hidden.view(2, num_tokens, -1)[:, start:stop]
            inputs = rows.to(dtype)
            true_ids = targets[start:stop].expand(2, -1)[..., None]  # [2, C, 1]
            logits = (inputs @ cast_weight.T).float()  # [2, C, V]
            true_logits = logits.gather(2, true_ids)
            probs = logits.softmax(dim=2)
            true_nll = -probs.gather(2, true_ids).clamp_min(1e-38).log()
            log_totals = true_nll + true_logits  # [2, C, 1]
            nll += true_nll.sum()
            smoothing_nll += log_totals.sum() - (inputs.float() @ mean_weight).sum()
            ratio = logits.sub_(log_totals)[0] - logits[1]  # log p - log q, [C, V]
            chunk_distance, grad_distance = distance_of(probs, ratio)
            distance += chunk_distance
            if with_gradient:
                probs.scatter_add_(2, true_ids, probs.new_full(true_ids.shape, smoothing - 1))
                grad_logits = probs.mul_(0.5).add_(grad_distance, alpha=alpha / 4).to(dtype)
                grad_hidden.view(2, num_tokens, -1)[:, start:stop] = grad_logits @ cast_weight
                grad_weight += grad_logits.flatten(0, 1).T @ inputs.flatten(0, 1)
        smoothed = ((1 - smoothing) * nll + smoothing * smoothing_nll) / 2
        smoothed = smoothed + alpha / 4 * distance
        half = smoothing / 2 if with_gradient else 0
        _save_gradients(ctx, hidden, grad_hidden, grad_weight, mean_weight, half)
        nll = nll / 2
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_outputs[0]), *(None,) * 6


def _save_gradients(
    ctx: Any,
    hidden: Tensor,
    grad_hidden: Tensor,
    grad_weight: Tensor,
    mean_weight: Tensor,
    smoothing: float,
) -> None:
    """Add the part of label smoothing to both gradients, and save them for backward."""
    if smoothing:
        grad_hidden -= smoothing * mean_weight
        grad_weight -= hidden.float().sum(dim=0) * (smoothing / len(grad_weight))
    ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)


def scaled_gradients(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of hidden and weight times the gradient of the loss."""
    grad_hidden, grad_weight = ctx.saved_tensors
    return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale
