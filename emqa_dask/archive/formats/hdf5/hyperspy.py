"""HyperSpy files (.hspy), by RosettaSciIO; large ones are left in the file."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from emqa_dask.archive.checks.hdf5_chunks import find_hdf5_damage
from emqa_dask.archive.checks.hdf5_filters import load_filters
from emqa_dask.archive.formats import rosetta
from emqa_dask.archive.source import ReadError, Source, add_damage


def is_hyperspy(file: h5py.File) -> bool:
    """Whether HyperSpy wrote `file`."""
    return "Experiments" in file and "file_format" in file.attrs


def open_hyperspy(path: Path, file: h5py.File) -> Source:
    """All signals of a HyperSpy file -> Source."""
    datasets = [group["data"] for group in file["Experiments"].values() if _has_data(group)]
    for dataset in datasets:
        load_filters(dataset)
    damage = [(dataset.shape, find_hdf5_damage(dataset)) for dataset in datasets]
    n_bytes = max((dataset.size * dataset.dtype.itemsize for dataset in datasets), default=0)
    source = _open_signals(path, n_bytes)
    for shape, sentence in damage:
        source = add_damage(source, sentence, shape) if sentence else source
    return source


def _has_data(group: h5py.Group) -> bool:
    return isinstance(group, h5py.Group) and isinstance(group.get("data"), h5py.Dataset)


def _open_signals(path: Path, n_bytes: int) -> Source:
    if n_bytes > rosetta.EAGER_BYTES:  # lazily, the plug-in fails on unchunked data and stays open
        return rosetta.make_source(_read_signals(path), "HSPY")
    try:
        return rosetta.open_rosetta(path, "HSPY", "hspy", n_bytes)
    except ReadError as error:
        try:  # one signal that the plug-in cannot read must not cost the others
            signals = _read_signals(path)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            signals = []
        if not signals:
            raise error
        return rosetta.make_source(signals, "HSPY")


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
            load_filters(file[self.name])
            return file[self.name][index]


def _read_signals(path: Path) -> list[dict]:
    """The signals of a HyperSpy file in RosettaSciIO's form, their data left in the file."""
    signals = []
    with h5py.File(path, "r") as file:
        for group in file["Experiments"].values():
            if not _has_data(group):
                continue
            data = group["data"]
            axes = [_read_tree(group[f"axis-{k}"]) for k in range(data.ndim)]
            metadata = _read_tree(group["metadata"]) if "metadata" in group else {}
            signals.append(
                {"data": _DatasetReader(path, data.name, data.shape, data.dtype), "axes": axes, "metadata": metadata}
            )
    return signals


def _read_tree(group: h5py.Group) -> dict:
    """Attributes of a group and of the groups in it, as nested dictionaries."""
    branches = {name: _read_tree(node) for name, node in group.items() if isinstance(node, h5py.Group)}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in group.attrs.items()} | branches
