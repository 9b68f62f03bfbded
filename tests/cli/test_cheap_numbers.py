"""`--precision` of `nmt translate` and `nmt export`: int8 and bf16."""

from pathlib import Path

import pytest
from tiny_calls import TEXT, Nmt, translated

BEST = "runs/tiny/checkpoints/update-00000060"


def weights_of(folder: str) -> Path:
    return Path(folder, "weights.safetensors")


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_bundle_in_cheap_numbers_translates_in_them_and_says_so(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, P11: the dev BLEU was that of other numbers."""
    monkeypatch.setattr("nmt.checkpoint.format.MIN_WEIGHTS", 1)
    line = f"small: update 60, {precision} weights, its dev BLEU is not known\n"
    assert nmt(f"export runs/tiny -o small --precision {precision}").err == line
    assert weights_of("small").stat().st_size < 0.6 * weights_of(f"{BEST}").stat().st_size
    built = []
    monkeypatch.setattr(
        "nmt.model.quantise.quantise_model", lambda model, numbers: built.append(numbers) or model
    )
    answer = nmt("translate small", TEXT.encode())
    assert answer.err.startswith(line)
    assert [text.split(" ", 1)[1] for text in answer.out.splitlines()][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]
    nmt("translate small --precision fp32", TEXT.encode())
    assert built == [precision, "fp32"]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_cheap_numbers_translate_a_model_that_was_trained(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.model.quantise.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    ours, cheap = translated(nmt, text), translated(nmt, text, f"--precision {precision}")
    assert sum(one == other for one, other in zip(ours, cheap, strict=True)) > 90


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_changes_no_byte_in_int8_either(
    batch: int, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7."""
    monkeypatch.setattr("nmt.model.quantise.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    options = "--precision int8"
    assert translated(nmt, text, f"{options} --batch {batch}") == translated(nmt, text, options)
