"""Estimates for the groups of a workspace: the rows of tables.ESTIMATES."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.measure.estimation import NO_ESTIMATE, Design, Estimate, count_further_labels, estimate_ratio
from emqa_dask.measure.estimation_design import Selection, choose_selection
from emqa_dask.measure.estimation_shares import estimate_share
from emqa_dask.measure.estimation_swelling import convert_to_swelling, estimate_swelling
from emqa_dask.pipeline.commands.estimate_images import TOTALS
from emqa_dask.pipeline.commands.estimate_quantiles import PROBABILITIES, estimate_quantiles, name_quantile

NO_VARIATION = "the labelled images do not vary, or as their detections do, so that they give no interval"
NO_OBJECTS = "no labelled image has an object"
NO_SHARE = "the F1 of no labelled image counts"
NO_FOIL = "the objects may have more volume than the foil"
TOO_FEW = "too few labelled images for one end of the interval"


class Quantity(NamedTuple):
    """A ratio of two of TOTALS."""

    name: str
    unit: str | None
    numerator: str
    denominator: str  # empty: one per image
    needs_sizes: bool = False


DENSITY = Quantity("density", "per_um2", "n", "area_um2")
DIAMETER = Quantity("mean_diameter", "nm", "diameters_nm", "n", needs_sizes=True)
SWELLING = Quantity("swelling", "percent", "volume_nm3", "specimen_nm3", needs_sizes=True)
DENSITY_PX = Quantity("density", "per_mpx", "n", "area_mpx")
DIAMETER_PX = Quantity("mean_diameter", "px", "diameters_px", "n", needs_sizes=True)
NUMBER = Quantity("n_objects", None, "n", "")
NUMBER_PER_IMAGE = Quantity("n_per_image", None, "n", "")
TRUSTED = Quantity("trusted_share", None, "trusted", "has_f1")
SHARES = (Quantity("mean_f1", None, "f1", "has_f1"), TRUSTED)


class Group(NamedTuple):
    """The images of a group, and the labels of some of them."""

    sessions: NDArray  # (N,) of the covered images
    predicted_totals: NDArray[np.float64]  # (N, 10) TOTALS
    reviewed: NDArray[np.int64]  # (n,) positions of the labelled images among them
    true_totals: NDArray[np.float64]  # (n, 10)
    probabilities: NDArray[np.float64] | None  # (n,)
    n_not_covered: int

    def select(self, is_covered: NDArray[np.bool_]) -> "Group":
        """The group without the images that `is_covered` (N,) leaves out."""
        positions = np.cumsum(is_covered) - 1
        is_left = is_covered[self.reviewed]
        return Group(
            self.sessions[is_covered],
            self.predicted_totals[is_covered],
            positions[self.reviewed[is_left]],
            self.true_totals[is_left],
            None if self.probabilities is None else self.probabilities[is_left],
            self.n_not_covered + int((~is_covered).sum()),
        )


def estimate_group(
    group: Group, has_sizes: bool, thickness_uncertainty: float, probabilities: Sequence[float] = PROBABILITIES
) -> Iterator[dict]:
    """Rows of tables.ESTIMATES of a group, without grouping and sample.

    has_sizes: whether the labels have sizes; thickness_uncertainty: relative; probabilities: of quantiles. Densities
    and sizes are those of the images with a pixel size, if there are any, otherwise in px. Swelling needs a foil
    thickness.
    """
    has_scale = np.isfinite(group.predicted_totals[:, TOTALS.index("area_um2")])
    scaled = group.select(has_scale) if has_scale.any() else group
    quantities = [DENSITY, DIAMETER, SWELLING] if has_scale.any() else [DENSITY_PX, DIAMETER_PX]
    if not np.isfinite(scaled.predicted_totals[:, TOTALS.index("specimen_nm3")]).any():
        quantities = [quantity for quantity in quantities if quantity is not SWELLING]
    quantities = [quantity for quantity in quantities if has_sizes or not quantity.needs_sizes]
    scaled_selection = choose_selection(scaled.sessions, scaled.reviewed, scaled.probabilities)
    for quantity in quantities:
        yield _estimate_row(quantity, scaled, scaled_selection, thickness_uncertainty)
    selection = choose_selection(group.sessions, group.reviewed, group.probabilities)
    yield _estimate_row(NUMBER, group, selection, 0.0)
    true_f1 = group.true_totals[:, TOTALS.index("f1")]
    if len(true_f1) and np.isfinite(true_f1).all():
        for quantity in SHARES:
            yield _estimate_row(quantity, group, selection, 0.0)
    yield from _estimate_quantile_rows(NUMBER_PER_IMAGE, probabilities, group, selection)
    for quantity in quantities:
        if quantity is not SWELLING:
            yield from _estimate_quantile_rows(quantity, probabilities, scaled, scaled_selection)


def _estimate_row(quantity: Quantity, group: Group, selection: Selection, thickness_uncertainty: float) -> dict:
    true_totals = _select_columns(quantity, group.true_totals)
    predicted_totals = _select_columns(quantity, group.predicted_totals)
    totals = predicted_totals.sum(axis=0)
    naive = NO_ESTIMATE._replace(value=float(totals[0] / totals[1]) if totals[1] > 0 else math.nan)
    estimates = [NO_ESTIMATE, NO_ESTIMATE, naive]
    if selection.design is not None:
        sources = (predicted_totals, None)
        if quantity is SWELLING:
            estimates[:2] = [
                estimate_swelling(selection.design, true_totals, source, thickness_uncertainty) for source in sources
            ]
        else:
            estimate = estimate_share if quantity is TRUSTED else estimate_ratio
            estimates[:2] = [estimate(selection.design, true_totals, source) for source in sources]
    if quantity is SWELLING:
        estimates[2] = convert_to_swelling(naive)
    if quantity is NUMBER:
        estimates = [_multiply(estimate, len(group.sessions)) for estimate in estimates]
    if quantity in SHARES:
        estimates = [row._replace(high=min(row.high, 1.0)) for row in estimates]
    remark = selection.reason or _find_remark(estimates[0], true_totals)
    if quantity in SHARES and remark == NO_OBJECTS:
        remark = NO_SHARE
    return _make_row(quantity.name, quantity.unit, estimates, group, selection, remark)


def _select_columns(quantity: Quantity, totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) numerator and denominator."""
    numerator = totals[:, TOTALS.index(quantity.numerator)]
    denominator = totals[:, TOTALS.index(quantity.denominator)] if quantity.denominator else np.ones(len(totals))
    return np.column_stack([numerator, denominator])


