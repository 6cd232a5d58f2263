"""Readers of all formats: one file -> its kind and its frames; read_micrograph() for one image."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from emqa_dask.archive import sidecars
from emqa_dask.archive.checks.guards import check_dens, check_elid
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import refuse_impossible_size
from emqa_dask.archive.sniff import (
    AMBIGUOUS_SUFFIXES,
    ARCHIVE_FORMATS,
    HEAD_BYTES,
    IMAGE_FORMATS,
    PACKERS,
    RARE_FORMATS,
    SUFFIXES,
    TEXT_SUFFIXES,
    detect_format,
)
from emqa_dask.archive.source import ReadError, Source


def _read_tiff(path: Path) -> Source:
    from emqa_dask.archive.formats.tiff import open_tiff

    return open_tiff(path)


def _make_raster_reader(format: str) -> Callable[[Path], Source]:
    def read(path: Path) -> Source:
        from emqa_dask.archive.formats.raster import open_raster

        return open_raster(path, format)

    return read


def _read_mrc(path: Path) -> Source:
    from emqa_dask.archive.formats.mrc import open_mrc

    return open_mrc(path)


def _make_rosetta_reader(format: str, plugin: str) -> Callable[[Path], Source]:
    def read(path: Path) -> Source:
        from emqa_dask.archive.formats.rosetta import open_rosetta

        return open_rosetta(path, format, plugin, path.stat().st_size)

    return read


def _read_dm(path: Path, *, format: str) -> Source:
    from emqa_dask.archive.formats.digitalmicrograph import open_dm

    return open_dm(path, format)


def _read_ser(path: Path) -> Source:
    from emqa_dask.archive.formats.tia import open_ser

    return open_ser(path)


def _read_emi(path: Path) -> Source:
    from emqa_dask.archive.formats.tia import open_emi

    return open_emi(path)


def _make_checked_reader(check: Callable[[Path], None], format: str, plugin: str) -> Callable[[Path], Source]:
    """As _rosetta(), for a plug-in that never returns from some broken files: `check` raises ReadError for them."""
    open_file = _make_rosetta_reader(format, plugin)

    def read(path: Path) -> Source:
        check(path)
        return open_file(path)

    return read


def _read_hdf5(path: Path) -> Source:
    from emqa_dask.archive.formats.hdf5.reader import open_hdf5

    return open_hdf5(path)


def _read_tvips(path: Path) -> Source:
    part = re.search(r"^(.*_)(\d{3})\.tvips$", path.name, re.IGNORECASE)
    if part and int(part[2]) > 0:
        return Source("TVIPS", "metadata", f"a part of {part[1]}000.tvips, which has its images")
    return _make_rosetta_reader("TVIPS", "tvips")(path)


def _describe_jeol_data(path: Path, *, kind: str, reason: str) -> Source:
    return Source(f"JEOL {path.suffix[1:].upper()}", kind, reason)


def _read_jeol_image(path: Path) -> Source:
    from emqa_dask.archive.formats.jeol_image import open_jeol_image

    return open_jeol_image(path)


def _read_npy(path: Path) -> Source:
    from emqa_dask.archive.formats.numpy_arrays import open_npy

    return open_npy(path)


def _read_jpeg2000(path: Path) -> Source:
    from emqa_dask.archive.formats.jpeg2000 import open_jpeg2000

    return open_jpeg2000(path)


def _read_netpbm(path: Path) -> Source:
    from emqa_dask.archive.formats.netpbm import open_netpbm

    return open_netpbm(path)


READERS: dict[str, Callable[[Path], Source]] = {
    "TIFF": _read_tiff,
    **{name: _make_raster_reader(name) for name in ("PNG", "JPEG", "BMP", "GIF", "WebP")},
    "MRC": _read_mrc,
    "DM3": partial(_read_dm, format="DM3"),
    "DM4": partial(_read_dm, format="DM4"),
    "SER": _read_ser,
    "EMI": _read_emi,
    "JEOL image": _read_jeol_image,
    "HDF5": _read_hdf5,
    "NumPy": _read_npy,
    "JPEG 2000": _read_jpeg2000,
    "Netpbm": _read_netpbm,
    **{name: _make_rosetta_reader(name, plugin) for name, plugin in RARE_FORMATS.values()},
    "TVIPS": _read_tvips,
    # Their images have files of their own, and the spectra would fill gigabytes.
    "JEOL ASW": partial(_describe_jeol_data, kind="metadata", reason="list of the files of a JEOL project"),
    "JEOL PTS": partial(_describe_jeol_data, kind="spectrum", reason="an EDS scan; its image is in an .img file"),
    "JEOL EDS": partial(_describe_jeol_data, kind="spectrum", reason="an EDS spectrum, not an image"),
    "ELID": _make_checked_reader(check_elid, "ELID", "phenom"),
    "DENS": _make_checked_reader(check_dens, "DENS", "dens"),
}


# Files of other programs that are ZIP archives inside.
ZIP_BASED_FORMATS = {
    ".pt": "PyTorch file", ".pth": "PyTorch file",
    ".docx": "Word document", ".xlsx": "table",
    ".pptx": "presentation", ".odt": "text document", ".whl": "Python package", ".jar": "Java program",
}  # fmt: skip


def open_source(path: str | Path, *, sniffed: str | None = None) -> Source:
    """What the local file (or Zarr folder) at `path` is, and its frames; no pixel is decoded before Frame.read().

    sniffed: the format by content, where the caller knows it. The content wins over the suffix and `reason` says so.
    Frames open and close the file at every read, so nothing stays open. Raises ReadError for broken files, OSError
    where the file itself cannot be opened.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        from emqa_dask.archive.formats.zarr_images import open_zarr_folder

        return _refuse_impossible_sizes(open_zarr_folder(path))
    if sniffed is None:
        with open(path, "rb") as file:
            sniffed = detect_format(file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size, suffix)
    expected = SUFFIXES.get(suffix) or (RARE_FORMATS[suffix][0] if suffix in RARE_FORMATS else None)
    expected = None if suffix in AMBIGUOUS_SUFFIXES else expected
    name = sniffed or (expected if expected not in IMAGE_FORMATS else None)
    if name not in READERS and suffix in RARE_FORMATS and sniffed in (None, "text", "ZIP"):
        name = RARE_FORMATS[suffix][0]  # formats that are text or a container of their own
    try:
        source = READERS[name](path) if name in READERS else _open_packed(path, suffix, name)
    except ReadError as error:
        error.format = name
        raise
    if source is None:
        return _describe_non_image(path, suffix, name, expected)
    if expected is not None and expected != name and not (expected == "HDF5" and name.startswith("EMD")):
        lie = f"{source.format} data, though named {suffix}"
        source = replace(source, reason=f"{lie}; {source.reason}" if source.reason else lie)
    return sidecars.add_sidecars(path, _refuse_impossible_sizes(source))


