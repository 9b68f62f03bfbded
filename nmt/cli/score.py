"""`nmt score`."""

import json
import math
import time
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.models import about, check_inputs, load_bundle, make_translator
from nmt.cli.options import compute_options, number, one_of
from nmt.cli.translate import check_output

if TYPE_CHECKING:
    from nmt.decoding.scoring import LineScore, ScoreTotals


@click.command()
@click.argument("run")
@click.argument("src")
@click.argument("tgt")
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: standard output.")
@click.option("--format", "form", default="text", show_default=True,
              metavar="[text|scores|jsonl]", callback=one_of("text", "scores", "jsonl"),
              help="text: score, tab, translation; scores: alone; jsonl: all tokens.")  # fmt: skip
@click.option("--length-penalty", default="0", show_default=True, metavar="NUMBER",
              callback=number(float, math.nextafter(0, -1), "a number, 0 or more"),
              help="GNMT's alpha: scores as the search ranks; 0: log-probabilities.")  # fmt: skip
@compute_options
def score(
    run: str, src: str, tgt: str, output: str, form: str, length_penalty: float, **how: Any
) -> None:
    """Say how likely a model finds translations given to it.

    Line n of TGT translates line n of SRC. Scores are natural logarithms of probabilities. A blank
    source becomes blank for certain, 0; any other translation of it has -inf. The perplexity of all
    other lines is told at the end.
    """
    from nmt.console import Console
    from nmt.corpus.text import open_output
    from nmt.decoding.scoring import ScoreTotals, read_pairs, score_pairs

    check_inputs([src, tgt])
    for given in (src, tgt):
        check_output(given, output)
    bundle = load_bundle(run)
    translator = make_translator(bundle, **how)
    # The files are read twice: what is wrong at their ends shows before anything is scored.
    total = sum(1 for _ in read_pairs(Path(src), Path(tgt)))
    totals, started = ScoreTotals(), time.monotonic()
    with Console() as console, open_output(output) as file:
        console.print(about(bundle))

        def show(num_done: int) -> None:
            if output != "-":
                console.progress("scoring", num_done, total, "pairs")

        pairs, same = tee(read_pairs(Path(src), Path(tgt)))
        scores = score_pairs(translator, pairs, show)
        for (src_line, tgt_line), found in zip(same, scores, strict=True):
            totals.add(tgt_line, found)
            file.write(_line(src_line, tgt_line, found, form, length_penalty) + "\n")
        console.clear()
        seconds = max(time.monotonic() - started, 1e-9)
        console.print(f"{total:,} pairs scored in {seconds:.1f} s, {total / seconds:,.1f} pairs/s")
        for line in _summary(totals):
            console.print(line)


def _line(src: str, tgt: str, found: "LineScore", form: str, alpha: float) -> str:
    value = found.penalised(alpha)
    if form != "jsonl":
        return f"{value:.6f}" if form == "scores" else f"{value:.6f}\t{tgt}"
    tree = {
        "src": src,
        "tgt": tgt,
        # JSON has no infinity.
        "score": value if found.is_possible else None,
        "log_prob": found.log_prob if found.is_possible else None,
        "tokens": found.tokens,
        "token_log_probs": found.token_log_probs,
    }
    return json.dumps(tree, ensure_ascii=False)


def _summary(totals: "ScoreTotals") -> list[str]:
    """The perplexity of the corpus, and what has no part in it."""
    lines = []
    if totals.num_tokens:
        nats = -totals.log_prob
        per_token, per_word = nats / totals.num_tokens, nats / max(totals.num_words, 1)
        lines.append(
            f"{totals.num_tokens:,} target tokens, ends counted: {per_token:.4f} nats/token, "
            f"perplexity {math.exp(per_token):.2f}; {totals.num_words:,} words: "
            f"{per_word:.4f} nats/word"
        )
    if totals.num_blank:
        lines.append(
            f"{totals.num_blank:,} of {totals.num_pairs:,} sources are blank and have no part in "
            f"that; {totals.num_impossible:,} of these have a translation, which is impossible"
        )
    return lines
