"""Training speed of one worker: parts of an update, whole updates, a peer model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nmt.batching.batch import Batch
from nmt.bench.baselines import (
    PAIRS,
    InputFeedingRNN,
    PlainLearner,
    mean_cross_entropy,
    random_batches,
)
from nmt.bench.figures import Figure
from nmt.bench.timing import DTYPES, Work, rate_figure, time_figure
from nmt.bench.workloads import Bench, Updates, Workload
from nmt.model.decoder import Memory
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.training.loop import make_update
from nmt.training.loss import cross_entropy
from nmt.training.state import TrainState

PLAIN_BATCHES = 2
"""Random batches that the plain version trains on per repeat."""
PARTS_OF_UPDATE = {
    "embedding": "token embeddings of both sides",
    "encoder": "all encoder layers",
    "attention": "projection, scores and contexts of all decoder layers, without their LSTMs",
    "decoder": "all decoder layers, attention included",
    "output": "output layer and cross entropy, in chunks",
    "optimizer": "clipping, AdamW, moving average",
    "whole": "one update as in training",
}


def measure_update(bench: Bench) -> Iterator[Figure]:
    """Parts of an update, each forward and backward by itself, in the training precision."""
    for workload in (bench.small, bench.wide):
        precision, name = workload.precision, f"update/{workload.name}"
        updates = Updates(workload, precision, 1)
        turns = bench.take_turns(_works_of_update(updates, DTYPES[precision]))
        whole = turns["whole"]
        for part, counts in PARTS_OF_UPDATE.items():
            ratio = turns[part].cpu_s / whole.cpu_s, "the whole"
            if part == "whole":
                ratio = turns.of_peak(updates.flops, part, precision)
            yield time_figure(f"{name}/{part}", turns[part], counts, ratio)
        # Attention is part of the decoder.
        parts = ("embedding", "encoder", "decoder", "output", "optimizer")
        rest = whole.cpu_s - sum(turns[part].cpu_s for part in parts)
        counts = "remainder of the update: embedding dropout, casts, gradient accumulation"
        yield Figure(
            f"{name}/rest", rest * 1e3, "ms of CPU time", counts, is_better_high=False,
            spread=whole.spread, repeats=len(whole.walls_s), ratio=rest / whole.cpu_s,
            ratio_to="the whole",
        )  # fmt: skip


@dataclass(frozen=True)
class _Activations:
    """Inputs of the parts of a model for one micro-batch; gradients end at them."""

    batch: Batch
    src: Tensor
    tgt: Tensor
    encoded: Tensor
    is_pad: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, model: Seq2Seq, batch: Batch, dtype: torch.dtype) -> "_Activations":
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            src = model.src_embedding.lookup(batch.src)
            tgt = model.tgt_embedding.lookup(batch.tgt_in)
            encoded = model.encoder(src, batch.src_lengths)
        hidden = torch.randn(len(batch.real), model.decoder.width).to(dtype)
        for tensor in (src, tgt, encoded, hidden):
            tensor.requires_grad_()
        is_pad = torch.arange(batch.src.size(1)) >= batch.src_lengths[:, None]
        return cls(batch, src, tgt, encoded, is_pad, hidden)


def _works_of_update(updates: Updates, dtype: torch.dtype) -> dict[str, Work]:
    model, learner = updates.learner.model, updates.learner
    decoder, smoothing = model.train().decoder, updates.experiment.training.label_smoothing
    inputs = [_Activations.of(model, batch, dtype) for batch in updates.batches]

    def embedding(of: _Activations) -> list[Tensor]:
        src, tgt = of.batch.src, of.batch.tgt_in
        return [model.src_embedding.lookup(src), model.tgt_embedding.lookup(tgt)]

    def attention(of: _Activations) -> list[Tensor]:
        layers = decoder.attentions
        return [layer(of.tgt, *layer.project(of.encoded), of.is_pad) for layer in layers]

    def decode(of: _Activations) -> list[Tensor]:
        projected = [layer.project(of.encoded) for layer in decoder.attentions]
        keys, values = zip(*projected, strict=True)
        return [decoder(of.tgt, Memory(keys, values, of.batch.src_lengths, of.is_pad))]

    def output(of: _Activations) -> list[Tensor]:
        with torch.autocast("cpu", enabled=False):  # the loss casts by itself
            weight, tgt_out = model.output_weight, of.batch.tgt_out
            return [cross_entropy(of.hidden, weight, tgt_out, smoothing, dtype).smoothed]

    def run(part: Callable[[_Activations], list[Tensor]]) -> None:
        for each in inputs:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                outs = part(each)
            torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])
        model.zero_grad()

    # Warm-up: the optimizer allocates its state in its first step.
    updates()
    gradients = [torch.full_like(parameter, 1e-4) for parameter in model.parameters()]

    def optimizer() -> None:
        for update, _ in updates.updates:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            make_update(learner, TrainState(), update, [], update.num_tgt_tokens)

    parts: dict[str, Callable[[_Activations], list[Tensor]]] = {
        "embedding": embedding,
        "encoder": lambda of: [model.encoder(of.src, of.batch.src_lengths)],
        "attention": attention,
        "decoder": decode,
        "output": output,
    }
    works: dict[str, Work] = {name: partial(run, part) for name, part in parts.items()}
    return works | {"optimizer": optimizer, "whole": updates}


def measure_training(bench: Bench) -> Iterator[Figure]:
    """Whole updates of three models, two of them beside the plain version."""
    yield from _train(bench, bench.small, 4)
    yield from _train(bench, bench.wide, 1)
    # 24 pairs of 32 tokens: a core makes such an update in seconds.
    short = bench.large.with_settings("batching", max_tokens=768, max_length=32)
    yield from _train(bench, short, 1, has_plain=False)


def _train(
    bench: Bench, workload: Workload, num_updates: int, has_plain: bool = True
) -> Iterator[Figure]:
    updates = {precision: Updates(workload, precision, num_updates) for precision in bench.products}
    # All precisions and the plain version take turns: their ratios are the figures of interest.
    works: dict[str, Work] = dict(updates)
    num_tokens = {precision: ours.num_tgt_tokens for precision, ours in updates.items()}
    if has_plain:
        smoothing = workload.experiment.training.label_smoothing
        learner = PlainLearner(updates["fp32"].learner.model, smoothing)
        batches = random_batches(workload, PLAIN_BATCHES)

        def plain() -> None:
            for batch in batches:
                learner.backward(batch)
                learner.step()

        works["plain"] = plain
        num_tokens["plain"] = sum(len(batch.tgt_out) for batch in batches)
    turns = bench.take_turns(works)
    per_cpu_s = {name: num_tokens[name] / timing.cpu_s for name, timing in turns.timings.items()}
    num_pairs = max(len(batch.src) for batch in updates["fp32"].batches)
    name, unit = f"train/{workload.name}", "tgt tokens/s"
    counts = f"target tokens with EOS, {workload.lengths} lengths, one worker, "
    counts += f"at most {num_pairs} pairs per micro-batch"
    for precision, ours in updates.items():
        ratio = turns.of_peak(ours.flops, precision, precision)
        timing = turns[precision]
        yield rate_figure(f"{name}/{precision}", num_tokens[precision], timing, unit, counts, ratio)
    pairs = [("bf16", "fp32")] if "bf16" in updates else []
    if has_plain:
        counts = f"fp32, random batches of {PAIRS}, packed, whole logits"
        yield rate_figure(f"{name}/plain", num_tokens["plain"], turns["plain"], unit, counts)
        pairs += [(precision, "plain") for precision in updates]
    for one, other in pairs:
        noisier = turns["bf16" if other == "fp32" else other]
        value, counts = per_cpu_s[one] / per_cpu_s[other], "tokens per CPU second"
        yield Figure(f"{name}/{one} to {other}", value, "times", counts, spread=noisier.spread)


def measure_peer(bench: Bench) -> Iterator[Figure]:
    """Our model and a model with input feeding, of equal size, on the same batches."""
    torch.manual_seed(1)
    workload = bench.wide
    peer = InputFeedingRNN(workload.subword.num_pieces)
    ours = Updates(_with_size(workload, num_parameters(peer)), workload.precision, 1)
    optimizer = torch.optim.Adam(peer.parameters())

    def train_peer() -> None:
        for batch in ours.batches:
            logits = peer(batch.src, batch.src_lengths, batch.tgt_in).flatten(0, 1)
            mean_cross_entropy(logits, batch, 0.1).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(peer.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    turns = bench.take_turns({"ours": ours, "input feeding": train_peer})
    gain = turns["input feeding"].cpu_s / turns["ours"].cpu_s, "the peer's speed"
    flops = sum(peer.flops().update(batch.src_lengths, batch.tgt_lengths) for batch in ours.batches)
    of_peak = turns.of_peak(flops, "input feeding", "fp32")
    our_model, unit = ours.learner.model, "tgt tokens/s"
    for name, model, text, ratio in (
        ("ours", our_model, f"our residual model, {workload.precision}", gain),
        ("input feeding", peer, "OpenNMT-py's RNN reimplemented, fp32", of_peak),
    ):
        counts = f"{text}, {num_parameters(model) / 1e6:.1f} M parameters, one thread"
        yield rate_figure(f"peer/{name}", ours.num_tgt_tokens, turns[name], unit, counts, ratio)


def _with_size(workload: Workload, num_wanted: int) -> Workload:
    """Choose the feed-forward width that gives about that many parameters."""
    # Parameters grow linearly with the width: two counts, without memory, give the line.
    counts = []
    for width in (64, 128):
        config = workload.experiment.model.model_copy(update={"ffn_width": width})
        with torch.device("meta"):
            counts.append(num_parameters(Seq2Seq(config, workload.subword.num_pieces)))
    steps = round((num_wanted - counts[0]) / (counts[1] - counts[0]))
    return workload.with_settings("model", ffn_width=max(64, 64 + 64 * steps))
