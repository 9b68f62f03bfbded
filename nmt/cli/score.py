"""`nmt score`: forced decoding of given translations."""

import json
import math
import time
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.options import LENGTH_PENALTY, check_output, compute_options, describe
from nmt.config.files import build_text
from nmt.console import Console
from nmt.corpus.io import check_files
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.text import open_output
from nmt.decoding.loading import make_translator, open_model

if TYPE_CHECKING:
    from nmt.decoding.scoring import LineScore, ScoreTotals


@click.command()
@click.argument("run")
@click.argument("src")
@click.argument("tgt")
@click.option("-o", "--output", default="-", metavar="FILE", help="Output file; -: stdout.")
@click.option("--format", "form", type=click.Choice(["text", "scores", "jsonl"]), default="text",
              help="text: score, tab, translation; scores; jsonl: with tokens.")  # fmt: skip
@click.option("--length-penalty", type=LENGTH_PENALTY, default=0.0,
              help="GNMT length penalty alpha; 0: log-probability.")  # fmt: skip
@compute_options
def score(
    run: str, src: str, tgt: str, output: str, form: str, length_penalty: float, **compute: Any
) -> None:
    """Compute log-probabilities of given translations.

    Line n of TGT is the translation of line n of SRC. Scores are natural logarithms. A blank
    source has log-probability 0 for a blank translation and -inf for any other. The perplexity over
    all other lines is printed at the end. RUN is a run directory, a checkpoint or an exported
    model.
    """
    check_files([src, tgt])
    check_output(output, [src, tgt])
    from nmt.decoding.scoring import ScoreTotals, score_pairs

    checkpoint = open_model(run)
    translator = make_translator(checkpoint, **compute)
    # Files are read twice, so that an error in the last line is found before scoring starts. A pipe
    # can be read only once.
    files = PairFiles(build_text({"name": "pairs", "src": src, "tgt": tgt}), "", ("", ""))
    has_pipe = any(Path(name).is_fifo() for name in (src, tgt))
    total = 0 if has_pipe else sum(1 for _ in files.read())
    translator.build_engine()
    totals, started = ScoreTotals(), time.monotonic()
    with Console() as console, open_output(output) as file:
        console.print(describe(checkpoint))

        def progress(num_done: int) -> None:
            if output != "-":
                console.progress("scoring", num_done, total, "pairs")

        pairs, same = tee(files.read())
        scores = score_pairs(translator, pairs, progress)
        for (src_line, tgt_line), line_score in zip(same, scores, strict=True):
            totals.add(tgt_line, line_score)
            file.write(_format(src_line, tgt_line, line_score, form, length_penalty) + "\n")
        console.clear()
        seconds, number = max(time.monotonic() - started, 1e-9), totals.num_pairs
        console.print(
            f"scored {number:,} pairs | {seconds:.1f} s | {number / seconds:,.1f} pairs/s"
        )
        for line in _summary(totals):
            console.print(line)


def _format(src: str, tgt: str, score: "LineScore", form: str, alpha: float) -> str:
    value = score.penalised(alpha)
    if form != "jsonl":
        return f"{value:.6f}" if form == "scores" else f"{value:.6f}\t{tgt}"
    tree = {
        "src": src,
        "tgt": tgt,
        # JSON has no infinity.
        "score": value if score.is_possible else None,
        "log_prob": score.log_prob if score.is_possible else None,
        "tokens": score.tokens,
        "token_log_probs": score.token_log_probs,
    }
    return json.dumps(tree, ensure_ascii=False)


def _summary(totals: "ScoreTotals") -> list[str]:
    """Return lines about the perplexity of the corpus and the pairs left out of it."""
    lines = []
    if totals.num_tokens:
        loss = -totals.log_prob / totals.num_tokens
        # At most e^50, as in the log of training.
        perplexity = math.exp(min(loss, 50.0))
        per_word = -totals.log_prob / max(totals.num_words, 1)
        lines.append(
            f"{totals.num_tokens:,} target tokens with EOS | loss {loss:.4f} nats/token | ppl "
            f"{perplexity:.2f} | {totals.num_words:,} words | {per_word:.4f} nats/word"
        )
    if totals.num_blank:
        lines.append(
            f"{totals.num_blank:,} of {totals.num_pairs:,} sources are blank and not counted; "
            f"{totals.num_impossible:,} of them have a translation (probability 0)"
        )
    return lines
