"""Errors of `nmt evaluate`, `compare`, `report`, `tune` and `backtranslate`."""

from collections.abc import Callable

import pytest
from error_cases import BEST, EARLIER, ErrorCase, ids, replaced

EVALUATING = [
    ErrorCase(
        "evaluate runs/tiny --src raw/dev.en",
        "--ref is given 0 times, but --src is given 1 time: give one --ref per --src",
    ),
    ErrorCase(
        "evaluate runs/tiny --src raw/dev.en --ref raw/talks.de",
        "raw/talks.de has 3 lines, raw/dev.en has 8: the two files must be line-parallel",
    ),
    ErrorCase(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.fr",
        "raw/dev.fr: file not found; check the path",
    ),
    ErrorCase(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.de",
        "raw/dev.en is empty: a test set needs at least one line",
        {"raw/dev.en": b"", "raw/dev.de": b""},
    ),
    ErrorCase(
        "evaluate runs/tiny --test talk",
        "prepared/tiny has no test set 'talk'; did you mean talks?; name it in corpus.tests and "
        "run `nmt prepare` again",
    ),
    ErrorCase(
        "evaluate runs/tiny --test sacrebleu:wmt61",
        "sacreBLEU has no test set 'wmt61'; did you mean wmt21?",
    ),
    ErrorCase(
        "evaluate runs/tiny --metrics bleu,chfr",
        "'chfr' is not a metric; did you mean chrf?",
    ),
    ErrorCase(
        "evaluate runs/tiny --test news --test news",
        "two test sets are named news and would overwrite each other: score them separately, "
        "with --output",
    ),
    ErrorCase(
        "evaluate runs/tiny --src together.en --ref raw/talks.de --test news --together",
        "two test sets are named together and would overwrite each other: score them separately, "
        "with --output",
        {"together.en": b"1\n2\n3\n"},
    ),
    ErrorCase(
        "evaluate runs/tiny --src news_typos.en --ref raw/talks.de --test news --robust",
        "two test sets are named news_typos and would overwrite each other: score them separately, "
        "with --output",
        {"news_typos.en": b"1\n2\n3\n"},
    ),
    ErrorCase(
        "evaluate runs/tiny --src raw/dev.en --ref raw/dev.de -o raw",
        "raw: contains raw/dev.en, which a translation could overwrite: choose another folder for "
        "the results",
    ),
    ErrorCase(
        "evaluate runs/tiny --together --test news",
        "--together needs two test sets, not only news",
    ),
    ErrorCase(
        "evaluate runs/tiny --device cuda",
        "device is cuda, but PyTorch finds no GPU: use cpu or auto",
    ),
    ErrorCase(
        "evaluate runs/tiny --min-gain 0.5",
        "--min-gain and --max-p need a --baseline",
    ),
    ErrorCase(
        "evaluate runs/tiny --max-p 0.05",
        "--min-gain and --max-p need a --baseline",
    ),
    ErrorCase(
        f"evaluate runs/tiny --baseline {BEST}",
        f"--baseline is {BEST}, but it is the only system: give another run",
    ),
    ErrorCase(
        f"evaluate runs/tiny --baseline {EARLIER}",
        "runs/tiny/evaluation: two systems would write to this directory: use --output",
    ),
    ErrorCase(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --max-p 2",
        "--max-p is 2.0, but it must be above 0 and below 1",
    ),
    ErrorCase(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --max-p 0.1 --paired none",
        "--max-p is 0.1, but it needs a significance test: --paired bs or ar",
    ),
    ErrorCase(
        f"evaluate runs/tiny --baseline {EARLIER} -o new --min-gain some",
        "Invalid value for '--min-gain': 'some' is not a valid float. See `nmt evaluate --help`.",
    ),
    ErrorCase(
        f"evaluate runs/tiny {EARLIER} -o new --ensemble runs/tiny",
        "--ensemble is runs/tiny, but 2 RUNs are given: an ensemble needs exactly one",
    ),
    ErrorCase(
        "evaluate runs/tiny --ensemble raw",
        "raw is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
    ),
    ErrorCase(
        "evaluate runs/tiny --paired bootstrap",
        "Invalid value for '--paired': 'bootstrap' is not one of 'bs', 'ar', 'none'. See `nmt "
        "evaluate --help`.",
    ),
    ErrorCase(
        "evaluate runs/tiny --changed -1",
        "Invalid value for '--changed': -1 is not in the range 0<=x<=10. See `nmt evaluate "
        "--help`.",
    ),
    ErrorCase(
        "evaluate runs/tiny --train-text prepared/other",
        "prepared/other: file not found; check the path",
    ),
    ErrorCase(
        "evaluate runs/tiny --train-text raw",
        "raw: no prepared corpus here (manifest.json is missing); run `nmt prepare` with this "
        "experiment first",
    ),
    ErrorCase(
        "compare raw/news.de",
        "Missing option '--ref'. See `nmt compare --help`.",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/talks.de",
        "raw/news.de has 5 lines, raw/talks.de has 3: the files must be line-parallel",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/news.de --ref raw/talks.de",
        "raw/talks.de has 3 lines, raw/news.de has 5: the files must be line-parallel",
    ),
    ErrorCase(
        "compare raw/news.de raw/news.de --ref raw/dev.de",
        "raw/news.de is given twice: remove one",
    ),
    ErrorCase(
        "compare raw/news.de --baseline raw/news.de --ref raw/news.de",
        "--baseline is raw/news.de, but it is the only translation: give another one",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/news.de",
        "raw/news.de is empty: a score needs at least one line",
        {"raw/news.de": b""},
    ),
    ErrorCase(
        "compare raw/new.de --ref raw/news.de",
        "raw/new.de: file not found; check the path",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/news.de --labels raw/talks.de",
        "--labels is raw/talks.de, but it needs --slices or --json: add one, or omit it",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/news.de --train-text raw/train.de",
        "--train-text is raw/train.de, but it needs --slices or --json: add one, or omit it",
    ),
    ErrorCase(
        "compare raw/news.de --ref raw/news.de --slices --labels raw/talks.de",
        "raw/talks.de has 3 lines, the test set has 5 segments: it needs the name of a corpus for "
        "each segment",
    ),
    ErrorCase(
        "evaluate runs/tiny decoding.beam=4",
        "'decoding.beam=4': nmt evaluate has options instead of settings, such as --beam 5",
    ),
    ErrorCase(
        "evaluate runs/tiny -o tiny.yaml",
        "tiny.yaml: not a folder: choose another folder for the results",
    ),
]
REPORTING = [
    ErrorCase("report", "Missing argument 'RUN...'. See `nmt report --help`."),
    ErrorCase(
        "report raw",
        "raw is not a run directory: it has no metrics.jsonl; name a folder written by `nmt train`",
    ),
    ErrorCase("report runs/tiny runs/tiny/", "runs/tiny is given twice: name each run once"),
    ErrorCase(
        "report runs/tiny -o new/page.html",
        "--output is new/page.html, but directory new does not exist: create it first",
    ),
    ErrorCase(
        "report runs/tiny -o runs/tiny/metrics.jsonl",
        "--output is runs/tiny/metrics.jsonl, but it is a file of runs/tiny: give the name of an "
        "HTML file",
    ),
    ErrorCase(
        "report runs/tiny -o runs/tiny/train.log",
        "--output is runs/tiny/train.log, but it is a file of runs/tiny: give the name of an HTML "
        "file",
    ),
    ErrorCase(
        "report runs/tiny -o raw", "--output is raw, but it is a directory: give a file name"
    ),
    ErrorCase(
        "report runs/tiny --examples few",
        "Invalid value for '--examples': 'few' is not a valid integer. See `nmt report --help`.",
    ),
]
MADE_UP = [
    ErrorCase(
        "tune runs/tiny --beams 4,wide",
        "Invalid value for '--beams': 'wide' is not a valid integer. See `nmt tune --help`.",
    ),
    ErrorCase(
        "tune runs/tiny --penalties -1",
        "Invalid value for '--penalties': -1.0 is not in the range 0<=x<=10. See `nmt tune "
        "--help`.",
    ),
    ErrorCase(
        "tune runs/tiny",
        "raw/dev.de: there is no such file; check corpus.root and the file's name",
        {"raw/dev.de": None, "prepared": None, "runs/tiny/manifest.json": None},
    ),
    ErrorCase(
        "tune tiny.yaml",
        "tiny.yaml is an experiment: add --search 'training.learning_rate=loguniform(1e-3, "
        "1e-2)', or give a run",
    ),
    ErrorCase(
        "tune runs/tiny training.updates=5",
        "'training.updates=5': settings can be set only with --search",
    ),
    ErrorCase(
        "tune runs/tiny --trials 3",
        "--trials needs --search",
    ),
    ErrorCase(
        "tune tiny.yaml --search training.learning_rate=choice(0.1,0.2) training.init_from=nowhere",
        "training.init_from: nowhere: no such directory; name a run or one of its checkpoints",
    ),
    ErrorCase(
        "tune tiny.yaml --search training.init_from=choice(runs/tiny,nowhere) --trials 9",
        "training.init_from: nowhere: no such directory; name a run or one of its checkpoints",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --trials 0",
        "Invalid value for '--trials': 0 is not in the range x>=1. See `nmt tune --help`.",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --beams 4",
        "--beams cannot be combined with --search",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --rerank bleu",
        "--rerank cannot be combined with --search",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --batch 8",
        "--batch cannot be combined with --search",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropuot=choice(0.1,0.2)",
        "command line: model.dropuot is not a setting; did you mean model.dropout?",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) cluster.storage=s3://bucket/runs",
        "cluster.storage is s3://bucket/runs, but trials need a directory that every host sees",
    ),
    ErrorCase(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) corpus.prepared=nowhere",
        "nowhere: no prepared corpus here (manifest.json is missing); run `nmt prepare` with this "
        "experiment first",
    ),
    ErrorCase(
        "backtranslate runs/tiny nowhere.en bt",
        "nowhere.en: file not found; check the path",
    ),
    ErrorCase(
        "backtranslate runs/tiny /dev/null bt",
        "/dev/null: not a regular file, but it is read several times; save it first",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt --ref /dev/zero",
        "/dev/zero: not a regular file, but it is read several times; save it first",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt training.updates=5",
        "'training.updates=5': only decoding.KEY=VALUE can be set here",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt decoding.beem=5",
        "command line: decoding.beem is not a setting; did you mean decoding.beam?",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt decoding.samples=4",
        "samples is 4, but it needs method mbr: set that, or omit it",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt decoding.seed=7 decoding.diversity=2",
        "seed is 7, but it needs method sample or mbr: set that, or omit it",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt decoding.diversity=2",
        "diversity is 2.0, but it needs diverse_groups above 1: set that, or omit it",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt decoding.beam=1 decoding.rerank=bleu",
        "rerank is bleu, but it needs beam above 1: set that, or omit it",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en raw/",
        "OUT is raw/, but it is a directory: name files in it, such as raw/bt",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en ..",
        "OUT is .., but it is a directory: name files in it, such as ../bt",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en nowhere/bt",
        "OUT is nowhere/bt.en, but directory nowhere does not exist: create it first",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en raw/train",
        "OUT is raw/train.en, but it is the input: give another file name",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/news.en raw/train --ref raw/train.de",
        "OUT is raw/train.de, but it is the input: give another file name",
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt --experiment tiny.yaml",
        "the text is in 'en', but the experiment translates fr to de: its dev and test sets could "
        "not be kept out",
        {"tiny.yaml": replaced("src: en\n", "src: fr\n")},
    ),
    ErrorCase(
        "backtranslate runs/tiny raw/train.en bt",
        "raw/dev.de: there is no such file; check corpus.root and the file's name",
        {"raw/dev.de": None, "prepared": None, "runs/tiny/manifest.json": None},
    ),
]

EARLY = [*EVALUATING, *REPORTING, *MADE_UP]


@pytest.mark.parametrize("case", EARLY, ids=ids(EARLY))
def test_error_is_reported_before_any_work(
    case: ErrorCase, check_error: Callable[[ErrorCase], None]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    check_error(case)
