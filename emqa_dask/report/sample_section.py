"""What the page shows of samples: a table of their results, and plots against dose, temperature or date."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from emqa_dask.report import trends
from emqa_dask.report.formatting import escape_invisible, format_code, format_number

MAX_POINTS = 500  # samples in a plot, those with the most measured images: 3000 make a page of 20 MB
MAX_SAMPLES = 60  # rows of a grouping's table, those with the most measured images
BIN_RATIO = 10 ** (1 / 20)  # of the limits of a bin of size_counts
PLOTTED = {  # column of tables.SAMPLES -> title, unit
    "density_per_um2": ("Density", "per µm²"),
    "mean_diameter_nm": ("Mean diameter", "nm"),
    "swelling_percent": ("Swelling", "%"),
}
CONDITIONS = {"dose": "dose", "temperature": "temperature", "first_acquired": "date"}
PX_COLUMNS = {"density_per_um2": "density_per_mpx", "mean_diameter_nm": "mean_diameter_px"}
PX_UNITS = {"density_per_um2": "per Mpx", "mean_diameter_nm": "px"}


class Point(NamedTuple):
    """A sample in a plot."""

    x: float
    value: float
    low: float  # NaN without an interval
    high: float
    title: str


def fill_section(samples: pd.DataFrame | None) -> dict | None:
    """What the template's section on samples needs, from rows of tables.SAMPLES; None without micrographs."""
    if samples is None:
        return None
    samples = samples[samples["n_images"] > 0]
    if samples.empty:
        return None
    return {"groupings": [_fill_grouping(name, rows) for name, rows in samples.groupby("grouping", sort=False)]}


def _fill_grouping(name: str, samples: pd.DataFrame) -> dict:
    whole = samples[samples["label"].isna()]
    n_images = int(samples.drop_duplicates("sample")["n_images"].sum())
    largest_samples = set(whole.nlargest(MAX_SAMPLES, "n_measured")["sample"])
    # A row of a class says nothing new where the sample has this class only.
    n_classes = samples.dropna(subset="label").groupby(["sample", "detector"]).size()
    is_repeated = [
        label is not None and n_classes.get((sample, detector), 0) < 2
        for sample, detector, label in samples[["sample", "detector", "label"]].replace({np.nan: None}).to_numpy()
    ]
    rows = samples[samples["sample"].isin(largest_samples) & ~np.array(is_repeated, bool)]
    reach = _find_size_range(rows)
    return {
        "name": escape_invisible(name),
        "rows": [_describe_row(row, reach) for row in rows.to_dict("records")],
        "n_samples": whole["sample"].nunique(),
        "n_shown": len(largest_samples),
        "n_images": n_images,
        "n_measured": int(whole["n_measured"].sum()),
        "n_overlapping": int(whole.drop_duplicates("sample")["n_overlapping"].sum()),
        "n_trusted": int(whole.drop_duplicates("sample")["n_trusted"].sum()),
        "reach": reach,
        "plots": [plot for quantity in PLOTTED for plot in _draw_plots(whole, quantity)],
        "has_pixels_only": bool(whole["density_per_mpx"].notna().any()),
        "has_swelling": bool(rows["swelling_percent"].notna().any()),
    }


def _describe_row(row: dict, reach: tuple[float, float]) -> dict:
    excluded = ", ".join(f"{format_code(item['reason'])} {item['n_images']:,}" for item in row["excluded"])
    label = row["label"] if isinstance(row["label"], str) else None
    return {
        "sample": escape_invisible(row["sample"]),
        "detector": escape_invisible(row["detector"]),
        "label": escape_invisible(label) if label else "",
        "n_images": row["n_images"],
        "n_measured": row["n_measured"],
        "share": row["n_measured"] / row["n_images"],
        "excluded": excluded,
        "n_objects": row["n_objects"],
        "density": _format_result(row, "density_per_um2"),
        "diameter": _format_result(row, "mean_diameter_nm"),
        "percentiles": _format_percentiles(row),
        "area_fraction": _format_result(row, "area_fraction", scale=100, unit="%"),
        "swelling": _format_result(row, "swelling_percent", unit="%"),
        "sizes": _draw_sizes(row, reach),
    }


def _format_result(row: dict, column: str, *, scale: float = 1.0, unit: str = "") -> dict:
    """Value with its interval as texts; in px where the sample has no pixel sizes."""
    if column in PX_COLUMNS and np.isnan(row[column]) and not np.isnan(row[PX_COLUMNS[column]]):
        unit = PX_UNITS[column]
        column = PX_COLUMNS[column]
    value, low, high = (scale * row[name] for name in (column, f"{column}_low", f"{column}_high"))
    has_interval = np.isfinite(low) and np.isfinite(high)
    text = format_number(value, 3) + (f" {unit}" if unit and np.isfinite(value) else "")
    return {"value": text, "interval": f"{format_number(low, 3)} to {format_number(high, 3)}" if has_interval else ""}


