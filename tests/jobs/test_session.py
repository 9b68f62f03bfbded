"""What a person is told where Ray does not come up."""

import os
from pathlib import Path
from typing import Any

import pytest
import ray

from nmt.errors import NmtError
from nmt.jobs.ray_session import WATCHER_VARIABLE, connect


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (
            "",
            Exception("The current node timed out during startup. This could happen because"),
            "no Ray on this machine: The current node timed out during startup; look there, or try "
            "again when it has less to do; more in {chatter}",
        ),
        (
            "10.0.0.1:6379",
            ConnectionError("nobody answers."),
            "no Ray at RAY_ADDRESS (10.0.0.1:6379): nobody answers; start it, or unset "
            "RAY_ADDRESS; more in {chatter}",
        ),
        (
            "",
            RuntimeError(),
            "no Ray on this machine: RuntimeError(); look there, or try again when it has less to "
            "do; more in {chatter}",
        ),
    ],
)
def test_a_ray_that_does_not_come_up_is_one_line(
    address: str, error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    chatter = tmp_path / "ray.log"
    with pytest.raises(NmtError) as raised, connect(1, chatter):
        pass
    assert str(raised.value) == said.format(chatter=chatter)


@pytest.mark.parametrize(("address", "watches"), [("", "0"), ("10.0.0.1:6379", "1")])
def test_notices_are_watched_for_where_others_can_give_them(
    address: str, watches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: a host that will be taken away is known before it is gone."""
    seen: list[str] = []

    def init(**_: Any) -> None:
        seen.append(os.environ[WATCHER_VARIABLE])
        raise ConnectionError("nobody answers.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(WATCHER_VARIABLE, "")
    with pytest.raises(NmtError), connect(1, tmp_path / "ray.log"):
        pass
    assert seen == [watches]