def _open_packed(path: Path, suffix: str, name: str | None) -> Source | None:
    """The image or data set in a packed file -> Source; None for other archives and for files of unknown formats."""
    if name == "ZIP" and suffix not in ZIP_BASED_FORMATS:
        from emqa_dask.archive.formats.zip_files import open_zip_file

        return open_zip_file(path, _detect_image, _open_image)
    if name in PACKERS:
        from emqa_dask.archive.formats.packed import open_packed

        return open_packed(path, name, _detect_image, _open_image)
    return None


def _detect_image(head: bytes, name: str) -> str | None:
    """The image format of a file that was packed, by its first bytes and its name; None for other files."""
    suffix = Path(name).suffix.lower()
    format = detect_format(head, len(head), suffix)
    if format in READERS:
        return format
    if suffix in SUFFIXES and suffix not in AMBIGUOUS_SUFFIXES:
        raise ReadError(f"{name} in it is not {SUFFIXES[suffix]} nor any other known format")
    return None


def _open_image(path: Path, format: str) -> Source:
    return READERS[format](path)


def _refuse_impossible_sizes(source: Source) -> Source:
    """`source`, whose frames have no pixel size that no microscope has, whichever reader stated it."""
    headers = {id(frame.header): refuse_impossible_size(frame.header) for frame in source.frames}
    if all(frame.header is headers[id(frame.header)] for frame in source.frames):
        return source
    return replace(source, frames=tuple(replace(f, header=headers[id(f.header)]) for f in source.frames))


