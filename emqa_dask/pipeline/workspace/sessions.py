"""Properties of sessions, and their drifts from the classifier's in-domain images."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import models, tables
from emqa_dask.pipeline.workspace import acquisition_groups, micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.uncertainty import drift, shift_model
from emqa_dask.uncertainty.entropy import summarise_entropies

REFERENCE_FILE = "reference.safetensors"  # of a classifier's model directory: QUANTITIES of its held-out images
CLASSIFICATION_QUANTITIES = (
    "predictive_entropy_nats",
    "mahalanobis_score",
    "nearest_score",
    "content_score",
    "statistics_score",
)
FEATURE_QUANTITIES = ("noise_floor", "detail_cpp", "contrast", "skewness", "spectrum_slope", "entropy_bits")
QUANTITIES = (*CLASSIFICATION_QUANTITIES, *FEATURE_QUANTITIES)
CLASSIFICATION_COLUMNS = ("imaging_distance", "shift_score", "shift", "shift_probability")  # reported, not tested
FEATURE_COLUMNS = ("defocus_nm",)  # reported, not tested
LEDGER_COLUMNS = ["micrograph_id", "uri", "instrument", "magnification", "acquired", "partition"]
MAX_SAMPLED = 400  # images of a cohort
FALSE_FLAGS = 0.05  # default for cards without this entry


class SessionDrifts(NamedTuple):
    """Properties and drifts of a workspace's cohorts (folder, instrument, magnification)."""

    values: pd.DataFrame  # cohort, acquired, QUANTITIES and reported columns of at most MAX_SAMPLED images per cohort
    drifts: pd.DataFrame  # as tables.DRIFTS
    sessions: pd.DataFrame  # as tables.SESSIONS


def compute_session_drifts(workspace: Workspace, settings: Settings) -> SessionDrifts:
    """A sample of every cohort of a run with a classifier, its drifts and its properties."""
    values = _sample_cohorts(workspace, list_run_folders(settings))
    directory = models.locate_model(settings.classify.model)
    drifts = drift.detect_drifts(values, _read_reference(directory), quantities=QUANTITIES)
    return SessionDrifts(values, drifts, _summarise_cohorts(values, drifts, models.read_model_card(directory)))


def _summarise_cohorts(values: pd.DataFrame, drifts: pd.DataFrame, model_card: Mapping) -> pd.DataFrame:
    """A row of tables.SESSIONS for each cohort."""
    n_classes = len(model_card["classes"])
    false_flags = model_card.get("shift", {}).get("false_flags", FALSE_FLAGS)
    drifted = drifts[drifts["is_drifted"]].sort_values("effect", key=lambda effect: -effect.abs(), kind="stable")
    rows = []
    for name, images in values.groupby("cohort", sort=True):
        dates = images["acquired"].dropna()
        shift_kinds = images["shift"].dropna()
        entropies = images["predictive_entropy_nats"].dropna()
        rows.append(
            {
                "cohort": name,
                "n_looked_at": len(images),
                "first_acquired": dates.min() if len(dates) else None,
                "last_acquired": dates.max() if len(dates) else None,
                "out_of_domain_fraction": images["shift_score"].dropna().gt(1).mean(),
                **{f"{kind}_fraction": shift_kinds.eq(kind).mean() for kind in tables.SHIFTS[1:]},
                "shift": shift_model.classify_cohort_shift(images, false_flags=false_flags),
                "defocus_nm": images["defocus_nm"].median(),
                "with_rings_fraction": images["defocus_nm"].notna().mean(),
                "imaging_distance": images["imaging_distance"].median(),
                "drifted": drifted.loc[drifted["cohort"] == name, "quantity"].tolist(),
                "entropy_shape": list(summarise_entropies(entropies, n_classes).values()),
            }
        )
    return pd.DataFrame(rows, columns=tables.SESSIONS.names)


def _sample_cohorts(workspace: Workspace, table_folders: dict[str, str]) -> pd.DataFrame:
    """A row per sampled micrograph, of the first ids of each cohort: an even sample, because ids are hashes."""
    columns = {
        "classifications": [*CLASSIFICATION_QUANTITIES, *CLASSIFICATION_COLUMNS],
        "features": [*FEATURE_QUANTITIES, *FEATURE_COLUMNS],
    }
    partitions = {table: set(parts.list_parts(workspace.uri, table_folders[table])) for table in columns}
    names = ["micrograph_id", "uri", "cohort", "acquired", *QUANTITIES, *CLASSIFICATION_COLUMNS, *FEATURE_COLUMNS]
    sample = pd.DataFrame(columns=names)
    for rows in micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS):
        rows = rows.assign(cohort=acquisition_groups.name_groups(rows))
        for table, column_names in columns.items():
            present = [name for name in rows["partition"].unique() if name in partitions[table]]
            content = parts.read_table(
                workspace.uri,
                table_folders[table],
                SCHEMAS[table],
                ["micrograph_id", *column_names],
                partitions=present,
            )
            rows = rows.merge(content, on="micrograph_id", how="inner", validate="one_to_one")
        rows = rows[names]
        sample = pd.concat([sample, rows], ignore_index=True) if len(sample) else rows
        sample = sample.sort_values("micrograph_id", kind="stable").groupby("cohort", sort=False).head(MAX_SAMPLED)
    # Images without dates are in the order of their names, the best guess of their order in time.
    sample = sample.sort_values(["uri", "micrograph_id"])
    return sample.drop(columns=["micrograph_id", "uri"]).reset_index(drop=True)


def _read_reference(directory: Path) -> pd.DataFrame | None:
    """QUANTITIES of the classifier's held-out images; None for a model without REFERENCE_FILE."""
    model_card = models.read_model_card(directory)
    if REFERENCE_FILE not in model_card.get("files", {}):
        return None
    values = safetensors.numpy.load_file(models.check_file(directory, REFERENCE_FILE, model_card))
    return pd.DataFrame({name: np.asarray(values[name], float) for name in QUANTITIES})
