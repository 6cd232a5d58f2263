"""Acquisition groups of a workspace, folder x instrument x magnification, and samples of their micrographs."""

import glob
from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.settings import Cohort
from emqa_dask.store.layout import Workspace

COLUMNS = ["micrograph_id", "uri", "frame", "stack", "index", "instrument", "magnification", "nm_per_pixel"]
COLUMNS += ["nm_per_pixel_y", "partition", "height_px", "width_px"]
GROUP_KEY = ["pattern", "instrument", "magnification"]
ANY_URI = "*"


class GroupSample(NamedTuple):
    """A group and some of its micrographs."""

    cohort: Cohort  # selects the group in the settings; without changes
    rows: pd.DataFrame  # COLUMNS of the ledger, of the sampled micrographs
    n_micrographs: int  # of the whole group

    @property
    def name(self) -> str:
        """Folder, instrument and magnification, as far as they are given; "all" without any."""
        folder = self.cohort.uri if self.cohort.uri != ANY_URI else ""
        return _join_name(folder, self.cohort.instrument, self.cohort.magnification)


def sample_groups(
    workspace: Workspace, n_images: int, globs: Sequence[str] = (), micrograph_ids: Collection[str] | None = None
) -> list[GroupSample]:
    """Groups of the workspace's micrographs: instrument x magnification x uppermost folder, each with a sample.

    With `globs` each pattern on the URI is one group, for all instruments. At most `n_images` micrographs of a group
    are sampled, in the order of their ids, and only those in `micrograph_ids` unless it is None. Because ids are
    hashes, the sample is even and reproducible. A micrograph belongs to the first group of the result that matches it.
    Raises ValueError where a pattern or the workspace has no micrograph.
    """
    rows, counts = _collect_rows(workspace, n_images, globs, micrograph_ids)
    groups = []
    for key, group_rows in rows.groupby(GROUP_KEY):
        cohort = Cohort(uri=key[0], instrument=key[1], magnification=float(key[2]))
        groups.append(GroupSample(cohort, group_rows[COLUMNS].reset_index(drop=True), counts[key]))
    for pattern in set(globs) - {group.cohort.uri for group in groups}:
        raise ValueError(
            f"--cohort {pattern}: no micrograph of the archive has such a URI, or an earlier pattern has it"
        )
    if not groups:
        raise ValueError(f"{workspace.uri}: there is no micrograph in it to tune for: give an archive that has some")
    ranks = {pattern: k for k, pattern in enumerate(globs)}
    return sorted(groups, key=lambda g: (ranks.get(g.cohort.uri, 0), *_rank_generality(g.cohort), g.cohort.uri))


def _collect_rows(
    workspace: Workspace, n_images: int, globs: Sequence[str], micrograph_ids: Collection[str] | None
) -> tuple[pd.DataFrame, Counter]:
    """The first `n_images` rows of every group by id, of `micrograph_ids`; and the number of micrographs of groups."""
    first_rows = pd.DataFrame(columns=list(dict.fromkeys([*COLUMNS, *GROUP_KEY])))
    counts: Counter[tuple] = Counter()
    for rows in micrograph_ledger.iter_current(workspace, COLUMNS):
        rows = _add_group_key(rows, globs)
        counts.update(rows.groupby(GROUP_KEY).size().to_dict())
        if micrograph_ids is not None:
            rows = rows[rows["micrograph_id"].isin(micrograph_ids)]
        first_rows = pd.concat([first_rows, rows], ignore_index=True) if len(first_rows) else rows
        first_rows = (
            first_rows.sort_values("micrograph_id", kind="stable").groupby(GROUP_KEY, sort=False).head(n_images)
        )
    return first_rows, counts


def name_groups(rows: pd.DataFrame) -> pd.Series:
    """The name of the group of each row of the ledger: its uppermost folder, instrument and magnification."""
    keys = [_get_folders(rows["uri"]), rows["instrument"].fillna(""), rows["magnification"].fillna(0.0)]
    numbers = pd.MultiIndex.from_arrays(keys)
    codes, distinct = numbers.factorize()  # an archive has few groups
    names = np.array([_join_name(*key) for key in distinct], dtype=object)
    return pd.Series(names[codes], index=rows.index, dtype=object)


def _join_name(folder: str, instrument: str, magnification: float) -> str:
    factor = f"{magnification:g}x" if magnification > 0 else ""
    return ", ".join(part for part in (folder, instrument, factor) if part) or "all"


def _get_folders(uris: pd.Series) -> pd.Series:
    """The uppermost folder of each URI; "" for a file in the archive's root."""
    parts = uris.str.partition("/")
    return parts[0].where(parts[1].eq("/"), "")


def _rank_generality(cohort: Cohort) -> tuple[bool, bool, bool]:
    """Sorts cohorts that match fewer micrographs before those that match more."""
    return cohort.uri == ANY_URI, not cohort.instrument, not cohort.magnification


def _add_group_key(rows: pd.DataFrame, globs: Sequence[str]) -> pd.DataFrame:
    """`rows` with the columns of GROUP_KEY; where patterns are given, only the rows that match one."""
    if globs:
        pattern = rows["uri"].map(lambda uri: next((g for g in globs if fnmatchcase(uri, g)), None))
        return rows.assign(pattern=pattern, instrument="", magnification=0.0)[pattern.notna()]
    folders = _get_folders(rows["uri"])
    is_nested = rows["uri"].str.contains("/", regex=False)
    return rows.assign(
        pattern=(folders.map(glob.escape) + "/*").where(is_nested, ANY_URI),
        instrument=rows["instrument"].fillna(""),
        magnification=rows["magnification"].fillna(0.0),
    )
