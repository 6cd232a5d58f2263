"""Whether whole sessions have drifted: a sample of every cohort held against what the classifier has learnt from."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import models
from emqa_dask.pipeline import cohorts, ingest
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.predict import drift
from emqa_dask.settings import Settings
from emqa_dask.store import parts

REFERENCE = "reference.safetensors"  # of a classifier's model directory: QUANTITIES of its held-out images
OF_CLASSIFICATIONS = ("predictive_entropy_nats", "mahalanobis_score", "nearest_score", "statistics_score")
OF_FEATURES = ("noise_floor", "detail_cpp", "contrast", "skewness", "spectrum_slope", "entropy_bits")
QUANTITIES = (*OF_CLASSIFICATIONS, *OF_FEATURES)
SHOWN = ("imaging_distance", "defocus_nm")  # told per cohort, not tested
MOST = 400  # images of a cohort that are looked at
OF_LEDGER = ["micrograph_id", "uri", "instrument", "magnification", "acquired", "partition"]


class Drifting(NamedTuple):
    """What a workspace's sessions look like."""

    values: pd.DataFrame  # cohort, acquired, QUANTITIES and SHOWN of at most MOST images of each cohort
    drifts: pd.DataFrame  # as tables.DRIFTS


def drifting(root: str, settings: Settings) -> Drifting:
    """Sample every cohort (folder, instrument, magnification) of a run with a classifier, and test it."""
    values = _sampled(root, folders(settings))
    reference = _reference(models.locate(settings.classify.model))
    return Drifting(values, drift.drifts(values, reference, quantities=QUANTITIES))


def _sampled(root: str, where: dict[str, str]) -> pd.DataFrame:
    """A row per sampled micrograph: an even sample, as ids are hashes, and the same one each time."""
    there = {table: set(parts.part_names(root, where[table])) for table in ("classifications", "features")}
    columns = {"classifications": [*OF_CLASSIFICATIONS, "imaging_distance"], "features": [*OF_FEATURES, "defocus_nm"]}
    kept = pd.DataFrame(columns=["micrograph_id", "cohort", "acquired", *QUANTITIES, *SHOWN])
    for rows in ingest.current(root, OF_LEDGER):
        rows = rows.assign(cohort=cohorts.names(rows))
        for table, wanted in columns.items():
            names = [name for name in rows["partition"].unique() if name in there[table]]
            found = parts.read_table(root, where[table], SCHEMAS[table], ["micrograph_id", *wanted], partitions=names)
            rows = rows.merge(found, on="micrograph_id", how="inner", validate="one_to_one")
        rows = rows[kept.columns]
        kept = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        kept = kept.sort_values("micrograph_id", kind="stable").groupby("cohort", sort=False).head(MOST)
    return kept.drop(columns="micrograph_id").reset_index(drop=True)


def _reference(directory) -> pd.DataFrame | None:
    card = models.read_card(directory)
    if REFERENCE not in card.get("files", {}):
        return None
    values = safetensors.numpy.load_file(models.check_file(directory, REFERENCE, card))
    return pd.DataFrame({name: np.asarray(values[name], float) for name in QUANTITIES})
