"""Pixel size and imaging conditions of plain HDF5, from settings under the names that people and programs use."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from emqa_dask.archive.axes import ImageAxes
from emqa_dask.archive.formats.hdf5.attributes import normalise_name
from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm, nm_per_unit, parse_length_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_UNIT = r"(nm|um|pm|mm|m|a|ang|angstroms?|microns?|nanomet(?:er|re)s?|micromet(?:er|re)s?)"
_SIZE = (
    r"(?:(?:image|em|specimen|sample|object|physical)_)?(?:pixel_?size|px_?size|pix_?size|pixel_?spacing|"
    r"pixel_?scale|pixel_?resolution|voxel_?size|element_?size|spatial_?resolution|sampling|resolution|spacing|scale|"
    r"calibration)"
)
_SIZE_WITH_UNIT = re.compile(rf"^{_SIZE}(?:_?(x|y))?(?:_in)?_{_UNIT}(?:_?(x|y))?(?:_(?:per_)?(?:px|pixel|pix))?$")
_UNIT_PER_PIXEL = re.compile(rf"^(?:{_UNIT}_?(?:per)?_?(?:px|pixel|pix)(?:_?(x|y))?|(?:px|pixel)_{_UNIT})$")
_SIDES = re.compile(r"pixel_?(width|height)")
_BARE_SIZE = re.compile(rf"^{_SIZE}(?:_?(x|y))?$")
_ANGSTROM_SIZES = re.compile(
    r"^(?:eman_|mdf_)?(?:apix|angpix|apix_(x|y)|rlnimagepixelsize|rlnmicrographpixelsize|psize_?a|blob_psize_a)$"
)
_FIELD_WIDTH = re.compile(
    rf"^(?:hfw|hfov|fov|field_?of_?view|horizontal_field_?(?:width|of_view)|field_?width)(?:_?x)?(?:_{_UNIT})?$"
)
_UNIT_NAMES = (
    "{}_units", "{}_unit", "pixel_size_units", "pixel_size_unit", "pixel_units", "pixel_unit", "voxel_size_units",
    "voxel_size_unit", "spatial_units", "spatial_unit", "length_unit", "length_units", "resolution_unit",
    "resolution_units", "units", "unit",
)  # fmt: skip
_VOLTAGE_NAME = re.compile(r"(?:accelerat(?:ion|ing)_)?(?:voltage|high_?tension|ht|eht|beam_energy|e0)(?:_(k?e?v))?")
_VOLTAGE = re.compile(r"([\d.,eE+]+)\s*(k?e?V)?")
MAX_STATED_SIZES = 8  # that are compared
MAX_BARE_KV = 1000.0  # kV of a number without unit; a larger one is in V
VOLTAGES_KV = (0.05, 3000.0)  # of electron microscopes


def read_header(settings: Mapping[str, Any], shape: Sequence[int], axes: ImageAxes) -> Header:
    """Header of an image from `settings`, by lower-case name (see FileSettings)."""
    header = Header(
        voltage_kv=read_voltage_kv(settings),
        magnification=_read_number(settings, "magnification", "mag", "indicated_magnification"),
        instrument=_read_text(settings, "instrument", "microscope", "instrument_name", "microscope_name", "tem", "sem"),
        acquired=_read_date(settings),
        dose_e_per_nm2=_read_dose(settings),
        exposure_s=_read_seconds(settings, "exposure", "exposure_time", "frame_time", "exp_time"),
        detector=_read_text(settings, "detector", "detector_name", "camera", "camera_name", "channel_name"),
        stage_x_um=_read_micrometres(settings, "stage_x", "stage_position_x"),
        stage_y_um=_read_micrometres(settings, "stage_y", "stage_position_y"),
        stage_z_um=_read_micrometres(settings, "stage_z", "stage_position_z"),
        tilt_deg=_read_tilt(settings),
        foreign=flatten_metadata(settings),
    )
    return choose_pixel_size(header, state_pixel_sizes(settings, shape, axes), shape[axes.x])


def state_pixel_sizes(settings: Mapping[str, Any], shape: Sequence[int], axes: ImageAxes) -> list[StatedSize]:
    """Every pixel size that `settings` state, those with their unit in the name first."""
    along_axis: dict[tuple[int, str], dict[str, float]] = {}
    sizes: list[tuple[int, StatedSize]] = []
    for setting_name, value in settings.items():
        name = _SIDES.sub(lambda side: "pixel_size_x" if side[1] == "width" else "pixel_size_y", setting_name)
        rank, unit, axis = _parse_size_name(name, settings)
        if rank is None:
            continue
        if axis:
            along_axis.setdefault((rank, re.sub(rf"_?{axis}(?=_|$)", "", name)), {})[axis] = _parse_size(value, unit)
            continue
        x_nm, y_nm = _parse_sizes(value, unit, shape, axes)
        sizes.append((rank, StatedSize(x_nm, y_nm, name)))
    for (rank, name), lengths in along_axis.items():
        sizes.append((rank, StatedSize(lengths.get("x", lengths.get("y", 0.0)), lengths.get("y", 0.0), name)))
    for name, value in settings.items():
        match = _FIELD_WIDTH.match(name)
        if match:
            width_nm = _parse_size(value, match[1] or _find_unit(name, settings))
            sizes.append((3, StatedSize(width_nm / shape[axes.x], origin=name)))
    return [size for _, size in sorted(sizes, key=lambda item: item[0])][:MAX_STATED_SIZES]


def _parse_size_name(name: str, settings: Mapping[str, Any]) -> tuple[int | None, str, str]:
    """(rank of reliability, unit, axis or "") of a setting that is a pixel size; (None, "", "") for others."""
    match = _SIZE_WITH_UNIT.match(name)
    if match:
        return 0, match[2], match[1] or match[3] or ""
    match = _UNIT_PER_PIXEL.match(name)
    if match:
        return 0, match[1] or match[3], match[2] or ""
    match = _ANGSTROM_SIZES.match(name)
    if match:
        return 1, "angstrom", match[1] or ""
    match = _BARE_SIZE.match(name)
    if match:
        return 2, _find_unit(name, settings), match[1] or ""
    return None, "", ""


def _find_unit(name: str, settings: Mapping[str, Any]) -> str:
    plain_settings = {key.replace("_", ""): value for key, value in settings.items() if "unit" in key}
    for template in _UNIT_NAMES:
        unit = plain_settings.get(template.format(name).replace("_", ""))
        units = unit if isinstance(unit, list) else [unit]
        if nm_per_unit(units[-1]) > 0:
            return units[-1]
    return ""


def _parse_size(value: Any, unit: str) -> float:
    if isinstance(value, str) and not parse_number(value) > 0:
        return parse_length_nm(value, unit)
    return length_to_nm(value, unit)


def _parse_sizes(value: Any, unit: str, shape: Sequence[int], axes: ImageAxes) -> tuple[float, float]:
    """(along x, along y) in nm; a list has one value per axis of the array, or of its last axes."""
    if not isinstance(value, list):
        size = _parse_size(value, unit)
        return size, size
    if len(value) == len(shape):
        return _parse_size(value[axes.x], unit), _parse_size(value[axes.y], unit)
    if len(value) < 2:
        return 0.0, 0.0
    is_transposed = axes.x < axes.y
    y, x = (value[-1], value[-2]) if is_transposed else (value[-2], value[-1])
    return _parse_size(x, unit), _parse_size(y, unit)


def read_voltage_kv(settings: Mapping[str, Any]) -> float:
    """Acceleration voltage in kV; a number without a unit above 1,000 is in V."""
    for name, value in settings.items():
        match = _VOLTAGE_NAME.fullmatch(name)
        if not match:
            continue
        parsed = _VOLTAGE.fullmatch(clean_text(value) or "")
        number = parse_positive(parsed[1] if parsed else value)
        unit = match[1] or (parsed[2] if parsed else "") or settings.get(f"{name}_units") or ""
        unit = str(unit).lower().strip("[]").replace("_", "")
        is_volts = unit in ("v", "ev") or (unit not in ("kv", "kev") and number > MAX_BARE_KV)
        kv = number / 1000 if is_volts else number
        if VOLTAGES_KV[0] <= kv <= VOLTAGES_KV[1]:
            return kv
    return math.nan


def _read_number(settings: Mapping[str, Any], *names: str) -> float:
    return next((n for name in names if (n := parse_positive(settings.get(name))) > 0), math.nan)


def _read_text(settings: Mapping[str, Any], *names: str) -> str | None:
    return next((text for name in names if (text := clean_text(settings.get(name)))), None)


def _read_date(settings: Mapping[str, Any]) -> str | None:
    for name in ("acquired", "acquisition_date", "acquisition_datetime", "acquisition_time", "date_time", "datetime",
                 "timestamp", "start_time", "date", "created"):  # fmt: skip
        value = settings.get(name)
        date = dates.parse_date(value) if isinstance(value, str) else None
        if date:
            return date
    return None


def _read_dose(settings: Mapping[str, Any]) -> float:
    for name in ("dose_e_per_nm2", "electron_dose_e_per_nm2", "dose_e_nm2"):
        if parse_positive(settings.get(name)) > 0:
            return parse_positive(settings[name])
    names = ("dose_e_per_a2", "dose_e_per_angstrom2", "electron_dose_e_per_a2", "dose_e_a2")
    return _read_number(settings, *names) * 100.0  # from per square angstrom


def _read_seconds(settings: Mapping[str, Any], *names: str) -> float:
    for name in names:
        for suffix, factor in (("_s", 1.0), ("_ms", 1e-3), ("_us", 1e-6), ("", math.nan)):
            value = settings.get(f"{name}{suffix}")
            if suffix == "":
                unit = str(settings.get(f"{name}_units", "s")).strip("[]").lower()
                factor = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6}.get(unit, math.nan)
            if parse_positive(value, factor) > 0:
                return parse_positive(value, factor)
    return math.nan


def _read_micrometres(settings: Mapping[str, Any], *names: str) -> float:
    for name in names:
        for suffix in ("_um", "_mm", "_nm", "_m", ""):
            number = parse_number(settings.get(f"{name}{suffix}"))
            unit = suffix[1:] or str(settings.get(f"{name}_units", ""))
            if number == number and nm_per_unit(unit) > 0:
                return number * nm_per_unit(unit) / 1000.0
    return math.nan


def _read_tilt(settings: Mapping[str, Any]) -> float:
    for name in ("tilt_deg", "stage_tilt_deg", "alpha_tilt_deg", "tilt_angle_deg", "stage_alpha_deg"):
        number = parse_number(settings.get(name))
        if number == number:
            return number
    return math.nan


def normalise_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of nested metadata by lower-case leaf name; the first one of a name counts."""
    settings: dict[str, Any] = {}
    for name, value in flatten_metadata(tree).items():
        settings.setdefault(normalise_name(name.rpartition(".")[2]), value)
    return settings
