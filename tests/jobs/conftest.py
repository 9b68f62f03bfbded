"""Fixtures that the tests of jobs share: a Ray cluster and a small experiment."""

from collections.abc import Iterator

import pytest
from ray_clusters import RayCluster, make_experiment, start_cluster

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[RayCluster]:
    """A cluster of two cores for all tests that do not change it."""
    # After s3: the processes of the cluster inherit the credentials.
    with start_cluster(num_cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_session(ray_cluster: RayCluster) -> Iterator[RayCluster]:
    """Connection of this process to the shared cluster."""
    with ray_cluster.connect():
        yield ray_cluster


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The experiment of `make_experiment` with a prepared corpus."""
    made = make_experiment(tmp_path_factory.mktemp("corpus"))
    prepare(made)
    return made
