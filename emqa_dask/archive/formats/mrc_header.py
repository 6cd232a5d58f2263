"""Headers of MRC files (MRC2014, IMOD, older ones): byte order, type and layout of the pixels, pixel size."""

import math
from dataclasses import dataclass

import numpy as np

HEADER_BYTES = 1024
# https://www.ccpem.ac.uk/mrc-format/mrc2014/ and IMOD; modes 3 and 4 are complex, 16 is RGB, 101 has 4 bits a pixel.
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 7: "i4", 12: "f2", 16: "u1", 101: "u1"}
COMPLEX_MODES = (3, 4)
MODE_RGB = 16
MODE_4_BIT = 101
IMOD_STAMP = 1146047817  # "IMOD" as an integer
IMOD_SIGNED_BYTES = 1  # flag
IMOD_PACKED_BYTES = 16  # flag of SerialEM: each byte of mode 0 holds two pixels, so the header has half the width
SUPER_RESOLUTION_PX = ((7676, 7420), (7680, 7424), (11520, 8184))  # of movies that old SerialEM packed without the flag
MAX_SIDE_PX = 2**24
MAX_COMMON_SIDE_PX = 2**16  # of an image; a larger one may be a value of the other byte order
MIN_SIGN_EVIDENCE = 1.02  # ratio of roughness; a wrong sign makes jumps of 256 in an image
_HEADER_FIELDS = {
    "n": "3i4", "mode": "i4", "start": "3i4", "m": "3i4", "cell": "3f4", "angles": "3f4", "axes": "3i4",
    "stats": "3f4", "ispg": "i4", "nsymbt": "i4", "extra": "V8", "exttyp": "S4", "nversion": "i4", "extra2": "V16",
    "nint": "i2", "nreal": "i2", "extra3": "V20", "imod_stamp": "i4", "imod_flags": "i4", "extra4": "V36",
    "origin": "3f4", "map": "S4", "stamp": "4u1", "rms": "f4", "nlabl": "i4", "labels": "10S80",
}  # fmt: skip
_HEADER_DTYPE = np.dtype(list(_HEADER_FIELDS.items()))


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of one section lie in the file."""

    dtype: np.dtype  # with its byte order
    n_samples: int  # values a pixel: 3 for RGB
    is_packed: bool  # two pixels in a byte

    def row_bytes(self, width_px: int) -> int:
        if self.is_packed:
            return (width_px + 1) // 2  # a row begins with a new byte
        return width_px * self.n_samples * self.dtype.itemsize


def parse_header(data: bytes) -> np.ndarray | None:
    """The first 1024 bytes as one record, in the byte order that makes sense; None when they are no MRC header.

    The machine stamp only decides where both orders make sense, since some programs write a wrong one.
    """
    if len(data) < HEADER_BYTES:
        return None
    records = [np.frombuffer(data, _HEADER_DTYPE.newbyteorder(order), count=1)[0] for order in "<>"]
    record = max(filter(_is_header, records), key=_rate_byte_order, default=None)
    return _widen_packed(record) if record is not None and _has_packed_bytes(record) else record


def _has_packed_bytes(record: np.ndarray) -> bool:
    """Whether each byte of mode 0 holds two pixels: by the flag, else by SerialEM's label and the sizes of movies."""
    if int(record["mode"]) != 0:
        return False
    if int(record["imod_stamp"]) == IMOD_STAMP and int(record["imod_flags"]) & IMOD_PACKED_BYTES:
        return True
    sides = sorted((2 * int(record["n"][0]), int(record["n"][1])), reverse=True)
    is_super_resolution = any(
        abs(sides[0] - long) <= 4 and abs(sides[1] - short) <= 4 for long, short in SUPER_RESOLUTION_PX
    )
    return is_super_resolution and b"4 bits packed" in record["labels"][0]


def _widen_packed(record: np.ndarray) -> np.ndarray:
    """`record` as one of mode 101, whose header has the whole width; as IMOD reads it."""
    wide_record = record.copy()
    wide_record["mode"] = MODE_4_BIT
    if record["m"][0] == record["n"][0]:
        wide_record["m"][0] *= 2
        wide_record["cell"][0] *= 2
    wide_record["n"][0] *= 2
    return wide_record


