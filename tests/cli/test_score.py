"""`nmt score`: log-probabilities of given pairs."""

import gzip
import json
import math
import os
from pathlib import Path

import pytest
from cli_calls import Nmt

from nmt.cli.score import _summary
from nmt.decoding.scoring import ScoreTotals


def write_pairs() -> None:
    Path("my.en").write_text("1 a dog runs.\n\n2 two cats sleep.\n \n3 my dog sees a cat.\n")
    Path("my.de").write_text("1 ein Hund rennt.\n\n\n2 ja\n3 mein Hund\n", encoding="utf-8")


def test_pairs_have_scores_and_the_corpus_a_perplexity(here: Path, nmt: Nmt) -> None:
    """Line in, line out, honest numbers (nmt/README.md, Guarantees)."""
    write_pairs()
    answer = nmt("score runs/tiny my.en my.de --length-penalty 1")
    assert answer.status == 0
    rows = [line.split("\t") for line in answer.out[:-1].split("\n")]
    assert [text for _, text in rows] == ["1 ein Hund rennt.", "", "", "2 ja", "3 mein Hund"]
    assert [score for score, _ in rows[1::2]] == ["0.000000", "-inf"]
    trees = [
        json.loads(line)
        for line in nmt("score runs/tiny my.en my.de --format jsonl").out.splitlines()
    ]
    assert [tree["src"] for tree in trees] == Path("my.en").read_text().splitlines()
    assert trees[3] == {
        "src": " ", "tgt": "2 ja", "score": None, "log_prob": None, "tokens": [],
        "token_log_probs": [],
    }  # fmt: skip
    real = [trees[index] for index in (0, 2, 4)]
    for (score, _), tree in zip(rows[::2], real, strict=True):
        assert tree["log_prob"] == tree["score"] == pytest.approx(sum(tree["token_log_probs"]))
        assert tree["tokens"][-1] == "</s>"
        penalty = (5 + len(tree["tokens"])) / 6
        assert float(score) == pytest.approx(tree["log_prob"] / penalty, abs=1e-6)
    num_tokens = sum(len(tree["tokens"]) for tree in real)
    nats = -sum(tree["log_prob"] for tree in real)
    assert answer.err.splitlines()[0].startswith("runs/tiny/checkpoints/update-00000060: update 60")
    assert answer.err.splitlines()[-2:] == [
        f"{num_tokens} target tokens with EOS | loss {nats / num_tokens:.4f} nats/token | ppl "
        f"{math.exp(nats / num_tokens):.2f} | 7 words | {nats / 7:.4f} nats/word",
        "2 of 5 sources are blank and not counted; 1 of them have a translation (probability 0)",
    ]


@pytest.mark.parametrize(("log_prob", "ppl"), [(-2.0, "7.39"), (-1000.0, f"{math.exp(50):.2f}")])
def test_perplexity_of_a_very_bad_model_is_limited(log_prob: float, ppl: str) -> None:
    totals = ScoreTotals(num_pairs=1, num_tokens=1, num_words=1, log_prob=log_prob)
    assert f" | ppl {ppl} | " in _summary(totals)[0]


@pytest.mark.parametrize("form", ["text", "scores", "jsonl"])
def test_batch_does_not_change_the_scores(form: str, here: Path, nmt: Nmt) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    options = f"score runs/tiny raw/train.en raw/train.de --format {form}"
    together = nmt(options).out
    assert len(together.splitlines()) == 100
    for batch in (1, 7):
        assert nmt(f"{options} --batch {batch} -o packed.gz").out == ""
        assert gzip.decompress(Path("packed.gz").read_bytes()).decode() == together


def test_pipes_are_read_once(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    write_pairs()
    ends = [os.pipe() for _ in range(2)]
    for (_, end), name in zip(ends, ("my.en", "my.de"), strict=True):
        os.write(end, Path(name).read_bytes())
        os.close(end)
    pipes = " ".join(f"/dev/fd/{end}" for end, _ in ends)
    of_files, of_pipes = (nmt(f"score runs/tiny {names}") for names in ("my.en my.de", pipes))
    assert of_pipes.out == of_files.out
    assert "scored 5 pairs | " in of_pipes.err
    for end, _ in ends:
        os.close(end)
