"""Properties of a data item of Nion Swift (in .ndata, .ndata1 and .nhdf), which are JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_first_entry
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_positive


@dataclass(frozen=True)
class NionItem:
    """What the properties say about an array."""

    names: list[str | None] = field(default_factory=list)  # of its axes
    units: list[str | None] = field(default_factory=list)
    steps_nm: list[float] = field(default_factory=list)  # NaN for axes that are no length
    header: Header = field(default_factory=Header)


def parse_properties(properties: Mapping, n_dimensions: int) -> NionItem:
    """The axes and imaging conditions of an array of `n_dimensions`, in the properties of any version of Swift."""
    source = properties.get("data_source")
    if not isinstance(source, Mapping):
        sources = properties.get("data_sources")
        source = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], Mapping) else {}
    item = {**properties, **source}
    calibrations = get_first_entry(item, "dimensional_calibrations", "spatial_calibrations")
    calibrations = calibrations if isinstance(calibrations, list) and len(calibrations) == n_dimensions else []
    calibrations = [c if isinstance(c, Mapping) else {} for c in calibrations] or [{}] * n_dimensions
    units = [clean_text(c.get("units")) for c in calibrations]
    steps = [length_to_nm(c.get("scale", 1.0), unit) if unit else math.nan for c, unit in zip(calibrations, units)]
    return NionItem(_name_axes(item, n_dimensions), list(units), steps, _make_header(item))


def _name_axes(item: Mapping, n_dimensions: int) -> list[str | None]:
    """Names of the axes by what they count: images of a sequence, positions of a scan, and the data there."""
    n_datum = item.get("datum_dimension_count")
    n_collection = item.get("collection_dimension_count") or 0
    if n_datum not in (1, 2) or n_collection not in (0, 1, 2):
        return []
    names: list[str | None] = ["sequence"] if item.get("is_sequence") else []
    names += [None] * n_collection
    names += ["energy"] if n_datum == 1 else ["y", "x"]
    is_scan_of_images = n_collection == 2 and n_datum == 2
    return names if len(names) == n_dimensions and not is_scan_of_images else []


def _make_header(item: Mapping) -> Header:
    metadata = item.get("metadata") if isinstance(item.get("metadata"), Mapping) else {}
    paths = [f"{place}.{name}" for place in ("instrument", "hardware_source.autostem", "hardware_source", "autostem")
             for name in ("high_tension", "high_tension_v", "EHT")]  # fmt: skip
    voltage = parse_positive(get_first_entry(metadata, *paths), 1e-3)
    exposure = get_first_entry(metadata, "hardware_source.exposure", "hardware_source.exposure_s")
    stage = ("instrument.stage_position", "hardware_source.autostem.stage_position")
    x_m, y_m = (get_first_entry(metadata, *(f"{place}.{axis}" for place in stage)) for axis in "xy")
    return Header(
        voltage_kv=voltage,
        instrument="Nion Swift",
        acquired=dates.parse_date(clean_text(get_first_entry(item, "created", "datetime_original"))),
        exposure_s=parse_positive(exposure),
        detector=clean_text(
            get_first_entry(metadata, "hardware_source.channel_name", "hardware_source.hardware_source_name")
        ),
        stage_x_um=_to_um(x_m),
        stage_y_um=_to_um(y_m),
        foreign=flatten_metadata({"title": item.get("title"), **metadata}),
    )


def _to_um(value: Any) -> float:
    return float(value) * 1e6 if isinstance(value, int | float) and math.isfinite(value) else math.nan
