"""Copies and suspect pixel sizes, found among all micrographs with about 50 bytes of memory for each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.archive.metadata.pixel_size_outliers import find_pixel_size_outliers
from emqa_dask.settings import Flags
from emqa_dask.store.spill import SpillFile
from emqa_dask.triage import duplicates
from emqa_dask.triage.rows import FILE_FRAME


class MicrographIndex:
    """Shapes, pixel sizes and signatures of all current micrographs, in the order of the ledger.

    Files store the signatures and the identities by pixels and by content.
    """

    def __init__(self, image_signatures: SpillFile, pixels: SpillFile, contents: SpillFile):
        self.n_micrographs = 0
        self._signatures = image_signatures
        self._identities = {duplicates.PIXELS: pixels, duplicates.CONTENT: contents}
        self._shapes: list[NDArray] = []
        self._has_tones: list[NDArray] = []
        self._nm_per_pixel: list[NDArray] = []
        self._groups: list[NDArray] = []

    def add(self, rows: pd.DataFrame, image_signatures: pd.Series) -> None:
        """Add `rows` of the ledger with their signatures (bytes, or null)."""
        packed = duplicates.pack_signatures(image_signatures)
        self._signatures.append(packed.tobytes())
        for columns, spill in self._identities.items():
            spill.append(duplicates.compute_identities(*(rows[column] for column in columns)).tobytes())
        self._shapes.append(duplicates.encode_shapes(rows["height_px"], rows["width_px"]))
        self._has_tones.append(duplicates.has_tones(packed))
        group = duplicates.compute_identities(label_acquisition_groups(rows))[:, 0]
        self._groups.append(group)
        self._nm_per_pixel.append(np.where(group > 0, rows["nm_per_pixel"].to_numpy(float), np.nan))
        self.n_micrographs += len(rows)

    def find_suspect_sizes(self) -> NDArray:
        """Pixel sizes that differ from those of their acquisition groups: (n,) bool."""
        return find_pixel_size_outliers(_concatenate(self._nm_per_pixel, float), _concatenate(self._groups, np.uint64))

    def find_duplicates(self, numbers: NDArray, folder: str | None) -> tuple[NDArray, NDArray]:
        """Duplicates among the micrographs `numbers`, in this order of precedence; see `duplicates.find_duplicates`."""
        identities = (self._read_identities(spill)[numbers] for spill in self._identities.values())
        shapes = _concatenate(self._shapes, np.uint32)[numbers]
        has_tones = _concatenate(self._has_tones, bool)[numbers]
        return duplicates.find_duplicates(
            identities, shapes, has_tones, lambda rows: self.read_signatures(numbers[rows]), folder
        )

    def _read_identities(self, spill: SpillFile) -> NDArray:
        return np.frombuffer(spill.get(0, spill.n_bytes), np.uint64).reshape(-1, 2)

    def read_signatures(self, numbers: NDArray) -> NDArray:
        """Signatures (m, bytes) of the micrographs `numbers`; one read gets adjacent ones."""
        size = duplicates.SIGNATURE_BYTES
        data = bytearray()
        starts = np.flatnonzero(np.diff(numbers, prepend=-9) != 1)
        for start, stop in zip(starts, np.append(starts[1:], len(numbers))):
            data += self._signatures.get(size * int(numbers[start]), size * int(stop - start))
        return np.frombuffer(data, np.uint8).reshape(-1, size)


class Copies(NamedTuple):
    """Copies among n micrographs in the order of (uri, frame)."""

    original: NDArray  # (n,) position of the micrograph that each repeats, or its own
    agreement: NDArray  # (n,) of duplicates.find_duplicates()
    names: SpillFile  # of all micrographs, one after the other
    name_ends: NDArray  # (n + 1,) offsets in `names`

    def list_flags(self, table: pa.Table, first: int, settings: Flags) -> pd.DataFrame:
        """Rows of tables.FLAGS of the micrographs in `table` (SPILLED_ROWS); the flag of a copy comes last.

        The positions of the micrographs of `table` start at `first`. Flags that `settings` switches off are left out.
        """
        table = table.combine_chunks()
        listed = (
            pa.concat_arrays(table["flags"].chunks) if len(table) else pa.array([], table.schema.field("flags").type)
        )
        rows = pa.Table.from_struct_array(listed.flatten()).to_pandas()
        rows["row"] = listed.value_parent_indices().to_numpy(zero_copy_only=False)
        positions = np.arange(first, first + len(table))
        copies = [
            duplicates.describe_copy(self.agreement[k], self._read_name(self.original[k])) | {"row": k - first}
            for k in positions[self.original[positions] != positions]
        ]
        copies = [row for row in copies if getattr(settings, row["flag"])]
        rows = pd.concat([rows, pd.DataFrame(copies)], ignore_index=True) if copies else rows
        rows = rows.sort_values("row", kind="stable", ignore_index=True)
        ids = table["micrograph_id"].to_numpy(zero_copy_only=False)
        rows["micrograph_id"] = ids[rows["row"].to_numpy(int)]
        return tables.conform(rows[tables.FLAGS.names], tables.FLAGS).to_pandas()

    def _read_name(self, position: int) -> str:
        start, stop = self.name_ends[position : position + 2]
        return self.names.get(int(start), int(stop - start)).decode()


def find_copies(merged: Iterable[pa.Table], index: MicrographIndex, names: SpillFile, folder: str | None) -> Copies:
    """Copies among the micrographs of `merged` (SPILLED_ROWS, sorted by uri and frame); `names` gets their names.

    Raises ValueError where a micrograph occurs twice.
    """
    numbers = []
    is_copy_name = []
    lengths = []
    last_key = None
    for table in merged:
        rows = table.select(["uri", "frame", "number"]).filter(table["frame"].to_numpy() != FILE_FRAME).to_pandas()
        keys = list(zip(rows["uri"], rows["frame"], strict=True))
        for previous_key, current_key in zip([last_key, *keys], keys):
            if previous_key == current_key:
                raise ValueError(f"micrograph {duplicates.name_frame(*previous_key)!r} occurs twice in the ledger")
        last_key = keys[-1] if keys else last_key
        encoded = [duplicates.name_frame(*key).encode() for key in keys]
        names.append(b"".join(encoded))
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        numbers.append(rows["number"].to_numpy(np.int32))
        is_copy_name.append(duplicates.is_copy_name(rows["uri"]))
    name_ends = np.cumsum(_concatenate([np.zeros(1, np.int64), *lengths], np.int64))
    precedence = np.argsort(_concatenate(is_copy_name, bool), kind="stable").astype(np.int32)
    original, agreement = index.find_duplicates(_concatenate(numbers, np.int32)[precedence], folder)
    rank = np.empty_like(precedence)
    rank[precedence] = np.arange(len(precedence), dtype=np.int32)
    return Copies(precedence[original][rank], agreement[rank], names, name_ends)


def label_acquisition_groups(micrographs: pd.DataFrame) -> pd.Series:
    """Labels of instrument, magnification and shape, whose images should share a pixel size; null where unknown."""
    instrument = micrographs["instrument"]
    magnification = micrographs["magnification"]
    shape = micrographs["height_px"].astype(str) + "x" + micrographs["width_px"].astype(str)
    label = instrument.fillna("").astype(str) + "|" + magnification.astype(str) + "|" + shape
    return label.where(instrument.notna() | magnification.notna())


def _concatenate(arrays: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *arrays])
