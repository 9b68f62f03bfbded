"""Speed on one GPU, relative to matrix products timed in turns.

Times are wall-clock times until the device has finished.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from nmt.bench.decode_speed import Search, limit_to_source_length, search_flops
from nmt.bench.figures import Figure
from nmt.bench.timing import DTYPES, MatrixProduct, Ratio, Timing, Work, rate_figure, take_turns
from nmt.bench.workloads import Bench, Updates, Workload
from nmt.config.decoding import Precision
from nmt.model.gpu_precision import set_product_precision
from nmt.model.quantise import quantise_model

TRAIN_DTYPES = {**DTYPES, "fp16": torch.float16, "tf32": torch.float32}
SEARCH_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BEAMS = (1, 5)
SIDE = 4096
"""Rows, inputs and outputs of the product that is the peak."""
BATCH_SIZES = (128, 512, 1024)
"""Sentences per update, as in NVIDIA's measurements of GNMT, and per search."""
NUM_UPDATES = 4


def measure_gpu(bench: Bench) -> Iterator[Figure]:
    """Matrix products, training and search on one GPU."""
    if torch.cuda.is_available():
        yield from measure_device(bench, torch.device("cuda"), SIDE, BATCH_SIZES)


def measure_device(
    bench: Bench, device: torch.device, side: int, batch_sizes: tuple[int, ...]
) -> Iterator[Figure]:
    """Measure a device of any kind with products and batches of any size."""
    products = {}
    for precision, dtype in TRAIN_DTYPES.items():
        x, weight = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        products[precision] = MatrixProduct(x, weight, 8)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for precision, product in products.items():
        set_product_precision(precision, device)
        timing = take_turns({precision: product}, bench.seconds, device=device)[precision]
        counts = f"square matrix product on {name}"
        tflops = product.flops / 1e12
        yield rate_figure(f"gpu/product/{precision}", tflops, timing, "TFLOP/s", counts)

    def beside_product(work: Work, flops: float, precision: str) -> tuple[Timing, Ratio]:
        set_product_precision(precision, device)
        works: dict[str, Work] = {"ours": work, "product": products[precision]}
        timings = take_turns(works, bench.seconds, device=device)
        peak = products[precision].flops / timings["product"].wall_s
        share = flops / timings["ours"].wall_s / peak
        return timings["ours"], (share, f"the {precision} product")

    # All of training first: a model that is searched needs no optimizer state in memory.
    for batch_size in batch_sizes:
        workload = with_batch_size(bench.large, batch_size)
        for precision in TRAIN_DTYPES:
            updates = Updates(workload, precision, NUM_UPDATES, device)
            num_src = sum(int(batch.src_lengths.sum()) for batch in updates.batches)
            num_pairs = sum(len(batch.src) for batch in updates.batches) / NUM_UPDATES
            counts = f"the {workload.name} model, {workload.lengths} lengths, "
            counts += f"{num_pairs:.0f} pairs per update"
            name, num_tokens = f"gpu/train/{batch_size}/{precision}", updates.num_tgt_tokens
            timing, ratio = beside_product(updates, updates.flops, precision)
            unit = "src + tgt tokens/s"
            yield rate_figure(name, num_src + num_tokens, timing, unit, counts, ratio)
    for batch_size, precision in itertools.product(batch_sizes, SEARCH_PRECISIONS):
        sources = bench.large.first_sources(batch_size)
        model = quantise_model(bench.large.untrained_model(), precision).to(device)
        for beam in BEAMS:
            decoding = limit_to_source_length(bench.large, beam)
            ours = Search(model, sources, decoding, batch_size, device)
            counts = f"{len(sources)} sentences, the {bench.large.name} model, "
            counts += "tokens of the best hypotheses"
            timing, ratio = beside_product(ours, search_flops(model, sources, beam), precision)
            name, unit = f"gpu/search/{batch_size}/{precision}/beam {beam}", "tgt tokens/s"
            yield rate_figure(name, ours.num_tokens, timing, unit, counts, ratio)


def with_batch_size(workload: Workload, num_pairs: int) -> Workload:
    """Return the workload in updates of one micro-batch of about that many pairs."""
    longer = np.maximum(workload.shards.src_lengths, workload.shards.tgt_lengths) + 1  # EOS
    max_tokens = round(num_pairs * longer.mean())
    return workload.with_settings("batching", max_tokens=max_tokens, micro_batches=1)