def _describe_non_image(path: Path, suffix: str, name: str | None, expected: str | None) -> Source:
    """The row of a file that holds no image: failed where its suffix promised one, else skipped."""
    failed = expected is not None and expected != "EMI"
    suffix_note = f" (named {suffix})" if failed else ""
    if name == "empty":
        failed = failed or suffix not in TEXT_SUFFIXES
        return Source(None, "unknown", "empty file (0 bytes)", is_failed=failed)
    if name == "resource fork" or path.name.startswith("._"):
        return Source("AppleDouble", "metadata", "macOS resource fork of another file, no image")
    if name in ("text", None) and not failed and (description := sidecars.describe_sidecar(path)):
        return Source("text", "metadata", description)
    if name is None and suffix == ".raw" and (owner := _find_ripple_header(path)):
        return Source("RPL", "metadata", f"pixels of {owner}, which has its images")
    if name == "text":
        return Source("text", "text", f"text, not an image{suffix_note}", is_failed=failed)
    if name == "ZIP" and suffix in ZIP_BASED_FORMATS:
        return Source(ZIP_BASED_FORMATS[suffix], "unknown", f"{ZIP_BASED_FORMATS[suffix]}, not an image")
    if name in ARCHIVE_FORMATS:
        remedy = "unpack it to have its files triaged"
        if name == "ZIP":
            remedy += f", or triage zip://::{path.name}"
        return Source(name, "archive", f"{name} archive{suffix_note}: {remedy}", is_failed=failed)
    if name is not None:
        return Source(name, "unknown", f"{name}, not an image{suffix_note}", is_failed=failed)
    if failed:
        return Source(None, "unknown", f"not {expected} nor any other known format{suffix_note}", is_failed=True)
    return Source(None, "unknown", f"unknown format{f' ({suffix})' if suffix else ''}, no reader knows it")


def _find_ripple_header(path: Path) -> str:
    """Name of the .rpl that describes the pixels in the .raw at `path`; "" for none."""
    names = (path.with_suffix(suffix).name for suffix in (".rpl", ".RPL"))
    return next((name for name in names if path.with_name(name).is_file()), "")


def read_micrograph(path: str | Path, frame: int = 0) -> tuple[np.ndarray, Header]:
    """Image and imaging conditions of one micrograph in a file.

    Reads all formats that the triage of an archive reads. Colour becomes grey: the
    intensities of a colour map, or the luma (ITU-R BT.601).

    Parameters
    ----------
    path : str or Path
        File on a local disk, or a Zarr folder.
    frame : int, default 0
        Position of the image in the file, for files with several images.

    Returns
    -------
    image : ndarray of shape (height, width)
        Pixels in the data type in which they were acquired.
    header : Header
        Pixel size (nm), voltage (kV), magnification, instrument, date, dose and exposure time; NaN or None for unknown
        values. `header.foreign` contains the metadata of the file.

    Raises
    ------
    FileNotFoundError
        If there is no file at `path`.
    ReadError
        A ValueError that names the file and the fault: the file is damaged, contains no micrograph, or has no image at
        position `frame`.

    References
    ----------
    Recommendation ITU-R BT.601-7 (2011), for the luma of colour images.

    Examples
    --------
    >>> image, header = read_micrograph("grid3/cell_07.dm4")  # doctest: +SKIP
    >>> image.shape, image.dtype, header.nm_per_pixel  # doctest: +SKIP
    ((2048, 2048), dtype('uint16'), 0.31)
    """
    path = Path(path)
    try:
        source = open_source(path)
        if not source.frames:
            raise ReadError(f"holds no micrograph: {source.reason}")
        if not 0 <= frame < len(source.frames):
            raise ReadError(f"frame is {frame}: the file has {len(source.frames)}, numbered from 0")
        micrograph = source.frames[frame]
        image = np.empty((micrograph.height_px, micrograph.width_px), np.dtype(micrograph.dtype))
        for y0, y1 in micrograph.row_ranges():
            image[y0:y1] = micrograph.read(y0, y1)
    except ReadError as error:
        raise ReadError(f"{path}: {error}") from error
    except MemoryError as error:
        size = f"{micrograph.height_px:,} x {micrograph.width_px:,} px"
        raise ReadError(f"{path}: an image of {size} is too large for the memory") from error
    return image, micrograph.header
