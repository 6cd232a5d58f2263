"""Settings that are stored in a workspace, with a checksum that detects any change."""

import contextlib
import shlex

from emqa_dask import checksummed_text
from emqa_dask.settings import Settings, SettingsError, dump, parse
from emqa_dask.store import files
from emqa_dask.store.layout import Workspace
from emqa_dask.store.marker import DamagedMarkerError, Sources, check_format, format_triage_command, load_marker


def write_settings(root: str, settings: Settings) -> None:
    """Write `changed` as the settings of the workspace, with a checksum in the last line."""
    files.write_bytes(
        Workspace(root).settings_file, checksummed_text.add_checksum(dump(settings), checksummed_text.SETTINGS_HEAD)
    )


def read_settings(root: str) -> Settings:
    """Settings of the last run on the workspace; the defaults for a workspace without a catalog.

    Raises ValueError, with the remedy, for a workspace of another format, and SettingsError for a settings.toml that is
    missing or was changed since emqa wrote it.
    """
    archive: str | Sources = "SRC"
    uri = Workspace(root).settings_file
    with contextlib.suppress(DamagedMarkerError):
        if marker := load_marker(root):
            archive = check_format(root, *marker)
    remedy = (
        f"run {format_triage_command(root, archive)} "
        "with the --template or --settings of before (defaults: --template generic)"
    )
    try:
        data = files.read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError):
        known_tables = (Workspace(root).catalog, Workspace(root).micrographs, Workspace(root).micrographs_copy)
        if not any(map(files.exists, known_tables)):
            return Settings()
        raise SettingsError(f"{uri} is missing, and other settings would give other results: {remedy}") from None
    text = checksummed_text.strip_checksum(data)
    if text is None:
        option = shlex.join(["--settings", uri]) if files.is_local(uri) else "--settings and a copy on this machine"
        raise SettingsError(
            f"{uri} was changed since emqa wrote it: to have it as it is, run {format_triage_command(root, archive)} "
            f"with {option}; if it was not you, it is damaged: {remedy}"
        )
    try:
        return parse(text, uri)
    except SettingsError as error:
        raise SettingsError(f"{error}; another version of emqa_dask wrote it: {remedy}") from error
