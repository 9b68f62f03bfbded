from typing import Any

import pytest
from ray.train import PreemptionInfo

from nmt.jobs import ray_internals
from nmt.jobs.ray_internals import Notices


class Notes:
    """A post that remembers."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, float]] = []

    def notice(self, reason: str, deadline: float) -> None:
        self.notices.append((reason, deadline))


@pytest.mark.parametrize(("deadline_ms", "expected"), [(90_500, 90.5), (None, 170.0)])
def test_a_notice_of_preemption_is_told_once(
    deadline_ms: int | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    answers: list[Any] = [None, *[PreemptionInfo(deadline_ms, {"a": [1, 3]})] * 2]
    monkeypatch.setattr(ray_internals.time, "time", lambda: now[0])
    monkeypatch.setattr(ray_internals.ray.train, "get_preemption_info", lambda: answers.pop(0))
    notes = Notes()
    asked = Notices(notes)  # type: ignore[arg-type]
    assert asked.deadline() is None
    assert asked.deadline() == expected
    now[0] = 60.0
    assert asked.deadline() == expected
    assert notes.notices == [("the host of workers 1, 3 was taken away", expected)]
