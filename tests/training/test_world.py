import json
from pathlib import Path
from typing import Any

import pytest

from nmt.training.distributed import World


def test_one_worker_agrees_with_itself() -> None:
    world = World()
    assert world.is_main
    assert world.all_reduce([1.0, 2.0]) == [1.0, 2.0]
    assert world.all_gather("mine") == ["mine"]


@pytest.fixture
def views(gloo: Path) -> list[dict[str, Any]]:
    """How each of three workers sees them all."""
    return [json.loads((gloo / f"world-{rank}.json").read_text()) for rank in range(3)]


def test_one_worker_is_the_first(views: list[dict[str, Any]]) -> None:
    assert [view["is_main"] for view in views] == [True, False, False]


def test_all_workers_have_the_same_sums(views: list[dict[str, Any]]) -> None:
    assert [view["sum"] for view in views] == [[3.0, 3.0]] * 3


def test_all_workers_see_what_each_has(views: list[dict[str, Any]]) -> None:
    """P10: sent as JSON."""
    everything = [["ä" * rank, None, {"rank": rank}] for rank in range(3)]
    assert [view["gather"] for view in views] == [everything] * 3
