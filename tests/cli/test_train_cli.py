"""`nmt prepare` and `nmt train` without work to do; `nmt average` and `nmt export`."""

import fcntl
from pathlib import Path

import pytest
from cli_calls import TEXT, Nmt

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.corpus.folder_lock import lock_shared

BEST = "runs/tiny/checkpoints/update-00000060"


def weights_of(folder: str) -> Path:
    return Path(folder, "weights.safetensors")


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_quantised_export_translates_and_is_described(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees): the stored dev BLEU is of other weights."""
    monkeypatch.setattr("nmt.checkpoint.tensor_files.MIN_WEIGHTS", 1)
    line = f"small: update 60 | {precision} weights | dev_bleu unknown\n"
    assert nmt(f"export runs/tiny -o small --precision {precision}").err == line
    assert weights_of("small").stat().st_size < 0.6 * weights_of(f"{BEST}").stat().st_size
    answer = nmt("translate small", TEXT.encode())
    assert answer.err.startswith(line)
    assert [text.split(" ", 1)[1] for text in answer.out.splitlines()][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]
    nmt("translate small --precision fp32", TEXT.encode())
    # PyTorch translates in bf16, graphs in the others.
    graphs = {folder.name.partition("-")[0] for folder in Path("small/onnx").iterdir()}
    assert graphs == {precision, "fp32"} - {"bf16"}


def test_finished_run_needs_no_cluster(here: Path, nmt: Nmt, no_ray: None) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    answer = nmt("train tiny.yaml")
    assert answer.status == 0
    assert answer.err.splitlines() == [
        f"the run in {here}/runs/tiny is finished: 60 of 60 updates; increase training.updates "
        "to train longer, or give the experiment another name; with training.updates=120 the "
        "learning rate rises from 2.0e-04 to 1.1e-02 (schedule cosine)",
        "next: nmt evaluate runs/tiny",
    ]


def test_a_second_command_prints_only_that_a_run_is_locked(
    here: Path, nmt: Nmt, no_ray: None
) -> None:
    Path("runs/second").mkdir()
    with Path("runs/second/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 on host\n")
        lock.flush()
        answer = nmt("train tiny.yaml name=second corpus.prepared=prepared/tiny")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: {here}/runs/second: lock file held by another process (process 1 on host); wait for "
        "it to end, or give the experiment another name\n",
    )


def test_prepared_corpus_needs_no_cluster(here: Path, nmt: Nmt, no_ray: None) -> None:
    answer = nmt("prepare tiny.yaml")
    assert answer.status == 0
    head, counts, _, leaks, *_ = answer.err.splitlines()
    assert head == f"{here}/prepared/tiny: already prepared"
    assert counts == "train: 100 pairs read = 100 kept + 0 dropped; normalised: none"
    assert leaks == (
        "warning: train: 16 pairs kept are also in the dev or a test set: scores on it are too "
        "high; remove them from the training text"
    )


def test_force_waits_for_no_run_and_starts_no_cluster(here: Path, nmt: Nmt, no_ray: None) -> None:
    reader = lock_shared(Path("prepared/tiny"))
    assert reader is not None
    with reader:
        answer = nmt("prepare tiny.yaml --force")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: {here}/prepared/tiny: in use by a run or another command; wait for it to finish or "
        "stop it, then run the same command again\n",
    )


def test_prepare_counts_pairs_that_are_too_long(here: Path, nmt: Nmt, no_ray: None) -> None:
    answer = nmt("prepare tiny.yaml batching.max_length=14")
    assert answer.err.splitlines()[-1] == (
        "training leaves out 20 of 100 pairs: longer than batching.max_length (14 tokens)"
    )


def test_average_translates_and_is_described(here: Path, nmt: Nmt) -> None:
    """Self-contained checkpoints, honest numbers (nmt/README.md, Guarantees)."""
    first, second = map(str, list_checkpoints(Path("runs/tiny")))
    line = "mean: average of 2 checkpoints | update 60 | dev_bleu unknown\n"
    assert nmt(f"average {first} {second} -o mean").err == line
    answer = nmt("translate mean", TEXT.encode())
    assert answer.err.startswith(line)
    assert len(answer.out.splitlines()) == 3


def test_exported_model_translates_equally(here: Path, nmt: Nmt) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    answer = nmt("export runs/tiny -o small")
    info = load_checkpoint(Path("small")).info
    assert answer.err == f"small: update 60 | dev_bleu {info.bleu:.2f} {info.bleu_signature}\n"
    names = ["bundle.json", "config.yaml", "tokenizer.json", "weights.safetensors"]
    assert sorted(path.name for path in Path("small").iterdir()) == names
    assert (
        nmt("translate small", TEXT.encode()).out == nmt("translate runs/tiny", TEXT.encode()).out
    )