def _format_percentiles(row: dict) -> str:
    values = [row[name] for name in ("d10_nm", "d50_nm", "d90_nm")]
    return "" if np.isnan(values[0]) else " / ".join(format_number(value, 3) for value in values)


def _find_size_range(rows: pd.DataFrame) -> tuple[float, float]:
    """Smallest and largest diameter with objects among all rows, nm; NaN without sizes."""
    sized = rows[rows["size_counts"].str.len() > 0]
    if sized.empty:
        return float("nan"), float("nan")
    return float(sized["size_low_nm"].min()), float(
        (sized["size_low_nm"] * BIN_RATIO ** sized["size_counts"].str.len()).max()
    )


def _draw_sizes(row: dict, reach: tuple[float, float]) -> Markup:
    """Small histogram of the diameters, from the smallest to the largest one of all samples, logarithmic."""
    counts = np.asarray(row["size_counts"], float)
    if not len(counts):
        return Markup("")
    low, high = np.log(reach)
    edges = np.log(row["size_low_nm"]) + np.log(BIN_RATIO) * np.arange(len(counts) + 1)
    label = f"Diameters, {format_number(reach[0], 2)} to {format_number(reach[1], 2)} nm, logarithmic"
    padded_counts = np.concatenate([[0], counts])
    return trends.draw_sparkline(padded_counts, np.concatenate([[low], edges]), high, label)


def _draw_plots(samples: pd.DataFrame, quantity: str) -> list[dict]:
    """Plots of `quantity` against each condition that at least two of the largest samples have."""
    plots = []
    title, unit = PLOTTED[quantity]
    extent = f"; the {MAX_POINTS} samples with the most images" if len(samples) > MAX_POINTS else ""
    samples = samples.nlargest(MAX_POINTS, "n_measured").sort_index()
    for column, name in CONDITIONS.items():
        is_dated = column == "first_acquired"
        values = samples[column]
        x = parse_dates(values) if is_dated else values.to_numpy(float)
        points = [
            Point(x_value, row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"], row["sample"])
            for x_value, row in zip(x, samples.to_dict("records"), strict=True)
            if np.isfinite(x_value) and np.isfinite(row[quantity])
        ]
        if len({point.x for point in points}) >= 2:
            caption = f"{title} against {name}"
            plots.append(
                {"title": caption, "line": f"{unit}; bars: 95 %{extent}", "svg": draw_points(points, caption, is_dated)}
            )
    return plots


def parse_dates(values: pd.Series) -> NDArray[np.float64]:
    """Seconds since the epoch of ISO dates; NaN for those that are unknown."""
    dates = pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True)
    seconds = dates.astype("datetime64[s, UTC]").astype("int64").to_numpy(float)
    return np.where(dates.isna(), np.nan, seconds)


def draw_points(points: list[Point], label: str, is_dated: bool) -> Markup:
    """Points with bars for their intervals as SVG."""
    values = np.array([[p.value, p.low, p.high] for p in points], float)
    values[:, 1:] = np.where(np.isnan(values[:, 1:]), values[:, :1], values[:, 1:])
    bottom, top, ticks = trends.choose_scale(values, np.nan)
    x_values = np.array([p.x for p in points])
    first = x_values.min()
    last = x_values.max()

    def to_x(x: float) -> float:
        return trends.LEFT + 8 + (trends.WIDTH - trends.LEFT - trends.RIGHT - 16) * (x - first) / (last - first)

    def to_y(y: float) -> float:
        height = trends.HEIGHT - trends.TOP - trends.BOTTOM
        return trends.HEIGHT - trends.BOTTOM - height * (y - bottom) / (top - bottom)

    parts = [part for tick in ticks for part in trends.draw_tick(tick, to_y(tick))]
    for point, (value, low, high) in zip(points, values, strict=True):
        x = f"{to_x(point.x):.1f}"
        title = escape(escape_invisible(f"{point.title}: {format_number(value, 3)}"))
        bar = f'<line class="whisker" x1="{x}" x2="{x}" y1="{to_y(low):.1f}" y2="{to_y(high):.1f}"/>'
        parts.append(
            f'<g><title>{title}</title>{bar}<circle class="dot-of" cx="{x}" cy="{to_y(value):.1f}" r="2.6"/></g>'
        )
    floor = trends.HEIGHT - trends.BOTTOM
    parts.append(
        f'<line class="axis" x1="{trends.LEFT}" x2="{trends.WIDTH - trends.RIGHT}" y1="{floor}" y2="{floor}"/>'
    )
    for x, text, anchor in ((trends.LEFT, first, "start"), (trends.WIDTH - trends.RIGHT, last, "end")):
        name = pd.Timestamp(text, unit="s").strftime("%Y-%m-%d") if is_dated else format_number(text, 4)
        parts.append(f'<text class="tick" x="{x}" y="{trends.HEIGHT - 6}" text-anchor="{anchor}">{name}</text>')
    head = (
        f'<svg class="histogram" viewBox="0 0 {trends.WIDTH} {trends.HEIGHT}" role="img" aria-label="{escape(label)}">'
    )
    return Markup(head + "".join(parts) + "</svg>")
