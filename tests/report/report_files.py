"""Contents of a run directory, with hostile text."""

from typing import Any

from nmt.report.examples import Example

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def record(kind: str, update: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "update": update, "time": 1.0e9 + update, **values}


def records(bleu: float) -> list[dict[str, Any]]:
    logged = {"nll": 2.5, "learning_rate": 0.001, "grad_norm": 0.5, "tgt_tokens_per_s": 9000.0}
    return [
        *(record("train", n, **logged, train_s=n / 10) for n in (100, 200, 300)),
        record("validation", 300, bleu=bleu, nll=1.5, signature="BLEU|nrefs:1", train_s=30.0),
        record("skipped", 350, grad_norm="inf", pairs=list(range(300))),
        record("restart", 351, why=HOSTILE, updates_lost=50),
    ]


def evaluation(signature: str = "nrefs:1|case:mixed", **more: Any) -> dict[str, Any]:
    score = {"name": "BLEU", "score": 39.18, "confidence_var": 1.56, "signature": signature}
    parts = {"kind": "length", "segments": 600, "BLEU": 40.0, "chrF2": 60.0}
    return {
        "test_set": "flickr",
        "system": "a",
        "checkpoint": "update-00000300",
        "segments": 1000,
        "scores": [score],
        "extras": [score | {"label": "lower-cased", "score": 40.5}],
        "slices": [parts | {"slice": "1 to 9"}, parts | {"slice": "10 to 19", "segments": 400}],
        "warnings": [HOSTILE],
    } | more


def comparison() -> dict[str, Any]:
    difference = {
        "metric": "BLEU", "label": "", "baseline": 30.0, "score": 31.0, "gain": 1.0,
        "p_value": 0.0123, "mean": 31.0, "half_width": 1.5, "signature": "nrefs:1|bs:1000",
    }  # fmt: skip
    segment = {
        "line": 7, "gain": 12.5, "src": HOSTILE, "ref": HOSTILE, "baseline": HOSTILE,
        "hyp": HOSTILE,
    }  # fmt: skip
    system = {
        "system": "new", "differences": [difference], "num_changed": 5, "num_better": 3,
        "num_worse": 2, "better": [segment], "worse": [],
    }  # fmt: skip
    return {
        "comparison": "flickr", "segments": 1000, "baseline": "old", "test": "bs", "trials": 1000,
        "systems": [system],
    }  # fmt: skip


def example() -> Example:
    weights = [[0.9, 0.1], [0.2, 0.8]]
    return Example(
        "flickr", 3, "median", 50.0, HOSTILE, HOSTILE, HOSTILE, ["▁<b>", "</s>"],
        ["▁&amp;", "</s>"], weights,
    )  # fmt: skip
