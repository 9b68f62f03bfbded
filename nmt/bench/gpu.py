"""One GPU: what it can do, and how near to that training and searching GNMT come.

Seconds are by the wall clock until all that was asked of the GPU is done. Each figure is compared
with a matrix product that is timed in turns with it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from nmt.bench.bench import Bench, Ratio, Updates, rate
from nmt.bench.cases import Case
from nmt.bench.decoding import (
    Search,
    cut_at_sources,
    flops_of_search,
    fresh_model,
    sources_of,
)
from nmt.bench.figures import Figure
from nmt.bench.machine import DTYPES, Product
from nmt.bench.timing import Timing, Work, take_turns
from nmt.model.quantise import Precision, quantise_model

TRAINED = {**DTYPES, "fp16": torch.float16}
SEARCHED: tuple[Precision, ...] = ("fp32", "bf16")
BEAMS = (1, 5)
SIDE = 4096
"""Rows, inputs and outputs of the product that is the peak."""
COPY_BYTES = 1 << 31
TOGETHER = (128, 512, 1024)
"""Sentences of an update, as NVIDIA's GNMT is measured; and of one search."""
NUM_UPDATES = 4


def measure(bench: Bench) -> Iterator[Figure]:
    """Products, training and search on one GPU; nothing where there is none."""
    if torch.cuda.is_available():
        yield from of_device(bench, torch.device("cuda"), SIDE, COPY_BYTES, TOGETHER)


def of_device(
    bench: Bench, device: torch.device, side: int, copy_bytes: int, together: tuple[int, ...]
) -> Iterator[Figure]:
    """The same on a device of any kind, with products and batches of any size."""
    products = {
        name: Product(
            torch.randn(side, side, device=device).to(dtype),
            torch.randn(side, side, device=device).to(dtype),
            8,
        )
        for name, dtype in TRAINED.items()
    }
    yield from _machine(bench, device, products, copy_bytes)
    for sentences in together:
        yield from _training(bench, device, products, sentences)
    for sentences in together:
        yield from _searching(bench, device, products, sentences)


class _Done:
    """A work, until the device has done it."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work, self._device = work, device

    def __call__(self) -> None:
        self._work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _machine(
    bench: Bench, device: torch.device, products: dict[str, Product], copy_bytes: int
) -> Iterator[Figure]:
    source = torch.ones(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    works: dict[str, Work] = {**products, "copy": lambda: target.copy_(source)}
    timings = _take_turns(bench, device, works)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for precision, product in products.items():
        yield rate(
            f"gpu/product/{precision}",
            product.flops / 1e12,
            timings[precision],
            "TFLOP/s",
            f"square matrix product on {name}",
        )
    yield rate(
        "gpu/copy",
        2 * copy_bytes / 1e9,
        timings["copy"],
        "GB/s",
        f"read and written on {name}, {copy_bytes >> 20} MiB copied",
    )


def _training(
    bench: Bench, device: torch.device, products: dict[str, Product], sentences: int
) -> Iterator[Figure]:
    case = _of_sentences(bench.large, sentences)
    for precision, product in products.items():
        updates = Updates(case, precision, NUM_UPDATES, device)
        timings = _take_turns(bench, device, {"ours": updates, "product": product})
        num_src = sum(int(batch.src_lengths.sum()) for batch in updates.batches)
        num_pairs = sum(len(batch.src) for batch in updates.batches)
        yield rate(
            f"gpu/train/{sentences}/{precision}",
            num_src + updates.num_tgt_tokens,
            timings["ours"],
            "src + tgt tokens/s",
            f"the {case.name} model, {case.lengths} lengths, {num_pairs / NUM_UPDATES:.0f} pairs "
            "an update",
            _of_peak(updates.flops, timings, product, precision),
        )


def _searching(
    bench: Bench, device: torch.device, products: dict[str, Product], sentences: int
) -> Iterator[Figure]:
    case = bench.large
    sources = sources_of(case, sentences)
    for precision in SEARCHED:
        model = fresh_model(case)
        flops = {beam: flops_of_search(model, sources, beam) for beam in BEAMS}
        model = quantise_model(model, precision).to(device)
        for beam in BEAMS:
            work = Search(model, sources, cut_at_sources(case, beam), sentences, device)
            product = products[precision]
            timings = _take_turns(bench, device, {"ours": work, "product": product})
            yield rate(
                f"gpu/search/{sentences}/{precision}/beam {beam}",
                work.num_tokens,
                timings["ours"],
                "tgt tokens/s",
                f"{len(sources)} sentences, the {case.name} model, tokens of the best hypotheses",
                _of_peak(flops[beam], timings, product, precision),
            )


def _of_sentences(case: Case, sentences: int) -> Case:
    """In updates of about that many pairs, made whole."""
    longer = np.maximum(case.shards.src_lengths, case.shards.tgt_lengths) + 1  # EOS
    size = {"max_tokens": round(sentences * longer.mean()), "micro_batches": 1}
    batching = case.experiment.batching.model_copy(update=size)
    return replace(case, experiment=case.experiment.model_copy(update={"batching": batching}))


def _take_turns(bench: Bench, device: torch.device, works: dict[str, Work]) -> dict[str, Timing]:
    done = {name: _Done(work, device) for name, work in works.items()}
    return take_turns(done, bench.seconds)


def _of_peak(flops: float, timings: dict[str, Timing], product: Product, precision: str) -> Ratio:
    peak = product.flops / timings["product"].wall_s
    return flops / timings["ours"].wall_s / peak, f"the {precision} product"
