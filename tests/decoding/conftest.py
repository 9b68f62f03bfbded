import pytest

# Failed assertions of the helper show what differs, as those of a test file do.
pytest.register_assert_rewrite("exhaustive")
