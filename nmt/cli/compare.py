"""`nmt compare`."""

from pathlib import Path
from typing import Any

import click

from nmt.cli.comparing import comparison_options, label, read_options
from nmt.cli.models import check_inputs
from nmt.errors import ConfigError, DataError


@click.command()
@click.argument("hyps", nargs=-1, required=True, metavar="TRANSLATION...")
@click.option("--ref", required=True, multiple=True, metavar="FILE",
              help="The reference; given again: another one for the same lines.")  # fmt: skip
@click.option("--src", metavar="FILE", help="The source, to be shown with what changed.")
@click.option("--baseline", metavar="FILE", help="The translation to compare the others with.")
@click.option("--language", default="", metavar="CODE",
              help="Target language: for zh, ja and ko BLEU cuts words its own way.")  # fmt: skip
@click.option("--labels", metavar="FILE",
              help="Name of the corpus of each line: adds slices by corpus.")  # fmt: skip
@comparison_options
def compare(
    hyps: tuple[str, ...], ref: tuple[str, ...], src: str | None, baseline: str | None,
    language: str, labels: str | None, **options: Any,
) -> None:  # fmt: skip
    """Score files of translations, and compare them.

    Exit status: 0; 1 if --min-gain or --max-p is not met by all; 2 for wrong input.
    """
    from nmt.evaluation import scores, slices, test_sets
    from nmt.evaluation.comparison import compare as compared

    asked = read_options(language, baseline, **options)
    check_inputs([*hyps, *ref, *(name for name in (src, baseline, labels) if name)])
    names = list(hyps) if baseline is None or baseline in hyps else [baseline, *hyps]
    if len(set(names)) < len(names):
        raise ConfigError.from_message(
            f"{max(names, key=names.count)} is given twice; once is enough"
        )
    if baseline is not None and len(names) == 1:
        raise ConfigError("--baseline", baseline, "it is all there is: name another translation")
    references = [read(ref[0])]
    num_lines = len(references[0])
    references += [read(name, ref[0], num_lines) for name in ref[1:]]
    lines = {name: read(name, ref[0], num_lines) for name in names}
    src_lines = read(src, ref[0], num_lines) if src else ()
    test_set = test_sets.name_of(Path(ref[0]))
    of_set = label({test_set: references[0]}, language, asked.train_text)[test_set]
    if labels:
        of_set["corpus"] = slices.by_corpus(Path(labels), num_lines)
    reports = [
        scores.score(
            lines[name], references, language, test_set=test_set, system=name,
            metrics=asked.metrics, labels=of_set,
        )
        for name in names
    ]  # fmt: skip
    for report in reports:
        asked.show(report)
    asked.show_slices(reports)
    if baseline is not None:
        comparison = compared(
            lines, baseline, references, language, test_set=test_set, metrics=asked.metrics,
            test=asked.paired, src=src_lines,
        )  # fmt: skip
        if not asked.show_comparison(comparison):
            raise click.exceptions.Exit(1)


def read(name: str, ref: str = "", num_lines: int = 0) -> tuple[str, ...]:
    """The lines of a file; DataError if there are none, or not as many as in the reference."""
    from nmt.corpus.text import read_lines

    lines = tuple(read_lines(Path(name)))
    if not lines:
        raise DataError(f"{name} is empty; a score needs one line or more")
    if ref and len(lines) != num_lines:
        raise DataError(
            f"{name} has {len(lines):,} lines, but {ref} has {num_lines:,}; they need one line "
            "for each segment"
        )
    return lines
