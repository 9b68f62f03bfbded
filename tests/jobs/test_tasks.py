import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray_clusters import RayCluster

from nmt.config.experiment import Experiment
from nmt.corpus.doctor import examine
from nmt.corpus.prepare import prepare
from nmt.errors import DataError
from nmt.jobs.tasks import examine_on_ray, prepare_on_ray, run_on_ray

PAIRS = [(f"The dog sees {n} trees.", f"Der Hund sieht {n} Bäume.") for n in range(60)]


@pytest.fixture(params=[1, 2])
def num_cpus(request: pytest.FixtureRequest, ray_session: RayCluster) -> Iterator[int]:
    """Number of free cores of the shared cluster; an actor takes the others."""

    @ray.remote
    class Placeholder:
        def ready(self) -> None: ...

    actor = Placeholder.options(num_cpus=2 - request.param).remote()
    ray.get(actor.ready.remote())
    yield request.param
    ray.kill(actor)


def read_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.ray
def test_prepared_bytes_do_not_depend_on_the_number_of_workers(
    num_cpus: int, make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []
    corpora = {"a": PAIRS, "b": PAIRS[20:40]}
    prepare(make_corpus(corpora, prepared="local", shard_pairs=7))
    prepare_on_ray(
        make_corpus(corpora, prepared="ray", shard_pairs=7),
        lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert read_files(tmp_path / "ray") == read_files(tmp_path / "local")
    assert calls[-1] == ("encoding", 9, 9)


@pytest.mark.ray
def test_prepared_again_on_ray_with_a_list_of_dropped_pairs(
    ray_session: RayCluster, make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    pairs = [*PAIRS, ("Nothing", ""), ("A&amp;B.", "A und B.")]
    made = make_corpus({"a": pairs}, cleaning={"html_entities": True}, shard_pairs=20)
    lists = [tmp_path / "local.tsv", tmp_path / "ray.tsv"]
    prepare(made, dropped=lists[0])
    before = read_files(tmp_path / "prepared")
    prepare_on_ray(made, is_forced=True, dropped=lists[1])
    assert (
        lists[0].read_text()
        == lists[1].read_text()
        == (
            "corpus\tline\trule\taction\tsrc\ttgt\n"
            "a\t61\tempty\tdropped\tNothing\t\n"
            "a\t62\thtml_entities\trepaired\tA&amp;B.\tA und B.\n"
        )
    )
    assert read_files(tmp_path / "prepared") == before
    assert not list(tmp_path.glob("*prepared.*"))


@pytest.mark.ray
def test_examined_on_ray_as_in_one_process(
    ray_session: RayCluster, make_corpus: Callable[..., Experiment], tmp_path: Path
) -> None:
    made = make_corpus({"a": [*PAIRS, ("Nothing", "")], "b": PAIRS[:9]}, shard_pairs=20)
    assert examine_on_ray(made) == examine(made)
    assert not list(tmp_path.glob("*.doctor"))


@pytest.mark.ray
def test_error_of_a_task_is_raised_in_the_driver(ray_session: RayCluster) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def fail(number: int) -> int:
        if number >= 3:
            raise DataError(f"raw/train.de, line {number}: no good")
        return number

    with pytest.raises(DataError, match=r"^raw/train\.de, line \d: no good$"):
        list(run_on_ray(fail, [(number,) for number in range(9)]))


@pytest.mark.ray
def test_task_that_dies_too_often_is_an_error(ray_session: RayCluster) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def die() -> None:
        os._exit(1)

    with pytest.raises(DataError) as caught:
        list(run_on_ray(die, [()]))
    assert str(caught.value) == (
        "Ray gave up on a task after retries (WorkerCrashedError: The worker died unexpectedly "
        "while executing this task. Check python-core-worker-*.log files for more information.); "
        "run the same command again to resume"
    )


@pytest.mark.ray
def test_unexpected_exception_of_a_task_keeps_its_traceback(ray_session: RayCluster) -> None:
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        list(run_on_ray(divide, [()]))


def test_preparing_does_not_import_torch() -> None:
    code = "import sys, nmt.jobs.tasks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
