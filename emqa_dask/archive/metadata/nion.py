"""Properties of a data item of Nion Swift, which are JSON: in .ndata, .ndata1 and .nhdf, and beside an image."""

import math
from collections.abc import Mapping
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_first_entry
from emqa_dask.archive.metadata.units import normalise_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_MAX_BARE_KV = 1000  # of a high tension; numbers above are in V


def merge_data_source(properties: Any) -> dict[str, Any]:
    """`properties` with those of the data source in it, as Swift 0.10 and later and 0.3 to 0.9 write them."""
    if not isinstance(properties, dict):
        return {}
    source = properties.get("data_source")
    sources = properties.get("data_sources")
    if source is None and isinstance(sources, list) and sources:
        source = sources[0]
    return {**properties, **source} if isinstance(source, dict) else properties


def list_calibrations(properties: Mapping[str, Any], n_dimensions: int) -> list[tuple[str, float]]:
    """Unit and step of each axis; ("", NaN) for each where the properties have another number of axes."""
    calibrations = get_first_entry(properties, "dimensional_calibrations", "spatial_calibrations")
    if not isinstance(calibrations, list) or len(calibrations) != n_dimensions:
        return [("", math.nan)] * n_dimensions
    entries = [entry if isinstance(entry, Mapping) else {} for entry in calibrations]
    # Swift leaves out a scale of 1.
    return [(normalise_unit(entry.get("units")), parse_number(entry.get("scale", 1.0))) for entry in entries]


def make_header(properties: Mapping[str, Any]) -> Header:
    """Imaging conditions, without the pixel size."""
    metadata = properties.get("metadata")
    tree = metadata if isinstance(metadata, Mapping) else {}
    foreign = flatten_metadata(tree) or flatten_metadata(properties)
    stage = ("instrument.stage_position", "hardware_source.autostem.stage_position")
    x_m, y_m = (get_first_entry(tree, *(f"{place}.{axis}" for place in stage)) for axis in "xy")
    tension = parse_positive(find_value(foreign, "high_tension", "EHT", "high_tension_v"))
    return Header(
        voltage_kv=tension / 1000 if tension > _MAX_BARE_KV else tension,
        acquired=dates.parse_date(get_first_entry(properties, "created", "datetime_original", "timestamp")),
        exposure_s=parse_positive(find_value(foreign, "exposure", "exposure_s", "frame_time")),
        detector=clean_text(find_value(foreign, "channel_name"))
        or clean_text(find_value(foreign, "hardware_source_name"))
        or clean_text(properties.get("title")),
        stage_x_um=_to_um(x_m),
        stage_y_um=_to_um(y_m),
        foreign=foreign,
    )


def find_value(foreign: Mapping[str, Any], *names: str) -> Any:
    """The first value of `foreign` whose last name is one of `names`."""
    return next((v for name in names for key, v in foreign.items() if key.rpartition(".")[2] == name), None)


def _to_um(value: Any) -> float:
    return float(value) * 1e6 if isinstance(value, int | float) and math.isfinite(value) else math.nan
