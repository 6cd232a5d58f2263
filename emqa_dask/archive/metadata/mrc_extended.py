"""Imaging conditions of each section of an MRC file, from its extended header: FEI1, FEI2, Agard and SerialEM."""

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

AGARD_BYTES = 128  # a section, in files of FEI; 1024 sections in every file, filled or not
FEI_SIZES = (768, 888)  # bytes a section of FEI1 and FEI2
PIXEL_SIZES_M = (1e-13, 1e-3)  # that an extended header may state
E_PER_NM2_PER_E_PER_M2 = 1e-18
MODE_TEM = 1  # "Instrument mode"; STEM is 2
MODE_DIFFRACTION = 1  # "Projection mode"; imaging is 2
FIRST_DAY = datetime(1899, 12, 30)  # of the time stamps of FEI, which are days
# Offsets within a block of FEI1 or FEI2 (Thermo Fisher, MRC-2014 specification).
_FEI_FIELDS = {
    "bitmask": ("u4", 8), "timestamp": ("f8", 12), "microscope": ("S16", 20), "d_number": ("S16", 36),
    "application": ("S16", 52), "high_tension": ("f8", 84), "dose": ("f8", 92), "alpha_tilt": ("f8", 100),
    "beta_tilt": ("f8", 108), "x_stage": ("f8", 116), "y_stage": ("f8", 124), "z_stage": ("f8", 132),
    "pixel_size_x": ("f8", 156), "pixel_size_y": ("f8", 164), "defocus": ("f8", 220), "instrument_mode": ("i4", 244),
    "projection_mode": ("i4", 248), "magnification": ("f8", 289), "integration_time": ("f8", 419),
    "camera": ("S16", 435), "stem_detector": ("S16", 519), "dwell_time": ("f8", 571), "frame_time": ("f8", 579),
}  # fmt: skip
_HAS_TILT = 1 << 7  # bits of "bitmask"
_HAS_STAGE = (1 << 9, 1 << 10, 1 << 11)
_AGARD_FIELDS = ("a_tilt", "b_tilt", "x_stage", "y_stage", "z_stage", "x_shift", "y_shift", "defocus", "exp_time",
                 "mean_int", "tilt_axis", "pixel_size", "magnification", "voltage")  # fmt: skip
# Values of SerialEM by the bits of "nreal": (bit, bytes).
_SERIALEM_BYTES = ((1, 2), (2, 6), (4, 4), (8, 2), (16, 2), (32, 4), (64, 2), (128, 4), (256, 2), (512, 4), (1024, 2))


@dataclass(frozen=True)
class SectionConditions:
    """What an extended header states about one section."""

    header: Header = field(default_factory=Header)
    x_nm: float = math.nan
    y_nm: float = math.nan
    is_diffraction: bool = False


def read_sections(record: np.ndarray, extended: bytes, n_sections: int) -> list[SectionConditions]:
    """Conditions of each section; fewer (or none) where the extended header has no more.

    record: the header as parse_header() gives it.
    """
    kind = bytes(record["exttyp"]).strip(b"\0 ").upper()
    order = record.dtype["mode"].byteorder
    if kind.startswith(b"FEI"):
        return _read_fei(extended, order, n_sections)
    if kind == b"SERI" or (kind in (b"", b"MRCO") and _has_serialem_flags(record)):
        return _read_serialem(record, extended, order, n_sections)
    if kind == b"AGAR" or (kind in (b"", b"MRCO") and _has_agard_size(record)):
        return _read_agard(record, extended, order, n_sections)
    return []


