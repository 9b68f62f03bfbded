"""Errors of `nmt train`, `nmt plan` and `nmt bench`."""

from collections.abc import Callable

import pytest
from error_cases import RAW, ErrorCase, ids

TRAINING = [
    ErrorCase(
        "train tiny.yaml",
        "raw/dev.de: there is no such file; check corpus.root and the names in the experiment",
        RAW | {"raw/dev.de": None},
    ),
    ErrorCase(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny corpus.subword.kind=unigram",
        'prepared/tiny: prepared with corpus.subword.kind "bpe", but the experiment has '
        '"unigram"; set it back, or remove the folder and run `nmt prepare` again',
    ),
    ErrorCase(
        "train tiny.yaml",
        "prepared/tiny/tokenizer.json: missing, but the manifest lists {size} bytes; remove the "
        "folder and run `nmt prepare` again",
        {"prepared/tiny/tokenizer.json": None},
    ),
    ErrorCase(
        "train tiny.yaml model.width=64",
        "model.width=64, but the run in runs/tiny was started with model.width=32: set it back to "
        "resume, or give the experiment another name",
    ),
    ErrorCase(
        "train tiny.yaml model.width=64 corpus.prepared=nowhere",
        "model.width=64, but the run in runs/tiny was started with model.width=32: set it back to "
        "resume, or give the experiment another name",
    ),
    ErrorCase(
        "train tiny.yaml preset=auto corpus.prepared=nowhere corpus.tests.0.src=none",
        "raw/none: there is no such file; check corpus.root and the names in the experiment",
    ),
    ErrorCase(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny training.init_from=nowhere",
        "training.init_from: nowhere: no such directory; name a run or one of its checkpoints",
    ),
    ErrorCase(
        "train tiny.yaml name=new training.init_from=runs/tiny model.heads=4",
        "model.heads is 4, but the source runs/tiny/checkpoints/update-00000060 has 2: use the "
        "same",
    ),
    ErrorCase(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny training.freeze=[encodr.*]",
        "training.freeze is encodr.*, but it matches no parameter; the parts of the model are "
        "encoder.*, decoder.*, src_embedding.*, tgt_embedding.*, output_layer.*",
    ),
    ErrorCase(
        "train tiny.yaml training.init_optimizer=true",
        "tiny.yaml and command line: training.init_optimizer is true, but training.init_from is "
        "empty: there is no optimizer state to take",
    ),
    ErrorCase(
        "train tiny.yaml training.init_share=0.2",
        "tiny.yaml and command line: training.init_share is 0.2, but it needs training.init_from, "
        "and an average: training.ema_decay above 0",
    ),
    ErrorCase(
        "train tiny.yaml training.init_from=runs/tiny",
        'training.init_from="runs/tiny", but the run in runs/tiny was started with '
        'training.init_from="": set it back to resume, or give the experiment another name',
    ),
    ErrorCase(
        "train tiny.yaml preset=large",
        "command line: preset is 'large', but it must be 'none' or 'auto'",
    ),
]
BENCH = [
    ErrorCase(
        "plan tiny.yaml",
        "Missing argument 'CLUSTER'. See `nmt plan --help`.",
    ),
    ErrorCase(
        "plan tiny.yaml here.yaml",
        "here.yaml: file not found; the files that come with nmt are in configs/",
    ),
    ErrorCase(
        "plan tiny.yaml c.yaml",
        "prepared/tiny: no prepared corpus here (manifest.json is missing); run `nmt prepare` with "
        "this experiment first",
        {"c.yaml": b"workers: 2", "prepared": None},
    ),
    ErrorCase("plan tiny.yaml c.yaml d.yaml", "d.yaml: one file too many; remove it"),
    ErrorCase(
        "plan tiny.yaml c.yaml --workers-per-node 3",
        "3 workers cannot share updates of 2 micro-batches: use at most 2 workers, or set "
        "batching.micro_batches=3 or more (a larger update)",
        {"c.yaml": b"workers: 2"},
    ),
    ErrorCase(
        "plan tiny.yaml c.yaml --link 1e-300",
        "Invalid value for '--link': 1e-300 is not in the range 1e-06<=x<=1000000.0. See `nmt plan "
        "--help`.",
        {"c.yaml": b"workers: 2"},
    ),
    ErrorCase(
        "bench trian",
        "unknown benchmark part 'trian'; choose from update, train, peer, sustained, memory, "
        "decode, workers, gpu, startup",
    ),
    ErrorCase(
        "bench compare before.json",
        "compare takes two reports, got 1: nmt bench compare BEFORE.json AFTER.json",
    ),
    ErrorCase(
        "bench compare before.json after.json",
        "before.json: file not found; `nmt bench -o before.json` writes one",
    ),
    ErrorCase(
        "bench compare tiny.yaml tiny.yaml",
        "tiny.yaml: not a report of `nmt bench`; run `nmt bench` again",
    ),
    ErrorCase(
        "bench update",
        "configs/multi30k_en_de.yaml: file not found; the files that come with nmt are in configs/",
    ),
]

EARLY = [*TRAINING, *BENCH]


@pytest.mark.parametrize("case", EARLY, ids=ids(EARLY))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
