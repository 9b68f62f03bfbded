"""Estimates of parameters, peak memory per worker and disk space."""

from dataclasses import dataclass

import torch

from nmt.batching.schedule import Schedule
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.manifest import Manifest
from nmt.corpus.shards import Shards
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.training.loss import tokens_of_chunk
from nmt.training.optimizer import freeze_parameters

FP32 = 4
"""Bytes of a weight, gradient or moment."""
TORCH_BYTES = 400 << 20
"""Memory of Python and torch before training; measured on Linux: 401 MiB."""
SUSTAINED_UPDATES = 2000
"""Updates after which memory and speed count as sustained; few shapes are new from then on."""
KERNEL_BYTES = {"fp32": 2 << 20, "bf16": 5 << 20}
"""Memory per shape of micro-batches on a CPU: kernels of oneDNN and gaps between blocks. Measured
with the Multi30k model of width 128 on a Xeon with AMX."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one worker in bytes."""

    weights: int
    """Weights, their average, gradients and AdamW's moments."""
    activations: int
    """Tensors saved for backward of the largest micro-batch."""
    loss: int
    """One chunk of logits, its softmax, and the gradient of the output layer."""
    kernels: int
    """Compiled kernels and gaps between blocks after 2,000 updates; 0 on a GPU."""

    @property
    def total(self) -> int:
        """Sum including torch itself; memory that the allocator of a GPU caches is not included."""
        return self.weights + self.activations + self.loss + self.kernels + TORCH_BYTES


def count_parameters(experiment: Experiment, num_pieces: int, *, trained_only: bool = False) -> int:
    """Return the number of parameters, tied ones counted once, without allocating them."""
    with torch.device("meta"):
        model = Seq2Seq(experiment.model, num_pieces)
    freeze_parameters(model, experiment.training.freeze)
    return num_parameters(model, trained_only=trained_only)


def estimate_memory(
    experiment: Experiment,
    parameters: int,
    trained: int,
    num_pieces: int,
    activations: float,
    device: str,
    num_shapes: int,
) -> MemoryEstimate:
    """Estimate the peak memory of a worker.

    Args:
        experiment: with resolved precision.
        parameters: number of parameters.
        trained: number of those that are not frozen.
        num_pieces: vocabulary size.
        activations: bytes saved for backward of the largest micro-batch.
        device: cpu or cuda; it decides the chunk size of the loss.
        num_shapes: shapes of micro-batches, from `updates_with_new_shapes`.
    """
    precision = experiment.training.precision
    has_average = bool(experiment.training.ema_decay)
    has_importance = experiment.training.keeps_importance
    logit_bytes = 2 if precision in ("bf16", "fp16") else FP32
    passes = max(experiment.num_passes().values())
    num_rows = passes * experiment.batching.max_tokens
    num_rows = min(num_rows, tokens_of_chunk(device, num_pieces, experiment.model.width))
    return MemoryEstimate(
        weights=FP32
        * (parameters * (1 + has_average + experiment.distils) + (3 + has_importance) * trained),
        activations=round(activations),
        # Logits and their gradient in the reduced precision, the softmax in fp32.
        loss=num_pieces * (num_rows * (2 * logit_bytes + FP32) + FP32 * experiment.model.width),
        kernels=KERNEL_BYTES.get(precision, 2 << 20) * num_shapes if device == "cpu" else 0,
    )


def updates_with_new_shapes(
    shards: Shards, schedule: Schedule, num_updates: int = SUSTAINED_UPDATES
) -> tuple[list[int], int]:
    """Find the updates in which a shape of micro-batches occurs for the first time.

    These updates suffice to measure the memory after all `num_updates`: kernels are compiled once
    per shape.

    Returns:
        Numbers of the updates, and the number of shapes: pairs, longest source, longest target.
    """
    src, tgt = shards.src_lengths, shards.tgt_lengths
    seen: set[tuple[int, ...]] = set()
    numbers = []
    for number in range(num_updates):
        before = len(seen)
        for rows in filter(len, schedule.update(number).micro_batches):
            seen.add((len(rows), int(src[rows].max()), int(tgt[rows].max())))
            # The loss has the shape of the target tokens.
            seen.add((int(tgt[rows].sum()) + len(rows),))
        if len(seen) > before:
            numbers.append(number)
    return numbers, sum(len(shape) == 3 for shape in seen)


def checkpoint_bytes(experiment: Experiment, parameters: int, trained: int) -> int:
    """Return the size of a checkpoint.

    Weights and two moments, and average, importance and the teacher of distillation if any.
    """
    has_average = bool(experiment.training.ema_decay)
    has_importance = experiment.training.keeps_importance
    copies = 1 + has_average + experiment.distils
    return FP32 * (parameters * copies + (2 + has_importance) * trained)


def gradient_bytes(cluster: Cluster, trained: int) -> int:
    """Return the size of the gradients that a worker sends per update."""
    return trained * (2 if cluster.gradients == "bf16" else FP32)


def corpus_bytes(manifest: Manifest) -> int:
    """Return the size of a prepared corpus."""
    files = [*manifest.files, *(shard.file for shard in manifest.shards)]
    return sum(file.size for file in files)
