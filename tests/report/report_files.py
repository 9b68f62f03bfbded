"""Contents of a run directory, with hostile text."""

from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import torch

from nmt.report.charts import HeatMap
from nmt.report.examples import Example
from nmt.report.inspection import (
    QUANTITIES,
    InspectedLine,
    Inspection,
    LayerPositions,
    Spread,
    TokenChoice,
)

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Parser that fails if tags are not properly nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


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
        "flickr", 3, "median", 50.0, HOSTILE, HOSTILE, HOSTILE,
        HeatMap(["▁&amp;", "</s>"], ["▁<b>", "</s>"], weights),
    )  # fmt: skip


def inspection() -> Inspection:
    """Inspection of a line with hostile text by a model of two layers."""
    tokens, target = ["▁<b>", "</s>"], ["▁&amp;", "</s>"]
    # Input, forget and output gate, candidate, cell state.
    half = Spread(0.5, 0.3, 0.7, 0.0, 0.0)
    encoder = dict(
        zip(
            QUANTITIES,
            [
                half._replace(mean=0.6),
                Spread(0.9, 0.8, 1.0, 0.05, 0.7),
                half,
                Spread(0.0, -0.5, 0.5, 0.1, 0.1),
                half,
            ],
            strict=True,
        )
    )
    decoder = encoder | {
        "input gate": half._replace(mean=0.4, below=0.5),
        "forget gate": half._replace(mean=0.7, above=0.25),
        "candidate": half,
    }
    layers = {"encoder 1": encoder, "decoder 1": decoder}
    positions = [
        LayerPositions(name, read, {key: [each] * 2 for key, each in spreads.items()})
        for (name, spreads), read in zip(layers.items(), (tokens, ["<s>", target[0]]), strict=True)
    ]
    choices = [
        TokenChoice(target[0], -2.0, 2, [(HOSTILE, -0.5)]),
        TokenChoice(target[1], -1.0, 1, [("▁<b>", -1.5)]),
    ]
    weights = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]])
    line = InspectedLine(
        HOSTILE, HOSTILE, ["The translation is cut."], tokens, target, choices, [weights], positions
    )
    corpus = SimpleNamespace(src="en", tgt="de")
    experiment = SimpleNamespace(corpus=corpus, model=SimpleNamespace(preset="residual"))
    info = SimpleNamespace(update=300)
    checkpoint: Any = SimpleNamespace(path="runs/tiny", experiment=experiment, info=info)
    return Inspection(checkpoint, False, [line], layers)
