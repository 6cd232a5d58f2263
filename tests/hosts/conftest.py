"""Four hosts, started once for every test that wants them."""

import pytest

from tests.hosts import lan


@pytest.fixture
def hosts():
    if reason := lan.why_not():
        pytest.skip(reason)
    with lan.lan(["scheduler", "one", "two", "client"]) as made:
        yield made
