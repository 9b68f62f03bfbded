"""Speed on one GPU, relative to matrix products timed in turns.

Times are wall-clock times until the device has finished.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from nmt.bench.decode_speed import Search, limit_to_source_length, search_flops
from nmt.bench.figures import Figure
from nmt.bench.harness import Bench
from nmt.bench.timing import (
    DTYPES,
    MatrixProduct,
    Ratio,
    Timing,
    Work,
    measure_copy,
    rate_figure,
    synchronize,
    take_turns,
)
from nmt.bench.workloads import Updates, Workload
from nmt.model.quantise import Precision, quantise_model

TRAIN_DTYPES = {**DTYPES, "fp16": torch.float16}
SEARCH_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BEAMS = (1, 5)
SIDE = 4096
"""Rows, inputs and outputs of the product that is the peak."""
COPY_BYTES = 1 << 31
BATCH_SIZES = (128, 512, 1024)
"""Sentences per update, as in NVIDIA's measurements of GNMT, and per search."""
NUM_UPDATES = 4


def measure_gpu(bench: Bench) -> Iterator[Figure]:
    """Matrix products, training and search on one GPU."""
    if torch.cuda.is_available():
        yield from measure_device(bench, torch.device("cuda"), SIDE, COPY_BYTES, BATCH_SIZES)


def measure_device(
    bench: Bench, device: torch.device, side: int, copy_bytes: int, batch_sizes: tuple[int, ...]
) -> Iterator[Figure]:
    """Measure a device of any kind with products and batches of any size."""
    products = {}
    for precision, dtype in TRAIN_DTYPES.items():
        x, weight = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        products[precision] = MatrixProduct(x, weight, 8)
    timings = _take_turns(bench, device, products)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for precision, product in products.items():
        timing, counts = timings[precision], f"square matrix product on {name}"
        tflops = product.flops / 1e12
        yield rate_figure(f"gpu/product/{precision}", tflops, timing, "TFLOP/s", counts)
    yield measure_copy("gpu/copy", device, copy_bytes, bench.seconds)
    for batch_size in batch_sizes:
        yield from _train(bench, device, products, batch_size)
    for batch_size in batch_sizes:
        yield from _search(bench, device, products, batch_size)


def _train(
    bench: Bench, device: torch.device, products: Mapping[str, MatrixProduct], batch_size: int
) -> Iterator[Figure]:
    workload = with_batch_size(bench.large, batch_size)
    for precision, product in products.items():
        updates = Updates(workload, precision, NUM_UPDATES, device)
        timings = _take_turns(bench, device, {"ours": updates, "product": product})
        num_src = sum(int(batch.src_lengths.sum()) for batch in updates.batches)
        num_pairs = sum(len(batch.src) for batch in updates.batches) / NUM_UPDATES
        counts = f"the {workload.name} model, {workload.lengths} lengths, "
        counts += f"{num_pairs:.0f} pairs per update"
        yield rate_figure(
            f"gpu/train/{batch_size}/{precision}", num_src + updates.num_tgt_tokens,
            timings["ours"], "src + tgt tokens/s", counts,
            _of_peak(updates.flops, timings, product, precision),
        )  # fmt: skip


def _search(
    bench: Bench, device: torch.device, products: Mapping[str, MatrixProduct], batch_size: int
) -> Iterator[Figure]:
    workload = bench.large
    sources = workload.first_sources(batch_size)
    for precision in SEARCH_PRECISIONS:
        model = workload.untrained_model()
        flops = {beam: search_flops(model, sources, beam) for beam in BEAMS}
        model = quantise_model(model, precision).to(device)
        for beam in BEAMS:
            decoding = limit_to_source_length(workload, beam)
            ours = Search(model, sources, decoding, batch_size, device)
            product = products[precision]
            timings = _take_turns(bench, device, {"ours": ours, "product": product})
            counts = f"{len(sources)} sentences, the {workload.name} model, "
            counts += "tokens of the best hypotheses"
            yield rate_figure(
                f"gpu/search/{batch_size}/{precision}/beam {beam}", ours.num_tokens,
                timings["ours"], "tgt tokens/s", counts,
                _of_peak(flops[beam], timings, product, precision),
            )  # fmt: skip


def with_batch_size(workload: Workload, num_pairs: int) -> Workload:
    """Return the workload in updates of one micro-batch of about that many pairs."""
    longer = np.maximum(workload.shards.src_lengths, workload.shards.tgt_lengths) + 1  # EOS
    max_tokens = round(num_pairs * longer.mean())
    return workload.with_settings("batching", max_tokens=max_tokens, micro_batches=1)


def _take_turns(bench: Bench, device: torch.device, works: Mapping[str, Work]) -> dict[str, Timing]:
    def wait_for(work: Work) -> Work:
        def run() -> None:
            work()
            synchronize(device)

        return run

    return take_turns({name: wait_for(work) for name, work in works.items()}, bench.seconds)


def _of_peak(
    flops: float, timings: Mapping[str, Timing], product: MatrixProduct, precision: str
) -> Ratio:
    peak = product.flops / timings["product"].wall_s
    return flops / timings["ours"].wall_s / peak, f"the {precision} product"
