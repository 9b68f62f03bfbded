"""The plain version of our model: the same mathematics without what makes it fast.

fp32; batches of 64 random pairs; packed sequences through torch's bidirectional LSTM in the
encoder; logits of all positions, padding counted, in memory whole; torch's own cross entropy and
AdamW without a fused kernel. Its loss and gradients are those of the fast version
(`tests/bench/test_plain.py`), so what is compared is speed alone.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.batching.batch import Batch, make_batch
from nmt.bench.cases import Case
from nmt.corpus.subword import PAD
from nmt.model.lstm import BiLSTM
from nmt.model.seq2seq import Seq2Seq

PAIRS = 64
"""Pairs in one batch."""


class PackedBiLSTM(nn.Module):
    """Our two-way layer as torch has it: packed sequences in one bidirectional call."""

    def __init__(self, ours: BiLSTM) -> None:
        super().__init__()
        input_size = ours.forwards.weight_ih.size(1)
        self.lstm = nn.LSTM(
            input_size, ours.forwards.hidden_size, batch_first=True, bidirectional=True
        )
        with torch.no_grad():
            for layer, suffix in ((ours.forwards, "_l0"), (ours.backwards, "_l0_reverse")):
                for name, weight in (
                    ("weight_ih", layer.weight_ih),
                    ("weight_hh", layer.weight_hh),
                    ("bias_ih", layer.bias),
                    ("bias_hh", layer.bias_hh),
                ):
                    getattr(self.lstm, name + suffix).copy_(weight)

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """As `BiLSTM.forward`; what stands in padding is 0."""
        lengths = reversal[:, 0] + 1  # the first position lands on the last real one
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out: Tensor
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.size(1))
        return out


class PlainLearner:
    """Trains the plain version of a model."""

    def __init__(self, model: Seq2Seq, smoothing: float) -> None:
        self.model = copy.deepcopy(model)
        for parent in list(self.model.encoder.modules()):
            for name, child in parent.named_children():
                if isinstance(child, BiLSTM):
                    setattr(parent, name, PackedBiLSTM(child))
        self._smoothing = smoothing
        self._optimizer = torch.optim.AdamW(self.model.parameters(), foreach=False)

    def backward(self, batch: Batch) -> float:
        """Add the gradient of the mean loss of a batch; gives that loss."""
        self.model.train()
        num_sentences, num_positions = batch.tgt_in.shape
        every = torch.arange(num_sentences * num_positions)
        hidden = self.model(batch.src, batch.src_lengths, batch.tgt_in, every)
        logits = hidden @ self.model.output_weight.T  # [B * T, V]
        targets = torch.full((num_sentences * num_positions,), PAD)
        targets[batch.real] = batch.tgt_out
        loss = nn.functional.cross_entropy(
            logits, targets, ignore_index=PAD, label_smoothing=self._smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def step(self) -> None:
        """Clip and update."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def random_batches(case: Case, num_batches: int) -> list[Batch]:
    """Batches of random pairs, unsorted."""
    order = np.random.default_rng(1).permutation(len(case.shards))[: num_batches * PAIRS]
    return [
        make_batch(case.shards.pairs(order[start : start + PAIRS]))
        for start in range(0, len(order), PAIRS)
    ]
