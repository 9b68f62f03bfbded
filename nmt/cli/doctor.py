"""`nmt doctor`: examine a corpus before training on it."""

import json
from dataclasses import asdict

import click

from nmt.cli import options
from nmt.console import Console
from nmt.corpus.io import check_writable
from nmt.corpus.text import open_output
from nmt.errors import ConfigError
from nmt.jobs.preparation import preparation_log


@click.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
@click.option("-o", "--output", default="doctor.html", metavar="FILE", help="HTML file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fail-above", type=options.FiniteFloat(min=0, max=1), metavar="SHARE",
              help="Exit with status 1 if more than this share of the pairs is bad.")  # fmt: skip
def doctor(
    experiment: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    output: str,
    as_json: bool,
    fail_above: float | None,
) -> None:
    """Examine a corpus: languages, lengths, bad pairs.

    All cleaning rules are applied, also those that are off in the experiment, and pairs are scored
    by IBM Model 1. The page has samples of each rule; nothing is prepared or changed.

    Exit status: 0, 1 above --fail-above, 2 for invalid input.
    """
    if as_json and output == "-":
        raise ConfigError("--output", "-", "--json uses standard output: give a file name")
    settings, cluster_settings = options.load_settings(experiment, cluster, overrides)
    from nmt.corpus.prepare import check_raw, raw_paths
    from nmt.corpus.prepared import prepared_folder

    # Raw files and target directory are checked before Ray starts.
    options.check_output(output, [experiment, *map(str, raw_paths(settings))])
    check_raw(settings)
    check_writable("corpus.prepared", prepared_folder(settings).parent)
    from nmt.jobs.ray_session import connect
    from nmt.jobs.tasks import examine_on_ray
    from nmt.report.doctor_page import render_diagnosis, summary_lines

    with Console() as console, options.resumable(console):
        with connect(cluster_settings.workers.max, preparation_log(settings)):
            diagnosis = examine_on_ray(settings, console.progress)
        console.clear()
        page = render_diagnosis(diagnosis)
        with open_output(output) as file:
            file.write(page)
        if as_json:
            tree = asdict(diagnosis) | {"bad_share": round(diagnosis.bad_share, 6)}
            click.echo(json.dumps(tree, ensure_ascii=False, indent=1))
        else:
            click.echo("\n".join(summary_lines(diagnosis)), err=output == "-")
        if output != "-":
            console.print(f"wrote {output} ({len(page) / 1024:,.0f} KiB)")
        if fail_above is not None and diagnosis.bad_share > fail_above:
            console.print(f"bad share {diagnosis.bad_share:.4f} is above {fail_above:g}")
            click.get_current_context().exit(1)
