"""LSTM layers by themselves, against the peak and against packed sequences."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nmt.bench.bench import Bench, rate, time
from nmt.bench.figures import Figure
from nmt.bench.machine import DTYPES
from nmt.bench.plain import PackedBiLSTM
from nmt.model.lstm import LSTM, BiLSTM, reversal_of

SENTENCES, POSITIONS = 64, 16
"""Of a batch as Multi30k has it."""
WIDTHS = (128, 256, 512)


def measure(bench: Bench) -> Iterator[Figure]:
    """One layer forward and backward, at each width in each precision, and two-way layers."""
    layers = {width: LSTM(width, width) for width in WIDTHS}
    works = {
        f"{width}/{precision}": _Layer(layers[width], width, precision)
        for width in WIDTHS
        for precision in DTYPES
    }
    turns = bench.take_turns(works)
    for name, timing in turns.timings.items():
        width, precision = name.split("/")
        flops = 3 * 2 * 8 * int(width) ** 2 * SENTENCES * POSITIONS
        yield rate(
            f"lstm/{name}",
            flops / 1e9,
            timing,
            "GFLOP/s",
            f"one layer, {SENTENCES} x {POSITIONS} positions, forward and backward",
            turns.of_peak(flops, name, precision),
        )
    yield from _two_way(bench, WIDTHS[-1])


def _two_way(bench: Bench, width: int) -> Iterator[Figure]:
    ours = BiLSTM(width, width // 2)
    lengths = torch.full((SENTENCES,), POSITIONS)
    lengths[::4] -= 4  # 94 % of positions are real
    turns = bench.take_turns(
        {
            "ours": _TwoWay(ours, width, lengths),
            "packed": _TwoWay(PackedBiLSTM(ours), width, lengths),
        },
        share=0.5,
    )
    gain = turns["packed"].cpu_s / turns["ours"].cpu_s
    yield time(
        f"lstm/{width}/two-way",
        turns["ours"],
        f"both directions, fp32, {lengths.sum()} real of {lengths.numel() * POSITIONS} positions",
        (gain, "the speed of a packed sequence"),
    )


class _Layer:
    def __init__(self, layer: LSTM, width: int, precision: str) -> None:
        self._layer, self._dtype = layer, DTYPES[precision]
        self._x = torch.randn(SENTENCES, POSITIONS, width, requires_grad=True)

    def __call__(self) -> None:
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            out = self._layer(self._x)
        out.backward(torch.ones_like(out))
        self._layer.zero_grad()


class _TwoWay:
    def __init__(self, layer: BiLSTM | PackedBiLSTM, width: int, lengths: Tensor) -> None:
        self._layer, self._reversal = layer, reversal_of(lengths, POSITIONS)
        self._x = torch.randn(SENTENCES, POSITIONS, width, requires_grad=True)

    def __call__(self) -> None:
        out = self._layer(self._x, self._reversal)
        out.backward(torch.ones_like(out))
        self._layer.zero_grad()
