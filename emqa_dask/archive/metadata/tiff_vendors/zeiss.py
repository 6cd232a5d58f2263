"""Zeiss and LEO SEM: the tag CZ_SEM (34118) of SmartSEM."""

import math
import re
from collections.abc import Mapping
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import AGREEMENT, StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, compute_dose
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (34118,)
_DISPLAY_COLUMNS = 1024  # px; SmartSEM's screen, for which AP_PIXEL_SIZE and the scale without a name are stated
_SCALE_INDEX = 3  # of the numbers without a name: metres per pixel of the screen (so RosettaSciIO, rsciio/tiff)


def read_zeiss(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """The parameters AP_ (analogue), DP_ (digital) and SV_ (text) and the scale among the numbers without a name."""
    tree = page.tags.valueof(TAGS[0])
    if not isinstance(tree, Mapping):
        return None
    sizes = _list_sizes(tree, page.imagewidth)
    stage_um = {axis: _read_length_nm(tree, f"ap_stage_at_{axis}", is_position=True) * 1e-3 for axis in "xyz"}
    detector = clean_text(_get_value(tree, "dp_detector_channel"))
    header = Header(
        voltage_kv=_read_quantity(tree, "ap_actualkv", "V", "kV") * 1e-3,
        magnification=_parse_magnification(_get_value(tree, "ap_mag")),
        instrument=clean_text(_get_value(tree, "dp_sem")) or clean_text(_get_value(tree, "sv_serial_number")),
        acquired=dates.parse_date(_get_value(tree, "ap_date"), _get_value(tree, "ap_time")),
        exposure_s=parse_positive(_read_quantity(tree, "ap_frame_time", "s", "s")),
        detector=detector or clean_text(_get_value(tree, "dp_detector_type")),
        stage_x_um=stage_um["x"],
        stage_y_um=stage_um["y"],
        stage_z_um=stage_um["z"],
        tilt_deg=parse_number(_take_number(_get_value(tree, "ap_stage_at_t"))),
        dose_e_per_nm2=_compute_scan_dose(tree, sizes),
        foreign={k: v[1] for k, v in tree.items() if k and isinstance(v, tuple) and len(v) > 1},
    )
    return VendorMetadata(header, tuple(sizes))


def _get_entry(tree: Mapping[str, Any], key: str) -> tuple[Any, Any]:
    """Value and unit of a parameter."""
    entry = tree.get(key)
    if not isinstance(entry, tuple) or len(entry) < 2:
        return None, None
    return entry[1], entry[2] if len(entry) > 2 else None


def _get_value(tree: Mapping[str, Any], key: str) -> Any:
    return _get_entry(tree, key)[0]


def _take_number(value: Any) -> Any:
    """The number at the beginning of a text such as "0.0 °" or "2,5 nm"; other values as they are."""
    match = re.match(r"\s*[-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?", value) if isinstance(value, str) else None
    return match[0] if match else value


def _split_quantity(tree: Mapping[str, Any], key: str) -> tuple[Any, Any]:
    """Number and unit, also of a text such as "2,48 nm" that tifffile has left whole."""
    value, unit = _get_entry(tree, key)
    number = _take_number(value)
    if unit is None and isinstance(value, str) and isinstance(number, str):
        unit = value.removeprefix(number).strip() or None
    return number, unit


def _read_quantity(tree: Mapping[str, Any], key: str, base_unit: str, default_unit: str) -> float:
    number, unit = _split_quantity(tree, key)
    return convert_to_base_unit(number, unit or default_unit, base_unit)


def _read_length_nm(tree: Mapping[str, Any], key: str, *, is_position: bool = False) -> float:
    number, unit = _split_quantity(tree, key)
    if is_position:
        value = parse_number(number)
        return math.copysign(length_to_nm(value, unit or "mm"), value) if value else value
    return length_to_nm(number, unit or "nm")


def _list_sizes(tree: Mapping[str, Any], width_px: int) -> list[StatedSize]:
    """Pixel sizes of the stored image, the most precise first where they agree.

    AP_IMAGE_PIXEL_SIZE is the one of the image, in three or four digits. The scale without a name has all digits, but
    is of the screen, as AP_PIXEL_SIZE is. A screen pixel is as many image pixels as DP_IMAGE_STORE, the columns of the
    stored image, is of 1024.
    """
    n_columns = parse_positive(_take_number(_get_value(tree, "dp_image_store")))
    divisor = n_columns if n_columns > 0 else float(width_px)
    image = StatedSize(_read_length_nm(tree, "ap_image_pixel_size"), math.nan, "AP_IMAGE_PIXEL_SIZE", n_columns)
    numbers = tree.get("", ())
    scale_nm = parse_positive(numbers[_SCALE_INDEX], 1e9) if len(numbers) > _SCALE_INDEX else math.nan
    exact = StatedSize(scale_nm * _DISPLAY_COLUMNS / divisor, math.nan, "the scale of CZ_SEM", n_columns)
    display_nm = _read_length_nm(tree, "ap_pixel_size")
    display = StatedSize(display_nm * _DISPLAY_COLUMNS / divisor, math.nan, "AP_PIXEL_SIZE", n_columns)
    field = StatedSize(_read_length_nm(tree, "ap_width") / divisor, math.nan, "AP_WIDTH", n_columns)
    is_exact = not abs(exact.x_nm / image.x_nm - 1) > AGREEMENT
    sizes = [exact, image, display, field] if is_exact else [image, exact, display, field]
    return [size for size in sizes if size.x_nm > 0]


def _parse_magnification(value: Any) -> float:
    """5000 for "5.00 K X"; tifffile has already made a number of "500 X"."""
    match = re.match(r"([\d.,]+)\s*(K?)", str(value))
    return parse_positive(match[1], 1000 if match[2] else 1) if match else math.nan


def _compute_scan_dose(tree: Mapping[str, Any], sizes: list[StatedSize]) -> float:
    """Dose from probe current, dwell time and the number of lines or frames that were averaged."""
    noise_reduction = str(_get_value(tree, "dp_noise_reduction")).lower()
    key = next((f"ap_{kind}_average_count" for kind in ("line", "frame") if kind in noise_reduction), "")
    n_scans = parse_positive(_get_value(tree, key))
    current_a = _read_quantity(tree, "ap_iprobe", "A", "pA")
    dwell_s = _read_quantity(tree, "dp_dwell_time", "s", "ns")
    nm = sizes[0].x_nm if sizes else math.nan
    return compute_dose(current_a, dwell_s * (n_scans if n_scans > 1 else 1.0), nm, nm)
