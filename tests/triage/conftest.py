"""Builders of tables, as fixtures."""

import pytest

from tests import archive_tables


@pytest.fixture(scope="session")
def archive():
    return archive_tables.make_archive


@pytest.fixture(scope="session")
def classifications():
    return archive_tables.make_classifications
