"""Errors in experiment and cluster files and overrides."""

from collections.abc import Callable

import pytest
from error_cases import ErrorCase, ids, replaced

EXPERIMENTS = [
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: model.widht is not a setting; did you mean model.width?",
        {"tiny.yaml": replaced("width: 32", "widht: 32")},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: model.width is 'wide', but it must be an integer",
        {"tiny.yaml": replaced("width: 32", "width: wide")},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: batching.max_length is 900, but a micro-batch holds at most "
        "batching.max_tokens (512)",
        {"tiny.yaml": replaced("max_length: 32", "max_length: 900")},
    ),
    ErrorCase(
        "train tiny.yaml batching.max_length=900",
        "tiny.yaml and command line: batching.max_length is 900, but a micro-batch holds at "
        "most batching.max_tokens (512)",
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml, line 6: not valid YAML: did not find expected ',' or ']'",
        {"tiny.yaml": replaced("root: raw", "root: [raw")},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: corpus 'dev' needs either src and tgt, or one of tsv, tmx, parquet, jsonl, "
        "zip: it has tgt",
        {"tiny.yaml": replaced("src: dev.en, ", "")},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: corpus is missing; see `nmt config explain corpus`",
        {"tiny.yaml": b"name: tiny\n"},
    ),
    ErrorCase(
        "train tiny.yaml",
        'tiny.yaml: expected a mapping (`key: value` per line), but it is [{"name": "tiny"}]',
        {"tiny.yaml": b"- name: tiny\n"},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: expected a mapping (`key: value` per line), but it is empty",
        {"tiny.yaml": b""},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml: byte 8 is not UTF-8; save the file as UTF-8",
        {"tiny.yaml": b"name: t\xefny\n"},
    ),
    ErrorCase(
        "train tiny.yaml",
        "tiny.yaml, line 2: duplicate key name; remove one",
        {"tiny.yaml": replaced("name: tiny\n", "name: tiny\nname: small\n")},
    ),
    ErrorCase(
        "train tiny.yml",
        "tiny.yml: file not found; the files that come with nmt are in configs/",
    ),
    ErrorCase("train raw", "raw: this is a directory; give a YAML file"),
    ErrorCase(
        "train tiny.yaml runs/cluster.yaml",
        "runs/cluster.yaml: one file too many; use --cluster runs/cluster.yaml",
    ),
    ErrorCase(
        "train tiny.yaml model.width",
        "'model.width' is not an override: use section.key=value",
    ),
    ErrorCase(
        "train tiny.yaml training.precison=bf16",
        "command line: training.precison is not a setting; did you mean training.precision?",
    ),
    ErrorCase(
        "train tiny.yaml training.precision=fp8",
        "command line: training.precision is 'fp8', but it must be 'fp32', 'tf32', 'bf16', "
        "'fp16' or 'auto'",
    ),
    ErrorCase(
        "train tiny.yaml corpus.tests.2.src=x",
        "'corpus.tests.2.src=x': '2' is not an index of a list of 2 (0 is the first)",
    ),
    ErrorCase(
        "train tiny.yaml training.betas.1.x=0",
        "'training.betas.1.x=0': item 1 is not a section",
        {"tiny.yaml": replaced("training:\n", "training:\n  betas: [0.9, 0.98]\n")},
    ),
    ErrorCase(
        "train tiny.yaml corpus.tgt=no",
        "command line: corpus.tgt is false, but it must be text: quote it",
    ),
    ErrorCase(
        "train tiny.yaml corpus.prepared=s3://bucket/tiny",
        "tiny.yaml and command line: corpus.prepared is s3://bucket/tiny, but only runs can be "
        "in an object store: use a directory that every host sees",
    ),
    ErrorCase(
        "train tiny.yaml name=../tiny",
        "command line: name is '../tiny', but it must be 1 to 100 of A-Z a-z 0-9 . _ - and "
        "start with a letter or digit",
    ),
    ErrorCase(
        "config show tiny.yaml model.heads=[",
        "'model.heads=[': the value is not valid YAML: quote it",
    ),
    ErrorCase(
        "config explain training.patients",
        "'training.patients' is not a setting; did you mean training.patience?",
    ),
]
CLUSTERS = [
    ErrorCase(
        "train tiny.yaml --cluster wrong.yaml",
        "wrong.yaml: worker is not a setting; did you mean workers?",
        {"wrong.yaml": b"worker: 2\n"},
    ),
    ErrorCase(
        "train tiny.yaml cluster.storage=gs://bucket/runs",
        "command line: cluster.storage is gs://bucket/runs, but it must be a directory or "
        "s3://BUCKET/PATH (S3 or compatible)",
    ),
    ErrorCase(
        "train tiny.yaml cluster.storage=s3:///runs",
        "command line: cluster.storage is s3:///runs, but the bucket is missing: s3://BUCKET/PATH",
    ),
    ErrorCase(
        "train tiny.yaml cluster.storage=s3://AKIA:s3cr3t@bucket/runs",
        "command line: cluster.storage is s3://***@bucket/runs, but addresses are logged: "
        "remove the secret and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
        "environment",
    ),
    ErrorCase(
        "train tiny.yaml cluster.storage=s3://bucket/runs?endpoint=host:9000 cluster.scratch=new",
        "s3://bucket/runs/tiny: Unexpected query parameter in S3 URI: 'endpoint'",
    ),
    ErrorCase(
        "train tiny.yaml cluster.storage=s3://bucket/runs cluster.scratch=tiny.yaml",
        "cluster.scratch is tiny.yaml/s3/bucket/runs/tiny, but it is not writable: use another "
        "directory",
    ),
    ErrorCase(
        "train tiny.yaml cluster.validation=tasks",
        "command line: cluster.validation is 'tasks', but it must be 'shared' or 'task'",
    ),
    ErrorCase(
        "train tiny.yaml cluster.validations_behind=0",
        "command line: cluster.validations_behind is 0, but it must be 1 or more",
    ),
    ErrorCase(
        "translate gs://bucket/runs/tiny",
        "the store is gs://bucket/runs/tiny, but it must be a directory or s3://BUCKET/PATH (S3 "
        "or compatible)",
    ),
    ErrorCase(
        "train tiny.yaml cluster.workers.min=3",
        "command line: cluster.workers.min is 3, but it must be cluster.workers.max (1) or less",
    ),
    ErrorCase(
        "train tiny.yaml cluster.workers.max=17",
        "17 workers cannot share updates of 2 micro-batches: use at most 2 workers, or set "
        "batching.micro_batches=17 or more (a larger update)",
    ),
    ErrorCase(
        "train tiny.yaml cluster.hang_timeout_s=-1",
        "command line: cluster.hang_timeout_s is -1, but it must be more than 0",
    ),
    ErrorCase(
        "train tiny.yaml cluster.workers=0",
        "command line: cluster.workers is 0, but it must be 1 or more",
    ),
    ErrorCase(
        "train tiny.yaml cluster.workers=3",
        "3 workers cannot share updates of 2 micro-batches: use at most 2 workers, or set "
        "batching.micro_batches=3 or more (a larger update)",
    ),
    ErrorCase(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny cluster.storage=tiny.yaml",
        "cluster.storage is tiny.yaml/new, but it is not writable: use another directory",
    ),
]

EARLY = [*EXPERIMENTS, *CLUSTERS]


@pytest.mark.parametrize("case", EARLY, ids=ids(EARLY))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
