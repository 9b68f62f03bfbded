"""Errors of `nmt translate`, `nmt average` and `nmt export`."""

import gzip
from collections.abc import Callable

import pytest
from error_cases import BEST, OTHER, ErrorCase, flipped, ids

RUNS = [
    ErrorCase(
        "translate runs/tinny",
        "runs/tinny: no such directory; name a run or one of its checkpoints",
    ),
    ErrorCase(
        "translate raw",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    ErrorCase(
        "translate runs/tiny",
        "runs/tiny has no checkpoint yet: run `nmt train` with its experiment file",
        {"runs/tiny/checkpoints": None, "runs/tiny/checkpoints/.update-1.writing": b""},
    ),
    ErrorCase(
        "translate runs/tiny",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    ErrorCase(
        "translate runs/tiny",
        f"{BEST}/tokenizer.json is missing; {OTHER}",
        {f"{BEST}/tokenizer.json": None},
    ),
    ErrorCase(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is missing: the checkpoint is incomplete; {OTHER}",
        {f"{BEST}/bundle.json": None},
    ),
    ErrorCase(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is corrupt: its SHA-256 does not match; {OTHER}",
        {f"{BEST}/bundle.json": flipped},
    ),
    ErrorCase(
        "average runs/tiny runs/tiny/ -o averaged",
        "runs/tiny/checkpoints/update-00000060 is given twice: name each checkpoint once",
    ),
    ErrorCase(
        "average runs/tiny -o raw", "raw already exists: name another directory, or remove it"
    ),
]
TRANSLATING = [
    ErrorCase(
        "translate runs/tiny -i raw/new.en",
        "raw/new.en: file not found; check the path",
    ),
    ErrorCase("translate runs/tiny -i raw", "raw: is a folder; name a file in it"),
    ErrorCase(
        "translate runs/tiny -i raw/news.en -o out.de",
        "raw/news.en, line 6: byte 0xE9 at position 6 is not UTF-8; convert the file from its "
        "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line",
        {"raw/news.en": lambda data: data + b"a caf\xe9\n"},
    ),
    ErrorCase(
        "translate runs/tiny",
        "standard input, line 1: byte 0x93 at position 1 is not UTF-8; convert the file from its "
        "encoding (`iconv -f WINDOWS-1252 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line",
        stdin=b"\x93a dog\x94\na dog runs.\n",
    ),
    ErrorCase(
        "translate runs/tiny",
        "standard input, line 1: gzip data where plain text was expected; rename the file to end "
        "in .gz, or decompress it",
        stdin=gzip.compress(b"a dog runs.\n"),
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o new/out.de",
        "--output is new/out.de, but directory new does not exist: create it first",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o raw",
        "--output is raw, but it is a directory: give a file name",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o runs/../raw/dev.en",
        "--output is runs/../raw/dev.en, but it is the input: give another file name",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en --terms terms.tsv -o terms.tsv",
        "--output is terms.tsv, but it is the input: give another file name",
        {"terms.tsv": b"dog\tHund\n"},
    ),
    ErrorCase(
        "translate runs/tiny --beam 0",
        "Invalid value for '--beam': 0 is not in the range x>=1. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --length-penalty nan",
        "Invalid value for '--length-penalty': nan is not a finite number. See `nmt translate "
        "--help`.",
    ),
    ErrorCase(
        "translate runs/tiny --temperature inf",
        "Invalid value for '--temperature': inf is not a finite number. See `nmt translate "
        "--help`.",
    ),
    ErrorCase(
        "translate runs/tiny --max-length-ratio 0",
        "Invalid value for '--max-length-ratio': 0.0 is not in the range x>0. See `nmt "
        "translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --device cuda",
        "device is cuda, but PyTorch finds no GPU: use cpu or auto",
    ),
    ErrorCase(
        "translate runs/tiny --device gpu",
        "Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', 'cuda'. "
        "See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --beem 4",
        "No such option '--beem'. (Did you mean one of: '--beam', '--ensemble', '--seed'?) See "
        "`nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --json-input",
        "standard input, line 1: not JSON: Expecting value; expected an object such as "
        '{"text": "..."}',
        stdin=b"a dog runs.\n",
    ),
    ErrorCase(
        "translate runs/tiny --json-input -i raw/wrong.jsonl",
        'raw/wrong.jsonl, line 2: constraints is "Hund", but it must be a list of strings',
        {"raw/wrong.jsonl": b'{"text": "a dog"}\n{"text": "a dog", "constraints": "Hund"}\n'},
    ),
    ErrorCase(
        "translate runs/tiny --json-input -o out.jsonl",
        "standard input, line 1: text is 5, but it must be a string",
        stdin=b'{"text": 5}\n',
    ),
    ErrorCase(
        "translate runs/tiny --json-input -i raw/wrong.jsonl",
        "raw/wrong.jsonl, line 1: target_prefix and constraints have 60 tokens, but the "
        "translation of this line has at most 10, EOS included: shorten them, or increase "
        "decoding.max_length_extra",
        {"raw/wrong.jsonl": b'{"text": "a dog", "target_prefix": "' + b"ein Hund " * 30 + b'"}\n'},
    ),
    ErrorCase(
        "translate runs/tiny --json-input",
        "standard input, line 1: 'Hund' is in avoid, and also in target_prefix or constraints: "
        "remove it from one of them",
        stdin=b'{"text": "a dog", "constraints": ["Hund"], "avoid": ["Hund"]}\n',
    ),
    ErrorCase(
        "translate runs/tiny --json-input --method sample",
        "standard input, line 1: constraints need decoding.method beam with one group: remove "
        "them, or change the method",
        stdin=b'{"text": "a dog", "constraints": ["Hund"]}\n',
    ),
    ErrorCase(
        "translate runs/tiny --avoid \udcff",
        "--avoid: '\\udcff' is half of a character (a lone surrogate): complete or remove it",
    ),
    ErrorCase(
        "translate runs/tiny --terms raw/terms.tsv",
        "raw/terms.tsv, line 1: expected source term, tab, target term: fix or delete the line",
        {"raw/terms.tsv": b"dog Hund\n"},
    ),
    ErrorCase(
        "translate runs/tiny --terms raw/terms.tsv",
        "raw/terms.tsv: file not found; check the path",
    ),
    ErrorCase(
        "translate runs/tiny --top-p 1.5",
        "Invalid value for '--top-p': 1.5 is not in the range 0<x<=1. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --top-p 0.5",
        "decoding.top_p is 0.5, but decoding.method beam does not use it; set that to sample or "
        "mbr",
    ),
    ErrorCase(
        "translate runs/tiny --method sample --beam 4",
        "beam is 4, but it needs method beam: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/train.en --seed 2",
        "seed is 2, but it needs method sample or mbr: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/train.en --beam 1 --rerank bleu",
        "rerank is bleu, but it needs beam above 1: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny --method sample --samples 5",
        "samples is 5, but it needs method mbr: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny --diversity 2",
        "diversity is 2.0, but it needs diverse_groups above 1: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny --method mbr --coverage-penalty 0.2",
        "decoding.coverage_penalty is 0.2, but decoding.method mbr does not use it",
    ),
    ErrorCase(
        "translate runs/tiny --method mbr --rerank bleu",
        "decoding.rerank is bleu, but decoding.method mbr does not use it",
    ),
    ErrorCase(
        "translate runs/tiny --rerank-scale 2",
        "rerank_scale is 2.0, but it needs rerank bleu or chrf: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny --rerank-scale 4",
        "rerank_scale is 4.0, but it needs rerank bleu or chrf: set that, or omit it",
    ),
    ErrorCase(
        "translate runs/tiny --method bean",
        "Invalid value for '--method': 'bean' is not one of 'beam', 'sample', 'mbr'. See `nmt "
        "translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --diverse-groups 3 --beam 4",
        "decoding.diverse_groups is 3, but it must divide decoding.beam (4)",
    ),
    ErrorCase(
        "translate runs/tiny --min-length 9 --max-length 5",
        "decoding.min_length is 9, but it must be at most decoding.max_length (5)",
    ),
    ErrorCase(
        "translate runs/tiny --protect tags,link",
        "Invalid value for '--protect': 'link' is not one of 'tags', 'urls', 'numbers', "
        "'placeholders'. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --protect tags --method mbr",
        "decoding.protect is tags, but it needs beam search with one group",
    ),
    ErrorCase(
        "translate runs/tiny --protect tags --format soft",
        "--format is soft, but --protect replaces words, so there is no alignment for them: use "
        "text or jsonl",
    ),
    ErrorCase(
        "translate runs/tiny --format mose",
        "Invalid value for '--format': 'mose' is not one of 'text', 'scored', 'moses', "
        "'pharaoh', 'soft', 'jsonl'. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny --format text --n-best 2",
        "--n-best is 2, but --format text has one translation per line: use moses or jsonl",
    ),
    ErrorCase(
        "translate runs/tiny --format moses --n-best 3",
        "the number of candidates per line is 3, but it must be 1 to decoding.beam (2): "
        "increase decoding.beam",
    ),
    ErrorCase("translate", "Missing argument 'RUN'. See `nmt translate --help`."),
    ErrorCase(
        "translate runs/tiny decoding.length_penalty=1",
        "Got unexpected extra argument (decoding.length_penalty=1); use --length-penalty instead "
        "of decoding.length_penalty. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny training.updates=1",
        "Got unexpected extra argument (training.updates=1). See `nmt translate --help`.",
    ),
    ErrorCase("trian tiny.yaml", "'trian' is not a command; did you mean train? See `nmt --help`."),
]
WORKERS = [
    ErrorCase(
        "translate runs/tiny --workers 2 -o out.de",
        "--input is -, but --workers and --cluster need a file, to resume after an interruption",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en --workers 2",
        "--output is -, but --workers and --cluster need a file, to resume after an interruption",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 0",
        "Invalid value for '--workers': 0 is not in the range x>=1. See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o out.de --cluster wrong.yaml",
        "wrong.yaml: worker is not a setting; did you mean workers?",
        {"wrong.yaml": b"worker: 2\n"},
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2 --device gpu",
        "Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', 'cuda'. "
        "See `nmt translate --help`.",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2 --device cuda --precision int8",
        "precision is int8, but int8 runs on CPUs only: use bf16, or device cpu",
    ),
    ErrorCase(
        "translate runs/tiny -i raw/dev.en -o out.de --workers 2",
        "raw/dev.en, line 9: byte 0xE9 at position 6 is not UTF-8; convert the file from its "
        "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line",
        {"raw/dev.en": lambda data: data + b"a caf\xe9\n"},
    ),
]
PRECISIONS = [
    ErrorCase(
        "export runs/tiny -o raw", "raw already exists: name another directory, or remove it"
    ),
    ErrorCase("export runs/tiny", "Missing option '-o' / '--output'. See `nmt export --help`."),
    ErrorCase(
        "export raw -o small",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    ErrorCase(
        "export runs/tiny -o small",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    ErrorCase(
        "translate runs/tiny --precision int4",
        "Invalid value for '--precision': 'int4' is not one of 'fp32', 'bf16', 'int8'. See `nmt "
        "translate --help`.",
    ),
]

EARLY = [*RUNS, *TRANSLATING, *WORKERS, *PRECISIONS]


@pytest.mark.parametrize("case", EARLY, ids=ids(EARLY))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
