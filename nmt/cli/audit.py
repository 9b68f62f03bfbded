"""`nmt audit`: compare the training ledger of a run with its schedule and checkpoints."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.checkpoint.location import run_dir

if TYPE_CHECKING:
    from nmt.training.audit import Audit
    from nmt.training.run_manifest import RunStart

DESCRIPTIONS = {"begun": "new run", "continued": "resumed", "restarted": "workers restarted"}
"""Descriptions of the reasons for a start that manifests store."""


@click.command()
@click.argument("run")
@click.option("--prepared", metavar="DIR", help="Prepared corpus; default: that of the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(run: str, prepared: str | None, as_json: bool) -> None:
    """Verify that each epoch of a run used each pair once.

    Each kept pair must occur exactly once in each complete epoch and at most once in the current
    one; with corpus weights, each update must contain the pairs that the weights select. The
    records that the workers wrote during training are compared with each other, with the
    checkpoints and, if available, with the prepared corpus.

    RUN is a run directory; the run may still be in progress.

    Exit status: 0 if verified, 1 if not, 2 for invalid input.
    """
    from nmt.training.audit import audit_run

    result = audit_run(run_dir(run), Path(prepared) if prepared else None)
    if as_json:
        click.echo(json.dumps(asdict(result) | {"is_proven": result.is_proven}, indent=1))
    else:
        click.echo("\n".join(_lines(result)))
    click.get_current_context().exit(0 if result.is_proven else 1)


def _lines(result: "Audit") -> Iterator[str]:
    """Format an audit for the terminal."""
    first = " of the first stage" if result.has_own_epochs else ""
    yield (
        f"{result.run}: {result.updates:,} updates up to the newest complete checkpoint | "
        f"{result.pairs:,} pairs and {result.updates_per_epoch:,} updates per epoch{first}"
    )
    if not result.has_own_epochs:
        current = result.updates - result.full_epochs * result.updates_per_epoch
        rest = f" | then {current:,} updates, {result.pairs_after:,} pairs" if current else ""
        yield f"complete epochs: {result.full_epochs:,}{rest}"
    corpus = "prepared corpus (pairs, target tokens, schedule)"
    if not result.is_corpus_here:
        corpus = "number of pairs only, the prepared corpus is not available (--prepared)"
    yield f"compared with: {corpus}; {result.checkpoints:,} checkpoints; chain {result.chain[:16]}"
    for span in result.workers:
        yield f"updates {span.first:,} to {span.last:,} | workers {span.workers}"
    for start in result.starts:
        yield (
            f"{start.time} {_describe_start(start)} | "
            f"workers {start.workers} on {start.devices}, rank 0 on {start.host}"
        )
    yield f"skipped updates: {', '.join(f'{update:,}' for update in result.skipped) or 'none'}"
    yield from (f"ERROR: {finding}" for finding in result.findings)
    if hidden := result.num_findings - len(result.findings):
        yield f"ERROR: {hidden:,} more findings"
    if not result.is_proven:
        yield f"NOT verified: {result.num_findings:,} findings"
    elif result.is_even:
        yield "verified: each pair used once in each complete epoch, at most once afterwards"
    elif result.is_corpus_here:
        yield "verified: each update used the pairs selected by the corpus weights"
    else:
        yield "no contradiction found; with corpus weights, verification needs the prepared corpus"


def _describe_start(start: "RunStart") -> str:
    text = DESCRIPTIONS.get(start.reason, start.reason)
    return f"{text} from update {start.update:,}" if start.update else text
