"""Verdicts on an archive of any size: what is global in compact arrays first, then batches in the order of the URI."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask import models, tables
from emqa_dask.archive.headers import find_pixel_size_outliers
from emqa_dask.pipeline.workspace import acquisition_groups as sessions
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import names_of
from emqa_dask.pipeline.workspace.stages import SCHEMAS, folders
from emqa_dask.settings import Flags, Settings
from emqa_dask.store import files, layout, parts
from emqa_dask.store.spill import ExternalSort, SpillFile
from emqa_dask.triage import duplicates
from emqa_dask.triage.detector_choice import chosen
from emqa_dask.triage.flags import flag_images
from emqa_dask.triage.verdicts import judge

FILE = -1  # the frame of a file's own row: it sorts in front of the micrographs that the file gave
BATCH = 8192  # rows that are judged at a time
_OF_MICROGRAPH = ["uri", "frame", "content_sha256", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_source"]
_OF_MICROGRAPH += ["damage"]
_OF_LEDGER = ["micrograph_id", *_OF_MICROGRAPH, "pixel_sha256", "dtype", "instrument", "magnification", "partition"]
_PREFIX = "classified_"  # two tables have a column "because"
_OF_FILE = ["uri", "content_sha256", "format", "status", "reason", "error"]
_FLAT_FEATURES = ["disordered_fraction", "defocus_nm"]
_FLAT_EVIDENCE = ["n_detections", "is_capped", "detector_agreement"]
_OF_FEATURES = ["micrograph_id", *_FLAT_FEATURES, *tables.IMAGE_STATISTICS, "signature"]
_OF_EVIDENCE = ["micrograph_id", "detector", *_FLAT_EVIDENCE]


def _fields() -> list[pa.Field]:
    flat = [tables.MICROGRAPHS.field(name) for name in ("micrograph_id", *_OF_MICROGRAPH)]
    flat += [tables.CATALOG.field(name) for name in _OF_FILE[2:]]
    flat += [*map(tables.FEATURES.field, _FLAT_FEATURES), *map(tables.EVIDENCE.field, _FLAT_EVIDENCE)]
    flat += [field for field in tables.PREDICTIONS if field.name != "micrograph_id"]
    flat += [pa.field(_PREFIX + field.name, field.type) for field in tables.CLASSIFICATIONS][1:]
    flat += [pa.field("cohort", pa.string()), pa.field("is_predicted", pa.bool_()), pa.field("number", pa.int32())]
    return flat


FLAT = pa.schema(_fields())
FLAG = pa.struct([field for field in tables.FLAGS if field.name != "micrograph_id"])
ROW = FLAT.append(pa.field("flags", pa.list_(FLAG)))  # of a file or a micrograph, with all that its verdict depends on


class Compact(NamedTuple):
    """What has to be known of all n micrographs at once, in the order of the ledger; `number` of ROW counts them."""

    shapes: NDArray  # (n,) uint32, duplicates.shape_numbers()
    is_solid: NDArray  # (n,) bool, duplicates.has_tones()
    is_suspect: NDArray  # (n,) bool, a pixel size unlike its cohort's
    signatures: SpillFile  # duplicates.SIGNATURE_BYTES of each
    identities: list[SpillFile]  # by pixels and by content, 16 bytes of each

    def read(self, numbers: NDArray) -> NDArray:
        """Signatures (m, bytes) of micrographs."""
        size = duplicates.SIGNATURE_BYTES
        found = bytearray()
        starts = np.flatnonzero(np.diff(numbers, prepend=-9) != 1)  # neighbours are read in one go
        for start, stop in zip(starts, np.append(starts[1:], len(numbers))):
            found += self.signatures.get(size * int(numbers[start]), size * int(stop - start))
        return np.frombuffer(found, np.uint8).reshape(-1, size)


def judged(root: str, settings: Settings, failures: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, ...]]:
    """(rows of tables.TRIAGE, their rows of tables.FLAGS, of tables.CLASSIFICATIONS) in batches.

    Triage comes by (uri, frame), flags by its rows; classifications, where there are any, have cohort and
    entropy_limit_nats beside their own columns.

    Micrographs whose part of a table is not there are judged as unfinished. In memory are some 10 MB of rows and, at a
    time, about 50 bytes per micrograph; about 1.5 kB per micrograph lie on the workspace's disk, or on that of the
    temporary files if the workspace is a bucket, until this is over. Raises ValueError where a micrograph or a file
    occurs twice.
    """
    folder = files.locate(root)[1] if files.is_local(root) else None
    with (
        ExternalSort(ROW, ("uri", "frame"), folder) as runs,
        SpillFile(folder) as signatures,
        SpillFile(folder) as pixels,
        SpillFile(folder) as contents,
        SpillFile(folder) as places,
    ):
        known = _gather(root, settings, runs, signatures, [pixels, contents])
        limit = entropy_limit_of(settings)
        original, agreement, ends = _repeated(runs, known, places, folder)
        done = 0
        for table in _whole_files(runs.iterate_sorted(BATCH)):
            rows = table.drop_columns("flags").to_pandas()
            is_file = rows["frame"].eq(FILE).to_numpy()
            micrographs = rows[~is_file].reset_index(drop=True)
            micrographs["is_nm_per_pixel_suspect"] = known.is_suspect[micrographs["number"].to_numpy(int)]
            of = slice(done, done := done + len(micrographs))
            flags = _flags(table.filter(~is_file), original[of], agreement[of], of.start, places, ends)
            flags = _drop_disabled(flags, settings.flags)
            classified = _classified(micrographs, limit)
            triage = judge(
                rows.loc[is_file, _OF_FILE],
                micrographs,
                micrographs.loc[micrographs["n_detections"].notna(), [*_OF_EVIDENCE, *_FLAT_FEATURES]],
                micrographs.loc[micrographs["is_predicted"].eq(True), tables.PREDICTIONS.names],
                flags,
                settings.triage,
                failures,
                classifications=classified,
            )
            yield triage, flags, classified


def _drop_disabled(flags: pd.DataFrame, settings: Flags) -> pd.DataFrame:
    """`flags` without those of copies that `settings` switches off; images are not asked for the others."""
    disabled = [code for code in ("duplicate", "near_duplicate") if not getattr(settings, code)]
    return flags[~flags["flag"].isin(disabled)].reset_index(drop=True) if disabled else flags


def entropy_limit_of(settings: Settings) -> float:
    """Predictive entropy, nats, above which a person looks; NaN without a classifier, or where none is known."""
    if not settings.classify.model:
        return float("nan")
    how = settings.triage
    if how.max_entropy_nats:
        return how.max_entropy_nats
    from emqa_dask.uncertainty.classification import (
        compute_entropy_limit,  # a run without a classifier does well without it
    )

    directory = models.locate_model(settings.classify.model)
    return compute_entropy_limit(directory, review_share=how.review_share, target_risk=how.target_risk)


def _classified(micrographs: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Rows of tables.CLASSIFICATIONS, with the entropy above which a person looks, of micrographs that have one."""
    names = {_PREFIX + name: name for name in tables.CLASSIFICATIONS.names[1:]}
    there = micrographs[_PREFIX + "classifier"].notna()
    rows = micrographs.loc[there, ["micrograph_id", "cohort", *names]].rename(columns=names)
    return rows.assign(entropy_limit_nats=limit)


