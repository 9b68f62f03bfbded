"""`nmt tune`."""

import math
from pathlib import Path
from typing import Any

import click

from nmt.cli.models import about, load_bundle, make_translator
from nmt.cli.verbs import compute_options, program
from nmt.errors import ConfigError


@click.command()
@click.argument("run")
@click.option("--beams", default="1,4,5,8", show_default=True, metavar="NUMBERS",
              help="Beams to try.")  # fmt: skip
@click.option("--penalties", default="0.6,0.8,1.0,1.2,1.4", show_default=True, metavar="NUMBERS",
              help="Length penalties to try.")  # fmt: skip
@compute_options
def tune(run: str, beams: str, penalties: str, **how: Any) -> None:
    """Find the beam and length penalty best on the dev set.

    Nothing is trained: the dev set of RUN, a run's folder or a checkpoint, is translated with each
    beam and each length penalty. The table goes to standard output, the best first.
    """
    from nmt.config.decoding import DecodingConfig
    from nmt.console import Console
    from nmt.corpus.text import read_pairs
    from nmt.evaluation import tuning

    widths = [int(width) for width in numbers("--beams", beams, 1, is_whole=True)]
    alphas = numbers("--penalties", penalties, 0, is_whole=False)
    bundle = load_bundle(Path(run))
    corpus, decoding = bundle.experiment.corpus, bundle.experiment.decoding
    if decoding.method != "beam":
        rule = "only beam search has a beam and a length penalty to tune"
        raise ConfigError("decoding.method", decoding.method, rule)
    srcs, refs = zip(*read_pairs(corpus.dev, corpus.root), strict=True)
    translator = make_translator(bundle, **how)
    decoding = decoding.model_copy(update={"batch_sentences": translator.decoding.batch_sentences})

    def translate(changed: DecodingConfig) -> list[str]:
        translator.decoding = changed
        return [found.text for found in translator.translate(srcs)]

    with Console() as console:
        console.say(about(bundle))
        trials = tuning.tune(
            translate, decoding, widths, alphas, refs, corpus.tgt,
            lambda done, total: console.progress("tuning", done, total, "searches"),
        )  # fmt: skip
        console.clear()
        click.echo(tuning.table(trials, decoding))
        best = trials[0]
        console.say(
            f"{len(refs):,} lines of {corpus.dev.name}, BLEU|{best.bleu.signature}; to use the "
            f"best: {program()} translate {run} --beam {best.beam} "
            f"--length-penalty {best.length_penalty:g}"
        )


def numbers(option: str, text: str, least: int, *, is_whole: bool) -> list[float]:
    """Numbers parted by commas; ConfigError for anything else."""
    kind = "whole numbers" if is_whole else "numbers"
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [math.nan]
    is_good = all(least <= x < math.inf and (not is_whole or x == int(x)) for x in found)
    if not is_good:
        raise ConfigError(option, text, f"it must be {kind}, each {least} or more, like 1,4,8")
    return found
