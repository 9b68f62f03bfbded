"""Toy corpora, clean and dirty, and how tests inspect prepared corpora."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.errors import DataError

Make = Callable[..., Experiment]
Pairs = list[tuple[str, str]]
NOUNS = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut"), ("table", "Tisch")]
VERBS = [("sees", "sieht"), ("likes", "mag"), ("finds", "findet"), ("buys", "kauft")]
CLEAN: Pairs = [
    (f"The {a} {v} the {b}.", f"Der {x} {w} den {y}.")
    for a, x in NOUNS
    for v, w in VERBS
    for b, y in NOUNS
]
DIRTY: Pairs = [
    ("Two  spaces", "Zwei\u2028Leerzeichen"),  # normalised
    CLEAN[3],  # also in the first corpus
    ("", "Nichts"),
    ("Nothing else", "Sonst nichts"),
    ("Nothing else", "Sonst nichts"),
    ("Berlin", "Berlin"),
    ("e\u0301t\u00e9", "sommer"),  # normalised
    CLEAN[99],
]


def text_of(experiment: Experiment) -> list[tuple[str, int, str, str]]:
    """Return corpus, line, source and target of every row."""
    shards, subword = open_prepared(experiment)
    rows = []
    for row, (src, tgt) in enumerate(shards.pairs(range(len(shards)))):
        corpus, line = shards.origin(row)
        rows.append((corpus, line, subword.decode(src), subword.decode(tgt)))
    return rows


def error_of(experiment: Experiment, call: Callable[[Experiment], Any] = prepare) -> str:
    with pytest.raises(DataError) as caught:
        call(experiment)
    folder = Path(experiment.corpus.root).parent
    return str(caught.value).replace(f"{folder}/", "").replace(f"{folder}", ".")


def write(experiment: Experiment, name: str, data: str | bytes) -> None:
    data = data.encode() if isinstance(data, str) else data
    Path(experiment.corpus.root, name).write_bytes(data)
