"""What a run keeps: parameters, bytes in memory at the peak, bytes on disk."""

from dataclasses import dataclass

import torch

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.manifest import Manifest
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.training.loss import tokens_of_chunk

FP32 = 4
"""Bytes of a weight, a gradient, a moment."""
TORCH_BYTES = 400 << 20
"""What Python and torch take before anything is trained: 401 MiB as measured on Linux."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of one worker."""

    kept: int
    """Weights, their average, gradients, AdamW's moments."""
    activations: int
    """What backward needs of the largest micro-batch."""
    loss: int
    """One chunk of logits, its softmax, and the gradient of the output layer."""

    @property
    def total(self) -> int:
        """With what torch takes by itself; what an allocator keeps besides is not counted."""
        return self.kept + self.activations + self.loss + TORCH_BYTES


def count_parameters(experiment: Experiment, num_pieces: int) -> int:
    """Trained numbers, exactly, without memory for them."""
    with torch.device("meta"):
        return num_parameters(Seq2Seq(experiment.model, num_pieces))


def memory_of(
    experiment: Experiment, parameters: int, num_pieces: int, activations: float, device: str
) -> MemoryEstimate:
    """At the peak of a worker whose largest micro-batch keeps `activations` bytes for backward."""
    has_average = bool(experiment.training.ema_decay)
    half = 2 if experiment.training.precision in ("bf16", "fp16") else FP32
    chunk = num_pieces * tokens_of_chunk(device, num_pieces, experiment.model.width)
    return MemoryEstimate(
        kept=FP32 * parameters * (4 + has_average),
        activations=round(activations),
        loss=chunk * (2 * half + FP32) + FP32 * num_pieces * experiment.model.width,
    )


def checkpoint_bytes(experiment: Experiment, parameters: int) -> int:
    """Of one: weights, moments, and the weights besides their average where there is one."""
    return FP32 * parameters * (3 + bool(experiment.training.ema_decay))


def disk_bytes(experiment: Experiment, parameters: int) -> int:
    """Of all checkpoints at once: those that are kept, the best one, and one being written."""
    return checkpoint_bytes(experiment, parameters) * (experiment.training.keep_last + 2)


def gradient_bytes(cluster: Cluster, parameters: int) -> int:
    """Of what each worker has to send of an update."""
    return parameters * (2 if cluster.gradients == "bf16" else FP32)


def corpus_bytes(manifest: Manifest) -> int:
    """Of the prepared folder."""
    return sum(shard.file.size for shard in manifest.shards) + sum(
        file.size for file in manifest.files
    )