def cohorts(micrographs: pd.DataFrame) -> pd.Series:
    """Images that should share a pixel size: same instrument, magnification and shape; null where none is known."""
    instrument = micrographs["instrument"]
    magnification = micrographs["magnification"]
    shape = micrographs["height_px"].astype(str) + "x" + micrographs["width_px"].astype(str)
    label = instrument.fillna("").astype(str) + "|" + magnification.astype(str) + "|" + shape
    return label.where(instrument.notna() | magnification.notna())


def _gather(
    root: str, settings: Settings, runs: ExternalSort, signatures: SpillFile, identities: list[SpillFile]
) -> Compact:
    """One pass over all tables: rows go to `runs`, in compact form to the rest."""
    where = folders(settings)
    order = list(names_of(settings.detect))
    there = {table: set(parts.list_parts(root, where[table])) for table in where}
    shapes = []
    is_solid = []
    nm = []
    cohort = []
    n = 0
    for ledger, is_current in micrograph_ledger.ledger(root, _OF_LEDGER):
        rows = ledger[is_current].reset_index(drop=True)
        if rows.empty:
            continue

        def made(table: str, columns: list[str], rows: pd.DataFrame = rows, known=ledger["micrograph_id"]):
            names = [name for name in rows["partition"].unique() if name in there[table]]
            found = parts.read_table(root, where[table], SCHEMAS[table], columns, partitions=names)
            keys = [name for name in ("micrograph_id", "detector") if name in columns]
            _check_once(found[keys], where[table])
            _check_known(found["micrograph_id"], known, where[table])
            return found

        _check_once(rows[["micrograph_id"]], "the ledger")
        ids = rows["micrograph_id"]
        features = made("features", _OF_FEATURES).set_index("micrograph_id").reindex(ids)
        packed = duplicates.pack(features.pop("signature"))
        signatures.put(packed.tobytes())
        for spilled, columns in zip(identities, (duplicates.PIXELS, duplicates.CONTENT), strict=True):
            spilled.put(duplicates.identities(*(rows[column] for column in columns)).tobytes())
        shapes.append(duplicates.shape_numbers(rows["height_px"], rows["width_px"]))
        is_solid.append(duplicates.has_tones(packed))
        cohort.append(duplicates.identities(cohorts(rows))[:, 0])
        nm.append(np.where(cohort[-1] > 0, rows["nm_per_pixel"].to_numpy(float), np.nan))
        if "classifications" in where:
            classified = made("classifications", tables.CLASSIFICATIONS.names).set_index("micrograph_id").reindex(ids)
        else:
            classified = pd.DataFrame(index=ids)
        evidence = made("evidence", _OF_EVIDENCE)
        predictions = made("predictions", tables.PREDICTIONS.names)
        _check_intervals(predictions, where["predictions"])
        one = chosen(evidence, predictions, order, settings.triage.max_ood_distance)
        one = one.set_index("micrograph_id").reindex(ids)
        flat = rows[["micrograph_id", *_OF_MICROGRAPH]].assign(
            **{name: features[name].to_numpy() for name in _FLAT_FEATURES},
            **{_PREFIX + name: classified[name].to_numpy() for name in classified},
            cohort=sessions.name_groups(rows) if len(classified.columns) else None,
            **{name: one[name].to_numpy() for name in one if name != "is_predicted"},
            is_predicted=one["is_predicted"].eq(True).to_numpy(),
            number=np.arange(n, n + len(rows), dtype="int32"),
        )
        flags = flag_images(features.reset_index(), settings.flags)
        row = pd.Index(rows["micrograph_id"]).get_indexer(flags["micrograph_id"])
        ends = np.searchsorted(row, np.arange(len(rows) + 1)).astype("int32")
        details = tables.conform(flags, tables.FLAGS).drop_columns("micrograph_id").to_struct_array().combine_chunks()
        details = pa.ListArray.from_arrays(pa.array(ends), details)
        runs.add(tables.conform(flat, FLAT).append_column(ROW.field("flags"), details))
        n += len(rows)
    for rows in parts.iterate_table(layout.catalog_uri(root), tables.CATALOG, [*_OF_FILE, "is_present"]):
        rows["status"] = rows["status"].where(rows.pop("is_present").ne(False), "removed")
        flat = tables.conform(rows.assign(frame=FILE), FLAT)
        runs.add(flat.append_column(ROW.field("flags"), pa.nulls(len(flat), pa.list_(FLAG))))
    is_suspect = find_pixel_size_outliers(_joined(nm, float), _joined(cohort, np.uint64))
    return Compact(_joined(shapes, np.uint32), _joined(is_solid, bool), is_suspect, signatures, identities)


