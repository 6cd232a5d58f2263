"""Copies and suspect pixel sizes, found among all micrographs with about 50 bytes of memory for each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emqa_dask.archive.metadata.pixel_size_outliers import find_pixel_size_outliers
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.settings import Flags
from emqa_dask.store.spill import SpillFile
from emqa_dask.triage import duplicates
from emqa_dask.triage.landmark_search import FieldCopies, find_field_copies, find_same_frames
from emqa_dask.triage.rows import FILE_FRAME
from emqa_dask.uris import name_frame

KEY = ("uri", "frame")
ID_BYTES = 32  # of a micrograph_id
INDEX_NAMES = ("signature", "landmarks", "pixels", "content", "shape", "acquisition_group")  # columns of COLLECTED_ROWS


class MicrographIndex:
    """Shapes, pixel sizes and signatures of all current micrographs, in the order in which they are added.

    Files store the signatures, the landmarks, and the identities by pixels and by content.
    """

    def __init__(self, image_signatures: SpillFile, landmarks: SpillFile, pixels: SpillFile, contents: SpillFile):
        self.n_micrographs = 0
        self._signatures = image_signatures
        self._landmarks = landmarks
        self._identities = {"pixels": pixels, "content": contents}
        self._shapes: list[NDArray] = []
        self._has_tones: list[NDArray] = []
        self._nm_per_pixel: list[NDArray] = []
        self._groups: list[NDArray] = []

    def add(self, rows: pa.Table) -> None:
        """Add `rows` (COLLECTED_ROWS)."""
        columns = {name: rows[name].combine_chunks() for name in (*INDEX_NAMES, "nm_per_pixel")}
        image_signatures = _get_bytes(columns["signature"])
        self._signatures.append(image_signatures)
        self._landmarks.append(_get_bytes(columns["landmarks"]))
        for name, spill in self._identities.items():
            spill.append(_get_bytes(columns[name]))
        packed = np.frombuffer(image_signatures, np.uint8).reshape(-1, duplicates.SIGNATURE_BYTES)
        self._has_tones.append(duplicates.has_tones(packed))
        self._shapes.append(columns["shape"].to_numpy())
        group = columns["acquisition_group"].to_numpy()
        self._groups.append(group)
        self._nm_per_pixel.append(np.where(group > 0, columns["nm_per_pixel"].to_numpy(zero_copy_only=False), np.nan))
        self.n_micrographs += len(rows)

    def find_suspect_sizes(self) -> NDArray:
        """Pixel sizes that differ from those of their acquisition groups: (n,) bool."""
        return find_pixel_size_outliers(_concatenate(self._nm_per_pixel, float), _concatenate(self._groups, np.uint64))

    def find_duplicates(self, numbers: NDArray, folder: str | None) -> tuple[NDArray, NDArray]:
        """Duplicates among the micrographs `numbers`, in this order of precedence; see `duplicates.find_duplicates`."""
        identities = (self._read_identities(spill)[numbers] for spill in self._identities.values())
        shapes = _concatenate(self._shapes, np.uint32)[numbers]
        has_tones = _concatenate(self._has_tones, bool)[numbers]
        sides_px = duplicates.decode_shapes(shapes)
        return duplicates.find_duplicates(
            identities,
            shapes,
            has_tones,
            lambda rows: self.read_signatures(numbers[rows]),
            folder,
            lambda a, b: find_same_frames(a, b, *sides_px, lambda rows: self._read_landmarks(numbers[rows])),
        )

    def find_field_copies(self, numbers: NDArray, original: NDArray) -> FieldCopies:
        """Shifted and rescaled copies among the micrographs `numbers`, in this order of precedence.

        Micrographs that repeat another one by `original` (n,) are left out.
        """
        heights_px, widths_px = duplicates.decode_shapes(_concatenate(self._shapes, np.uint32)[numbers])
        rows = np.flatnonzero(original == np.arange(len(numbers))).astype(np.int32)
        sides_px = (heights_px[rows], widths_px[rows])
        return find_field_copies(rows, *sides_px, lambda rows: self._read_landmarks(numbers[rows]))

    def _read_landmarks(self, numbers: NDArray) -> NDArray:
        return self._read_entries(self._landmarks, numbers, LANDMARKS_BYTES)

    def _read_identities(self, spill: SpillFile) -> NDArray:
        return np.frombuffer(spill.get(0, spill.n_bytes), np.uint64).reshape(-1, 2)

    def read_signatures(self, numbers: NDArray) -> NDArray:
        """Signatures (m, bytes) of the micrographs `numbers`."""
        return self._read_entries(self._signatures, numbers, duplicates.SIGNATURE_BYTES)

    def _read_entries(self, spill: SpillFile, numbers: NDArray, size: int) -> NDArray:
        """Entries (m, size) uint8 of the micrographs `numbers`; one read gets adjacent ones."""
        starts = np.flatnonzero(np.diff(numbers, prepend=-9) != 1)
        lengths = np.diff(starts, append=len(numbers))
        data = spill.get_many((size * numbers[starts].astype(np.int64)).tolist(), (size * lengths).tolist())
        return np.frombuffer(data, np.uint8).reshape(-1, size)


class Copies(NamedTuple):
    """Copies among n micrographs in the order of (uri, frame)."""

    original: NDArray  # (n,) position of the micrograph that each repeats, or its own
    agreement: NDArray  # (n,) of duplicates.find_duplicates()
    names: SpillFile  # of all micrographs, one after the other
    name_ends: NDArray  # (n + 1,) offsets in `names`
    ids: SpillFile  # micrograph_id of all micrographs, ID_BYTES each
    fields: FieldCopies  # by position: of micrographs that repeat none by `original`

    def list_flags(self, first: int, stop: int, settings: Flags) -> pd.DataFrame:
        """Flags of the copies among the micrographs from `first` to `stop`: `row`, counted from `first`, and flag.

        Flags that `settings` switches off are left out.
        """
        positions = np.arange(first, stop)
        flags = [
            duplicates.describe_copy(self.agreement[k], self._read_name(self.original[k])) | {"row": k - first}
            for k in positions[self.original[positions] != positions]
        ]
        return pd.DataFrame([flag for flag in flags if getattr(settings, flag["flag"])])

    def _read_name(self, position: int) -> str:
        start, stop = self.name_ends[position : position + 2]
        return self.names.get(int(start), int(stop - start)).decode()


def find_copies(
    merged: Iterable[pa.Table], index: MicrographIndex, names: SpillFile, ids: SpillFile, folder: str | None
) -> Copies:
    """Copies among the micrographs of `merged` (NUMBERED_ROWS, sorted by uri and frame).

    `names` and `ids` get their names and micrograph_id. Raises ValueError where a micrograph occurs twice.
    """
    numbers = []
    is_copy_name = []
    lengths = []
    for table in merged:
        rows = table.filter(pc.not_equal(table["frame"], FILE_FRAME)).combine_chunks()
        _check_unique(rows)
        frame_names = _name_frames(rows)
        names.append(b"".join(frame_names.cast(pa.binary()).to_pylist()))
        ids.append("".join(rows["micrograph_id"].to_pylist()).encode())
        lengths.append(pc.binary_length(frame_names).to_numpy())
        numbers.append(rows["number"].to_numpy())
        is_copy_name.append(duplicates.is_copy_name(rows["uri"].to_pandas()))
    name_ends = np.cumsum(_concatenate([np.zeros(1, np.int64), *lengths], np.int64))
    precedence = np.argsort(_concatenate(is_copy_name, bool), kind="stable").astype(np.int32)
    numbers_by_precedence = _concatenate(numbers, np.int32)[precedence]
    original, agreement = index.find_duplicates(numbers_by_precedence, folder)
    fields = index.find_field_copies(numbers_by_precedence, original)
    fields = fields._replace(row=precedence[fields.row], original=precedence[fields.original])
    rank = np.empty_like(precedence)
    rank[precedence] = np.arange(len(precedence), dtype=np.int32)
    return Copies(precedence[original][rank], agreement[rank], names, name_ends, ids, fields)


def _check_unique(rows: pa.Table) -> None:
    """Raises ValueError where two of `rows`, which are sorted by uri and frame, are of one micrograph."""
    is_repeated = [pc.equal(rows[name].slice(1), rows[name].slice(0, max(len(rows) - 1, 0))) for name in KEY]
    repeated = np.flatnonzero(pc.and_(*is_repeated))
    if len(repeated):
        key = (rows[name][int(repeated[0])].as_py() for name in KEY)
        raise ValueError(f"micrograph {name_frame(*key)!r} occurs twice in the ledger")


def _name_frames(rows: pa.Table) -> pa.ChunkedArray:
    """uris.name_frame() of every row."""
    suffix = pc.binary_join_element_wise(" (frame ", rows["frame"].cast(pa.string()), ")", "")
    frame_names = pc.binary_join_element_wise(rows["uri"], suffix, "")
    return pc.if_else(pc.equal(rows["frame"], 0), rows["uri"], frame_names)


def _get_bytes(values: pa.FixedSizeBinaryArray) -> memoryview:
    """The bytes of all `values`, none of which is null."""
    width = values.type.byte_width
    return memoryview(values.buffers()[1])[width * values.offset : width * (values.offset + len(values))]


def _concatenate(arrays: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *arrays])
