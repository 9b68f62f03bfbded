"""Cluster files and the number of workers."""

from pathlib import Path

import pytest
from toy_settings import CONFIGS

from nmt.config.cluster import Cluster, Workers
from nmt.config.files import dump, load_cluster, parse_stored
from nmt.errors import ConfigError


def cluster_message_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_cluster(None, overrides)
    return str(error.value)


@pytest.mark.parametrize(
    "file", sorted((CONFIGS / "clusters").glob("*.yaml")), ids=lambda file: file.name
)
def test_cluster_files_of_the_project_load(file: Path) -> None:
    assert load_cluster(file).name == file.stem


def test_default_cluster_is_one_local_worker() -> None:
    expected = Cluster(name="local", workers=1, gpus_per_worker="auto", storage="runs")
    assert load_cluster(None) == expected
    assert load_cluster(None, ["gpus_per_worker=0"]) == Cluster()


@pytest.mark.parametrize(
    ("overrides", "num_gpus", "expected"),
    [
        # Workers at least and at most, GPUs per worker; an update has four micro-batches.
        (["workers=auto", "gpus_per_worker=auto"], 0, (2, 2, 0)),
        (["workers=auto", "gpus_per_worker=auto"], 1, (1, 1, 1)),
        (["workers=auto", "gpus_per_worker=auto"], 8, (4, 4, 1)),
        (["workers=auto", "gpus_per_worker=0"], 8, (2, 2, 0)),
        (["workers=auto", "gpus_per_worker=1"], 0, (1, 1, 1)),
        (["workers={min: 3, max: 3, auto: true}"], 0, (3, 3, 0)),
        ([], 1, (1, 1, 1)),
        (["workers=2"], 1, (2, 2, 0)),
        (["workers=2"], 2, (2, 2, 1)),
        (["workers={min: 1, max: 8}"], 1, (1, 8, 1)),
        (["workers=2", "gpus_per_worker=1"], 0, (2, 2, 1)),
    ],
)
def test_auto_depends_on_the_gpus(
    overrides: list[str], num_gpus: int, expected: tuple[int, int, int]
) -> None:
    cluster = load_cluster(None, overrides).resolve(num_gpus, max_workers=4)
    assert (cluster.workers.min, cluster.workers.max, cluster.num_gpus) == expected


def test_auto_workers_leave_no_worker_without_a_micro_batch() -> None:
    cluster = load_cluster(CONFIGS / "clusters" / "local.yaml")
    assert cluster.resolve(0, max_workers=1).workers == Workers()


@pytest.mark.parametrize(
    ("override", "expected", "text"),
    [
        ("workers=3", (3, 3), "workers: 3\n"),
        ("workers=auto", (2, 2), "workers: auto\n"),
        ("workers={min: 2, max: 8}", (2, 8), "workers:\n  min: 2\n  max: 8\n"),
        ("workers.max=4", (1, 4), "workers:\n  min: 1\n  max: 4\n"),
    ],
)
def test_workers_is_a_number_or_a_range(
    override: str, expected: tuple[int, int], text: str
) -> None:
    cluster = load_cluster(None, [override])
    assert (cluster.workers.min, cluster.workers.max) == expected
    assert text in dump(cluster)
    assert parse_stored(Cluster, dump(cluster), "dumped") == cluster


@pytest.mark.parametrize(("workers", "shown"), [("4", "4"), ("auto", "'auto'")])
def test_one_limit_does_not_replace_a_number(workers: str, shown: str) -> None:
    """One worker would train: 1 is the default of the other limit."""
    assert cluster_message_of(f"workers={workers}", "workers.min=1") == (
        f"'workers.min=1' sets a part of workers, which is {shown}: set workers as a whole"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("workers=0", "cluster.workers is 0, but it must be 1 or more"),
        (
            "workers=many",
            "cluster.workers is 'many', but it must be an integer, auto, or {min: 1, max: 8}",
        ),
        (
            "workers=true",
            "cluster.workers is true, but it must be an integer, auto, or {min: 1, max: 8}",
        ),
        (
            "workers={min: 3, max: 2}",
            "cluster.workers.min is 3, but it must be cluster.workers.max (2) or less",
        ),
        (
            "workers={mim: 3}",
            "cluster.workers.mim is not a setting; did you mean cluster.workers.min?",
        ),
        ("workers={min: 0}", "cluster.workers.min is 0, but it must be 1 or more"),
        ("hang_timeout_s=0", "cluster.hang_timeout_s is 0, but it must be more than 0"),
        ("max_lost_updates=-1", "cluster.max_lost_updates is -1, but it must be 0 or more"),
        ("worker=2", "cluster.worker is not a setting; did you mean cluster.workers?"),
        ("gpus_per_worker=2", "cluster.gpus_per_worker is 2, but it must be 0, 1 or auto"),
        ("gpus_per_worker=true", "cluster.gpus_per_worker is true, but it must be 0, 1 or auto"),
        ("env={A: 1}", "cluster.env.A is 1, but it must be text: quote it"),
    ],
)
def test_invalid_cluster_setting_is_an_error(override: str, expected: str) -> None:
    assert cluster_message_of(override) == f"command line: {expected}"
