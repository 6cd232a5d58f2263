"""Zeiss and LEO SEM: the tag CZ_SEM (34118) of SmartSEM."""

import math
import re
from collections.abc import Mapping

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.dose import compute_scan_dose
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import AGREEMENT, StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, compute_area_nm2, read_tag_text
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (34118,)
_KEY = re.compile(r"(?:AP|DP|SV)_\w+")
_QUANTITY = re.compile(r"\s*([-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?)\s*(.*)")
_DISPLAY_COLUMNS = 1024  # px; SmartSEM's screen, for which AP_PIXEL_SIZE and the scale without a name are stated
_SCALE_INDEX = 3  # of the numbers without a name: metres per pixel of the screen (so RosettaSciIO, rsciio/tiff)


def read_zeiss(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """The parameters AP_ (analogue), DP_ (digital) and SV_ (text) and the scale among the numbers without a name."""
    text = read_tag_text(page, TAGS[0])
    if not text:
        return None
    numbers, tree = _parse_parameters(text)
    sizes = _list_sizes(tree, numbers, page.imagewidth)
    stage_um = {axis: _read_length_nm(tree, f"ap_stage_at_{axis}", is_position=True) * 1e-3 for axis in "xyz"}
    detector = clean_text(tree.get("dp_detector_channel"))
    header = Header(
        voltage_kv=_read_quantity(tree, "ap_actualkv", "V", "kV") * 1e-3,
        magnification=_parse_magnification(tree.get("ap_mag")),
        instrument=clean_text(tree.get("dp_sem")) or clean_text(tree.get("sv_serial_number")),
        acquired=dates.parse_date(tree.get("ap_date"), tree.get("ap_time")),
        exposure_s=parse_positive(_read_quantity(tree, "ap_frame_time", "s", "s")),
        detector=detector or clean_text(tree.get("dp_detector_type")),
        stage_x_um=stage_um["x"],
        stage_y_um=stage_um["y"],
        stage_z_um=stage_um["z"],
        tilt_deg=parse_number(_split_quantity(tree, "ap_stage_at_t")[0]),
        dose_e_per_nm2=_read_scan_dose(tree, sizes),
        foreign=tree,
    )
    return VendorMetadata(header, tuple(sizes))


def _parse_parameters(text: str) -> tuple[list[float], dict[str, str]]:
    """The numbers before the first parameter, and the values of the parameters by their keys in lower case.

    A key is followed by a line "Mag = 5.00 K X" or "Time :12:18:34".
    """
    numbers: list[float] = []
    values: dict[str, str] = {}
    key = ""
    for line in map(str.strip, text.splitlines()):
        if _KEY.fullmatch(line):
            key = line.lower()
        elif key:
            pair = re.fullmatch(r"[^=:]*[=:](.*)", line)
            if pair and pair[1].strip():
                values.setdefault(key, pair[1].strip())
            key = ""
        elif not values:
            numbers.append(parse_number(line))
    return numbers, values


def _split_quantity(tree: Mapping[str, str], key: str) -> tuple[str | None, str | None]:
    """Number and unit of a parameter such as "2,48 nm"."""
    match = _QUANTITY.match(tree.get(key, ""))
    return (match[1], match[2].strip() or None) if match else (None, None)


def _read_quantity(tree: Mapping[str, str], key: str, base_unit: str, default_unit: str) -> float:
    number, unit = _split_quantity(tree, key)
    return convert_to_base_unit(number, unit or default_unit, base_unit)


def _read_length_nm(tree: Mapping[str, str], key: str, *, is_position: bool = False) -> float:
    number, unit = _split_quantity(tree, key)
    if is_position:
        value = parse_number(number)
        return math.copysign(length_to_nm(value, unit or "mm"), value) if value else value
    return length_to_nm(number, unit or "nm")


def _list_sizes(tree: Mapping[str, str], numbers: list[float], width_px: int) -> list[StatedSize]:
    """Pixel sizes of the stored image, the most precise first where they agree.

    AP_IMAGE_PIXEL_SIZE is the one of the image, in three or four digits. The scale without a name has all digits, but
    is of the screen, as AP_PIXEL_SIZE is. A screen pixel is as many image pixels as DP_IMAGE_STORE, the columns of the
    stored image, is of 1024.
    """
    n_columns = parse_positive(_split_quantity(tree, "dp_image_store")[0])
    divisor = n_columns if n_columns > 0 else float(width_px)
    image = StatedSize(_read_length_nm(tree, "ap_image_pixel_size"), math.nan, "AP_IMAGE_PIXEL_SIZE", n_columns)
    scale_nm = parse_positive(numbers[_SCALE_INDEX], 1e9) if len(numbers) > _SCALE_INDEX else math.nan
    exact = StatedSize(scale_nm * _DISPLAY_COLUMNS / divisor, math.nan, "the scale of CZ_SEM", n_columns)
    display_nm = _read_length_nm(tree, "ap_pixel_size")
    display = StatedSize(display_nm * _DISPLAY_COLUMNS / divisor, math.nan, "AP_PIXEL_SIZE", n_columns)
    field = StatedSize(_read_length_nm(tree, "ap_width") / divisor, math.nan, "AP_WIDTH", n_columns)
    is_exact = not abs(exact.x_nm / image.x_nm - 1) > AGREEMENT
    sizes = [exact, image, display, field] if is_exact else [image, exact, display, field]
    return [size for size in sizes if size.x_nm > 0]


def _parse_magnification(value: str | None) -> float:
    """5000 for "5.00 K X", 500 for "500 X"."""
    match = re.match(r"([\d.,]+)\s*(K?)", value or "")
    return parse_positive(match[1], 1000 if match[2] else 1) if match else math.nan


def _read_scan_dose(tree: Mapping[str, str], sizes: list[StatedSize]) -> float:
    """Dose from probe current, dwell time and the number of lines or frames that were averaged."""
    noise_reduction = str(tree.get("dp_noise_reduction")).lower()
    key = next((f"ap_{kind}_average_count" for kind in ("line", "frame") if kind in noise_reduction), "")
    n_scans = parse_positive(tree.get(key))
    current_a = _read_quantity(tree, "ap_iprobe", "A", "pA")
    dwell_s = _read_quantity(tree, "dp_dwell_time", "s", "ns")
    return compute_scan_dose(current_a, dwell_s * (n_scans if n_scans > 1 else 1.0), compute_area_nm2(sizes))
