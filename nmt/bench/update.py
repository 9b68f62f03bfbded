"""One update by parts, each timed by itself: forward and backward, on the same micro-batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nmt.bench.bench import Bench, Updates, time
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.machine import DTYPES
from nmt.bench.timing import Work
from nmt.model.decoder import Memory
from nmt.training.loss import cross_entropy

MEANING = {
    "embedding": "tokens of both sides to vectors, and back",
    "encoder": "all encoder layers",
    "attention": "keys, values and reading of all decoder layers, without the layers",
    "decoder": "all decoder layers, attention counted",
    "output": "output layer and cross entropy, in chunks",
    "optimizer": "clipping, AdamW, moving average",
    "whole": "the update as training makes it here",
}


def measure(bench: Bench) -> Iterator[Figure]:
    """The parts of an update of one micro-batch, in the numbers that training takes here."""
    for case in (bench.small, bench.wide):
        yield from _of_case(bench, case)


def _of_case(bench: Bench, case: Case) -> Iterator[Figure]:
    precision = case.precision
    updates = Updates(case, precision, 1)
    turns = bench.take_turns(works_of(updates, precision))
    whole = turns["whole"].cpu_s
    for name, timing in turns.timings.items():
        ratio = (timing.cpu_s / whole, "the whole")
        if name == "whole":
            ratio = turns.of_peak(updates.flops, name, precision)
        yield time(f"update/{case.name}/{name}", timing, MEANING[name], ratio)
    counted = sum(turns[name].cpu_s for name in ("embedding", "encoder", "decoder", "output"))
    rest = whole - counted - turns["optimizer"].cpu_s
    yield Figure(
        f"update/{case.name}/rest",
        rest * 1e3,
        "ms of the processor",
        "what is left of the whole: dropout of embeddings, casts, joining of gradients",
        is_better_high=False,
        repeats=len(turns["whole"].walls),
        spread=turns["whole"].spread,
        ratio=rest / whole,
        ratio_to="the whole",
    )


def works_of(updates: Updates, precision: str) -> dict[str, Work]:
    """What is timed, by name: the parts on all micro-batches of the updates, and the whole."""
    dtype = DTYPES[precision]
    model, learner = updates.learner.model, updates.learner
    decoder = model.decoder
    model.train()

    def cast() -> torch.autocast:
        return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_()

    made = []
    for batch in updates.batches:
        with torch.no_grad(), cast():
            src = model.src_embedding.lookup(batch.src)
            tgt = model.tgt_embedding.lookup(batch.tgt_in)
            encoded = model.encoder(src, batch.src_lengths)
        is_pad = torch.arange(batch.src.size(1)) >= batch.src_lengths[:, None]
        made.append((batch, leaf(src), leaf(tgt), leaf(encoded), is_pad))

    def embedding() -> None:
        for batch, src, tgt, _, _ in made:
            for table, tokens, like in (
                (model.src_embedding, batch.src, src),
                (model.tgt_embedding, batch.tgt_in, tgt),
            ):
                table.lookup(tokens).backward(torch.ones_like(like))  # type: ignore[no-untyped-call]
        model.zero_grad()

    def encoder() -> None:
        for batch, src, _, _, _ in made:
            with cast():
                out = model.encoder(src, batch.src_lengths)
            out.backward(torch.ones_like(out))
        model.zero_grad()

    def memory_of(batch_lengths: Tensor, encoded: Tensor, is_pad: Tensor) -> Memory:
        keys, values = zip(*(each.project(encoded) for each in decoder.attentions), strict=True)
        return Memory(keys, values, batch_lengths, is_pad)

    def attention() -> None:
        for batch, _, tgt, encoded, is_pad in made:
            with cast():
                memory = memory_of(batch.src_lengths, encoded, is_pad)
                read = [
                    layer(tgt, keys, values, is_pad)
                    for layer, keys, values in zip(
                        decoder.attentions, memory.keys, memory.values, strict=True
                    )
                ]
            torch.autograd.backward(read, [torch.ones_like(out) for out in read])
        model.zero_grad()

    def decoding() -> None:
        for batch, _, tgt, encoded, is_pad in made:
            with cast():
                out = decoder(tgt, memory_of(batch.src_lengths, encoded, is_pad))
            out.backward(torch.ones_like(out))
        model.zero_grad()

    hiddens = [torch.randn(len(batch.real), decoder.width).to(dtype) for batch in updates.batches]

    def output() -> None:
        for batch, hidden in zip(updates.batches, hiddens, strict=True):
            smoothing = updates.experiment.training.label_smoothing
            weight = model.output_weight
            loss = cross_entropy(leaf(hidden), weight, batch.tgt_out, smoothing, dtype)
            loss.smoothed.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    updates()
    gradients = [torch.full_like(parameter, 1e-4) for parameter in model.parameters()]

    def optimizer() -> None:
        for update, _ in updates.updates:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            learner.step(update.number)

    return {
        "embedding": embedding,
        "encoder": encoder,
        "attention": attention,
        "decoder": decoding,
        "output": output,
        "optimizer": optimizer,
        "whole": updates,
    }
