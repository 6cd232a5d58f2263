"""emqa tune log --windows: sizes of the windows of a group, and the table of their settings."""

from collections.abc import Sequence

import pandas as pd

from emqa_dask.pipeline.tasks.tune_log_windows import COUNT_COLUMN, FALLBACK_COLUMN, WHOLE_IMAGE_SUFFIX
from emqa_dask.pipeline.workspace.acquisition_groups import GroupSample
from emqa_dask.settings.detect_windows import COLUMNS, MAX_WINDOWS, DetectWindows, make_detect_windows
from emqa_dask.tune import tiles


def check_sizes(group: GroupSample, size_px: int) -> None:
    """ValueError where the sampled micrographs of `group` differ in size, or have too many windows."""
    rows = group.rows
    sizes = rows[["height_px", "width_px"]].drop_duplicates()
    if len(sizes) > 1:
        first, second = (rows.loc[k] for k in sizes.index[:2])
        raise ValueError(
            f"--windows {size_px}: windows are of images of one size, and those of {group.name} differ: "
            f"{first['uri']} has {first['height_px']} x {first['width_px']} px, "
            f"{second['uri']} {second['height_px']} x {second['width_px']} px; give a --cohort for each size"
        )
    for height, width in sizes.itertuples(index=False):
        n_windows = len(tiles.split_image((height, width), size_px))
        if n_windows > MAX_WINDOWS:
            raise ValueError(f"--windows {size_px}: {n_windows:,} windows of an image: at most {MAX_WINDOWS:,}")


def make_map(table: pd.DataFrame) -> DetectWindows:
    """The windows of a table that GroupTuning.tune_windows gives."""
    return make_detect_windows(table[list(COLUMNS)].astype(object).to_numpy().tolist(), "windows")


def describe_windows(table: pd.DataFrame, names: Sequence[str]) -> str:
    """A line with the number of windows and the mean rewards with the settings of each and with one for all."""
    n_fallbacks = int(table[FALLBACK_COLUMN].sum())
    fallbacks = f", {n_fallbacks} of them with the settings of the whole image" if n_fallbacks else ""
    means = ", ".join(
        f"{name} {table[name].mean():.3g} (one setting: {table[name + WHOLE_IMAGE_SUFFIX].mean():.3g})"
        for name in names
    )
    return f"  {len(table)} windows with {table[COUNT_COLUMN].median():.0f} objects each{fallbacks}: {means}"