def _check_once(keys: pd.DataFrame, where: str) -> None:
    if keys.duplicated().any():
        first = keys[keys.duplicated()].iloc[0]
        raise ValueError(", ".join(f"{name} {value!r}" for name, value in first.items()) + f" occurs twice in {where}")


def _check_known(ids: pd.Series, known: pd.Series, folder: str) -> None:
    is_strange = ~ids.isin(known)
    if is_strange.any():
        strange = ids[is_strange].iloc[0]
        raise ValueError(f"{folder} has micrograph {strange!r}, which the ledger does not have: {_remedy(folder)}")


def _check_intervals(predictions: pd.DataFrame, folder: str) -> None:
    """ValueError unless 0 <= low <= mean <= high <= 1 wherever these are known."""
    for name in ("predicted_f1", "predicted_precision", "predicted_recall"):
        low, mean, high = (predictions[name + end].to_numpy() for end in ("_low", "", "_high"))
        is_wrong = (low > mean) | (mean > high) | (low < 0) | (high > 1)
        if is_wrong.any():
            k = int(np.flatnonzero(is_wrong)[0])
            micrograph = predictions["micrograph_id"].iloc[k]
            raise ValueError(
                f"{folder}: micrograph {micrograph} has a {name} of {mean[k]:g} in an interval of {low[k]:g} to "
                f"{high[k]:g}, which cannot be: {_remedy(folder)}"
            )


