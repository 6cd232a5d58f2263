"""What whole sessions look like, and whether they have drifted from what the classifier has learnt from."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import models, tables
from emqa_dask.pipeline.workspace import acquisition_groups, micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SCHEMAS, folders
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.uncertainty import drift, shift_model
from emqa_dask.uncertainty.entropy import summarise_entropies

REFERENCE = "reference.safetensors"  # of a classifier's model directory: QUANTITIES of its held-out images
OF_CLASSIFICATIONS = (
    "predictive_entropy_nats",
    "mahalanobis_score",
    "nearest_score",
    "content_score",
    "statistics_score",
)
OF_FEATURES = ("noise_floor", "detail_cpp", "contrast", "skewness", "spectrum_slope", "entropy_bits")
QUANTITIES = (*OF_CLASSIFICATIONS, *OF_FEATURES)
SHOWN = ("imaging_distance", "shift_score", "shift", "shift_probability", "defocus_nm")  # told per cohort, not tested
MOST = 400  # images of a cohort that are looked at
OF_LEDGER = ["micrograph_id", "uri", "instrument", "magnification", "acquired", "partition"]


class Drifting(NamedTuple):
    """What a workspace's sessions look like."""

    values: pd.DataFrame  # cohort, acquired, QUANTITIES and SHOWN of at most MOST images of each cohort
    drifts: pd.DataFrame  # as tables.DRIFTS
    sessions: pd.DataFrame  # as tables.SESSIONS


def drifting(root: str, settings: Settings) -> Drifting:
    """Sample every cohort (folder, instrument, magnification) of a run with a classifier, and test it."""
    values = _sampled(root, folders(settings))
    directory = models.locate_model(settings.classify.model)
    found = drift.detect_drifts(values, _reference(directory), quantities=QUANTITIES)
    return Drifting(values, found, _sessions(values, found, models.read_card(directory)))


def _sessions(values: pd.DataFrame, drifts: pd.DataFrame, card: Mapping) -> pd.DataFrame:
    rows = []
    n_classes = len(card["classes"])
    false_flags = card.get("shift", {}).get("false_flags", 0.05)
    moved = drifts[drifts["is_drifted"]].sort_values("effect", key=lambda effect: -effect.abs(), kind="stable")
    for name, of in values.groupby("cohort", sort=True):
        dates = of["acquired"].dropna()
        kinds = of["shift"].dropna()
        shares = {f"{kind}_fraction": kinds.eq(kind).mean() for kind in tables.SHIFTS[1:]}
        rows.append(
            {
                "cohort": name,
                "n_looked_at": len(of),
                "first_acquired": dates.min() if len(dates) else None,
                "last_acquired": dates.max() if len(dates) else None,
                "out_of_domain_fraction": of["shift_score"].dropna().gt(1).mean(),
                **shares,
                "shift": shift_model.classify_cohort_shift(of, false_flags=false_flags),
                "defocus_nm": of["defocus_nm"].median(),
                "with_rings_fraction": of["defocus_nm"].notna().mean(),
                "imaging_distance": of["imaging_distance"].median(),
                "drifted": moved.loc[moved["cohort"] == name, "quantity"].tolist(),
                "entropy_shape": list(summarise_entropies(of["predictive_entropy_nats"].dropna(), n_classes).values()),
            }
        )
    return pd.DataFrame(rows, columns=tables.SESSIONS.names)


def _sampled(root: str, where: dict[str, str]) -> pd.DataFrame:
    """A row per sampled micrograph: an even sample, as ids are hashes, and the same one each time."""
    there = {table: set(parts.list_parts(root, where[table])) for table in ("classifications", "features")}
    columns = {"classifications": [*OF_CLASSIFICATIONS, *SHOWN[:-1]], "features": [*OF_FEATURES, SHOWN[-1]]}
    kept = pd.DataFrame(columns=["micrograph_id", "uri", "cohort", "acquired", *QUANTITIES, *SHOWN])
    for rows in micrograph_ledger.iter_current(root, OF_LEDGER):
        rows = rows.assign(cohort=acquisition_groups.name_groups(rows))
        for table, wanted in columns.items():
            names = [name for name in rows["partition"].unique() if name in there[table]]
            found = parts.read_table(root, where[table], SCHEMAS[table], ["micrograph_id", *wanted], partitions=names)
            rows = rows.merge(found, on="micrograph_id", how="inner", validate="one_to_one")
        rows = rows[kept.columns]
        kept = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        kept = kept.sort_values("micrograph_id", kind="stable").groupby("cohort", sort=False).head(MOST)
    # Without dates they go by name, which is as near to time as anything else.
    return kept.sort_values(["uri", "micrograph_id"]).drop(columns=["micrograph_id", "uri"]).reset_index(drop=True)


def _reference(directory) -> pd.DataFrame | None:
    card = models.read_card(directory)
    if REFERENCE not in card.get("files", {}):
        return None
    values = safetensors.numpy.load_file(models.check_file(directory, REFERENCE, card))
    return pd.DataFrame({name: np.asarray(values[name], float) for name in QUANTITIES})
