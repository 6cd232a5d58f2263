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


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()
