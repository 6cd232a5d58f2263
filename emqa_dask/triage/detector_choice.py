"""The detector that the verdict on a micrograph depends on, of several."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def select_detector(
    evidence: pd.DataFrame, predictions: pd.DataFrame, order: Sequence[str], max_ood_distance: float
) -> pd.DataFrame:
    """One row for every micrograph_id of `evidence`, with the columns of both tables: that of one detector.

    Selected is the detector whose predicted F1 has the highest lower end, among those whose domain contains the image
    (distance at most `max_ood_distance`, or unknown); where no F1 is predicted, the first in `order` that has a quality
    model. Both tables have
    one row for each (micrograph_id, detector); ValueError otherwise. Evidence without a prediction stays, with nulls
    and without `is_predicted`. Predictions without evidence are left out. No rows give no rows.
    """
    keys = ["micrograph_id", "detector"]
    for table in (evidence, predictions):
        if table.duplicated(keys).any():
            raise ValueError(f"micrograph_id {table['micrograph_id'][table.duplicated(keys)].iloc[0]!r} occurs twice")
    evidence_with_predictions = evidence.merge(predictions.assign(is_predicted=True), on=keys, how="left")
    low = evidence_with_predictions["predicted_f1_low"].to_numpy(float)
    is_out = evidence_with_predictions["ood_distance"].gt(max_ood_distance).to_numpy()
    position = (
        evidence_with_predictions["detector"]
        .map({name: k for k, name in enumerate(order)})
        .fillna(len(order))
        .to_numpy()
    )
    has_no_model = evidence_with_predictions["evidence"].eq("no_model").to_numpy(bool)
    rank = np.lexsort((position, has_no_model, -np.nan_to_num(low, nan=-1.0), is_out | np.isnan(low)))
    first = evidence_with_predictions.iloc[rank].drop_duplicates("micrograph_id")
    return first.sort_index(ignore_index=True)
