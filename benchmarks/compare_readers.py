"""Compare what we read from the files of a folder with what independent readers give: one row per file.

    python -m benchmarks.compare_readers FOLDER [--out comparison.csv]

Independent readers are RosettaSciIO, mrcfile, ncempy, tifffile and h5py, whichever read the file. An image of ours is
`equal` where one of them gives the same pixels and, if it knows one, the same pixel size. A file without an image of
ours shows our reason. The exit code is 1 where an image is `wrong`: read by others, and equal to none of theirs.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.source import Frame

MAX_PLANES = 5000  # of a file that are compared
SIZE_TOLERANCE = 1e-4  # relative; some readers keep sizes as float32


class Plane(NamedTuple):
    """One 2-D image as a reader gives it."""

    reader: str
    digest: str
    nm_per_pixel: float  # NaN where the reader knows none


def compute_pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256 of size and pixels, the same for all byte orders."""
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def list_planes(reader: str, array: np.ndarray, nm_per_pixel: float = math.nan) -> Iterator[Plane]:
    """The 2-D planes of the last two axes of an array of real numbers, and of its channels, where they come last."""
    if array.dtype.names is not None:
        array = np.stack([array[name] for name in "RGB" if name in array.dtype.names], axis=-1)
    if array.ndim < 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        return
    arrays = [array.reshape(-1, *array.shape[-2:])]
    if array.ndim > 2 and array.shape[-1] in (3, 4):  # colour becomes luma (ITU-R BT.601)
        if array.dtype.kind in "iu":
            luma = ((array[..., :3].astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000).astype(array.dtype)
        else:
            luma = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(array.dtype)
        arrays.append(luma.reshape(-1, *array.shape[-3:-1]))
    if array.ndim > 2 and array.shape[-1] <= 5:
        arrays.append(np.moveaxis(array.reshape(-1, *array.shape[-3:]), -1, 1).reshape(-1, *array.shape[-3:-1]))
    for planes in arrays:
        for plane in planes[:MAX_PLANES]:
            yield Plane(reader, compute_pixel_digest(plane), nm_per_pixel)


def read_with_rosetta(path: Path) -> Iterator[Plane]:
    """Planes of the signals of every plug-in of RosettaSciIO that takes the file's suffix."""
    from rsciio import IO_PLUGINS

    suffix = path.suffix.lower().lstrip(".")
    for plugin in IO_PLUGINS:
        if suffix not in [extension.lower() for extension in plugin["file_extensions"]]:
            continue
        try:
            signals = importlib.import_module(plugin["api"]).file_reader(str(path))
        except Exception:
            continue
        for signal in signals:
            axis = signal["axes"][-1] if signal.get("axes") else {}
            nm = length_to_nm(axis.get("scale"), str(axis.get("units") or ""))
            yield from list_planes(f"rosettasciio {plugin['name']}", np.asarray(signal["data"]), nm)


def read_with_mrcfile(path: Path) -> Iterator[Plane]:
    """Planes by mrcfile, which reads gzip and bzip2, too."""
    import mrcfile

    with mrcfile.open(path, permissive=True) as file:
        nm = float(file.voxel_size.x) / 10 or math.nan
        yield from list_planes("mrcfile", np.asarray(file.data), nm)


def read_with_ncempy(path: Path) -> Iterator[Plane]:
    """Planes by ncempy; its sizes have the unit of the file."""
    from ncempy.io import read

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        content = read(str(path))
    yield from list_planes("ncempy", np.asarray(content["data"]))


def read_with_tifffile(path: Path) -> Iterator[Plane]:
    """Planes of every page by tifffile."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            yield from list_planes("tifffile", page.asarray())
        for series in tif.series:
            yield from list_planes("tifffile", series.asarray())


def read_with_h5py(path: Path) -> Iterator[Plane]:
    """Planes of every dataset of an HDF5 file."""
    import h5py
    import hdf5plugin  # noqa: F401  plug-in filters

    arrays: list[np.ndarray] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, node: arrays.append(node[()]) if isinstance(node, h5py.Dataset) and node.ndim else None
        )
    for array in arrays:
        yield from list_planes("h5py", array)
        if array.ndim == 3:
            yield from list_planes("h5py", np.moveaxis(array, -1, 0))
        if array.ndim == 2:
            yield from list_planes("h5py, transposed", array.T)


READERS = (read_with_rosetta, read_with_mrcfile, read_with_ncempy, read_with_tifffile, read_with_h5py)


def read_independently(path: Path) -> list[Plane]:
    """Planes of all readers that can read the file."""
    planes: list[Plane] = []
    for reader in READERS:
        try:
            planes += list(reader(path))
        except Exception:
            continue
    return planes


def compare_frame(frame: Frame, planes: list[Plane]) -> tuple[str, str]:
    """("equal", "wrong" or "unknown", the readers or what differs) of one of our images."""
    digest = compute_pixel_digest(frame.read())
    same_planes = [plane for plane in planes if plane.digest == digest]
    if not planes:
        return "unknown", "no independent reader"
    if not same_planes:
        return "wrong", "pixels"
    nm = frame.header.nm_per_pixel
    sizes = [plane.nm_per_pixel for plane in same_planes if not math.isnan(plane.nm_per_pixel)]
    if sizes and not any(abs(nm / size - 1) < SIZE_TOLERANCE for size in sizes):
        return "wrong", f"{nm:g} nm, but {sizes[0]:g} by {same_planes[0].reader}"
    return "equal", ", ".join(sorted({plane.reader for plane in same_planes}))


def compare_file(path: Path) -> dict[str, object]:
    """A row for one file."""
    planes = read_independently(path)
    row: dict[str, object] = {"n_independent": len({plane.digest for plane in planes})}
    try:
        source = open_source(path)
    except Exception as error:
        return row | {"result": "reason", "detail": f"{type(error).__name__}: {error}"}
    frames = source.frames if source.kind in ("micrograph", "stack") else ()
    row |= {"format": source.format, "kind": source.kind, "n_frames": len(frames)}
    if not frames:
        return row | {"result": "reason", "detail": source.reason}
    try:
        comparisons = [compare_frame(frame, planes) for frame in frames[:MAX_PLANES]]
    except Exception as error:
        return row | {"result": "reason", "detail": f"{type(error).__name__}: {error}"}
    result = next(r for r in ("wrong", "unknown", "equal") if r in [c[0] for c in comparisons])
    detail = next(text for name, text in comparisons if name == result)
    header = frames[0].header
    return row | {
        "result": result,
        "detail": f"{detail}; {source.reason}" if source.reason else detail,
        "nm_per_pixel": header.nm_per_pixel,
        "problem": header.pixel_size_problem,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    rows = [{"file": entry.uri} | compare_file(Path(entry.path)) for entry in scan_archive(arguments.folder)]
    table = pd.DataFrame(rows)
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    with pd.option_context("display.max_rows", None, "display.max_colwidth", 100, "display.width", 240):
        print(table[table["result"] != "equal"].to_string(index=False))
    print(table["result"].value_counts().to_string())
    return int(table["result"].eq("wrong").any())


if __name__ == "__main__":
    sys.exit(main())
