import os

import pytest

from nmt.training.malloc import configure_malloc


def test_what_is_set_stays_and_the_rest_is_as_workers_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"MALLOC_TRIM_THRESHOLD_": "500000000"})
    configure_malloc()
    assert os.environ == {
        "MALLOC_TRIM_THRESHOLD_": "500000000",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
    }
