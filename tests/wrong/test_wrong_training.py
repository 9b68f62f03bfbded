"""What a person can get wrong when training is begun, planned or measured (P9)."""

from collections.abc import Callable

import pytest
from wrong_inputs import RAW, Wrong, ids

TRAINING = [
    Wrong(
        "train tiny.yaml",
        "prepared/tiny: no prepared corpus here (manifest.json is missing); run `nmt prepare` "
        "with this experiment first",
        RAW,
    ),
    Wrong(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny corpus.subword.kind=unigram",
        'prepared/tiny: prepared with corpus.subword.kind "bpe", but the experiment has '
        '"unigram"; set it back, or remove the folder and run `nmt prepare` again',
    ),
    Wrong(
        "train tiny.yaml",
        "prepared/tiny/tokenizer.json: missing, but the manifest lists {size} bytes; remove the "
        "folder and run `nmt prepare` again",
        {"prepared/tiny/tokenizer.json": None},
    ),
    Wrong(
        "train tiny.yaml model.width=64",
        "model.width is 64, but the run in runs/tiny was begun with 32: give the experiment "
        "another name, or set model.width=32 to go on with it",
    ),
    Wrong(
        "train tiny.yaml preset=auto corpus.prepared=nowhere",
        "nowhere: no prepared corpus here (manifest.json is missing); run `nmt prepare` with this "
        "experiment first",
    ),
    Wrong(
        "train tiny.yaml preset=large",
        "command line: preset is 'large', but it must be 'none' or 'auto'",
    ),
]
BENCH = [
    Wrong(
        "plan tiny.yaml",
        "CLUSTER is missing; `nmt plan --help` tells what there is",
    ),
    Wrong(
        "plan tiny.yaml here.yaml",
        "here.yaml: there is no such file; configs/ holds the ones that come with nmt",
    ),
    Wrong(
        "plan tiny.yaml c.yaml",
        "prepared/tiny: no prepared corpus here (manifest.json is missing); run `nmt prepare` with "
        "this experiment first",
        {"c.yaml": b"workers: 2", "prepared": None},
    ),
    Wrong(
        "plan tiny.yaml c.yaml --workers-per-node 3",
        "3 workers cannot share updates of 2 micro-batches: ask for at most 2 workers, or set "
        "batching.micro_batches=3 or more (a larger update)",
        {"c.yaml": b"workers: 2"},
    ),
    Wrong(
        "plan tiny.yaml c.yaml --link 0",
        "--link is 0, but it must be a number above 0",
        {"c.yaml": b"workers: 2"},
    ),
    Wrong(
        "bench trian",
        "'trian' is not a part of the benchmark; known: lstm, batching, update, train, peer, "
        "memory, decode, precision, checkpoint, workers, gpu, startup",
    ),
    Wrong(
        "bench compare before.json",
        "compare needs two reports, and was given 1: nmt bench compare BEFORE.json AFTER.json",
    ),
    Wrong(
        "bench compare before.json after.json",
        "before.json: there is no such file; `nmt bench -o before.json` writes one",
    ),
    Wrong(
        "bench compare tiny.yaml tiny.yaml",
        "tiny.yaml: not a report of `nmt bench`; run `nmt bench` again",
    ),
    Wrong(
        "bench batching",
        "configs/multi30k_en_de.yaml: there is no such file; configs/ holds the ones that come "
        "with nmt",
    ),
]

EARLY = [*TRAINING, *BENCH]


@pytest.mark.parametrize("wrong", EARLY, ids=ids(EARLY))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong, refused: Callable[[Wrong], None]
) -> None:
    """P9."""
    refused(wrong)
