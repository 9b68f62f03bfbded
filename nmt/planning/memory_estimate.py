"""Estimates of parameters, peak memory per worker and disk space."""

from dataclasses import dataclass

import torch

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.manifest import Manifest
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.training.loss import tokens_of_chunk

FP32 = 4
"""Bytes of a weight, gradient or moment."""
TORCH_BYTES = 400 << 20
"""Memory of Python and torch before training; measured on Linux: 401 MiB."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one worker in bytes."""

    weights: int
    """Weights, their average, gradients and AdamW's moments."""
    activations: int
    """Tensors saved for backward of the largest micro-batch."""
    loss: int
    """One chunk of logits, its softmax, and the gradient of the output layer."""

    @property
    def total(self) -> int:
        """Sum including torch itself; memory that the allocator caches is not included."""
        return self.weights + self.activations + self.loss + TORCH_BYTES


def count_parameters(experiment: Experiment, num_pieces: int) -> int:
    """Return the number of trained parameters, without allocating them."""
    with torch.device("meta"):
        return num_parameters(Seq2Seq(experiment.model, num_pieces))


def estimate_memory(
    experiment: Experiment, parameters: int, num_pieces: int, activations: float, device: str
) -> MemoryEstimate:
    """Estimate the peak memory of a worker.

    Args:
        experiment: with resolved precision.
        parameters: number of parameters.
        num_pieces: vocabulary size.
        activations: bytes saved for backward of the largest micro-batch.
        device: cpu or cuda; it decides the chunk size of the loss.
    """
    has_average = bool(experiment.training.ema_decay)
    logit_bytes = 2 if experiment.training.precision in ("bf16", "fp16") else FP32
    chunk = num_pieces * tokens_of_chunk(device, num_pieces, experiment.model.width)
    return MemoryEstimate(
        weights=FP32 * parameters * (4 + has_average),
        activations=round(activations),
        # Logits and their gradient in the reduced precision, the softmax in fp32.
        loss=chunk * (2 * logit_bytes + FP32) + FP32 * num_pieces * experiment.model.width,
    )


def checkpoint_bytes(experiment: Experiment, parameters: int) -> int:
    """Return the size of a checkpoint: weights, two moments, and the average if there is one."""
    return FP32 * parameters * (3 + bool(experiment.training.ema_decay))


def disk_bytes(experiment: Experiment, parameters: int) -> int:
    """Return the size of all checkpoints: the newest, the best, and one being written."""
    return checkpoint_bytes(experiment, parameters) * (experiment.training.keep_last + 2)


def gradient_bytes(cluster: Cluster, parameters: int) -> int:
    """Return the size of the gradients that a worker sends per update."""
    return parameters * (2 if cluster.gradients == "bf16" else FP32)


def corpus_bytes(manifest: Manifest) -> int:
    """Return the size of a prepared corpus."""
    files = [*manifest.files, *(shard.file for shard in manifest.shards)]
    return sum(file.size for file in files)
