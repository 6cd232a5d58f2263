"""Builders of tables and pages, as fixtures."""

import pytest

from tests import archive_tables


@pytest.fixture(scope="session")
def render():
    return archive_tables.render_page


@pytest.fixture(scope="session")
def archive():
    return archive_tables.make_archive


@pytest.fixture(scope="session")
def pictures():
    return archive_tables.make_pictures


@pytest.fixture(scope="session")
def classifications():
    return archive_tables.make_classifications


@pytest.fixture(scope="session")
def section():
    return archive_tables.make_section
