"""Removal of files from a workspace's catalog, so that they are surveyed again."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FAILURES, SURVEY_FILES, SURVEY_FRAMES
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

REMOVERS = 16  # threads that remove them: a bucket answers late


def _rewrite_catalog(
    workspace: Workspace, is_over: Callable[[pd.DataFrame], np.ndarray], new_tables: Iterable[pd.DataFrame] = ()
) -> None:
    """Removes the outdated rows from the catalog, and adds the tables `new_tables` at its end."""
    uri = workspace.catalog
    with parts.open_table_writer(uri, tables.CATALOG) as write:
        for rows in parts.iterate_table(uri, tables.CATALOG):
            write(rows[~is_over(rows)])
        for rows in new_tables:
            write(rows)


def forget_files(workspace: Workspace, uris: Iterable[str]) -> None:
    """Removes the files `uris` from the catalog and the survey's failures, so that the next ingest surveys them again.

    Their micrographs keep their slots.
    """
    uris = set(uris)

    def is_forgotten(rows: pd.DataFrame) -> pd.Series:
        return rows["uri"].isin(uris)

    for name in parts.list_parts(workspace.uri, SURVEY_FILES):  # of a survey that was killed
        if is_forgotten(parts.read_part(workspace.uri, SURVEY_FILES, name, tables.CATALOG, ["uri"])).any():
            _remove(workspace, SURVEY_FILES, [name])
            _remove(workspace, SURVEY_FRAMES, [name])
    _drop_failures(workspace, is_forgotten, parts.list_parts(workspace.uri, SURVEY_FAILURES))
    if files.exists(workspace.catalog):
        _rewrite_catalog(workspace, is_forgotten)


def _drop_failures(workspace: Workspace, is_over: Callable[[pd.DataFrame], pd.Series], names: Iterable[str]) -> None:
    """Removes the outdated rows from the parts `names` of the survey's failures."""
    for name in names:
        rows = parts.read_part(workspace.uri, SURVEY_FAILURES, name, tables.FAILURES)
        remaining = rows[~is_over(rows)]
        if remaining.empty:
            _remove(workspace, SURVEY_FAILURES, [name])
        elif len(remaining) < len(rows):
            parts.write_part(workspace.uri, SURVEY_FAILURES, name, remaining, tables.FAILURES)


def _remove(workspace: Workspace, folder: str, names: Sequence[str]) -> None:
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(files.remove_file, [workspace.part(folder, name) for name in names]))
