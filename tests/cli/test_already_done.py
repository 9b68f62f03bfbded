"""`nmt prepare` and `nmt train`, where all is done: they say so without a cluster."""

from pathlib import Path

from tiny_calls import Nmt


def test_a_run_that_is_finished_says_so_without_a_cluster(
    here: Path, nmt: Nmt, no_ray: None
) -> None:
    """P4."""
    answer = nmt("train tiny.yaml")
    assert answer.status == 0
    assert answer.err.splitlines() == [
        f"the run in {here}/runs/tiny is finished: 60 of 60 updates; increase training.updates "
        "to train longer, or give the experiment another name",
        "to score it on its test sets: nmt evaluate runs/tiny",
    ]


def test_a_corpus_that_is_prepared_says_so_without_a_cluster(
    here: Path, nmt: Nmt, no_ray: None
) -> None:
    answer = nmt("prepare tiny.yaml")
    assert answer.status == 0
    assert answer.err.splitlines()[:2] == [
        f"{here}/prepared/tiny is prepared already",
        "train: 100 pairs read = 100 kept + 0 dropped; normalised: none; 16 kept are also in the "
        "dev or a test set",
    ]
