"""`nmt average` and `nmt export`: bundles made of bundles."""

from pathlib import Path

from tiny_calls import TEXT, Nmt

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints


def test_an_average_translates_and_says_what_it_is(here: Path, nmt: Nmt) -> None:
    """P5, P11."""
    first, second = map(str, list_checkpoints(Path("runs/tiny")))
    line = "mean: the mean of 2 checkpoints, update 60, its dev BLEU is not known\n"
    assert nmt(f"average {first} {second} -o mean").err == line
    answer = nmt("translate mean", TEXT.encode())
    assert answer.err.startswith(line)
    assert len(answer.out.splitlines()) == 3


def test_a_bundle_that_only_translates_gives_the_same_bytes(here: Path, nmt: Nmt) -> None:
    """P5."""
    answer = nmt("export runs/tiny -o small")
    info = load_checkpoint(Path("small")).info
    assert answer.err == (f"small: update 60, dev BLEU {info.bleu:.2f}, {info.bleu_signature}\n")
    names = ["bundle.json", "config.yaml", "tokenizer.json", "weights.safetensors"]
    assert sorted(path.name for path in Path("small").iterdir()) == names
    assert (
        nmt("translate small", TEXT.encode()).out == nmt("translate runs/tiny", TEXT.encode()).out
    )
