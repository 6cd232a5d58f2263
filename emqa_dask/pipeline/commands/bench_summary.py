"""Summary of the runs of emqa bench: rates, efficiency, the law of scaling, predictions; and two files compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.report.bench_page import format_efficiency, format_law
from emqa_dask.run.progress import format_duration
from emqa_dask.run.scaling import compute_efficiency, find_cheapest_workers, fit_law

HOUR_S = 3600.0
SAME_RATIO = 1.05  # below it two rates count as equal: what a quiet machine repeats


def summarise_runs(
    runs: Sequence[dict], n_images: int, deadline_hours: float, price_per_worker_hour: float | None
) -> dict:
    """Figures by scaling and workers, the fitted law, and predictions for `n_images`; no value is NaN, but None."""
    table = pd.DataFrame(runs)
    table["rate"] = table["n_images"] / table["seconds"]
    law = fit_law(table["n_images"], table["workers"], table["seconds"])
    base = int(table["workers"].min())
    base_rates = _select_rates(table, "strong", base)
    rows = []
    for (scaling, workers), group in table.groupby(["scaling", "workers"]):
        first_rates = base_rates if scaling == "strong" else _select_rates(table, "weak", base)
        efficiency = compute_efficiency(first_rates, group["rate"].tolist(), base, workers)
        rows.append(_summarise_group(scaling, workers, group) | _name_interval("efficiency", efficiency))
    max_workers = int(table["workers"].max())
    if max_workers > base:  # the run of all files with the most workers ends the weak scaling, too
        rates = _select_rates(table, "strong", max_workers)
        efficiency = compute_efficiency(_select_rates(table, "weak", base), rates, base, max_workers)
        group = table[table["scaling"].eq("strong") & table["workers"].eq(max_workers)]
        rows.append(_summarise_group("weak", max_workers, group) | _name_interval("efficiency", efficiency))
    seconds = {workers: float(law.predict_seconds(n_images, workers)) for workers in sorted(set(table["workers"]))}
    cheapest = find_cheapest_workers(law, n_images, deadline_hours * HOUR_S)
    if cheapest is not None:
        seconds[cheapest] = float(law.predict_seconds(n_images, cheapest))
    predictions = [
        {
            "workers": int(workers),
            "hours": s / HOUR_S,
            "price": None if price_per_worker_hour is None else workers * s / HOUR_S * price_per_worker_hour,
        }
        for workers, s in sorted(seconds.items())
    ]
    return {
        "groups": rows,
        "law": law._asdict(),
        "n_images": n_images,
        "deadline_hours": deadline_hours,
        "price_per_worker_hour": price_per_worker_hour,
        "predictions": predictions,
        "cheapest_workers": cheapest,
    }


def _select_rates(table: pd.DataFrame, scaling: str, workers: int) -> list[float]:
    """Rates of a group by round."""
    rows = table[table["scaling"].eq(scaling) & table["workers"].eq(workers)]
    return rows.sort_values("round")["rate"].tolist()


def _summarise_group(scaling: str, workers: int, group: pd.DataFrame) -> dict[str, Any]:
    stage_seconds = pd.DataFrame(group["stage_seconds"].tolist()).median()
    megapixels = float(group["megapixels"].median())
    return {
        "scaling": scaling,
        "workers": int(workers),
        "n_images": int(group["n_images"].median()),
        "seconds": float(group["seconds"].median()),
        "images_per_s": float(group["rate"].median()),
        "megapixels_per_s": float((group["megapixels"] / group["seconds"]).median()),
        "stage_ms_per_megapixel": {name: 1000 * float(s) / megapixels for name, s in stage_seconds.items()},
        "peak_memory_mib": float(group["peak_memory_mib"].max()),
        "gpu_percent": None if group["gpu_percent"].isna().all() else float(group["gpu_percent"].median()),
    }


def _name_interval(name: str, interval: tuple[float, float, float]) -> dict[str, float | None]:
    names = (name, f"{name}_low", f"{name}_high")
    return {key: value if math.isfinite(value) else None for key, value in zip(names, interval, strict=True)}


def describe_summary(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines about a summary."""
    for row in summary["groups"]:
        yield (
            f"{row['scaling']}: {row['workers']} workers, {row['n_images']:,} images: {row['images_per_s']:.2f} "
            f"images/s, {row['megapixels_per_s']:.1f} MP/s, efficiency {format_efficiency(row)}"
            + ("" if row["gpu_percent"] is None else f", GPUs {row['gpu_percent']:.0f} % busy")
        )
    yield format_law(summary["law"])
    n_images = f"{summary['n_images']:,} images"
    for row in summary["predictions"]:
        price = f", price {row['price']:,.2f}" if row["price"] is not None else ""
        yield f"{n_images} with {row['workers']:,} workers: {format_duration(row['hours'] * HOUR_S)}{price}"
    deadline = f"{summary['deadline_hours']:g} h"
    if summary["cheapest_workers"] is None:
        yield f"no number of workers processes {n_images} in {deadline}: the part that does not shrink takes longer"
    else:
        yield f"the smallest, and so the cheapest, cluster for {deadline} has {summary['cheapest_workers']:,} workers"
    yield "a prediction far from the measured numbers of workers is an extrapolation: measure with more of them"


def compare_measurements(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Lines that compare two documents of emqa bench: what differs between them, then ratios of rates and stages."""
    for name in ("source", "scheduler", "machine", "versions", "settings"):
        if first[name] != second[name]:
            yield f"different {name}" + (
                f": {_list_differences(first[name], second[name])}" if name != "settings" else ""
            )
    rows = [
        {(row["scaling"], row["workers"]): row for row in document["summary"]["groups"]} for document in (first, second)
    ]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        raise ValueError("the two files have no number of workers in common")
    for key in shared:
        first_row, second_row = (own_rows[key] for own_rows in rows)
        ratio = second_row["megapixels_per_s"] / first_row["megapixels_per_s"]
        speed = "as fast" if 1 / SAME_RATIO < ratio < SAME_RATIO else "faster" if ratio > 1 else "slower"
        yield f"{key[0]}, {key[1]} workers: {ratio:.2f} times the megapixels per second ({speed})"
        for stage, first_ms in first_row["stage_ms_per_megapixel"].items():
            second_ms = second_row["stage_ms_per_megapixel"].get(stage, np.nan)
            if first_ms and math.isfinite(second_ms):
                yield f"  {stage}: {first_ms:.1f} -> {second_ms:.1f} ms/MP"


def _list_differences(first: Any, second: Any) -> str:
    if not isinstance(first, dict):
        return f"{first} and {second}"
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)} and {second.get(name)}" for name in names)
