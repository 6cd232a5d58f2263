"""HDF5 containers: EMD (Velox, NCEM) and HSPY by RosettaSciIO; other layouts by the one image array they hold."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.hdf5_chunks import check_lzf, find_hdf5_damage
from emqa_dask.archive.formats import rosetta
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.source import (
    WINDOW_BYTES,
    Frame,
    ReadError,
    Source,
    add_damage,
    capture_warnings,
    is_damage_recorded,
    record_damage,
)

_MAX_HDF5_OBJECTS = 100_000


def open_hdf5(path: str | Path) -> Source:
    """EMD, HSPY or plain HDF5 -> Source; ReadError when the file is broken.

    libhdf5 itself can crash on flipped bits in variable-length strings (once in some 2,000 damaged files), which no
    exception can catch: a worker that dies on such a file has to be quarantined by whoever runs it.
    """
    path = Path(path)
    try:
        with capture_warnings(), h5py.File(path, "r") as file:
            guards.check_hdf5(file, path)
            flavour = _detect_layout(file, path.suffix.lower())
            arrays = _list_arrays(file)
            damage = {name: (shape, find_hdf5_damage(file[name])) for name, shape, _ in arrays if flavour}
            single_array_source = _open_single_array(path, file, arrays) if flavour is None else None
    except ReadError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, BlockingIOError):
            raise
        raise ReadError(f"broken HDF5: {' '.join(str(error).split())[:200]}") from error
    if single_array_source is not None:
        return single_array_source
    name, plugin, options = flavour
    n_bytes = max((n for _, _, n in arrays), default=0)
    if plugin == "hspy" and n_bytes > rosetta.EAGER_BYTES:  # lazily, the plug-in fails on unchunked data and stays open
        source = rosetta.make_source(_read_hspy_signals(path), name)
    else:
        source = rosetta.open_rosetta(path, name, plugin, n_bytes, **options)
    for shape, sentence in damage.values():
        source = add_damage(source, sentence, shape) if sentence else source
    return source


def _detect_layout(file: h5py.File, suffix: str) -> tuple[str, str, dict] | None:
    if "Experiments" in file and "file_format" in file.attrs:
        return "HSPY", "hspy", {}
    if "Version" in file and "Data" in file:
        return "EMD (Velox)", "emd", {"select_type": "images"}
    if "version_major" in file.attrs or suffix in (".emd", ".de5"):
        return "EMD (NCEM)", "emd", {}
    return None


def _list_arrays(file: h5py.File) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, shape, bytes) of every numeric dataset of two or more dimensions."""
    arrays: list[tuple[str, tuple[int, ...], int]] = []
    count = 0

    def visit(name: str, node: h5py.HLObject) -> bool | None:
        nonlocal count
        count += 1
        if isinstance(node, h5py.Dataset) and node.ndim >= 2 and 0 not in node.shape:
            arrays.append((name, node.shape, int(np.prod(node.shape, dtype=float)) * node.dtype.itemsize))
        return True if count > _MAX_HDF5_OBJECTS else None

    file.visititems(visit)
    return arrays


@dataclass(frozen=True)
class _DatasetReader:
    """A dataset that is opened anew for every slice."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: tuple) -> np.ndarray:
        with h5py.File(self.path, "r") as file:
            return file[self.name][index]


def _read_hspy_signals(path: Path) -> list[dict]:
    """The signals of a HyperSpy file in RosettaSciIO's form, their data left in the file."""
    signals = []
    with h5py.File(path, "r") as file:
        for group in file["Experiments"].values():
            data = group["data"]
            axes = [_read_attributes(group[f"axis-{k}"]) for k in range(data.ndim)]
            metadata = _read_attributes(group["metadata"]) if "metadata" in group else {}
            signals.append(
                {"data": _DatasetReader(path, data.name, data.shape, data.dtype), "axes": axes, "metadata": metadata}
            )
    return signals


def _read_attributes(group: h5py.Group) -> dict:
    """Attributes of a group and of the groups in it, as nested dictionaries."""
    group_attributes = {name: _read_attributes(node) for name, node in group.items() if isinstance(node, h5py.Group)}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in group.attrs.items()} | group_attributes


def _open_single_array(path: Path, file: h5py.File, arrays: list) -> Source:
    """HDF5 of no known layout: an image or stack when exactly one array can be one."""
    images = [(n, s) for n, s, _ in arrays if len(s) <= 3 and min(s[-2:]) > 1 and file[n].dtype.kind in "biuf"]
    if len(images) != 1:
        problem = f"{len(images)} arrays could be images" if images else "no array of numbers is an image or a stack"
        return Source("HDF5", "signal", f"HDF5 of an unknown layout: {problem}")
    name, shape = images[0]
    dataset = file[name]
    header = Header(foreign=flatten_metadata({**dict(file.attrs), **dict(dataset.attrs)}))
    for key in ("nm_per_pixel", "pixel_size_nm"):
        header = set_pixel_size(header, length_to_nm(dataset.attrs.get(key, file.attrs.get(key)), "nm"))
    height, width = shape[-2:]
    dtype = np.dtype(dataset.dtype)
    chunk_rows = dataset.chunks[-2] if dataset.chunks else 1
    rows = max(1, WINDOW_BYTES // max(1, width * dtype.itemsize) // chunk_rows) * chunk_rows
    guards.check_frames(1 if len(shape) == 2 else shape[0])
    planes = [()] if len(shape) == 2 else [(k,) for k in range(shape[0])]
    frames = tuple(
        Frame(
            height, width, dtype.newbyteorder("=").name, header, partial(_read_rows, path, name, p), min(rows, height)
        )
        for p in planes
    )
    return Source("HDF5", "stack" if len(frames) > 1 else "micrograph", "", frames)


def _read_rows(path: Path, name: str, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    try:
        with h5py.File(path, "r") as file:
            damage = find_hdf5_damage(file[name], plane, (y0, y1)) if is_damage_recorded() else ""
            if damage:
                record_damage(damage)
            if is_damage_recorded():
                check_lzf(file[name], plane, y0, y1)
            return file[name][(*plane, slice(y0, y1))]
    except ReadError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ReadError(f"HDF5 data are broken: {' '.join(str(error).split())[:200]}") from error
