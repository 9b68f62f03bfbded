"""Preparing on Ray: the same bytes as in one process, and errors for people."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
from nmt.errors import DataError
from nmt.jobs.tasks import prepare_on_ray, run_on_ray

pytestmark = pytest.mark.ray

PAIRS = [(f"The dog sees {n} trees.", f"Der Hund sieht {n} Bäume.") for n in range(60)]


@pytest.fixture(scope="module", params=[1, 2])
def num_workers(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(address="local", include_dashboard=False, num_cpus=request.param, log_to_driver=False)
    yield request.param
    ray.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_any_number_of_workers_prepares_the_same_bytes(
    num_workers: int, make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    """P2."""
    heard: list[tuple[str, int, int]] = []
    corpora = {"a": PAIRS, "b": PAIRS[20:40]}
    prepare(make_corpus(corpora, prepared="here", shard_pairs=7))
    prepare_on_ray(
        make_corpus(corpora, prepared="there", shard_pairs=7),
        lambda stage, done, total: heard.append((stage, done, total)),
    )
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert heard[-1] == ("encoding", 9, 9)


def test_a_task_that_fails_says_what_is_wrong_in_one_line(num_workers: int) -> None:
    """P9."""

    def fail(number: int) -> int:
        if number >= 3:
            raise DataError(f"raw/train.de, line {number}: no good")
        return number

    with pytest.raises(DataError, match=r"^raw/train\.de, line \d: no good$"):
        list(run_on_ray(fail, [(number,) for number in range(9)]))


def test_a_task_that_is_lost_for_good_says_what_to_do(num_workers: int) -> None:
    """P9."""

    def die() -> None:
        os._exit(1)

    with pytest.raises(DataError) as caught:
        list(run_on_ray(die, [()]))
    assert str(caught.value) == (
        "a task failed too often on the cluster (WorkerCrashedError: The worker died unexpectedly "
        "while executing this task. Check python-core-worker-*.log files for more information.); "
        "run the same command again to resume"
    )


def test_a_mistake_of_ours_keeps_its_traceback(num_workers: int) -> None:
    def stumble() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        list(run_on_ray(stumble, [()]))


def test_preparing_does_not_need_torch() -> None:
    code = "import sys, nmt.jobs.tasks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
