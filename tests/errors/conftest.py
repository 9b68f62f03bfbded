"""Check that invalid input ends in one line on standard error, status 2 and no output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from error_cases import ErrorCase, change, contents


@pytest.fixture
def check_error(
    here: Path, nmt: Callable[..., Any], no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ErrorCase], None]:
    """Run a command in the directory of the tiny model and check its error and its side effects."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    size = (here / "prepared/tiny/tokenizer.json").stat().st_size

    def check(case: ErrorCase) -> None:
        change(here, case.files)
        before = contents(here)
        answer = nmt(case.command, case.stdin)
        message = answer.err.replace(f"{here}/", "").replace(f"{size} bytes", "{size} bytes")
        assert message == f"nmt: {case.message}\n"
        assert (answer.status, answer.out) == (2, "")
        assert contents(here) == before

    return check
