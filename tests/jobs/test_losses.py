import pytest

from nmt.jobs.driver import reason_of


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (
            {1: RuntimeError("x\n  Connection closed by peer \n")},
            "worker 1: Connection closed by peer",
        ),
        (
            {
                0: RuntimeError("reset"),
                1: RuntimeError("The actor died.\nEnd of file"),
            },
            "worker 1 died",
        ),
        (
            {
                1: RuntimeError("The actor died because its node has died."),
                2: RuntimeError("its node has died"),
            },
            "workers 1, 2 died with the host",
        ),
        ({3: RuntimeError("")}, "worker 3: no word"),
    ],
)
def test_why_workers_failed_is_a_line(failures: dict[int, BaseException], expected: str) -> None:
    assert reason_of(failures) == expected
