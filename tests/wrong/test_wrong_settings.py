"""What a person can get wrong in an experiment or a cluster file (P9)."""

from collections.abc import Callable

import pytest
from wrong_inputs import Wrong, ids, instead

EXPERIMENTS = [
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: model.widht is not a setting; did you mean model.width?",
        {"tiny.yaml": instead("width: 32", "widht: 32")},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: model.width is 'wide', but it must be a whole number",
        {"tiny.yaml": instead("width: 32", "width: wide")},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: batching.max_length is 900, but no micro-batch could hold such a pair: "
        "set batching.max_tokens (512) or less",
        {"tiny.yaml": instead("max_length: 32", "max_length: 900")},
    ),
    Wrong(
        "train tiny.yaml batching.max_length=900",
        "tiny.yaml and command line: batching.max_length is 900, but no micro-batch could hold "
        "such a pair: set batching.max_tokens (512) or less",
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml, line 4: not valid YAML: expected ',' or ']', but got ':'",
        {"tiny.yaml": instead("root: raw", "root: [raw")},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: corpus 'dev' needs either both src and tgt or tsv alone: src is '', "
        "tgt is 'dev.de', tsv is ''",
        {"tiny.yaml": instead("src: dev.en, ", "")},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: corpus is missing; `nmt config explain corpus` tells what it is",
        {"tiny.yaml": b"name: tiny\n"},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: settings were expected, `key: value` line by line, but it is "
        '[{"name": "tiny"}]',
        {"tiny.yaml": b"- name: tiny\n"},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: settings were expected, `key: value` line by line, but it is empty",
        {"tiny.yaml": b""},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml: byte 8 is not UTF-8; save the file as UTF-8 text",
        {"tiny.yaml": b"name: t\xefny\n"},
    ),
    Wrong(
        "train tiny.yaml",
        "tiny.yaml, line 2: name stands twice in its section; keep one of them",
        {"tiny.yaml": instead("name: tiny\n", "name: tiny\nname: small\n")},
    ),
    Wrong(
        "train tiny.yml",
        "tiny.yml: there is no such file; configs/ holds the ones that come with nmt",
    ),
    Wrong("train raw", "raw is a folder; name a YAML file in it"),
    Wrong(
        "train tiny.yaml runs/cluster.yaml",
        "runs/cluster.yaml is one file too many: write --cluster runs/cluster.yaml",
    ),
    Wrong(
        "train tiny.yaml model.width",
        "'model.width' is not an override: write section.key=value",
    ),
    Wrong(
        "train tiny.yaml training.precison=bf16",
        "command line: training.precison is not a setting; did you mean training.precision?",
    ),
    Wrong(
        "train tiny.yaml training.precision=fp8",
        "command line: training.precision is 'fp8', but it must be 'fp32', 'bf16', 'fp16' or "
        "'auto'",
    ),
    Wrong(
        "train tiny.yaml corpus.tests.2.src=x",
        "'corpus.tests.2.src=x': '2' is not an item of a list of 2; items count from 0",
    ),
    Wrong(
        "train tiny.yaml training.betas.1.x=0",
        "'training.betas.1.x=0': item 1 has no settings in it",
        {"tiny.yaml": instead("training:\n", "training:\n  betas: [0.9, 0.98]\n")},
    ),
    Wrong(
        "train tiny.yaml corpus.tgt=no",
        "command line: corpus.tgt is false, but it must be text: put it in quotes",
    ),
    Wrong(
        "train tiny.yaml corpus.prepared=s3://bucket/tiny",
        "tiny.yaml and command line: corpus.prepared is s3://bucket/tiny, but only runs are kept "
        "in object stores: name a folder that every host sees",
    ),
    Wrong(
        "train tiny.yaml name=../tiny",
        "command line: name is '../tiny', but it must be 1 to 100 of A-Z a-z 0-9 . _ - and begin "
        "with a letter or a digit",
    ),
    Wrong(
        "config show tiny.yaml model.heads=[",
        "'model.heads=[': the value is not valid YAML; quote it",
    ),
    Wrong(
        "config explain training.patients",
        "'training.patients' is not a setting; did you mean training.patience?",
    ),
]
CLUSTERS = [
    Wrong(
        "train tiny.yaml --cluster wrong.yaml",
        "wrong.yaml: worker is not a setting; did you mean workers?",
        {"wrong.yaml": b"worker: 2\n"},
    ),
    Wrong(
        "train tiny.yaml cluster.storage=gs://bucket/runs",
        "command line: cluster.storage is gs://bucket/runs, but it must be a folder, or "
        "s3://BUCKET/FOLDER: a store that speaks S3",
    ),
    Wrong(
        "train tiny.yaml cluster.storage=s3:///runs",
        "command line: cluster.storage is s3:///runs, but it names no bucket: s3://BUCKET/FOLDER",
    ),
    Wrong(
        "train tiny.yaml cluster.storage=s3://AKIA:s3cr3t@bucket/runs",
        "command line: cluster.storage is s3://***@bucket/runs, but addresses are printed and "
        "logged: leave the secret out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where "
        "it runs",
    ),
    Wrong(
        "train tiny.yaml cluster.storage=s3://bucket/runs?endpoint=host:9000 cluster.scratch=new",
        "s3://bucket/runs/tiny: Unexpected query parameter in S3 URI: 'endpoint'",
    ),
    Wrong(
        "train tiny.yaml cluster.storage=s3://bucket/runs cluster.scratch=tiny.yaml",
        "cluster.scratch is tiny.yaml/s3/bucket/runs/tiny, but it cannot be written to: name "
        "another folder",
    ),
    Wrong(
        "train tiny.yaml cluster.validation=tasks",
        "command line: cluster.validation is 'tasks', but it must be 'shared' or 'task'",
    ),
    Wrong(
        "train tiny.yaml cluster.validations_behind=0",
        "command line: cluster.validations_behind is 0, but it must be 1 or more",
    ),
    Wrong(
        "translate gs://bucket/runs/tiny",
        "the store is gs://bucket/runs/tiny, but it must be a folder, or s3://BUCKET/FOLDER: a "
        "store that speaks S3",
    ),
    Wrong(
        "train tiny.yaml cluster.workers.min=3",
        "command line: cluster.workers.min is 3, but it must be cluster.workers.max (1) or less",
    ),
    Wrong(
        "train tiny.yaml cluster.workers.max=17",
        "17 workers cannot share updates of 2 micro-batches: ask for at most 2 workers, or set "
        "batching.micro_batches=17 or more (a larger update)",
    ),
    Wrong(
        "train tiny.yaml cluster.hang_timeout_s=-1",
        "command line: cluster.hang_timeout_s is -1, but it must be more than 0",
    ),
    Wrong(
        "train tiny.yaml cluster.workers=0",
        "command line: cluster.workers is 0, but it must be 1 or more",
    ),
    Wrong(
        "train tiny.yaml cluster.workers=3",
        "3 workers cannot share updates of 2 micro-batches: ask for at most 2 workers, or set "
        "batching.micro_batches=3 or more (a larger update)",
    ),
    Wrong(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny cluster.storage=tiny.yaml",
        "cluster.storage is tiny.yaml/new, but it cannot be written to: name another folder",
    ),
]

EARLY = [*EXPERIMENTS, *CLUSTERS]


@pytest.mark.parametrize("wrong", EARLY, ids=ids(EARLY))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong, refused: Callable[[Wrong], None]
) -> None:
    """P9."""
    refused(wrong)
