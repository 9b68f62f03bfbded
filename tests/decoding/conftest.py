import pytest

# Its assertions tell what differs, as those of a test file do.
pytest.register_assert_rewrite("all_targets")
