"""What tests of operations share."""

import pytest


@pytest.fixture(autouse=True)
def threads_share_small_work(monkeypatch):
    """As if to wake up another thread took no time."""
    monkeypatch.setattr("tinyfcn.parallel.WORTH_SHARING", 0)
