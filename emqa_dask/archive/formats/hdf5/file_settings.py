"""Settings of an HDF5 file by name: attributes and small datasets, for each array the nearest ones."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import h5py

from emqa_dask.archive.formats.hdf5.attributes import (
    MAX_SETTING_ELEMENTS,
    normalise_name,
    parse_json,
    read_attributes,
    read_small_dataset,
    read_text,
)

MAX_SETTINGS = 5000  # of a file, in groups without arrays
MAX_JSON_DEPTH = 4  # levels of nested metadata that are searched


class FileSettings:
    """Settings of one file; the settings of a group are read once."""

    def __init__(self, file: h5py.File):
        self._settings_by_group: dict[str, dict[str, Any]] = {}
        self._common_settings = self._find_common_settings(file)

    def collect(self, dataset: h5py.Dataset) -> dict[str, Any]:
        """Settings that hold for `dataset`, by lower-case leaf name; the nearest one counts.

        From the attributes of the dataset and of the groups that it is in, the small datasets in these groups, and
        groups without arrays anywhere in the file, where all of one name agree. The units of a small dataset are in
        "<name>_units".
        """
        settings: dict[str, Any] = {}
        add_settings(settings, read_attributes(dataset))
        name = dataset.name
        while name != "/":
            name = posixpath.dirname(name)
            add_settings(settings, self._read_group(dataset.file, name))
        add_settings(settings, self._common_settings)
        return settings

    def _read_group(self, file: h5py.File, name: str) -> dict[str, Any]:
        if name not in self._settings_by_group:
            group = file[name]
            self._settings_by_group[name] = read_attributes(group) | dict(_iterate_small_datasets(group))
        return self._settings_by_group[name]

    def _find_common_settings(self, file: h5py.File) -> dict[str, Any]:
        """Settings of the groups that hold no array, below which none lies, where all of one name agree.

        The settings in a group with an array belong to that array.
        """
        groups, array_groups = _list_groups(file)
        values: dict[str, list] = {}
        n_settings = 0
        for name in groups:
            if name in array_groups or n_settings > MAX_SETTINGS:
                continue
            for key, value in self._read_group(file, name).items():
                values.setdefault(normalise_name(key), []).append(value)
                n_settings += 1
        return {name: entries[0] for name, entries in values.items() if all(entry == entries[0] for entry in entries)}


def _list_groups(file: h5py.File) -> tuple[list[str], set[str]]:
    """(all groups, those with an array of two or more axes in them or below)."""
    groups: list[str] = []
    array_groups: set[str] = set()

    def visit(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Group):
            groups.append(f"/{name}")
        elif node.shape is not None and len(node.shape) >= 2 and node.size > MAX_SETTING_ELEMENTS:
            parts = name.split("/")[:-1]
            array_groups.update("/" + "/".join(parts[: k + 1]) for k in range(len(parts)))

    file.visititems(visit)
    return groups, array_groups


def _iterate_small_datasets(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    for number, name in enumerate(group):
        if number > MAX_SETTINGS:
            return
        try:
            dataset = group[name] if group.get(name, getclass=True) is h5py.Dataset else None
        except (KeyError, OSError, RuntimeError):
            continue
        value = read_small_dataset(dataset) if dataset is not None else None
        if value is not None:
            yield name, value
            unit = read_text(dataset, "units") or read_text(dataset, "unit")
            if unit:
                yield f"{name}_units", unit


def add_settings(settings: dict[str, Any], values: Mapping[str, Any], depth: int = 0) -> None:
    """Add `values` whose names are new; JSON texts and mappings by their leaves."""
    for name, value in values.items():
        branch = value if isinstance(value, Mapping) else parse_json(value)
        if isinstance(branch, Mapping) and depth < MAX_JSON_DEPTH:
            add_settings(settings, branch, depth + 1)
        elif name:
            settings.setdefault(normalise_name(name), value)
