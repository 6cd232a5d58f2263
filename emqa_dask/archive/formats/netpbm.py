"""PBM, PGM, PPM, PAM and PFM (Netpbm) -> frames; 16-bit samples are big endian, as the format says."""

import re
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.source import Frame, ReadError, Source

_MAX_HEADER_BYTES = 2**16  # of comments, mostly
_MAX_SAMPLE_CHARACTERS = 16  # of a number in text, with the space around it
_SPACE = rb"(?:[ \t\r\n\v\f]|#[^\n\r]*[\r\n])"  # comments count as space
_HEADERS = {
    **dict.fromkeys(b"14", re.compile(rb"P.%b+(\d+)%b+(\d+)" % (_SPACE, _SPACE))),
    **dict.fromkeys(b"2356", re.compile(rb"P.%b+(\d+)%b+(\d+)%b+(\d+)" % (_SPACE, _SPACE, _SPACE))),
    **dict.fromkeys(b"fF", re.compile(rb"P.%b+(\d+)%b+(\d+)%b+(-?[\d.eE+-]+)" % (_SPACE, _SPACE, _SPACE))),
}
_PAM_HEADER = re.compile(rb"P7[\r\n](.*?)ENDHDR[ \t]*\r?\n", re.DOTALL)
NETPBM_START = re.compile(
    rb"P[1-6]%b+\d+%b+\d+%b|P7[\r\n](?:#[^\n]*\n|\s)*(?:WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)\b|P[fF]\s+\d+\s+\d+\s+-?[\d.]"
    % (_SPACE, _SPACE, _SPACE)
)


@dataclass(frozen=True)
class _Raster:
    """Where the samples of one image are, and how they are stored."""

    height: int
    width: int
    n_samples: int
    dtype: np.dtype
    start: int  # first byte
    row_bytes: int  # 0: the samples are text
    kind: str  # the second character of the file
    foreign: dict = field(default_factory=dict)


def open_netpbm(path: Path) -> Source:
    """A file of one or more images -> Source; ReadError when it is broken or cut."""
    with open(path, "rb") as file:
        n_bytes = file.seek(0, 2)
        rasters: list[_Raster] = []
        start = 0
        while not rasters or start < n_bytes:
            file.seek(start)
            head = file.read(_MAX_HEADER_BYTES)
            if rasters and not NETPBM_START.match(head):
                break
            raster = _parse_header(head, start)
            n_stored = _count_stored_bytes(raster)
            if raster.start + n_stored > n_bytes:
                n_present = max(0, n_bytes - raster.start)
                raise ReadError(f"truncated: {n_present:,} of {n_stored:,} bytes of an image are there")
            rasters.append(raster)
            guards.check_frames(len(rasters))
            start = raster.start + n_stored if raster.row_bytes else n_bytes
    frames = tuple(frame for raster in rasters for frame in _make_frames(path, raster))
    return Source("Netpbm", "stack" if len(frames) > 1 else "micrograph", "", frames)


def _count_stored_bytes(raster: _Raster) -> int:
    """Bytes of an image; of text the fewest that its samples can take."""
    if raster.row_bytes:
        return raster.height * raster.row_bytes
    n = raster.height * raster.width * raster.n_samples
    return n if raster.kind == "1" else 2 * n - 1


