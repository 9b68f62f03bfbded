"""What a person can get wrong: one line, status 2, nothing printed, nothing written (P9)."""

import contextlib
import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nmt.corpus.work import run_here

Content = bytes | Callable[[bytes], bytes] | None
"""What a file becomes: bytes, a change of those that it has, or None: it is removed."""


@dataclass(frozen=True)
class Wrong:
    """A command in the folder of the tiny model, and what it says after `nmt: `."""

    command: str
    message: str
    files: dict[str, Content] = field(default_factory=dict)
    """Changed before."""
    stdin: bytes = b""


def instead(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old.encode()) == 1
        return data.replace(old.encode(), new.encode())

    return change


def recoded(encoding: str) -> Callable[[bytes], bytes]:
    return lambda data: data.decode().encode(encoding)


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


BEST = "runs/tiny/checkpoints/update-00000060"
EARLIER = "runs/tiny/checkpoints/update-00000030"
OTHER = "use another checkpoint, such as runs/tiny/checkpoints/update-00000030"
RAW: dict[str, Content] = {"prepared": None}

MADE_UP = [
    Wrong(
        "tune runs/tiny --beams 4,wide",
        "--beams is 4,wide, but it must be whole numbers, each 1 or more, like 1,4,8",
    ),
    Wrong(
        "tune runs/tiny --penalties -1",
        "--penalties is -1, but it must be numbers, each 0 or more, like 1,4,8",
    ),
    Wrong(
        "tune runs/tiny",
        "raw/dev.de: there is no such file; check corpus.root and the file's name",
        {"raw/dev.de": None},
    ),
    Wrong(
        "backtranslate runs/tiny nowhere.en bt",
        "nowhere.en: there is no such file; check its name and where you are",
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en bt training.updates=5",
        "the override is 'training.updates=5', but only decoding.KEY=VALUE can be set here",
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en bt decoding.beem=5",
        "command line: decoding.beem is not a setting; did you mean decoding.beam?",
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en nowhere/bt",
        "OUT is nowhere/bt, but there is no folder nowhere: make it first",
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en bt --experiment tiny.yaml",
        "the text is of 'en', but the experiment is about fr and de: its dev and test sets could "
        "not be kept out",
        {"tiny.yaml": instead("root: raw", "src: fr\n  root: raw")},
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en bt",
        "raw/dev.de: there is no such file; check corpus.root and the file's name",
        {"raw/dev.de": None},
    ),
]
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
        "train tiny.yaml training.precision=fp16",
        "command line: training.precision is 'fp16', but it must be 'fp32' or 'bf16'",
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
CORPORA = [
    Wrong(
        "prepare tiny.yaml",
        "raw/train.de: there is no such file; check corpus.root and the names in the experiment",
        RAW | {"raw/train.de": None},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.de, line 1: the file is UTF-16, but UTF-8 is expected; convert it "
        "(`iconv -f UTF-16 -t UTF-8`)",
        RAW | {"raw/train.de": recoded("utf-16")},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.de, line 71: a NUL byte, which is never text; the file is damaged or not "
        "UTF-8: get it again, or delete the NULs (`tr -d '\\000'`) if the lines are whole",
        RAW | {"raw/train.de": instead("14 ein Hund", "14 ein\0Hund")},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.en, line 1: this is gzip data where plain text was expected; give the file a "
        "name that ends in .gz, or unpack it",
        RAW | {"raw/train.en": gzip.compress},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/dev.de, line 3: byte 0xE4 at position 18 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or mend the line",
        RAW | {"raw/dev.de": recoded("latin-1")},
    ),
    Wrong(
        "prepare tiny.yaml",
        "corpus dev: raw/dev.en has 8 lines, but raw/dev.de has 9; line n of one must translate "
        "line n of the other: find where they part, or get both again",
        RAW | {"raw/dev.de": lambda data: data + b"mehr\n"},
    ),
    Wrong(
        "prepare tiny.yaml corpus.prepared=tiny.yaml",
        "corpus.prepared is tiny.yaml, but it cannot be written to: name another folder",
    ),
    Wrong(
        "prepare tiny.yaml corpus.subword.vocab_size=400",
        "prepared/tiny: prepared with corpus.subword.vocab_size 320, but the experiment says 400; "
        "set it back, or remove the folder and run `nmt prepare` again",
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.de: not the file that prepared/tiny was prepared from; remove the folder and "
        "run `nmt prepare` again, or set corpus.prepared to another",
        {"raw/train.de": instead("14 ein Hund", "14 kein Hund")},
    ),
]
DEEP_IN_A_CORPUS = [
    Wrong(
        "prepare tiny.yaml",
        "corpus train: raw/train.en has 100 lines, but raw/train.de has 101; line n of one must "
        "translate line n of the other: find where they part, or get both again",
        RAW | {"raw/train.de": lambda data: data + b"mehr\n"},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.de, line 3, byte 0xE4 at position 18: 20 of the 20 lines that hold more than "
        "ASCII are not UTF-8; convert the file (`iconv -f ISO-8859-1 -t UTF-8`) or delete these "
        "lines",
        RAW | {"raw/train.de": recoded("latin-1")},
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.en.gz, line 88: the gzip data is damaged (it ends too early); copy or download "
        "the file again, and check that it is what its name says",
        RAW
        | {
            "tiny.yaml": instead("src: train.en", "src: train.en.gz"),
            "raw/train.en.gz": gzip.compress(b"a dog runs.\n" * 100)[:-12],
        },
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.tsv, line 2: no tab; expected source, tab, target: mend or delete the line",
        RAW
        | {
            "tiny.yaml": instead("src: train.en, tgt: train.de", "tsv: train.tsv"),
            "raw/train.tsv": b"a dog\tein Hund\na cat eine Katze\n",
        },
    ),
    Wrong(
        "prepare tiny.yaml",
        "raw/train.en: no lines; expected a corpus to train on",
        RAW | {"raw/train.en": b"", "raw/train.de": b""},
    ),
    Wrong(
        "prepare tiny.yaml",
        "cleaning dropped all 100 pairs (100 no_letters): nothing is left to train on; look at "
        "the corpus, and at corpus.cleaning",
        RAW | {"raw/train.en": b"1\n" * 100},
    ),
]
TRAINING = [
    Wrong(
        "train tiny.yaml",
        "prepared/tiny: no prepared corpus here (manifest.json is missing); run `nmt prepare` "
        "with this experiment first",
        RAW,
    ),
    Wrong(
        "train tiny.yaml name=new corpus.prepared=prepared/tiny corpus.subword.kind=unigram",
        'prepared/tiny: prepared with corpus.subword.kind "bpe", but the experiment says '
        '"unigram"; set it back, or remove the folder and run `nmt prepare` again',
    ),
    Wrong(
        "train tiny.yaml",
        "prepared/tiny/tokenizer.json: missing, but the manifest promises {size} bytes; remove "
        "the folder and run `nmt prepare` again",
        {"prepared/tiny/tokenizer.json": None},
    ),
    Wrong(
        "train tiny.yaml model.width=64",
        "model.width is 64, but the run in runs/tiny was begun with 32: give the experiment "
        "another name, or set model.width=32 to go on with it",
    ),
]
RUNS = [
    Wrong(
        "translate runs/tinny",
        "runs/tinny: there is no such folder; name a run or one of its checkpoints",
    ),
    Wrong(
        "translate raw",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "translate runs/tiny",
        "runs/tiny has no checkpoint yet; `nmt train` with its config writes one",
        {"runs/tiny/checkpoints": None, "runs/tiny/checkpoints/.update-1.writing": b""},
    ),
    Wrong(
        "translate runs/tiny",
        f"{BEST}/weights.safetensors is damaged: its SHA-256 is not that of what was written; "
        f"{OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    Wrong(
        "translate runs/tiny",
        f"{BEST}/tokenizer.json is missing; {OTHER}",
        {f"{BEST}/tokenizer.json": None},
    ),
    Wrong(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is missing: this is no whole checkpoint; {OTHER}",
        {f"{BEST}/bundle.json": None},
    ),
    Wrong(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is damaged: it is not what was written; {OTHER}",
        {f"{BEST}/bundle.json": flipped},
    ),
    Wrong("average runs/tiny -o raw", "raw is there already; name another folder, or remove it"),
]
TRANSLATING = [
    Wrong(
        "translate runs/tiny -i raw/new.en",
        "raw/new.en: there is no such file; check its name and where you are",
    ),
    Wrong("translate runs/tiny -i raw", "raw: is a folder; name a file in it"),
    Wrong(
        "translate runs/tiny -i raw/news.en -o out.de",
        "raw/news.en, line 6: byte 0xE9 at position 6 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or mend the line",
        {"raw/news.en": lambda data: data + b"a caf\xe9\n"},
    ),
    Wrong(
        "translate runs/tiny",
        "standard input, line 2: byte 0x93 at position 1 is not UTF-8; convert the file "
        "(`iconv -f WINDOWS-1252 -t UTF-8`) or mend the line",
        stdin=b"a dog runs.\n\x93a dog\x94\n",
    ),
    Wrong(
        "translate runs/tiny",
        "standard input, line 1: this is gzip data where plain text was expected; give the file a "
        "name that ends in .gz, or unpack it",
        stdin=gzip.compress(b"a dog runs.\n"),
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o new/out.de",
        "--output is new/out.de, but there is no folder new: make it first",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o raw",
        "raw: is a folder; name a file in it",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o runs/../raw/dev.en",
        "--output is runs/../raw/dev.en, but that is the input: name another file",
    ),
    Wrong(
        "translate runs/tiny --beam 0",
        "--beam is 0, but it must be a whole number, 1 or more",
    ),
    Wrong(
        "translate runs/tiny --length-penalty nan",
        "--length-penalty is nan, but it must be a number, 0 or more",
    ),
    Wrong(
        "translate runs/tiny --max-length-ratio 0",
        "--max-length-ratio is 0, but it must be a number above 0",
    ),
    Wrong(
        "translate runs/tiny --device cuda",
        "--device is cuda, but torch finds no GPU here: say cpu, or leave it out",
    ),
    Wrong(
        "translate runs/tiny --device gpu",
        "--device is gpu, but it must be cpu or cuda",
    ),
    Wrong(
        "translate runs/tiny --beem 4",
        "--beem is not an option of `nmt translate`; did you mean --beam?",
    ),
    Wrong(
        "translate runs/tiny --json-input",
        "standard input, line 1: not JSON: Expecting value; expected an object such as "
        '{"text": "..."}',
        stdin=b"a dog runs.\n",
    ),
    Wrong(
        "translate runs/tiny --json-input -i raw/wrong.jsonl",
        'raw/wrong.jsonl, line 2: constraints is "Hund", but it must be a list of texts',
        {"raw/wrong.jsonl": b'{"text": "a dog"}\n{"text": "a dog", "constraints": "Hund"}\n'},
    ),
    Wrong(
        "translate runs/tiny --json-input -o out.jsonl",
        "standard input, line 1: text is 5, but it must be text",
        stdin=b'{"text": 5}\n',
    ),
    Wrong(
        "translate runs/tiny --json-input -i raw/wrong.jsonl",
        "raw/wrong.jsonl, line 1: target_prefix and constraints have 60 tokens, but the "
        "translation of this line has 10 at most, its end counted; shorten them, or set "
        "decoding.max_length_extra higher",
        {"raw/wrong.jsonl": b'{"text": "a dog", "target_prefix": "' + b"ein Hund " * 30 + b'"}\n'},
    ),
    Wrong(
        "translate runs/tiny --json-input",
        "standard input, line 1: 'Hund' is to be avoided, but target_prefix or constraints have "
        "it: take it out of one of them",
        stdin=b'{"text": "a dog", "constraints": ["Hund"], "avoid": ["Hund"]}\n',
    ),
    Wrong(
        "translate runs/tiny --json-input --method sample",
        "standard input, line 1: constraints need decoding.method beam with one group; leave them "
        "out, or search so",
        stdin=b'{"text": "a dog", "constraints": ["Hund"]}\n',
    ),
    Wrong(
        "translate runs/tiny --terms raw/terms.tsv",
        "raw/terms.tsv, line 1: expected source term, tab, target term; mend or delete the line",
        {"raw/terms.tsv": b"dog Hund\n"},
    ),
    Wrong(
        "translate runs/tiny --terms raw/terms.tsv",
        "raw/terms.tsv: there is no such file; check its name and where you are",
    ),
    Wrong(
        "translate runs/tiny --top-p 1.5",
        "--top-p is 1.5, but it must be a number above 0 and 1 at most",
    ),
    Wrong(
        "translate runs/tiny --top-p 0.5",
        "decoding.top_p is 0.5, but decoding.method beam does not use it; set that to sample or "
        "mbr",
    ),
    Wrong(
        "translate runs/tiny --method sample --beam 4",
        "--beam is 4, but --method sample has no beam: leave it out",
    ),
    Wrong(
        "translate runs/tiny --method mbr --coverage-penalty 0.2",
        "decoding.coverage_penalty is 0.2, but decoding.method mbr does not use it",
    ),
    Wrong(
        "translate runs/tiny --method bean",
        "--method is bean, but it must be beam, sample or mbr; did you mean beam?",
    ),
    Wrong(
        "translate runs/tiny --diverse-groups 3 --beam 4",
        "decoding.diverse_groups is 3, but the groups share decoding.beam (4) evenly: it must "
        "divide that",
    ),
    Wrong(
        "translate runs/tiny --min-length 9 --max-length 5",
        "decoding.min_length is 9, but decoding.max_length is less (5)",
    ),
    Wrong(
        "translate runs/tiny --protect tags,link",
        "--protect is link, but it must be tags, urls, numbers or placeholders",
    ),
    Wrong(
        "translate runs/tiny --protect tags --method mbr",
        "decoding.protect is tags, but only a beam of one group can make them appear",
    ),
    Wrong(
        "translate runs/tiny --protect tags --format soft",
        "--format is soft, but with --protect the words of the line are not those that the model "
        "saw",
    ),
    Wrong(
        "translate runs/tiny --format mose",
        "--format is mose, but it must be text, scored, moses, pharaoh, soft or jsonl; did you "
        "mean moses?",
    ),
    Wrong(
        "translate runs/tiny --format text --n-best 2",
        "--n-best is 2, but --format text has one translation a line: use moses or jsonl",
    ),
    Wrong(
        "translate runs/tiny --format moses --n-best 3",
        "the number of candidates for each line is 3, but 1 to decoding.beam (2) can be had; set "
        "decoding.beam higher",
    ),
    Wrong("translate", "RUN is missing; `nmt translate --help` tells what there is"),
    Wrong("trian tiny.yaml", "'trian' is not a verb; did you mean train?"),
]
WORKERS = [
    Wrong(
        "translate runs/tiny --workers 2 -o out.de",
        "--input is -, but with --workers or --cluster it must be a file, to go on after a stop",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en --workers 2",
        "--output is -, but with --workers or --cluster it must be a file, to go on after a stop",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 0",
        "--workers is 0, but it must be a whole number, 1 or more",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o out.de --cluster wrong.yaml",
        "wrong.yaml: worker is not a setting; did you mean workers?",
        {"wrong.yaml": b"worker: 2\n"},
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2 --device gpu",
        "--device is gpu, but it must be cpu or cuda",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2 --device cuda --precision int8",
        "--precision is int8, but its products are for CPUs: say --precision bf16, or --device cpu",
    ),
    Wrong(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2",
        "raw/dev.en, line 9: byte 0xE9 at position 6 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or mend the line",
        {"raw/dev.en": lambda data: data + b"a caf\xe9\n"},
    ),
]
PRECISIONS = [
    Wrong("export runs/tiny -o raw", "raw is there already; name another folder, or remove it"),
    Wrong("export runs/tiny", "--output is missing; `nmt export --help` tells what there is"),
    Wrong(
        "export raw -o small",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "export runs/tiny -o small",
        f"{BEST}/weights.safetensors is damaged: its SHA-256 is not that of what was written; "
        f"{OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    Wrong(
        "translate runs/tiny --precision int4",
        "Invalid value for '--precision': 'int4' is not one of 'fp32', 'bf16', 'int8'; "
        "`nmt translate --help` tells what there is",
    ),
]
SCORING = [
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.fr",
        "raw/dev.fr: there is no such file; check its name and where you are",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/talks.de",
        "raw/dev.en has 8 lines, but raw/talks.de has 3; line n of one must translate line n of "
        "the other: find where they part, or get both again",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o out.tsv",
        "raw/dev.de, line 3: byte 0xE4 at position 18 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or mend the line",
        {"raw/dev.de": recoded("latin-1")},
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de -o raw/dev.de",
        "--output is raw/dev.de, but that is the input: name another file",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --length-penalty -1",
        "--length-penalty is -1, but it must be a number, 0 or more",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --format xml",
        "Invalid value for '--format': 'xml' is not one of 'text', 'scores', 'jsonl'; "
        "`nmt score --help` tells what there is",
    ),
    Wrong(
        "score runs/tiny raw/dev.en raw/dev.de --beam 4",
        "--beam is not an option of `nmt score`; did you mean --batch?",
    ),
    Wrong("score runs/tiny raw/dev.en", "TGT is missing; `nmt score --help` tells what there is"),
]
EVALUATING = [
    Wrong(
        "evaluate runs/tiny --src raw/dev.en",
        "--ref is given 0 times, but --src is given 1 times: each --src needs its --ref",
    ),
    Wrong(
        "evaluate runs/tiny --src raw/dev.en --ref raw/talks.de",
        "raw/dev.en has 8 lines, but raw/talks.de has 3; a reference needs one line for each "
        "source line",
    ),
    Wrong(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.fr",
        "raw/dev.fr: there is no such file; check its name and where you are",
    ),
    Wrong(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.de",
        "raw/dev.en is empty; a test set needs one line or more",
        {"raw/dev.en": b"", "raw/dev.de": b""},
    ),
    Wrong(
        "evaluate runs/tiny --test talk",
        "prepared/tiny has no test set 'talk'; did you mean talks?; name it in corpus.tests and "
        "run `nmt prepare` again",
    ),
    Wrong(
        "evaluate runs/tiny --test sacrebleu:wmt61",
        "sacreBLEU has no test set 'wmt61'; did you mean wmt21?",
    ),
    Wrong(
        "evaluate runs/tiny --metrics bleu,chfr",
        "'chfr' is not a metric; did you mean chrf?",
    ),
    Wrong(
        "evaluate runs/tiny --test news --test news",
        "two test sets are called news, and the files of one would replace those of the other: "
        "score them one by one, each with its own --output",
    ),
    Wrong(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.de -o raw",
        "raw: raw/dev.en lies there, and a translation could replace it; name another folder for "
        "the results",
    ),
    Wrong(
        "evaluate runs/tiny --together --test news",
        "--together is given, but news is the one test set: name another with it",
    ),
    Wrong(
        "evaluate runs/tiny --device cuda",
        "--device is cuda, but torch finds no GPU here: say cpu, or leave it out",
    ),
    Wrong(
        "evaluate runs/tiny --min-gain 0.5",
        "--min-gain is given, but nothing to compare with: --baseline",
    ),
    Wrong(
        "evaluate runs/tiny --max-p 0.05",
        "--max-p is given, but nothing to compare with: --baseline",
    ),
    Wrong(
        f"evaluate runs/tiny --baseline {BEST}",
        f"--baseline is {BEST}, but it is all there is: name another run",
    ),
    Wrong(
        f"evaluate runs/tiny --baseline {EARLIER}",
        "runs/tiny/evaluation is the place for the results of two of these systems, and one would "
        "replace the other: name a folder with --output",
    ),
    Wrong(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --max-p 2",
        "--max-p is 2.0, but it must be above 0 and below 1",
    ),
    Wrong(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --max-p 0.1 --paired none",
        "--max-p is 0.1, but --paired none makes no test: choose bs or ar",
    ),
    Wrong(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --min-gain some",
        "--min-gain is some, but it must be a number",
    ),
    Wrong(
        f"evaluate runs/tiny {EARLIER} -o new --ensemble runs/tiny",
        "--ensemble is runs/tiny, but 2 RUNs are given: name the one that it is averaged with",
    ),
    Wrong(
        "evaluate runs/tiny --ensemble raw",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "evaluate runs/tiny --paired bootstrap",
        "--paired is bootstrap, but it must be bs (bootstrap), ar (approximate randomisation) or "
        "none",
    ),
    Wrong(
        "evaluate runs/tiny --changed -1",
        "--changed is -1, but it must be a whole number, 0 or more",
    ),
    Wrong(
        "evaluate runs/tiny --train-text prepared/other",
        "prepared/other: there is no such file; check its name and where you are",
    ),
    Wrong(
        "evaluate runs/tiny --train-text raw",
        "raw: no prepared corpus here (manifest.json is missing); run `nmt prepare` with this "
        "experiment first",
    ),
    Wrong(
        "compare raw/news.de",
        "--ref is missing; `nmt compare --help` tells what there is",
    ),
    Wrong(
        "compare raw/news.de --ref raw/talks.de",
        "raw/news.de has 5 lines, but raw/talks.de has 3; they need one line for each segment",
    ),
    Wrong(
        "compare raw/news.de --ref raw/news.de --ref raw/talks.de",
        "raw/talks.de has 3 lines, but raw/news.de has 5; they need one line for each segment",
    ),
    Wrong(
        "compare raw/news.de raw/news.de --ref raw/dev.de",
        "raw/news.de is given twice; once is enough",
    ),
    Wrong(
        "compare raw/news.de --baseline raw/news.de --ref raw/news.de",
        "--baseline is raw/news.de, but it is all there is: name another translation",
    ),
    Wrong(
        "compare raw/news.de --ref raw/news.de",
        "raw/news.de is empty; a score needs one line or more",
        {"raw/news.de": b""},
    ),
    Wrong(
        "compare raw/new.de --ref raw/news.de",
        "raw/new.de: there is no such file; check its name and where you are",
    ),
    Wrong(
        "compare raw/news.de --ref raw/news.de --labels raw/talks.de",
        "raw/talks.de has 3 lines, but the test set has 5 segments; it needs the name of a corpus "
        "for each",
    ),
    Wrong(
        "evaluate runs/tiny -o tiny.yaml",
        "tiny.yaml: results cannot be written there; name another folder for them",
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
        "Invalid value for '--link': 0.0 is not in the range x>0; `nmt plan --help` tells what "
        "there is",
        {"c.yaml": b"workers: 2"},
    ),
    Wrong(
        "bench trian",
        "'trian' is not a part of the benchmark; known: lstm, batching, update, train, peer, "
        "memory, decode, precision, checkpoint, workers, startup",
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
REPORTING = [
    Wrong("report", "RUN... is missing; `nmt report --help` tells what there is"),
    Wrong(
        "report raw",
        "raw is no run: it has no metrics.jsonl; name a folder that `nmt train` wrote",
    ),
    Wrong("report runs/tiny runs/tiny/", "runs/tiny is given twice; once is enough"),
    Wrong(
        "report runs/tiny -o new/page.html",
        "--output is new/page.html, but there is no folder new: make it first",
    ),
    Wrong("report runs/tiny -o raw", "--output is raw, but that is a folder: name a file in it"),
    Wrong(
        "report runs/tiny --examples few",
        "--examples is few, but it must be a whole number, 0 or more",
    ),
    Wrong(
        "report runs/tiny",
        "runs/tiny/metrics.jsonl, line 2: damaged: it is no record of a run; remove the line",
        {"runs/tiny/metrics.jsonl": lambda data: data.replace(b"\n", b"\n{\n", 1)},
    ),
    Wrong(
        "report runs/tiny",
        "runs/tiny/evaluation/news.metrics.json: damaged: it is not what `nmt evaluate` wrote; "
        "run that again",
        {"runs/tiny/evaluation/news.metrics.json": b"[]"},
    ),
]
EARLY = [
    *EXPERIMENTS,
    *MADE_UP,
    *CLUSTERS,
    *CORPORA,
    *TRAINING,
    *RUNS,
    *TRANSLATING,
    *WORKERS,
    *PRECISIONS,
    *SCORING,
    *EVALUATING,
    *BENCH,
    *REPORTING,
]


def ids(wrong: list[Wrong]) -> list[str]:
    return [f"{each.command} | {' '.join(each.files)}" for each in wrong]


def change(folder: Path, files: dict[str, Content]) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None and path.is_dir():
            shutil.rmtree(path)
        elif content is None:
            path.unlink()
        else:
            data = content(path.read_bytes()) if callable(content) else content
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def no_ray(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a cluster was touched")


@pytest.mark.parametrize("wrong", EARLY, ids=ids(EARLY))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong,
    here: Path,
    nmt: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P9."""
    monkeypatch.setattr("ray.init", no_ray)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    size = (here / "prepared/tiny/tokenizer.json").stat().st_size
    change(here, wrong.files)
    before = contents(here)
    answer = nmt(wrong.command, wrong.stdin)
    said = answer.err.replace(f"{here}/", "").replace(f"{size} bytes", "{size} bytes")
    assert said == f"nmt: {wrong.message}\n"
    assert (answer.status, answer.out) == (2, "")
    assert contents(here) == before


@pytest.mark.parametrize("wrong", DEEP_IN_A_CORPUS, ids=ids(DEEP_IN_A_CORPUS))
def test_what_is_wrong_deep_in_a_corpus_leaves_nothing_to_train_from(
    wrong: Wrong, here: Path, nmt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9. The tasks of preparing run in this process instead of on Ray."""
    monkeypatch.setattr("nmt.jobs.session.connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("nmt.jobs.prepare.run_on_ray", run_here)
    change(here, wrong.files)
    before = contents(here)
    answer = nmt(wrong.command)
    assert answer.err.replace(f"{here}/", "") == f"nmt: {wrong.message}\n"
    assert (answer.status, answer.out) == (2, "")
    prepared = here / "prepared"
    after = {path: data for path, data in contents(here).items() if path != prepared}
    assert {path: data for path, data in after.items() if prepared not in path.parents} == before
    assert nmt("train tiny.yaml name=new corpus.prepared=prepared/tiny").err == (
        f"nmt: {prepared}/tiny: prepared in part only; run `nmt prepare` again: it goes on where "
        "it stopped\n"
    )
