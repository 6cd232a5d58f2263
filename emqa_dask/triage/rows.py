"""The table that decide() takes: a row per file and per micrograph, with all that a verdict depends on."""

import pandas as pd
import pyarrow as pa

from emqa_dask import tables

FILE_FRAME = -1  # frame of a file's own row: it sorts before the micrographs of the file
MICROGRAPH_COLUMNS = ("uri", "frame", "content_sha256", "height_px", "width_px")
MICROGRAPH_COLUMNS += ("nm_per_pixel", "nm_per_pixel_y", "nm_per_pixel_source", "damage")
MICROGRAPH_COLUMNS += ("colour", "colour_fraction", "annotated_fraction")
ACQUISITION_COLUMNS = ("instrument", "acquired", "voltage_kv", "magnification")  # that the triage table repeats
ACQUISITION_COLUMNS += ("dose_e_per_nm2", "stated_defocus_nm")
FILE_COLUMNS = ("format", "status", "reason", "error", "n_frames_lost")  # of a file's own row only
CHECK_STAGES = ("check", "custom_checks")  # of a failure: of one image, and of all images of a partition
FEATURE_COLUMNS = ("disordered_fraction", "defocus_nm")
EVIDENCE_COLUMNS = ("n_detections", "is_capped", "detector_agreement")
MEASUREMENT_COLUMNS = ("density_per_um2", "mean_diameter_nm", "area_fraction", "swelling_percent")
PREDICTION_COLUMNS = tuple(name for name in tables.PREDICTIONS.names if name != "micrograph_id")
CLASS_NAMES = {  # column of tables.CLASSIFICATIONS -> column here; predictions have a column "because", too
    name: "shift_because" if name == "because" else name
    for name in tables.CLASSIFICATIONS.names
    if name != "micrograph_id"
}
ROWS = pa.schema(
    [
        *(
            tables.MICROGRAPHS.field(name)
            for name in ("micrograph_id", *MICROGRAPH_COLUMNS, *ACQUISITION_COLUMNS, "partition")
        ),
        *(tables.CATALOG.field(name) for name in FILE_COLUMNS),
        *(tables.FEATURES.field(name) for name in FEATURE_COLUMNS),
        *(tables.EVIDENCE.field(name) for name in EVIDENCE_COLUMNS),
        *(tables.MEASUREMENTS.field(name) for name in MEASUREMENT_COLUMNS),
        *(tables.PREDICTIONS.field(name) for name in PREDICTION_COLUMNS),
        *(tables.CLASSIFICATIONS.field(name).with_name(new_name) for name, new_name in CLASS_NAMES.items()),
        pa.field("predicted_loss", pa.float64()),  # of F1, by the imaging conditions
        pa.field("dose_gain", pa.float64()),  # of F1, by DOSE_FACTOR times the dose
        pa.field("is_predicted", pa.bool_()),  # whether tables.PREDICTIONS has a row
        pa.field("is_nm_per_pixel_suspect", pa.bool_()),
        pa.field("session", pa.string()),  # folder, instrument and magnification
        pa.field("entropy_limit_nats", pa.float64()),  # the classifier's own limit for referral to a person
        pa.field("failure", pa.string()),  # what a stage that failed on the image reported
        pa.field("check_failure", pa.string()),  # what a custom check that failed on it reported
    ]
)


