import pytest
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from nmt.jobs.ray_internals import Trainer

CLEANER, DATASETS = "PlacementGroupCleanerCallback", "DatasetsCallback"


def of_controller(kind: type[TorchTrainer]) -> list[str]:
    """What the controller is given, by name."""
    trainer = kind(
        print, torch_config=TorchConfig(), scaling_config=ray.train.ScalingConfig(num_workers=1)
    )
    return [type(each).__name__ for each in trainer._create_default_callbacks()]


@pytest.mark.parametrize(
    ("address", "needless"), [("", {CLEANER, DATASETS}), ("10.0.0.1:6379", {DATASETS})]
)
def test_what_needs_a_process_of_its_own_for_nothing_is_left_out(
    address: str, needless: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails, runs start all the same, but later: look at nmt/jobs/ray_internals.py."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    theirs = of_controller(TorchTrainer)
    assert needless <= set(theirs)
    assert of_controller(Trainer) == [name for name in theirs if name not in needless]
