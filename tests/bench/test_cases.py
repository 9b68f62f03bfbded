"""What is trained in the benchmark."""

from pathlib import Path

from nmt.bench import cases


def test_a_case_is_in_numbers_that_are_settled(tmp_path: Path) -> None:
    """configs/multi30k_en_de.yaml leaves them open, and parts of the benchmark take them as is."""
    assert cases.multi30k(tmp_path).experiment.training.precision in ("fp32", "bf16")
