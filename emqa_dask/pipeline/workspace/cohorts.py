"""Which micrographs of a workspace are tuned together, and which of them stand for the others."""

import glob
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import pandas as pd

from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.settings import Cohort

COLUMNS = ["micrograph_id", "uri", "frame", "stack", "index", "instrument", "magnification", "nm_per_pixel"]
GROUP_KEY = ["pattern", "instrument", "magnification"]


class GroupSample(NamedTuple):
    """A cohort and some of its micrographs."""

    match: Cohort  # without changes
    rows: pd.DataFrame  # COLUMNS of the ledger
    n: int  # micrographs that it has

    @property
    def name(self) -> str:
        """For people: folder, instrument, magnification, as far as they are told apart."""
        size = f"{self.match.magnification:g}x" if self.match.magnification else ""
        where = self.match.uri if self.match.uri != "*" else ""
        return ", ".join(filter(None, (where, self.match.instrument, size))) or "all"


def sample_groups(root: str, n_images: int, globs: Sequence[str] = ()) -> list[GroupSample]:
    """Cohorts of the workspace's micrographs: instrument x magnification x session (the uppermost folder).

    With `globs` one cohort for each pattern on the URI, whatever the instrument. Of each at most `n_images` micrographs
    are taken, by their ids, which are hashes: an even sample, and the same one each time. In an order in which the
    first cohort that has a micrograph is its own. ValueError where a pattern, or the workspace, has no micrograph.
    """
    kept = pd.DataFrame(columns=list(dict.fromkeys([*COLUMNS, *GROUP_KEY])))
    count: Counter[tuple] = Counter()
    for rows in micrograph_ledger.current(root, COLUMNS):
        rows = _add_group_key(rows, globs)
        count.update(rows.groupby(GROUP_KEY).size().to_dict())
        kept = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        kept = kept.sort_values("micrograph_id", kind="stable").groupby(GROUP_KEY, sort=False).head(n_images)
    found = []
    for key, rows in kept.groupby(GROUP_KEY):
        match = Cohort(uri=key[0], instrument=key[1], magnification=float(key[2]))
        found.append(GroupSample(match, rows[COLUMNS].reset_index(drop=True), count[key]))
    for pattern in set(globs) - {cohort.match.uri for cohort in found}:
        raise ValueError(
            f"--cohort {pattern}: no micrograph of the archive has such a URI, or an earlier pattern has it"
        )
    if not found:
        raise ValueError(f"{root}: there is no micrograph in it to tune for: give an archive that has some")
    rank = {pattern: k for k, pattern in enumerate(globs)}
    return sorted(found, key=lambda c: (rank.get(c.match.uri, 0), *_rank_generality(c.match), c.match.uri))


def name_groups(rows: pd.DataFrame) -> pd.Series:
    """The cohort of each row of the ledger, for people: its uppermost folder, instrument and magnification."""
    folder = rows["uri"].str.partition("/")
    folder = folder[0].where(folder[1].eq("/"), "")
    size = rows["magnification"].map(lambda value: f"{value:g}x" if value > 0 else "")
    told = zip(folder, rows["instrument"].fillna(""), size, strict=True)
    return pd.Series([", ".join(filter(None, one)) or "all" for one in told], index=rows.index, dtype=object)


def _rank_generality(match: Cohort) -> tuple[bool, bool, bool]:
    return match.uri == "*", not match.instrument, not match.magnification


def _add_group_key(rows: pd.DataFrame, globs: Sequence[str]) -> pd.DataFrame:
    """`rows` with the columns of KEY; those of no pattern, where there are patterns, are left out."""
    if globs:
        pattern = rows["uri"].map(lambda uri: next((g for g in globs if fnmatchcase(uri, g)), None))
        return rows.assign(pattern=pattern, instrument="", magnification=0.0)[pattern.notna()]
    folder = rows["uri"].str.partition("/")
    pattern = folder[0].map(glob.escape) + "/*"
    return rows.assign(
        pattern=pattern.where(folder[1].eq("/"), "*"),
        instrument=rows["instrument"].fillna(""),
        magnification=rows["magnification"].fillna(0.0),
    )