def _parse_header(head: bytes, offset: int) -> _Raster:
    if head[:2] == b"P7":
        return _parse_pam(head, offset)
    match = _HEADERS[head[1]].match(head) if len(head) > 1 and head[1] in _HEADERS else None
    if match is None:
        raise ReadError("a Netpbm file whose header is broken")
    kind = chr(head[1])
    width = int(match[1])
    height = int(match[2])
    n_samples = 3 if kind in "36F" else 1
    start = match.end() + 1  # a single white space precedes the samples
    comments = b" ".join(re.findall(rb"#([^\n\r]*)", match[0])).decode("latin-1").strip()
    foreign = {"comment": comments} if comments else {}
    if width < 1 or height < 1:
        raise ReadError(f"a Netpbm image of {height} x {width} pixels")
    if kind in "fF":
        dtype = np.dtype("<f4" if match[3].startswith(b"-") else ">f4")
        start += head[start - 1 : start + 1] == b"\r\n"
    else:
        dtype = np.dtype(bool) if kind in "14" else _choose_dtype(int(match[3]))
    row_bytes = {"4": -(-width // 8)}.get(kind, width * n_samples * dtype.itemsize)
    return _Raster(height, width, n_samples, dtype, offset + start, 0 if kind in "123" else row_bytes, kind, foreign)


def _parse_pam(head: bytes, offset: int) -> _Raster:
    match = _PAM_HEADER.match(head)
    lines = [line.split(None, 1) for line in (match[1] if match else b"").splitlines() if not line.startswith(b"#")]
    fields = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    try:
        width, height, depth = (int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"DEPTH"))
        maximum = int(fields[b"MAXVAL"])
    except (KeyError, ValueError) as error:
        raise ReadError("a PAM file whose header is broken") from error
    if match is None or min(width, height, depth) < 1:
        raise ReadError(f"a PAM image of {height} x {width} x {depth} samples")
    dtype = _choose_dtype(maximum)
    foreign = {"TUPLTYPE": fields.get(b"TUPLTYPE", b"").decode("latin-1")}
    return _Raster(height, width, depth, dtype, offset + match.end(), width * depth * dtype.itemsize, "7", foreign)


def _choose_dtype(maximum: int) -> np.dtype:
    if not 0 < maximum < 65536:
        raise ReadError(f"a Netpbm image whose largest value is {maximum}")
    return np.dtype("u1" if maximum < 256 else ">u2")


def _make_frames(path: Path, raster: _Raster) -> list[Frame]:
    """One frame, in colour for 3 or 4 samples; one per sample where there are more."""
    dtype = raster.dtype.newbyteorder("=").name
    header = Header(foreign=raster.foreign)
    is_colour = raster.n_samples in (3, 4)
    samples = [slice(0, 3)] if is_colour else list(range(1 if raster.n_samples == 2 else raster.n_samples))
    rows_per_read = 0 if raster.row_bytes else raster.height
    return [
        Frame(
            raster.height, raster.width, dtype, header, partial(_read_rows, path, raster, k), rows_per_read, is_colour
        )
        for k in samples
    ]


def _read_rows(path: Path, raster: _Raster, sample: int | slice, y0: int, y1: int) -> np.ndarray:
    if not raster.row_bytes:
        return _read_text(path, raster)[y0:y1, :, sample]
    first_row = raster.height - y1 if raster.kind in "fF" else y0  # PFM stores the last row first
    with open(path, "rb") as file:
        file.seek(raster.start + first_row * raster.row_bytes)
        data = file.read((y1 - y0) * raster.row_bytes)
    if len(data) < (y1 - y0) * raster.row_bytes:
        raise ReadError("truncated: rows are absent")
    if raster.kind == "4":
        bits = np.unpackbits(np.frombuffer(data, np.uint8).reshape(y1 - y0, -1), axis=1)[:, : raster.width]
        return bits == 0  # 1 is black
    rows = np.frombuffer(data, raster.dtype).reshape(y1 - y0, raster.width, raster.n_samples)
    return (rows[::-1] if raster.kind in "fF" else rows)[..., sample]


def _read_text(path: Path, raster: _Raster) -> np.ndarray:
    """All samples of an image in text, as (height, width, samples)."""
    n = raster.height * raster.width * raster.n_samples
    with open(path, "rb") as file:
        file.seek(raster.start)
        text = re.sub(rb"#[^\n\r]*", b"", file.read(n * _MAX_SAMPLE_CHARACTERS + _MAX_HEADER_BYTES))
    values = _parse_bits(text, n) if raster.kind == "1" else _parse_numbers(text, n)
    if values.size < n or values.min() < 0 or (values.max() > 1 and values.max() > np.iinfo(raster.dtype).max):
        raise ReadError(f"a Netpbm file of text that does not hold its {n:,} values")
    return values.astype(raster.dtype.newbyteorder("=")).reshape(raster.height, raster.width, raster.n_samples)


def _parse_bits(text: bytes, n: int) -> np.ndarray:
    """The first `n` digits 0 and 1, which need no space between them, as 1 and 0; none where there are others."""
    digits = np.frombuffer(text.translate(None, b" \t\r\n\v\f")[:n], np.uint8)
    return digits == ord("0") if np.isin(digits, (ord("0"), ord("1"))).all() else digits[:0]


def _parse_numbers(text: bytes, n: int) -> np.ndarray:
    """The first `n` numbers; none where there are other characters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns, or fails, at a character that belongs to no number
            return np.fromstring(text.decode("latin-1"), np.int64, n, " ")
    except (ValueError, DeprecationWarning):
        return np.empty(0, np.int64)