def _multiply(estimate: Estimate, factor: int) -> Estimate:
    fields = {name: getattr(estimate, name) * factor for name in ("value", "low", "high", "standard_error")}
    return estimate._replace(**fields)


def _find_remark(estimate: Estimate, true_totals: NDArray[np.float64]) -> str:
    """The reason for a missing interval; "" with one."""
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        return ""
    if not true_totals[:, 0].any():
        return NO_OBJECTS
    has_no_end = math.isfinite(estimate.value) and not math.isfinite(estimate.low)
    return NO_VARIATION if has_no_end else NO_FOIL


def _estimate_quantile_rows(
    quantity: Quantity, probabilities: Sequence[float], group: Group, selection: Selection
) -> Iterator[dict]:
    """Rows of the quantiles of a quantity over the images."""
    true_totals = _select_columns(quantity, group.true_totals)
    predicted_totals = _select_columns(quantity, group.predicted_totals)
    for probability in probabilities:
        estimates = estimate_quantiles(selection.design, true_totals, predicted_totals, probability)
        remark = selection.reason
        if not (remark or (math.isfinite(estimates[0].low) and math.isfinite(estimates[0].high))):
            remark = TOO_FEW if math.isfinite(estimates[0].value) else NO_OBJECTS
        name = name_quantile(quantity.name, probability)
        yield _make_row(name, quantity.unit, estimates, group, selection, remark)


def _make_row(
    name: str, unit: str | None, estimates: list[Estimate], group: Group, selection: Selection, remark: str
) -> dict:
    """A row from the estimates of labels and detections, of labels alone and of detections alone."""
    estimate = estimates[0]
    labels_alone = estimates[1]
    design: Design | None = selection.design
    return {
        "quantity": name,
        "unit": unit,
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "labels_alone": labels_alone.value,
        "labels_low": labels_alone.low,
        "labels_high": labels_alone.high,
        "detections_alone": estimates[2].value,
        "detections_weight": estimate.tuning if design else math.nan,
        "n_images": len(group.sessions),
        "n_labels": len(group.reviewed),
        "n_not_covered": group.n_not_covered,
        "n_further_labels": count_further_labels(design) if design else None,
        "assumption": selection.assumption or None,
        "remark": remark or None,
    }


def make_group(
    images: pd.DataFrame, predicted_totals: NDArray, true_rows: pd.DataFrame, probabilities: dict[str, float] | None
) -> Group:
    """The group of `images` (estimate_images.read_images()) with their totals (n, 10).

    true_rows: totals of labelled images, columns TOTALS, by micrograph_id. Labels of images that are not covered do
    not count.
    """
    is_covered = images["cover"].eq("").to_numpy()
    ids = images["micrograph_id"].to_numpy(object)[is_covered]
    reviewed = np.flatnonzero(pd.Series(ids).isin(true_rows.index))
    labelled_ids = ids[reviewed]
    chances = None if probabilities is None else np.array([probabilities[key] for key in labelled_ids], float)
    true_totals = true_rows.loc[labelled_ids].to_numpy(float).reshape(-1, len(TOTALS))
    sessions = pd.factorize(images["session"].to_numpy(object)[is_covered])[0]
    return Group(sessions, predicted_totals[is_covered], reviewed, true_totals, chances, int((~is_covered).sum()))
