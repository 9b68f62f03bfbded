"""What a person can get wrong with a trained model and the text it is given (P9)."""

import gzip
from collections.abc import Callable

import pytest
from wrong_inputs import BEST, OTHER, Wrong, flipped, ids

RUNS = [
    Wrong(
        "translate runs/tinny",
        "runs/tinny: no such directory; name a run or one of its checkpoints",
    ),
    Wrong(
        "translate raw",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "translate runs/tiny",
        "runs/tiny has no checkpoint yet: run `nmt train` with its experiment file",
        {"runs/tiny/checkpoints": None, "runs/tiny/checkpoints/.update-1.writing": b""},
    ),
    Wrong(
        "translate runs/tiny",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    Wrong(
        "translate runs/tiny",
        f"{BEST}/tokenizer.json is missing; {OTHER}",
        {f"{BEST}/tokenizer.json": None},
    ),
    Wrong(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is missing: the checkpoint is incomplete; {OTHER}",
        {f"{BEST}/bundle.json": None},
    ),
    Wrong(
        f"evaluate {BEST}",
        f"{BEST}/bundle.json is corrupt: its SHA-256 does not match; {OTHER}",
        {f"{BEST}/bundle.json": flipped},
    ),
    Wrong("average runs/tiny -o raw", "raw already exists: name another directory, or remove it"),
]
TRANSLATING = [
    Wrong(
        "translate runs/tiny -i raw/new.en",
        "raw/new.en: there is no such file; check its name and where you are",
    ),
    Wrong("translate runs/tiny -i raw", "raw: is a folder; name a file in it"),
    Wrong(
        "translate runs/tiny -i raw/news.en -o out.de",
        "raw/news.en, line 6: byte 0xE9 at position 6 is not UTF-8; convert the file (`iconv -f "
        "ISO-8859-1 -t UTF-8`) or fix the line",
        {"raw/news.en": lambda data: data + b"a caf\xe9\n"},
    ),
    Wrong(
        "translate runs/tiny",
        "standard input, line 2: byte 0x93 at position 1 is not UTF-8; convert the file (`iconv "
        "-f WINDOWS-1252 -t UTF-8`) or fix the line",
        stdin=b"a dog runs.\n\x93a dog\x94\n",
    ),
    Wrong(
        "translate runs/tiny",
        "standard input, line 1: gzip data where plain text was expected; rename the file to end "
        "in .gz, or decompress it",
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
        'raw/wrong.jsonl, line 2: constraints is "Hund", but it must be a list of strings',
        {"raw/wrong.jsonl": b'{"text": "a dog"}\n{"text": "a dog", "constraints": "Hund"}\n'},
    ),
    Wrong(
        "translate runs/tiny --json-input -o out.jsonl",
        "standard input, line 1: text is 5, but it must be a string",
        stdin=b'{"text": 5}\n',
    ),
    Wrong(
        "translate runs/tiny --json-input -i raw/wrong.jsonl",
        "raw/wrong.jsonl, line 1: target_prefix and constraints have 60 tokens, but the "
        "translation of this line has at most 10, EOS included: shorten them, or increase "
        "decoding.max_length_extra",
        {"raw/wrong.jsonl": b'{"text": "a dog", "target_prefix": "' + b"ein Hund " * 30 + b'"}\n'},
    ),
    Wrong(
        "translate runs/tiny --json-input",
        "standard input, line 1: 'Hund' is in avoid, and also in target_prefix or constraints: "
        "remove it from one of them",
        stdin=b'{"text": "a dog", "constraints": ["Hund"], "avoid": ["Hund"]}\n',
    ),
    Wrong(
        "translate runs/tiny --json-input --method sample",
        "standard input, line 1: constraints need decoding.method beam with one group: remove "
        "them, or change the method",
        stdin=b'{"text": "a dog", "constraints": ["Hund"]}\n',
    ),
    Wrong(
        "translate runs/tiny --terms raw/terms.tsv",
        "raw/terms.tsv, line 1: expected source term, tab, target term: fix or delete the line",
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
        "the number of candidates per line is 3, but it must be 1 to decoding.beam (2): increase "
        "decoding.beam",
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
        "raw/dev.en, line 9: byte 0xE9 at position 6 is not UTF-8; convert the file (`iconv -f "
        "ISO-8859-1 -t UTF-8`) or fix the line",
        {"raw/dev.en": lambda data: data + b"a caf\xe9\n"},
    ),
]
PRECISIONS = [
    Wrong("export runs/tiny -o raw", "raw already exists: name another directory, or remove it"),
    Wrong("export runs/tiny", "--output is missing; `nmt export --help` tells what there is"),
    Wrong(
        "export raw -o small",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    Wrong(
        "export runs/tiny -o small",
        f"{BEST}/weights.safetensors is corrupt: its SHA-256 does not match bundle.json; {OTHER}",
        {f"{BEST}/weights.safetensors": flipped},
    ),
    Wrong(
        "translate runs/tiny --precision int4",
        "--precision is int4, but it must be fp32, bf16 or int8; did you mean int8?",
    ),
]

EARLY = [*RUNS, *TRANSLATING, *WORKERS, *PRECISIONS]


@pytest.mark.parametrize("wrong", EARLY, ids=ids(EARLY))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong, refused: Callable[[Wrong], None]
) -> None:
    """P9."""
    refused(wrong)