def _remedy(folder: str) -> str:
    return f"delete the folder {folder} of the workspace and run `emqa triage` again, which makes it anew"


def _joined(arrays: list[NDArray], dtype) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _repeated(
    runs: ExternalSort, known: Compact, places: SpillFile, folder: str | None
) -> tuple[NDArray, NDArray, NDArray]:
    """(original, agreement) of duplicates.find_duplicates() for n micrographs by (uri, frame), and of which row.

    `places` gets where each is, in words; the third array (n + 1,) holds the offsets of these.
    """
    numbers = []
    is_copy = []
    lengths = []
    last = None
    for table in runs.iterate_sorted(BATCH):
        rows = table.select(["uri", "frame", "number"]).filter(table["frame"].to_numpy() != FILE).to_pandas()
        keys = list(zip(rows["uri"], rows["frame"], strict=True))
        for one, other in zip([last, *keys], keys):
            if one == other:
                raise ValueError(f"micrograph {duplicates.place(*one)!r} occurs twice in the ledger")
        last = keys[-1] if keys else last
        words = [duplicates.place(*key).encode() for key in keys]
        places.put(b"".join(words))
        lengths.append(np.fromiter(map(len, words), np.int64, len(words)))
        numbers.append(rows["number"].to_numpy(np.int32))
        is_copy.append(duplicates.is_copy_name(rows["uri"]))
    ends = np.cumsum(_joined([np.zeros(1, np.int64), *lengths], np.int64))
    precedence = np.argsort(_joined(is_copy, bool), kind="stable").astype(np.int32)
    numbers = _joined(numbers, np.int32)[precedence]

    def same(spilled: SpillFile) -> NDArray:
        return np.frombuffer(spilled.get(0, spilled.n_bytes), np.uint64).reshape(-1, 2)[numbers]

    found, agreement = duplicates.find_duplicates(
        map(same, known.identities),
        known.shapes[numbers],
        known.is_solid[numbers],
        lambda rows: known.read(numbers[rows]),
        folder,
    )
    rank = np.empty_like(precedence)
    rank[precedence] = np.arange(len(precedence), dtype=np.int32)
    return precedence[found][rank], agreement[rank], ends


def _whole_files(merged: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`merged` with a file's own row in front of each stretch of its micrographs, also where they go on."""
    left = None
    is_again = False
    for table in merged:
        if left is not None:
            goes_on = table["uri"][0].as_py() == left["uri"][0].as_py()
            table = pa.concat_tables([left, table]) if goes_on or not is_again else table
        at = int(np.flatnonzero(table["frame"].to_numpy() == FILE)[-1])
        left = table.slice(at, 1)
        is_again = at < len(table) - 1
        table = table if is_again else table.slice(0, at)
        if len(table):
            yield table
    if left is not None and not is_again:
        yield left


def _flags(
    table: pa.Table, original: NDArray, agreement: NDArray, first: int, places: SpillFile, ends: NDArray
) -> pd.DataFrame:
    """Flags of the micrographs in `table`, number `first` and on by (uri, frame): each image's, then that of a copy."""
    table = table.combine_chunks()
    listed = pa.concat_arrays(table["flags"].chunks) if len(table) else pa.array([], pa.list_(FLAG))
    rows = pa.Table.from_struct_array(listed.flatten()).to_pandas()
    rows["row"] = listed.value_parent_indices().to_numpy(zero_copy_only=False)
    copies = np.flatnonzero(original != np.arange(first, first + len(table)))
    found = []
    for k in copies:
        start, stop = ends[original[k]], ends[original[k] + 1]
        where = places.get(int(start), int(stop - start)).decode()
        found.append(duplicates.finding(agreement[k], where) | {"row": k})
    rows = pd.concat([rows, pd.DataFrame(found)], ignore_index=True) if found else rows
    rows = rows.sort_values("row", kind="stable", ignore_index=True)
    ids = table["micrograph_id"].to_numpy(zero_copy_only=False)
    rows["micrograph_id"] = ids[rows["row"].to_numpy(int)]
    return tables.conform(rows[tables.FLAGS.names], tables.FLAGS).to_pandas()
