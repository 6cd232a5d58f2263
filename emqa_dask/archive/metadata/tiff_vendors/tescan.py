"""Tescan: the blocks of key=value text in tag 50431, the same as in its .hdr files."""

import re
import struct

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.dose import compute_scan_dose
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.texts import decode_text, get_value, parse_key_values
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import (
    MAX_TAG_BYTES,
    VendorMetadata,
    compute_area_nm2,
    metres_to_um,
)
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (50431,)
_THUMBNAIL = 1  # type of the block that holds a JPEG; of the others: 2 MAIN, 3 SEM, 4 GAMA, 5 FIB, 0 the end
_FIB = 5
_BLOCK_HEADER = struct.Struct("<IH")  # bytes of the block after the first four, type


def read_tescan(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """The keys of all text blocks; lengths in metres, angles in degrees."""
    data = page.tags.valueof(TAGS[0])
    if isinstance(data, tuple | list):
        data = bytes(n & 0xFF for n in data[:MAX_TAG_BYTES])
    if not isinstance(data, bytes | str):
        return None
    text, is_ion_image = _read_blocks(data.encode() if isinstance(data, str) else data)
    return read_tescan_text(text, is_ion_image)


def read_tescan_text(text: str, is_ion_image: bool) -> VendorMetadata | None:
    """What the sections [MAIN] and [SEM] say; None for a text without them."""
    values = parse_key_values(text)
    if get_value(values, "PixelSizeX") is None and get_value(values, "Device") is None:
        return None
    size = StatedSize(
        parse_number(get_value(values, "PixelSizeX")) * 1e9,
        parse_number(get_value(values, "PixelSizeY")) * 1e9,
        "PixelSizeX",
    )
    current_a = parse_positive(get_value(values, "PredictedBeamCurrent", "BeamCurrent"))
    n_frames = max(1.0, parse_positive(get_value(values, "AccFrames")))
    time_s = parse_positive(get_value(values, "DwellTime")) * n_frames
    header = Header(
        voltage_kv=parse_positive(get_value(values, "HV", "AcceleratorVoltage"), 1e-3),
        magnification=parse_positive(get_value(values, "Magnification")),
        instrument=clean_text(get_value(values, "DeviceModel", "Device")),
        acquired=dates.parse_date(get_value(values, "Date"), get_value(values, "Time")),
        detector=clean_text(get_value(values, "Detector", "Detector0")),
        stage_x_um=metres_to_um(get_value(values, "StageX")),
        stage_y_um=metres_to_um(get_value(values, "StageY")),
        stage_z_um=metres_to_um(get_value(values, "StageZ")),
        tilt_deg=parse_number(get_value(values, "StageTilt")),
        dose_e_per_nm2=float("nan") if is_ion_image else compute_scan_dose(current_a, time_s, compute_area_nm2([size])),
        foreign=values,
    )
    return VendorMetadata(header, (size,) if size.x_nm == size.x_nm else ())


def _read_blocks(data: bytes) -> tuple[str, bool]:
    """Text of all blocks but the thumbnail, and whether there is one of the ion beam."""
    texts = []
    is_ion_image = False
    start = 0
    while start + _BLOCK_HEADER.size <= len(data):
        n_bytes, kind = _BLOCK_HEADER.unpack_from(data, start)
        stop = start + 4 + n_bytes
        if n_bytes < 2 or stop > len(data):
            break
        if kind != _THUMBNAIL:
            texts.append(decode_text(data[start + _BLOCK_HEADER.size : stop].strip(b"\0")))
        is_ion_image = is_ion_image or kind == _FIB
        start = stop
    text = "\n".join(texts)
    if "PixelSizeX" in text:
        return text, is_ion_image
    lines = re.findall(rb"[A-Za-z\[][ -~]{0,200}", data)  # other layouts: whatever reads as a line
    return "\n".join(line.decode("ascii") for line in lines), is_ion_image
