"""PNG, JPEG, BMP, GIF and WebP, decoded whole by Pillow or, for most PNG, libpng; sizes known before."""

import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from emqa_dask.archive.checks.jpeg import find_jpeg_damage
from emqa_dask.archive.checks.png import find_png_damage
from emqa_dask.archive.colour.palettes import Palette, apply_palette, interpret_palette
from emqa_dask.archive.metadata.dates import parse_date
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.values import clean_text
from emqa_dask.archive.source import Frame, ReadError, Source, capture_warnings, is_damage_recorded, record_damage

_GREY_MODES = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}
_LIBPNG_DEPTHS = (("PNG", 8, 0), ("PNG", 8, 2))  # format, bits and colour type: grey and RGB
_LOCK = threading.Lock()


@contextmanager
def _open_image(path):
    """A Pillow image without Pillow's own limit on pixels: our budget is checked from the header, before decoding."""
    with _LOCK, capture_warnings():
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            with Image.open(path) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_raster(path: str | Path, format: str) -> Source:
    """One frame; none of these formats carries a pixel size. Animations are films or web pictures: no frame."""
    try:
        with _open_image(path) as image:
            width, height = image.size
            mode = image.mode
            n_frames = getattr(image, "n_frames", 1)
            palette = _read_palette(image)
            exif = image.getexif() if format in ("JPEG", "WebP") else {}  # of a PNG it would decode it
            header = Header(
                instrument=clean_text(exif.get(272)),
                acquired=parse_date(exif.get(306)),
                foreign=flatten_metadata(dict(image.info)),
            )
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ReadError(f"{format} header is broken: {_describe_error(error)}") from error
    if width < 1 or height < 1:
        raise ReadError(f"{format} of {height} x {width} pixels")
    depth = _read_png_depth(path) if format == "PNG" else (8, 0)
    if depth[0] == 16:
        is_colour = depth[1] in (2, 6)
        dtype = "uint16"
        read_pixels = partial(_decode_png16, path, (width, height))
    else:
        is_colour = mode not in _GREY_MODES and mode not in ("LA", "La")
        dtype = _GREY_MODES.get(mode, "uint8")
        decode = _decode_png8 if (format, *depth) in _LIBPNG_DEPTHS else _decode
        read_pixels = partial(decode, path, format, (width, height), palette)
        if palette is not None:
            is_colour = palette.values is not None and palette.values.ndim == 2
    if n_frames > 1 and format in ("GIF", "WebP"):
        return Source(format, "signal", f"an animation of {n_frames} pictures, not a micrograph")
    frame = Frame(height, width, dtype, header, read_pixels, height, is_colour, palette.colour_map if palette else "")
    return Source(format, "micrograph", "", (frame,))


def _describe_error(error: object) -> str:
    return " ".join(str(error).split())[:200].replace("\x00", "") or type(error).__name__


def _read_png_depth(path) -> tuple[int, int]:
    """Bit depth and colour type from IHDR: Pillow would cut 16-bit colour to 8."""
    with open(path, "rb") as file:
        start = file.read(26)
    return (start[24], start[25]) if len(start) == 26 else (8, 0)


def _read_palette(image: Image.Image) -> Palette | None:
    """What the indices of an image with a palette mean; None for other images."""
    colours = image.getpalette() if image.mode == "P" else None
    return interpret_palette(np.array(colours, np.uint8).reshape(-1, 3)) if colours else None


def _decode(path, format: str, size: tuple[int, int], palette: Palette | None, y0: int, y1: int) -> np.ndarray:
    try:
        with _open_image(path) as image:
            if image.size != size:
                raise ReadError(f"{format} data are broken: the size changed")
            if image.mode in ("LA", "La"):
                image = image.convert("L")
            elif image.mode not in _GREY_MODES and palette is None:
                image = image.convert("RGB")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError) as error:
        if isinstance(error, ReadError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ReadError(f"{format} data are broken: {_describe_error(error)}") from error
    _record_file_damage(path, format, size)
    if palette is not None and palette.values is not None:
        return apply_palette(pixels[y0:y1], palette.values)
    return pixels[y0:y1]


def _decode_png8(path, format: str, size: tuple[int, int], palette: Palette | None, y0: int, y1: int) -> np.ndarray:
    """Pixels by libpng, which checks their stream while it decodes them; by Pillow where libpng refuses the file."""
    import imagecodecs

    data = Path(path).read_bytes()
    shape = (size[1], size[0])
    try:
        pixels = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError):
        return _decode(path, format, size, palette, y0, y1)
    if pixels.shape not in (shape, (*shape, 3)) or pixels.dtype != np.uint8:  # as with a transparent colour
        return _decode(path, format, size, palette, y0, y1)
    _record_damage(data, "PNG read by libpng", size)
    return pixels[y0:y1]


def _decode_png16(path, size: tuple[int, int], y0: int, y1: int) -> np.ndarray:
    import imagecodecs

    data = Path(path).read_bytes()
    try:
        pixels = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError) as error:
        raise ReadError(f"PNG data are broken: {_describe_error(error)}") from error
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    _record_damage(data, "PNG read by libpng", size)
    return pixels[y0:y1]


def _record_file_damage(path, format: str, size: tuple[int, int]) -> None:
    """Note what the decoder has passed over, where damage is asked for."""
    if format in _DAMAGE_FINDERS and is_damage_recorded():
        _record_damage(Path(path).read_bytes(), format, size)


def _record_damage(data: bytes, format: str, size: tuple[int, int]) -> None:
    damage = _DAMAGE_FINDERS[format](data, size) if is_damage_recorded() else ""
    if damage:
        record_damage(f"{format.partition(' ')[0]}: {damage}")


def _find_gif_damage(data: bytes, size: tuple[int, int]) -> str:
    """What giflib says, which is stricter than Pillow."""
    import imagecodecs

    try:
        imagecodecs.gif_decode(data)
    except (RuntimeError, ValueError) as error:
        return _describe_error(error)
    return "" if data.rstrip(b"\0").endswith(b";") else "its end is missing"


def _find_webp_damage(data: bytes, size: tuple[int, int]) -> str:
    n_stated = int.from_bytes(data[4:8], "little") + 8
    return f"it ends after {len(data):,} of {n_stated:,} bytes" if n_stated > len(data) else ""


_DAMAGE_FINDERS = {
    "JPEG": lambda data, size: find_jpeg_damage(data),
    "PNG": lambda data, size: find_png_damage(data, size[1] * (8 * size[0] + 1)),  # of 16-bit colour with alpha
    "PNG read by libpng": lambda data, size: find_png_damage(data, 0),
    "GIF": _find_gif_damage,
    "WebP": _find_webp_damage,
}
