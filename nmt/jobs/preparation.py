"""Preparing the corpus of an experiment on Ray, with a summary on the console.

Ray and pyarrow are imported when a function needs them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.corpus.io import check_writable

if TYPE_CHECKING:
    from nmt.corpus.manifest import Manifest


def prepare_corpus(
    experiment: Experiment,
    cluster: Cluster,
    console: Console,
    *,
    is_forced: bool = False,
    dropped: Path | None = None,
    explains_preset: bool = True,
) -> "Manifest":
    """Prepare the corpus on Ray, unless it is prepared, and print a summary.

    Args:
        experiment: the experiment.
        cluster: cluster to prepare on.
        console: gets progress and summary.
        is_forced: prepare again beside a prepared corpus, then replace it.
        dropped: file for the pairs dropped and repaired.
        explains_preset: print the sizes that `preset: auto` chooses; training logs them.

    Raises:
        NmtError: a file is missing or malformed, or the folder is in use.
    """
    from nmt.corpus.folder_lock import check_replaceable
    from nmt.corpus.prepare import prepare as check_complete
    from nmt.corpus.prepared import (
        count_left_out,
        format_summary,
        is_prepared,
        prepared_folder,
        read_dev,
        resolve_by_prepared,
    )
    from nmt.evaluation.scores import check_dev_set

    if is_prepared(experiment) and not is_forced:
        # Without tasks to run this checks settings and raw files only.
        manifest = check_complete(experiment, dropped=dropped)
        check_dev_set(experiment.corpus.tgt, read_dev(experiment.prepared)[1])
        console.print(f"{prepared_folder(experiment)}: already prepared")
    else:
        # Before Ray starts: a folder that a run reads cannot be replaced.
        if is_prepared(experiment):
            check_replaceable(prepared_folder(experiment))
        check_unprepared(experiment)
        from nmt.jobs.ray_session import connect
        from nmt.jobs.tasks import prepare_on_ray

        with connect(cluster.workers.max, preparation_log(experiment)):
            manifest = prepare_on_ray(
                experiment, console.progress, is_forced=is_forced, dropped=dropped
            )
        console.clear()
    for line in format_summary(manifest):
        console.print(line)
    if explains_preset:
        experiment = resolve_by_prepared(experiment, console.print)
    else:
        experiment = resolve_by_prepared(experiment)
    if left_out := count_left_out(experiment, manifest):
        console.print(
            f"training leaves out {left_out:,} of {manifest.pairs:,} pairs: longer than "
            f"batching.max_length ({experiment.batching.max_length} tokens)"
        )
    return manifest


def check_unprepared(experiment: Experiment) -> None:
    """Check the raw files of a corpus and its folder, before Ray starts.

    Raises:
        NmtError: a file is missing or malformed, or the folder is not writable.
    """
    from nmt.corpus.prepare import check_raw
    from nmt.corpus.prepared import prepared_folder
    from nmt.corpus.task_cache import check_own
    from nmt.evaluation.scores import check_dev_set

    check_dev_set(experiment.corpus.tgt, check_raw(experiment))
    check_writable("corpus.prepared", prepared_folder(experiment))
    check_own(prepared_folder(experiment))


def preparation_log(experiment: Experiment) -> Path:
    """Return the file for Ray's output during preparation, next to the prepared corpus."""
    from nmt.corpus.prepared import prepared_folder

    directory = prepared_folder(experiment)
    return directory.with_name(f"{directory.name}.ray.log")