def _is_header(record: np.ndarray) -> bool:
    n = record["n"].astype(int)
    axes = record["axes"]
    is_sane = (n > 0).all() and (n < MAX_SIDE_PX).all() and 0 <= record["nsymbt"] < 2**31 - 1
    is_marked = record["map"][:3] == b"MAP" or sorted(axes.tolist()) == [1, 2, 3] or (axes == 0).all()
    return bool(is_sane and is_marked and int(record["mode"]) in (*DTYPES, *COMPLEX_MODES))


def _rate_byte_order(record: np.ndarray) -> float:
    """How much speaks for the byte order in which `record` was read."""
    has_axes = sorted(record["axes"].tolist()) == [1, 2, 3]
    has_common_sides = bool((record["n"].astype(int) < MAX_COMMON_SIDE_PX).all())
    is_little = record.dtype["mode"].byteorder in ("<", "=")
    has_stamp = int(record["stamp"][0]) == (0x44 if is_little else 0x11)
    return 4 * has_axes + 2 * has_common_sides + has_stamp


def find_layout(record: np.ndarray, sample: bytes) -> PixelLayout | None:
    """Layout of the pixels; None for complex ones. sample: the first bytes of the pixels."""
    mode = int(record["mode"])
    if mode in COMPLEX_MODES:
        return None
    dtype = np.dtype(DTYPES[mode]).newbyteorder(record.dtype["mode"].byteorder)
    if mode == 0 and not has_signed_bytes(record, sample):
        dtype = np.dtype("u1")
    return PixelLayout(dtype, 3 if mode == MODE_RGB else 1, mode == MODE_4_BIT)


def has_signed_bytes(record: np.ndarray, sample: bytes) -> bool:
    """Whether pixels of mode 0 are signed: by IMOD's flag, else by the extrema in the header, else by the pixels.

    MRC2014 has signed bytes, and older programs wrote unsigned ones.
    """
    if int(record["imod_stamp"]) == IMOD_STAMP:
        return bool(int(record["imod_flags"]) & IMOD_SIGNED_BYTES)
    low, high = (float(v) for v in record["stats"][:2])
    if math.isfinite(low) and math.isfinite(high) and low < high:
        if low < 0 and high >= 128:
            return -low > high - 128
        if low < 0 or high >= 128:
            return low < 0
    return not _is_smoother_unsigned(np.frombuffer(sample, np.uint8))


def _is_smoother_unsigned(values: np.ndarray) -> bool:
    """Whether neighbours differ less as unsigned than as signed bytes."""
    if len(values) < 2:
        return False
    unsigned, signed = (float(np.abs(np.diff(v.astype(np.int16))).sum()) for v in (values, values.view(np.int8)))
    return signed > MIN_SIGN_EVIDENCE * unsigned


def find_pixel_size_nm(record: np.ndarray) -> tuple[float, float]:
    """Pixel size along the columns and rows of a section in nm, from the cell; NaN where the header states none."""
    size_x, size_y = (_find_step_nm(record, position) for position in (0, 1))
    return size_x, size_y


def _find_step_nm(record: np.ndarray, position: int) -> float:
    """Pixel size along the fastest axis (position 0) or the second one (1)."""
    axis = int(record["axes"][position]) - 1
    axis = axis if axis in (0, 1, 2) else position
    n_intervals = record["m"][axis]
    with np.errstate(all="ignore"):  # in float32 and in this order, so that the size equals that of RosettaSciIO
        divisor = n_intervals if n_intervals > 0 else record["n"][position]
        nm = float(record["cell"][axis] / divisor) / 10
    return nm if math.isfinite(nm) and nm > 0 else math.nan


def read_labels(record: np.ndarray) -> list[str]:
    """Texts of the header that programs added, without empty ones."""
    n_labels = max(0, min(10, int(record["nlabl"])))
    labels = [label.decode("latin-1").strip("\x00 ") for label in record["labels"][:n_labels]]
    return [label for label in labels if label]
