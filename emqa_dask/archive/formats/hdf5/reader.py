"""HDF5 containers: the program that wrote a file by its groups and attributes, and the images in it."""

from collections.abc import Callable
from pathlib import Path

import h5py

from emqa_dask.archive.checks import guards
from emqa_dask.archive.formats.hdf5.arrays import read_arrays
from emqa_dask.archive.formats.hdf5.datasets import Contents, make_source
from emqa_dask.archive.formats.hdf5.gatan import is_gatan, read_gatan
from emqa_dask.archive.formats.hdf5.hyperspy import is_hyperspy, open_hyperspy
from emqa_dask.archive.formats.hdf5.matlab import is_matlab, read_matlab
from emqa_dask.archive.formats.hdf5.ncem import is_ncem, read_ncem
from emqa_dask.archive.formats.hdf5.nion import is_nion, read_nion
from emqa_dask.archive.formats.hdf5.odemis import is_odemis, read_odemis
from emqa_dask.archive.formats.hdf5.velox import is_velox, read_velox
from emqa_dask.archive.formats.hdf5.volumes import is_bigdataviewer, is_imaris, read_bigdataviewer, read_imaris
from emqa_dask.archive.source import ReadError, Source, capture_warnings

# The first reader whose layout a file has is used.
_LAYOUTS: tuple[tuple[Callable[[h5py.File, Path], bool], Callable[[h5py.File], Contents]], ...] = (
    (is_velox, read_velox),
    (is_gatan, read_gatan),
    (is_imaris, read_imaris),
    (is_bigdataviewer, read_bigdataviewer),
    (is_nion, read_nion),
    (is_matlab, read_matlab),
    (is_odemis, read_odemis),
    (is_ncem, read_ncem),
)

# SystemError: h5py raises it for names of links that are no UTF-8.
_LIBRARY_ERRORS = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, UnicodeError, RecursionError, SystemError,
)  # fmt: skip


def open_hdf5(path: str | Path) -> Source:
    """HDF5 of any layout -> Source; ReadError when the file is broken.

    libhdf5 itself can crash on flipped bits in variable-length strings (once in some 2,000 damaged files), which no
    exception can catch: a worker that dies on such a file has to be quarantined by whoever runs it.
    """
    path = Path(path)
    try:
        with capture_warnings(), h5py.File(path, "r") as file:
            guards.check_hdf5(file, path)
            if is_hyperspy(file):
                return open_hyperspy(path, file)
            return _read_source(path, file)
    except ReadError:
        raise
    except _LIBRARY_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, BlockingIOError):
            raise
        text = error.__context__ if isinstance(error, SystemError) and error.__context__ else error
        raise ReadError(f"broken HDF5: {' '.join(str(text).split())[:200]}") from error


def _read_source(path: Path, file: h5py.File) -> Source:
    for is_layout, read_layout in _LAYOUTS:
        if is_layout(file, path):
            return make_source(path, file, read_layout(file))
    return make_source(path, file, read_arrays(file))
