"""How all that a person can get wrong ends: one line, status 2, nothing printed or written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wrong_inputs import Wrong, change, contents


@pytest.fixture
def refused(
    here: Path, nmt: Callable[..., Any], no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Wrong], None]:
    """Gives a command in the folder of the tiny model, and checks how it is refused."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    size = (here / "prepared/tiny/tokenizer.json").stat().st_size

    def check(wrong: Wrong) -> None:
        change(here, wrong.files)
        before = contents(here)
        answer = nmt(wrong.command, wrong.stdin)
        said = answer.err.replace(f"{here}/", "").replace(f"{size} bytes", "{size} bytes")
        assert said == f"nmt: {wrong.message}\n"
        assert (answer.status, answer.out) == (2, "")
        assert contents(here) == before

    return check
