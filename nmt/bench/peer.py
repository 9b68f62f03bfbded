"""A peer: the recurrent model of OpenNMT-py, stated again by us, beside ours.

Two encoder layers (bidirectional, together 512 wide), two decoder layers of 512 with global
attention ("general", Luong et al. 2015) and input feeding: what was read at a position is part of
the decoder's input at the next, so the decoder goes position by position. Embeddings of 256 that
nothing shares, logits of all positions, fp32. This is its published architecture, not its code,
which is as fast: OpenNMT-py 3.5.1's classes, fed the same batches in turns with these, made 0.98
and 1.01 of their speed in two runs. It gets our batches, so the same pieces and token budget, and
as many threads; our residual model beside it has the same number of parameters.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.batching.batch import Batch
from nmt.bench.bench import Bench, Updates, rate
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.corpus.subword import PAD
from nmt.model.flops import Flops, matmul_flops
from nmt.model.seq2seq import Seq2Seq, num_parameters

EMBEDDING = 256
WIDTH = 512
LAYERS = 2


class InputFeedingRNN(nn.Module):
    """Encoder, input-feeding decoder and generator."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.src_embedding = nn.Embedding(vocab_size, EMBEDDING)
        self.tgt_embedding = nn.Embedding(vocab_size, EMBEDDING)
        self.encoder = nn.LSTM(
            EMBEDDING, WIDTH // 2, LAYERS, batch_first=True, bidirectional=True, dropout=0.3
        )
        self.cells = nn.ModuleList(
            nn.LSTMCell(EMBEDDING + WIDTH if depth == 0 else WIDTH, WIDTH)
            for depth in range(LAYERS)
        )
        self.dropout = nn.Dropout(0.3)
        self.to_score = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_out = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.generator = nn.Linear(WIDTH, vocab_size)

    def forward(self, src: Tensor, src_lengths: Tensor, tgt_in: Tensor) -> Tensor:
        """Logits of all positions, padding counted: [B, T, V]."""
        packed = pack_padded_sequence(
            self.src_embedding(src), src_lengths, batch_first=True, enforce_sorted=False
        )
        encoded, (hidden, cell) = self.encoder(packed)
        memory, _ = pad_packed_sequence(encoded, batch_first=True)  # [B, S, D]
        is_pad = torch.arange(memory.size(1)) >= src_lengths[:, None]
        # Both directions of a layer side by side: [layers, B, D].
        start_h, start_c = (
            state.view(LAYERS, 2, len(src), -1).transpose(1, 2).flatten(2)
            for state in (hidden, cell)
        )
        states = list(zip(start_h, start_c, strict=True))
        keys = self.to_score(memory).transpose(1, 2)  # [B, D, S]
        read = torch.zeros_like(states[0][0])
        outs = []
        for embedded in self.tgt_embedding(tgt_in).unbind(dim=1):
            x = torch.cat([embedded, read], dim=1)
            for depth, lstm in enumerate(self.cells):
                states[depth] = lstm(x if depth == 0 else self.dropout(x), states[depth])
                x = states[depth][0]
            scores = (x[:, None] @ keys).masked_fill(is_pad[:, None], -torch.inf)
            context = (scores.softmax(dim=-1) @ memory).squeeze(1)
            read = self.dropout(self.to_out(torch.cat([context, x], dim=1)).tanh())
            outs.append(read)
        logits: Tensor = self.generator(torch.stack(outs, dim=1))
        return logits

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""

        def of(*modules: nn.Module) -> int:
            weights = (weight for module in modules for weight in module.parameters())
            return matmul_flops(*(weight for weight in weights if weight.dim() == 2))

        return Flops(
            per_src=of(self.encoder, self.to_score),
            per_tgt=of(self.cells, self.to_out, self.generator),
            per_src_tgt=2 * 2 * WIDTH,
        )


def measure(bench: Bench) -> Iterator[Figure]:
    """A peer's model and ours, of as many parameters, on the same updates, by one worker each."""
    torch.manual_seed(1)
    case = bench.wide
    theirs = InputFeedingRNN(case.subword.num_pieces)
    ours = Updates(_as_large(case, num_parameters(theirs)), case.precision, 1)
    optimizer = torch.optim.Adam(theirs.parameters())

    def peer() -> None:
        for batch in ours.batches:
            loss_of(theirs, batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(theirs.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    turns = bench.take_turns({"ours": ours, "input feeding": peer})
    gain = turns["input feeding"].cpu_s / turns["ours"].cpu_s
    work = sum(
        theirs.flops().update(batch.src_lengths, batch.tgt_lengths) for batch in ours.batches
    )
    for name, model, what, ratio in (
        (
            "ours",
            ours.learner.model,
            f"our residual model, {case.precision}",
            (gain, "the peer's speed"),
        ),
        (
            "input feeding",
            theirs,
            "our statement of OpenNMT-py's RNN, fp32",
            turns.of_peak(work, "input feeding", "fp32"),
        ),
    ):
        yield rate(
            f"peer/{name}",
            ours.num_tgt_tokens,
            turns[name],
            "tgt tokens/s",
            f"{what}, {num_parameters(model) / 1e6:.1f} M parameters, one thread",
            ratio,
        )


def loss_of(model: InputFeedingRNN, batch: Batch) -> Tensor:
    """Mean cross entropy of the real tokens, over logits of all positions."""
    logits = model(batch.src, batch.src_lengths, batch.tgt_in)
    targets = torch.full((batch.tgt_in.numel(),), PAD)
    targets[batch.real] = batch.tgt_out
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets, ignore_index=PAD, label_smoothing=0.1
    )


def _as_large(case: Case, num_wanted: int) -> Case:
    """The case with the feed-forward width that gives it that many parameters, or nearly."""
    config, counts = case.experiment.model, []
    for ffn_width in (64, 128):
        with torch.device("meta"):
            model = Seq2Seq(
                config.model_copy(update={"ffn_width": ffn_width}), case.subword.num_pieces
            )
        counts.append(num_parameters(model))
    steps = round((num_wanted - counts[0]) / (counts[1] - counts[0]))
    config = config.model_copy(update={"ffn_width": max(64, 64 + 64 * steps)})
    return replace(case, experiment=case.experiment.model_copy(update={"model": config}))
