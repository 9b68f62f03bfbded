"""Baselines: a plain version of our model, and a peer model with input feeding.

Shapes: B sentences, S source positions, T target positions, D width, V vocabulary.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.batching.batch import Batch, make_batch
from nmt.bench.workloads import Workload
from nmt.corpus.subword import PAD
from nmt.model.flops import Flops, matmul_flops
from nmt.model.lstm import BiLSTM
from nmt.model.seq2seq import Seq2Seq

PAIRS = 64
"""Pairs of a random batch."""
PEER_EMBEDDING = 256
PEER_WIDTH = 512
PEER_LAYERS = 2


class PackedBiLSTM(nn.Module):
    """Bidirectional layer of torch on packed sequences, with the weights of a `BiLSTM`."""

    def __init__(self, ours: BiLSTM) -> None:
        super().__init__()
        sizes = ours.forwards.weight_ih.size(1), ours.forwards.hidden_size
        self.lstm = nn.LSTM(*sizes, batch_first=True, bidirectional=True)
        with torch.no_grad():
            for layer, suffix in ((ours.forwards, "_l0"), (ours.backwards, "_l0_reverse")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    weight = layer.bias if name == "bias_ih" else getattr(layer, name)
                    getattr(self.lstm, name + suffix).copy_(weight)

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """Run as `BiLSTM.forward`; output at padding is 0."""
        lengths = reversal[:, 0] + 1  # position 0 is moved to the last real one
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out: Tensor
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.size(1))
        return out


class PlainLearner:
    """Training of our model without optimisations.

    fp32, packed sequences in the encoder, logits of all positions in memory at once, cross entropy
    of torch, AdamW without a fused kernel. Loss and gradients equal those of the fast version, so
    only speed and memory differ.
    """

    def __init__(self, model: Seq2Seq, smoothing: float) -> None:
        self.model = copy.deepcopy(model)
        for parent in list(self.model.encoder.modules()):
            for name, child in parent.named_children():
                if isinstance(child, BiLSTM):
                    setattr(parent, name, PackedBiLSTM(child))
        self._smoothing = smoothing
        self._optimizer = torch.optim.AdamW(self.model.parameters(), foreach=False)

    def backward(self, batch: Batch) -> float:
        """Add the gradient of the mean loss of a batch and return that loss."""
        self.model.train()
        every = torch.arange(batch.tgt_in.numel())
        hidden = self.model(batch.src, batch.src_lengths, batch.tgt_in, every)
        logits = hidden @ self.model.output_weight.T  # [B * T, V]
        loss = mean_cross_entropy(logits, batch, self._smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def step(self) -> None:
        """Clip the gradient and update the weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


class InputFeedingRNN(nn.Module):
    """The recurrent model of OpenNMT-py, reimplemented from its published architecture.

    Two bidirectional encoder layers, two decoder layers with general attention (Luong et al. 2015)
    and input feeding: the context of a position is an input of the next one, so the decoder runs
    position by position. Untied embeddings of 256, logits of all positions, fp32.
    The original is as fast: OpenNMT-py 3.5.1, timed in turns with this class on the same batches,
    reached 0.98 and 1.01 times its speed in two runs.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        embedding, width, layers = PEER_EMBEDDING, PEER_WIDTH, PEER_LAYERS
        self.src_embedding = nn.Embedding(vocab_size, embedding)
        self.tgt_embedding = nn.Embedding(vocab_size, embedding)
        self.encoder = nn.LSTM(
            embedding, width // 2, layers, batch_first=True, bidirectional=True, dropout=0.3
        )
        inputs = [embedding + width] + [width] * (layers - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(size, width) for size in inputs)
        self.dropout = nn.Dropout(0.3)
        self.to_score = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(2 * width, width, bias=False)
        self.generator = nn.Linear(width, vocab_size)

    def forward(self, src: Tensor, src_lengths: Tensor, tgt_in: Tensor) -> Tensor:
        """Return logits of all positions, padding included, [B, T, V]."""
        packed = pack_padded_sequence(
            self.src_embedding(src), src_lengths, batch_first=True, enforce_sorted=False
        )
        encoded, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(encoded, batch_first=True)  # [B, S, D]
        is_pad = torch.arange(memory.size(1)) >= src_lengths[:, None]
        # Concatenate both directions of each layer: [layers, B, D].
        start = (s.view(PEER_LAYERS, 2, len(src), -1).transpose(1, 2).flatten(2) for s in last)
        states = list(zip(*start, strict=True))
        keys = self.to_score(memory).transpose(1, 2)  # [B, D, S]
        fed = torch.zeros_like(states[0][0])
        outs = []
        for embedded in self.tgt_embedding(tgt_in).unbind(dim=1):
            x = torch.cat([embedded, fed], dim=1)
            for depth, lstm in enumerate(self.cells):
                states[depth] = lstm(x if depth == 0 else self.dropout(x), states[depth])
                x = states[depth][0]
            scores = (x[:, None] @ keys).masked_fill(is_pad[:, None], -torch.inf)
            context = (scores.softmax(dim=-1) @ memory).squeeze(1)
            fed = self.dropout(self.to_out(torch.cat([context, x], dim=1)).tanh())
            outs.append(fed)
        logits: Tensor = self.generator(torch.stack(outs, dim=1))
        return logits

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""

        def count(*modules: nn.Module) -> int:
            weights = (weight for module in modules for weight in module.parameters())
            return matmul_flops(*(weight for weight in weights if weight.dim() == 2))

        return Flops(
            per_src=count(self.encoder, self.to_score),
            per_tgt=count(self.cells, self.to_out, self.generator),
            per_src_tgt=2 * 2 * PEER_WIDTH,
        )


def mean_cross_entropy(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Return the loss per real target token of logits of all positions, [B * T, V]."""
    targets = torch.full((batch.tgt_in.numel(),), PAD)
    targets[batch.real] = batch.tgt_out
    return nn.functional.cross_entropy(logits, targets, ignore_index=PAD, label_smoothing=smoothing)


def random_batches(workload: Workload, num_batches: int) -> list[Batch]:
    """Return batches of random pairs that are not sorted by length."""
    order = np.random.default_rng(1).permutation(len(workload.shards))[: num_batches * PAIRS]
    starts = range(0, len(order), PAIRS)
    return [make_batch(workload.shards.pairs(order[start : start + PAIRS])) for start in starts]