def join_tables(
    micrographs: pd.DataFrame,
    features: pd.DataFrame,
    predictions: pd.DataFrame,
    classifications: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Rows (columns of ROWS) for `micrographs`, in their order; null where another table has no row of one.

    micrographs: micrograph_id, MICROGRAPH_COLUMNS and further columns of ROWS; features: micrograph_id and
    FEATURE_COLUMNS; predictions: as select_detector() returns them; classifications: rows of tables.CLASSIFICATIONS
    and, where it is known, entropy_limit_nats. Raises ValueError where a table has two rows of one micrograph.
    """
    row_columns = [name for name in micrographs if name in ROWS.names]
    joined = micrographs[row_columns].reset_index(drop=True)
    other_tables = [features.filter(("micrograph_id", *FEATURE_COLUMNS)), predictions]
    if classifications is not None:
        other_tables.append(classifications.rename(columns=CLASS_NAMES))
    for other_table in other_tables:
        check_unique(other_table["micrograph_id"])
        aligned = other_table.set_index("micrograph_id").reindex(joined["micrograph_id"])
        joined = joined.assign(**{name: aligned[name].to_numpy() for name in aligned if name in ROWS.names})
    joined["is_predicted"] = joined["is_predicted"].eq(True)
    return joined


def list_files(catalog: pd.DataFrame) -> pd.DataFrame:
    """Rows (columns of ROWS) for the files of `catalog`."""
    columns = [name for name in ("uri", "content_sha256", *FILE_COLUMNS) if name in catalog]
    return catalog[columns].assign(frame=FILE_FRAME)


def describe_all_failures(micrograph_ids: pd.Series, failures: pd.DataFrame) -> pd.DataFrame:
    """Columns failure, of stages, and check_failure, of custom checks, for each micrograph; see describe_failures."""
    is_check = failures["stage"].isin(CHECK_STAGES)
    descriptions = {"failure": failures[~is_check], "check_failure": failures[is_check]}
    return pd.DataFrame({name: describe_failures(micrograph_ids, rows) for name, rows in descriptions.items()})


def describe_failures(micrograph_ids: pd.Series, failures: pd.DataFrame) -> pd.Series:
    """What the stage that failed on each micrograph reported; None without a failure.

    failures: rows of tables.FAILURES. The first failure of a micrograph counts.
    """
    first = failures.dropna(subset="micrograph_id").drop_duplicates("micrograph_id").set_index("micrograph_id")
    if not len(first):
        return pd.Series(None, index=micrograph_ids.index, dtype=object)
    texts = "Stage " + first["stage"] + " failed on it (" + first["kind"] + "): "
    texts = texts.astype(object) + first["error"].fillna("no error was recorded").astype(object)
    descriptions = micrograph_ids.map(texts).astype(object)
    return descriptions.where(descriptions.notna(), None)


def list_classifications(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of tables.CLASSIFICATIONS, with cohort (session) and entropy_limit_nats, of `rows` that are classified."""
    names = {new_name: name for name, new_name in CLASS_NAMES.items()} | {"session": "cohort"}
    classified = rows.loc[rows["classifier"].notna(), ["micrograph_id", "entropy_limit_nats", *names]]
    return classified.rename(columns=names).reset_index(drop=True)


def check_unique(keys: pd.Series) -> None:
    """Raises ValueError for a key that occurs twice."""
    if keys.duplicated().any():
        raise ValueError(f"{keys.name} {keys[keys.duplicated()].iloc[0]!r} occurs twice")


def complete_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with all columns of ROWS and those that rules need, without the own rows of files that have micrographs.

    Values of FILE_COLUMNS are copied from a file to its micrographs. Added are `is_file` (the row of a file without
    micrographs), `file_status` and `is_complete` (detections and a prediction exist). The order stays. Raises
    ValueError where a micrograph or a file occurs twice.
    """
    is_file = rows["frame"].eq(FILE_FRAME)
    check_unique(rows.loc[~is_file, "micrograph_id"])
    check_unique(rows.loc[is_file, "uri"])
    files = rows[is_file].set_index("uri").reindex(columns=FILE_COLUMNS)
    is_kept = ~is_file | ~rows["uri"].isin(rows.loc[~is_file, "uri"])
    rows = rows[is_kept].reset_index(drop=True).reindex(columns=ROWS.names)
    rows[list(FILE_COLUMNS)] = files.reindex(rows["uri"]).to_numpy(object)
    rows["is_file"] = rows["frame"].eq(FILE_FRAME)
    rows["frame"] = rows["frame"].clip(lower=0).astype("int32")
    rows["file_status"] = rows["status"]
    rows["status"] = rows["status"].where(rows["is_file"], "ok").fillna("ok")
    rows["is_complete"] = rows["is_predicted"].eq(True) & rows["n_detections"].notna()
    for name in ("is_capped", "is_nm_per_pixel_suspect"):
        rows[name] = rows[name].eq(True).fillna(False).astype(bool)
    for field in ROWS:
        if pa.types.is_string(field.type):
            rows[field.name] = rows[field.name].astype(object).where(rows[field.name].notna(), None)
        elif pa.types.is_floating(field.type):
            rows[field.name] = pd.to_numeric(rows[field.name]).astype(float)
    integers = dict.fromkeys(("height_px", "width_px"), "Int64")
    rows["n_frames_lost"] = pd.to_numeric(rows["n_frames_lost"]).fillna(0).astype("int64")
    rows["n_detections"] = pd.to_numeric(rows["n_detections"]).astype("Int64")
    return rows.astype(integers)
