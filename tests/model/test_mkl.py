"""Matrix products as batch-invariant translation needs them."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from nmt.decoding.interface import BATCH_MULTIPLE
from nmt.model import mkl


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 6000), (128, 512), (256, 128), (512, 2048)])
def test_row_of_product_is_independent_of_row_count(inputs: int, outputs: int) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees).

    Rows in multiples of BATCH_MULTIPLE, as a search has them.
    """
    x, weight, bias = draw(320, inputs), draw(outputs, inputs), draw(outputs)
    whole = linear(x, weight, bias)
    for rows in (*range(BATCH_MULTIPLE, 44, BATCH_MULTIPLE), 64, 160, 300):
        assert torch.equal(linear(x[:rows].clone(), weight, bias), whole[:rows]), rows


@pytest.mark.parametrize(
    ("vendor", "set_before", "expected"),
    [
        ("GenuineIntel", None, "AUTO,STRICT"),
        ("GenuineIntel", "COMPATIBLE", "COMPATIBLE"),
        ("AuthenticAMD", None, None),
        (None, None, None),
    ],
)
def test_strict_mode_is_set_on_intel_only(
    vendor: str | None,
    set_before: str | None,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "cpuinfo"
    if vendor:
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 6\n")
    monkeypatch.setattr(mkl, "Path", lambda _: file)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    if set_before:
        monkeypatch.setenv("MKL_CBWR", set_before)
    mkl.set_strict_mode()
    assert os.environ.get("MKL_CBWR") == expected
