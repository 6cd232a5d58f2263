"""Flags of images: which of FLAGS their statistics and pixel sizes raise, with value, limit and sentence."""

from string import Formatter

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.settings.flags import Flags
from emqa_dask.triage.flag_list import FLAGS, PIXEL_SIZE_COLUMNS, Flag

DEFAULT_LIMITS = Flags()
ASSUMED_VALUES = {  # of columns from tables.MICROGRAPHS, where they are absent
    **dict.fromkeys(PIXEL_SIZE_COLUMNS, np.nan),
    "colour": "",
    "has_imaging_conditions": False,  # whether the file or a scale bar states a pixel size, or a voltage, ...
}
MICROGRAPH_SOURCES = ("header", "sidecar", "scale_bar")  # of pixel sizes that only images of microscopes have
MIN_DETAIL_CPP = 1e-6  # cycles/px; stands for no detail at all in a sentence


def flag_images(features: pd.DataFrame, settings: Flags = DEFAULT_LIMITS) -> pd.DataFrame:
    """Rows of `tables.FLAGS` for the images whose statistics pass a flag's limit; several flags an image are usual.

    features: micrograph_id, the columns of `tables.IMAGE_STATISTICS`, and those that complete_columns() adds where they
    are absent. An unknown (NaN) statistic passes no limit. Rows come in the order of the images, then of FLAGS. No rows
    give an empty table. Raises KeyError for a missing statistic.
    """
    features = complete_columns(features)
    raised = []
    with np.errstate(invalid="ignore", over="ignore"):
        for order, flag in enumerate(FLAGS):
            if not getattr(settings, flag.code):
                continue
            values, limit, is_raised = measure_flag(flag, features, settings)
            for k in np.flatnonzero(is_raised):
                raised.append((k, order, flag, float(values.iloc[k]), limit))
    raised.sort(key=lambda row: row[:2])
    rows = [
        {
            "micrograph_id": features["micrograph_id"].iloc[k],
            "flag": flag.code,
            "value": value,
            "limit": limit,
            "text": _write_sentence(flag, features, k, value, limit),
        }
        for k, _, flag, value, limit in raised
    ]
    return tables.conform(rows, tables.FLAGS).to_pandas()


def complete_columns(features: pd.DataFrame) -> pd.DataFrame:
    """`features` with all columns of ASSUMED_VALUES, those that are absent with that value."""
    return features.assign(**{name: value for name, value in ASSUMED_VALUES.items() if name not in features})


def join_image_columns(features: pd.DataFrame, micrographs: pd.DataFrame) -> pd.DataFrame:
    """`features` in the order of `micrographs` (rows of tables.MICROGRAPHS), with the columns of ASSUMED_VALUES."""
    aligned = features.set_index("micrograph_id").reindex(micrographs["micrograph_id"]).reset_index()
    is_sized = micrographs["nm_per_pixel_source"].isin(MICROGRAPH_SOURCES) & micrographs["nm_per_pixel"].gt(0)
    has_conditions = is_sized | micrographs["voltage_kv"].gt(0) | micrographs["magnification"].gt(0)
    return aligned.assign(
        **{name: micrographs[name].to_numpy() for name in PIXEL_SIZE_COLUMNS},
        colour=micrographs["colour"].to_numpy(object),
        has_imaging_conditions=has_conditions.to_numpy(bool),
    )


def measure_flag(flag: Flag, features: pd.DataFrame, settings: Flags) -> tuple[pd.Series, float, np.ndarray]:
    """(values of the statistic, limit, whether the flag is raised) for every image."""
    features = complete_columns(features)
    values = features[flag.statistic] if isinstance(flag.statistic, str) else flag.statistic(features)
    limit = float(getattr(settings, flag.limit) if isinstance(flag.limit, str) else flag.limit)
    is_raised = values > limit if flag.is_above else values < limit
    if flag.condition is not None:
        is_raised &= flag.condition(features, settings)
    return values, limit, is_raised.to_numpy(bool)


def _write_sentence(flag: Flag, features: pd.DataFrame, k: int, value: float, limit: float) -> str:
    names = {name for _, name, _, _ in Formatter().parse(flag.text)}
    # Only the columns that the sentence names: a row of sixty columns takes ten times as long to get.
    listed_columns = names & {*tables.IMAGE_STATISTICS, *PIXEL_SIZE_COLUMNS}
    column_values = {name: features[name].iloc[k] for name in sorted(listed_columns)}
    if "period_px" in names:
        column_values["period_px"] = 1 / max(features["detail_cpp"].iloc[k], MIN_DETAIL_CPP)
    return flag.text.format(value=value, limit=limit, percent=100 * value, limit_percent=100 * limit, **column_values)
