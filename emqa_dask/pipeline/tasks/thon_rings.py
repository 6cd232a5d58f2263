"""Columns tables.THON_RINGS of a micrograph."""

import numpy as np

from emqa_dask.featurise import rings
from emqa_dask.pixel_sides import is_square_pixel
from emqa_dask.settings import Featurise
from emqa_dask.tables import THON_RINGS

MAX_RINGS_NM = 0.3  # pixels above which no image holds the three rings that an estimate needs


def is_ring_search_due(row: dict, featurise: Featurise) -> bool:
    """Whether rings are searched in the micrograph of the ledger `row`.

    Pixels that are not square are left out, since the rings of such an image are ellipses without any astigmatism.
    """
    nm = row["nm_per_pixel"]
    if featurise.rings == "off" or (featurise.rings == "auto" and not nm <= MAX_RINGS_NM):
        return False
    return nm > 0 and row["voltage_kv"] > 0 and is_square_pixel(nm, row["nm_per_pixel_y"])


def measure_thon_rings(
    image: np.ndarray, row: dict, featurise: Featurise, log_power: rings.LogPower | None = None
) -> dict[str, float]:
    """The columns of one micrograph; NaN where rings were not searched or not resolved.

    `log_power` is that of `image`, where it was computed on a GPU.
    """
    if not is_ring_search_due(row, featurise):
        return dict.fromkeys(THON_RINGS, float("nan"))
    log_power = rings.compute_log_power(image) if log_power is None else log_power
    estimate = rings.find_thon_rings(log_power, row["nm_per_pixel"], row["voltage_kv"], cs_mm=featurise.cs_mm)
    return dict(zip(THON_RINGS, estimate, strict=True))
