"""Estimates of a group as lines of text."""

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from emqa_dask.pipeline.commands.estimate_quantiles import PROBABILITIES, list_quantile_titles

TITLES = {
    "density": "density",
    "mean_diameter": "mean diameter",
    "swelling": "swelling",
    "n_objects": "objects of all images",
    "mean_f1": "mean F1 of the detections",
    "trusted_share": "share of images with an F1 that can be trusted",
}
UNITS = {"per_um2": " per um^2", "per_mpx": " per 10^6 px", "percent": " %", "nm": " nm", "px": " px"}
MIN_SPREAD = 1.05  # largest pixel size by smallest, from which a group has mixed pixel sizes


def list_titles(probabilities: tuple[float, ...] = PROBABILITIES) -> dict[str, str]:
    """Title by quantity; probabilities: of the quantiles."""
    return TITLES | list_quantile_titles(probabilities)


def describe_group(name: str, images: pd.DataFrame, rows: list[dict], titles: Mapping[str, str]) -> Iterator[str]:
    """Lines about a group: its images, each quantity that has a title, the assumption and further labels."""
    cover = images["cover"]
    causes = ", ".join(f"{n:,} {cause}" for cause, n in cover[cover.ne("")].value_counts().items())
    yield f"{name}: {cover.eq('').sum():,} images" + (f"; not covered: {causes}" if causes else "")
    yield from _describe_pixel_sizes(images[cover.eq("")])
    for row in rows:
        if row["quantity"] in titles:
            yield f"  {titles[row['quantity']]}: {_describe_row(row)}"
    for assumption in dict.fromkeys(row["assumption"] for row in rows if row["assumption"]):
        yield f"  assumption: {assumption}"
    if n_further := max(row["n_further_labels"] or 0 for row in rows):
        yield f"  {n_further:,} further labels would halve the intervals"


def _describe_pixel_sizes(images: pd.DataFrame) -> Iterator[str]:
    sizes = images["nm_per_pixel"].dropna()
    n_unknown = len(images) - len(sizes)
    if len(images) and sizes.empty:
        yield "  no pixel size: densities and diameters are in px"
    elif n_unknown:
        yield f"  {n_unknown:,} images without a pixel size are in the numbers of objects alone"
    if len(sizes) and sizes.max() > MIN_SPREAD * sizes.min():
        yield f"  mixed pixel sizes: {sizes.min():.4g} to {sizes.max():.4g} nm"


def _describe_row(row: dict) -> str:
    """The estimate, that of labels alone and that of detections alone."""
    unit = UNITS.get(row["unit"], "")
    naive = f"detections alone {_format_number(row['detections_alone'], row['detections_alone'] / 10)}{unit}"
    if not math.isfinite(row["estimate"]):
        return f"no estimate ({row['remark']}); {naive}"
    text = f"{format_interval(row['estimate'], row['low'], row['high'])}{unit} from {row['n_labels']:,} labels"
    labels_alone = format_interval(row["labels_alone"], row["labels_low"], row["labels_high"])
    remark = f" ({row['remark']})" if row["remark"] else ""
    return f"{text}{remark}; labels alone {labels_alone}; {naive}"


def format_interval(value: float, low: float, high: float) -> str:
    """Value, half width and ends, e.g. 3.1 +- 0.2 (2.9 to 3.4): two digits of the half width; open ends are "?"."""
    if not (math.isfinite(low) or math.isfinite(high)):
        return _format_number(value, value / 10)
    if not (math.isfinite(low) and math.isfinite(high)):
        ends = ["?" if not math.isfinite(end) else _format_number(end, value / 10) for end in (low, high)]
        return f"{_format_number(value, value / 10)} ({ends[0]} to {ends[1]})"
    half = (high - low) / 2
    if not half:
        return f"exactly {_format_number(value, value / 10)}"
    numbers = [_format_number(number, half) for number in (value, half, low, high)]
    return f"{numbers[0]} +- {numbers[1]} ({numbers[2]} to {numbers[3]})"


def _format_number(number: float, scale: float) -> str:
    """`number` with the decimals that two digits of `scale` have."""
    if not math.isfinite(number):
        return "unknown"
    n_decimals = 1 - math.floor(math.log10(abs(scale))) if scale and math.isfinite(scale) else 0
    return f"{number:,.{min(max(n_decimals, 0), 12)}f}"
