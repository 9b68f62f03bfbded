"""What a person can get wrong with test sets, reports and what is made of a model (P9)."""

from collections.abc import Callable

import pytest
from wrong_inputs import BEST, EARLIER, Wrong, ids, instead

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
        "tune tiny.yaml",
        "tiny.yaml is an experiment: say what to search for, such as --search "
        "'training.learning_rate=loguniform(1e-3, 1e-2)', or name a run instead",
    ),
    Wrong(
        "tune runs/tiny training.updates=5",
        "'training.updates=5' cannot be set here: only with --search models are trained",
    ),
    Wrong(
        "tune runs/tiny --trials 3",
        "--trials is of a search that trains: give --search too, with an experiment file",
    ),
    Wrong(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --trials 0",
        "--trials is 0, but it must be a whole number, 1 or more",
    ),
    Wrong(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) --beams 4",
        "--beams is of the search for translations: leave it out with --search",
    ),
    Wrong(
        "tune tiny.yaml --search model.dropuot=choice(0.1,0.2)",
        "command line: model.dropuot is not a setting; did you mean model.dropout?",
    ),
    Wrong(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) cluster.storage=s3://bucket/runs",
        "cluster.storage is s3://bucket/runs, but trials are kept in a folder that every host "
        "sees: name one",
    ),
    Wrong(
        "tune tiny.yaml --search model.dropout=choice(0.1,0.2) corpus.prepared=nowhere",
        "nowhere: no prepared corpus here (manifest.json is missing); run `nmt prepare` with this "
        "experiment first",
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
        "the text is in 'en', but the experiment translates fr to de: its dev and test sets could "
        "not be kept out",
        {"tiny.yaml": instead("root: raw", "src: fr\n  root: raw")},
    ),
    Wrong(
        "backtranslate runs/tiny raw/train.en bt",
        "raw/dev.de: there is no such file; check corpus.root and the file's name",
        {"raw/dev.de": None},
    ),
]

EARLY = [*EVALUATING, *REPORTING, *MADE_UP]


@pytest.mark.parametrize("wrong", EARLY, ids=ids(EARLY))
def test_what_is_wrong_is_said_in_a_line_before_anything_is_done(
    wrong: Wrong, refused: Callable[[Wrong], None]
) -> None:
    """P9."""
    refused(wrong)
