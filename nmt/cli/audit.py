"""`nmt audit`: what a run was trained on, and whether that is what it should have been."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli.models import run_folder

if TYPE_CHECKING:
    from nmt.training.audit import Audit


@click.command()
@click.argument("run")
@click.option("--prepared", metavar="FOLDER",
              help="The prepared corpus; default: where the run found it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(run: str, prepared: str | None, as_json: bool) -> None:
    """Prove that each epoch of a run used each pair once.

    That is: each kept pair exactly once in each full epoch, and none twice in the one under way;
    where corpora have weights, in each update the pairs that these give it.
    RUN is a run's folder, finished or not. What the workers recorded while they trained is compared
    with itself, with the checkpoints and, where it is here, with the prepared corpus. Exit status:
    0 proven, 1 not.
    """
    from nmt.training.audit import audit_run as audited

    found = audited(run_folder(run), Path(prepared) if prepared else None)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"is_proven": found.is_proven}, indent=1))
    else:
        click.echo("\n".join(_told(found)))
    click.get_current_context().exit(0 if found.is_proven else 1)


def _told(found: "Audit") -> Iterator[str]:
    yield (
        f"{found.run}: {found.updates:,} updates up to its newest good checkpoint; an epoch is "
        f"{found.pairs:,} pairs in {found.updates_per_epoch:,} updates"
    )
    after = found.updates - found.full_epochs * found.updates_per_epoch
    under_way = f", then {after:,} updates with {found.pairs_after:,} pairs" if after else ""
    yield f"full epochs: {found.full_epochs:,}{under_way}"
    corpus = "with the prepared corpus, its target tokens and the schedule"
    if not found.is_corpus_here:
        corpus = "with the number of pairs alone: the prepared corpus is not here (--prepared)"
    yield f"compared: {corpus}; with {found.checkpoints:,} checkpoints; chain {found.chain[:16]}"
    for stretch in found.workers:
        plural = "s" * (stretch.workers > 1)
        yield f"updates {stretch.first:,} to {stretch.last:,}: {stretch.workers} worker{plural}"
    for start in found.starts:
        yield (
            f"{start.time} {start.reason} after update {start.update:,}: {start.workers} "
            f"worker{'s' * (start.workers > 1)} on {start.devices}, first on {start.host}"
        )
    yield f"skipped updates: {', '.join(f'{update:,}' for update in found.skipped) or 'none'}"
    yield from (f"WRONG: {finding}" for finding in found.findings)
    if hidden := found.num_findings - len(found.findings):
        yield f"WRONG: and {hidden:,} findings more"
    if not found.is_proven:
        yield f"NOT proven: {found.num_findings:,} findings"
        return
    once = "each kept pair was used exactly once in each full epoch, none twice after that"
    weighted = "each update used the pairs that the weights of the corpora give it"
    if found.is_even or found.is_corpus_here:
        yield f"proven: {once if found.is_even else weighted}"
    else:
        yield "nothing contradicts it; with weights of corpora, proof needs the prepared corpus"