def _read_fei(extended: bytes, order: str, n_sections: int) -> list[SectionConditions]:
    orders = [o for o in (order, "<", ">") if len(extended) > 4 and _read_size(extended, o) in FEI_SIZES]
    if not orders:
        return []
    n_bytes = _read_size(extended, orders[0])
    blocks = [extended[k * n_bytes : (k + 1) * n_bytes] for k in range(min(n_sections, len(extended) // n_bytes))]
    return [_make_fei_conditions(block, orders[0]) for block in blocks if _read_size(block, orders[0]) == n_bytes]


def _read_size(block: bytes, order: str) -> int:
    return int(np.frombuffer(block, order + "i4", count=1)[0])


def _make_fei_conditions(block: bytes, order: str) -> SectionConditions:
    values = {
        name: np.frombuffer(block, np.dtype(kind).newbyteorder(order), count=1, offset=offset)[0].item()
        for name, (kind, offset) in _FEI_FIELDS.items()
    }
    bitmask = int.from_bytes(block[8:12], "little")  # in this order whatever the others are in
    stage = [
        parse_number(values[name]) * 1e6 if bitmask & bit else math.nan
        for name, bit in zip(("x_stage", "y_stage", "z_stage"), _HAS_STAGE)
    ]
    is_scanned = bool(clean_text(values["stem_detector"])) and values["instrument_mode"] != MODE_TEM
    header = Header(
        voltage_kv=parse_positive(values["high_tension"], 1e-3),
        magnification=parse_positive(values["magnification"]),
        instrument=clean_text(values["microscope"]),
        acquired=_format_days(values["timestamp"]),
        dose_e_per_nm2=parse_positive(values["dose"], E_PER_NM2_PER_E_PER_M2),
        exposure_s=parse_positive(values["frame_time" if is_scanned else "integration_time"]),
        detector=clean_text(values["stem_detector" if is_scanned else "camera"]),
        stage_x_um=stage[0],
        stage_y_um=stage[1],
        stage_z_um=stage[2],
        tilt_deg=parse_number(values["alpha_tilt"]) if bitmask & _HAS_TILT else math.nan,
        foreign=_select_texts_and_numbers(values),
    )
    is_diffraction = values["instrument_mode"] == MODE_TEM and values["projection_mode"] == MODE_DIFFRACTION
    return SectionConditions(
        header, _metres_to_nm(values["pixel_size_x"]), _metres_to_nm(values["pixel_size_y"]), is_diffraction
    )


def _select_texts_and_numbers(values: dict[str, Any]) -> dict[str, Any]:
    texts = {name: clean_text(v) for name, v in values.items() if isinstance(v, bytes)}
    numbers = {name: v for name, v in values.items() if not isinstance(v, bytes) and math.isfinite(v)}
    return {name: v for name, v in {**texts, **numbers}.items() if v is not None}


def _format_days(days: float) -> str | None:
    if not 1 < days < 1e5:  # to the year 2173
        return None
    return (FIRST_DAY + timedelta(days=days)).replace(microsecond=0).isoformat()


def _metres_to_nm(metres: float) -> float:
    return metres * 1e9 if PIXEL_SIZES_M[0] < metres < PIXEL_SIZES_M[1] else math.nan


def _has_agard_size(record: np.ndarray) -> bool:
    """Whether the extended header is as large as FEI's: 1024 sections of 128 bytes, or 32 reals for each section."""
    n_bytes = int(record["nsymbt"])
    is_counted = (int(record["nint"]), int(record["nreal"])) == (0, 32) and n_bytes >= AGARD_BYTES
    return n_bytes == AGARD_BYTES * 1024 or is_counted


def _read_agard(record: np.ndarray, extended: bytes, order: str, n_sections: int) -> list[SectionConditions]:
    n_integers = max(0, int(record["nint"]))
    n_bytes = 4 * (n_integers + max(0, int(record["nreal"])))
    if n_bytes - 4 * n_integers < 4 * len(_AGARD_FIELDS):
        n_bytes = AGARD_BYTES
        n_integers = 0
    sections = []
    for k in range(min(n_sections, len(extended) // n_bytes)):
        block = extended[k * n_bytes + 4 * n_integers : (k + 1) * n_bytes]
        sections.append(_make_agard_conditions(block, order))
    return sections


def _make_agard_conditions(block: bytes, order: str) -> SectionConditions:
    numbers = np.frombuffer(block, order + "f4", count=len(_AGARD_FIELDS)).tolist()
    values = dict(zip(_AGARD_FIELDS, numbers))
    x_nm = _metres_to_nm(values["pixel_size"])
    if not x_nm > 0:  # then the other values are of another program, or none
        return SectionConditions()
    stage = [_to_um(values[f"{axis}_stage"]) for axis in "xyz"]
    volts = values["voltage"] if 1e4 < values["voltage"] < 2e6 else values["voltage"] * 1e3
    header = Header(
        voltage_kv=volts / 1e3 if 1e4 < volts < 2e6 else math.nan,
        magnification=parse_positive(values["magnification"]),
        exposure_s=parse_positive(values["exp_time"]),
        stage_x_um=stage[0],
        stage_y_um=stage[1],
        stage_z_um=stage[2],
        tilt_deg=values["a_tilt"] if abs(values["a_tilt"]) <= 90 else math.nan,
        foreign=_select_texts_and_numbers(values),
    )
    return SectionConditions(header, x_nm, x_nm)


def _to_um(value: float) -> float:
    """A stage position in m, or in um as some programs write, in um; NaN for an impossible one."""
    um = value * 1e6 if abs(value) < 0.1 else value
    return um if abs(um) < 1e5 else math.nan


def _has_serialem_flags(record: np.ndarray) -> bool:
    n_bytes = int(record["nint"])
    return 0 < n_bytes == _count_serialem_bytes(int(record["nreal"])) and int(record["nsymbt"]) >= n_bytes


def _count_serialem_bytes(flags: int) -> int:
    return sum(n_bytes for bit, n_bytes in _SERIALEM_BYTES if flags & bit)


def _read_serialem(record: np.ndarray, extended: bytes, order: str, n_sections: int) -> list[SectionConditions]:
    if not _has_serialem_flags(record):
        return []
    n_bytes = int(record["nint"])
    flags = int(record["nreal"])
    n_blocks = min(n_sections, len(extended) // n_bytes)
    return [_make_serialem_conditions(extended[k * n_bytes : (k + 1) * n_bytes], flags, order) for k in range(n_blocks)]


def _make_serialem_conditions(block: bytes, flags: int, order: str) -> SectionConditions:
    """Values of SerialEM, which are short integers: tilt x 100, stage in um x 25, magnification / 100."""
    shorts = np.frombuffer(block, order + "i2").tolist()
    values: dict[int, list[int]] = {}
    position = 0
    for bit, n_bytes in _SERIALEM_BYTES:
        if flags & bit:
            values[bit] = shorts[position : position + n_bytes // 2]
            position += n_bytes // 2
    stage = [v / 25 for v in values.get(4, [])] or [math.nan, math.nan]
    header = Header(
        magnification=parse_positive(values[8][0], 100) if 8 in values else math.nan,
        dose_e_per_nm2=parse_positive(_decode_float(*values[32]), 100) if 32 in values else math.nan,
        stage_x_um=stage[0],
        stage_y_um=stage[1],
        tilt_deg=values[1][0] / 100 if 1 in values else math.nan,
    )
    return SectionConditions(header)


def _decode_float(mantissa: int, exponent: int) -> float:
    """A number that SerialEM keeps in two short integers: 15 + 8 bits of it, and a power of two."""
    sign = -1 if mantissa < 0 else 1
    power = abs(exponent) // 256 * (-1 if exponent < 0 else 1)
    return sign * (abs(mantissa) * 256 + abs(exponent) % 256) * 2.0**power
