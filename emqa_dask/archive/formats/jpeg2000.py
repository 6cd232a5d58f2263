"""JPEG 2000 (.jp2, .j2k, .jpx, .jph) -> frames, decoded whole by imagecodecs; sizes known before from the header."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from emqa_dask.archive.axes import MAX_SAMPLES
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size, resolution_to_nm
from emqa_dask.archive.source import Frame, ReadError, Source

JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM_START = b"\xff\x4f\xff\x51"  # markers SOC and SIZ
_COLOUR_SPACES = {12: "CMYK", 13: "YCCK", 14: "CIELab"}  # enumerated ones whose samples are no RGB
_MAX_BOXES = 10_000
_SMALL_DECODED_BYTES = 2**27  # always decoded; OpenJPEG needs 4 bytes per sample
_MAX_RATIO = 2000  # of larger ones, of decoded bytes to bytes of the file
_MAX_HEADER_BYTES = 2**20  # of the boxes before the pixels, each


@dataclass(frozen=True)
class _Layout:
    """What the header of a codestream states."""

    height: int
    width: int
    n_samples: int
    dtype: str


def open_jpeg2000(path: Path) -> Source:
    """A JPEG 2000 file -> Source; ReadError when its header is broken."""
    with open(path, "rb") as file:
        start = file.read(12)
        n_bytes = file.seek(0, 2)
    boxes = {b"jp2c": (0, n_bytes)} if start.startswith(CODESTREAM_START) else _list_boxes(path, n_bytes)
    if b"jp2c" not in boxes:
        raise ReadError("JPEG 2000 without an image in it")
    layout = _parse_size(_read_box(path, boxes[b"jp2c"], 64 + 3 * 16384))
    _check_decoded_bytes(layout, n_bytes)
    colour_space = _read_colour_space(path, boxes)
    if colour_space in _COLOUR_SPACES:
        return Source("JPEG 2000", "signal", f"an image in {_COLOUR_SPACES[colour_space]}, not a micrograph")
    header = choose_pixel_size(Header(), _read_resolutions(path, boxes), layout.width)
    # Without its palette an image is the indices, which were measured; the colours were chosen for display.
    span = boxes[b"jp2c"] if b"pclr" in boxes else (0, n_bytes)
    is_colour = layout.n_samples in (3, 4)
    samples = [slice(0, 3)] if is_colour else list(range(1 if layout.n_samples == 2 else layout.n_samples))
    frames = tuple(
        Frame(
            layout.height,
            layout.width,
            layout.dtype,
            header,
            partial(_decode, path, span, layout, k),
            layout.height,
            is_colour,
        )
        for k in samples
    )
    return Source("JPEG 2000", "stack" if len(frames) > 1 else "micrograph", "", frames)


def _list_boxes(path: Path, n_bytes: int) -> dict[bytes, tuple[int, int]]:
    """(first, last + 1) byte of the content of the first box of each type, also of those within jp2h and res."""
    boxes: dict[bytes, tuple[int, int]] = {}
    with open(path, "rb") as file:
        queue = [(0, n_bytes)]
        count = 0
        while queue:
            position, end = queue.pop()
            while position + 8 <= end and count < _MAX_BOXES:
                count += 1
                file.seek(position)
                head = file.read(16)
                size, kind = struct.unpack_from(">I4s", head)
                n_head = 8
                if size == 1 and len(head) == 16:
                    size = struct.unpack_from(">Q", head, 8)[0]
                    n_head = 16
                size = size or end - position  # 0: to the end of the file
                if size < n_head:
                    raise ReadError("JPEG 2000 with a broken box")
                content = (position + n_head, min(end, position + size))
                boxes.setdefault(kind, content)
                if kind in (b"jp2h", b"res "):
                    queue.append(content)
                position += size
    return boxes


def _read_box(path: Path, span: tuple[int, int], limit: int = _MAX_HEADER_BYTES) -> bytes:
    with open(path, "rb") as file:
        file.seek(span[0])
        return file.read(min(span[1] - span[0], limit))


def _parse_size(codestream: bytes) -> _Layout:
    """The marker segment SIZ: size of the image and of its samples."""
    if len(codestream) < 42 or not codestream.startswith(CODESTREAM_START):
        raise ReadError("JPEG 2000 header is broken")
    x1, y1 = struct.unpack_from(">2I", codestream, 8)
    x0, y0 = struct.unpack_from(">2I", codestream, 16)
    (n_samples,) = struct.unpack_from(">H", codestream, 40)
    components = codestream[42 : 42 + 3 * n_samples]
    if x1 <= x0 or y1 <= y0 or not 1 <= n_samples <= MAX_SAMPLES or len(components) < 3 * n_samples:
        raise ReadError(f"JPEG 2000 of {y1 - y0} x {x1 - x0} pixels and {n_samples} samples")
    if any(n != 1 for n in (*components[1::3], *components[2::3])):
        raise ReadError("JPEG 2000 whose colours have fewer pixels than the image: convert it to TIFF")
    precision = max(code & 0x7F for code in components[0::3]) + 1
    is_signed = bool(components[0] & 0x80)
    n_bits = 8 if precision <= 8 else 16 if precision <= 16 else 32
    return _Layout(y1 - y0, x1 - x0, n_samples, f"{'int' if is_signed else 'uint'}{n_bits}")


def _check_decoded_bytes(layout: _Layout, n_bytes: int) -> None:
    """ReadError for a header that states far more samples than so few bytes can hold."""
    decoded_bytes = 4 * layout.height * layout.width * layout.n_samples
    if decoded_bytes > _SMALL_DECODED_BYTES and decoded_bytes > _MAX_RATIO * n_bytes:
        raise ReadError(f"JPEG 2000 whose {n_bytes:,} bytes would decode to {decoded_bytes:,}: refused")


def _read_colour_space(path: Path, boxes: dict) -> int:
    """Enumerated colour space of the box colr; 0 where it states none."""
    data = _read_box(path, boxes[b"colr"]) if b"colr" in boxes else b""
    return struct.unpack_from(">I", data, 3)[0] if len(data) >= 7 and data[0] == 1 else 0


def _read_resolutions(path: Path, boxes: dict) -> Iterator[StatedSize]:
    """The resolution at capture (pixels per metre) as a pixel size, unless it is a setting of a scanner."""
    data = _read_box(path, boxes[b"resc"]) if b"resc" in boxes else b""
    if len(data) < 10:
        return
    nm = []
    for offset, exponent_offset in ((4, 9), (0, 8)):  # along x, along y
        numerator, denominator = struct.unpack_from(">2H", data, offset)
        (exponent,) = struct.unpack_from("b", data, exponent_offset)
        per_cm = numerator / denominator * 10.0**exponent / 100 if denominator else 0.0
        nm.append(resolution_to_nm(per_cm, 3))
    yield StatedSize(nm[0], nm[1], "capture resolution")


def _decode(path: Path, span: tuple[int, int], layout: _Layout, sample: int | slice, y0: int, y1: int) -> np.ndarray:
    import imagecodecs

    try:
        pixels: np.ndarray = imagecodecs.jpeg2k_decode(_read_box(path, span, span[1]))
    except (RuntimeError, ValueError) as error:
        raise ReadError(f"JPEG 2000 data are broken: {' '.join(str(error).split())[:200]}") from error
    shape = (layout.height, layout.width) if layout.n_samples == 1 else (layout.height, layout.width, layout.n_samples)
    if pixels.shape != shape:
        raise ReadError(f"JPEG 2000 of {shape} samples decoded to {pixels.shape}")
    pixels = pixels[y0:y1] if pixels.ndim == 2 else pixels[y0:y1, :, sample]
    return pixels.astype(layout.dtype, copy=False)
