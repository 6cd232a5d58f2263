"""Where the real files are, and the archive of bad ones, written once."""

from pathlib import Path

import pytest
from bad_files import make_bad_archive

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real() -> Path:
    if not DATA.is_dir():
        pytest.skip("the real data (../shared/data) are not on this machine")
    return DATA


@pytest.fixture(scope="session")
def bad_archive(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("bad") / "archive"
    return folder, make_bad_archive(folder)
