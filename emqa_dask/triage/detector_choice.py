"""Which detector a micrograph's verdict rests on, where several have looked at it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def chosen(
    evidence: pd.DataFrame, predictions: pd.DataFrame, order: Sequence[str], max_ood_distance: float
) -> pd.DataFrame:
    """One row for every micrograph_id of `evidence`, with the columns of both tables: that of one detector.

    The detector whose predicted F1 has the highest lower end, of those in whose domain the image is (distance at most
    `max_ood_distance`; unknown counts as in it); where no F1 is predicted, the first in `order`. Evidence without a
    prediction stays, with nulls. Both tables have one row for each (micrograph_id, detector). Predictions of what is
    not in `evidence` are left out. No rows give no rows.
    """
    keys = ["micrograph_id", "detector"]
    both = evidence.merge(predictions.assign(is_predicted=True), on=keys, how="left", validate="one_to_one")
    low = both["predicted_f1_low"].to_numpy(float)
    is_out = both["ood_distance"].gt(max_ood_distance).to_numpy()
    place = both["detector"].map({name: k for k, name in enumerate(order)}).fillna(len(order)).to_numpy()
    rank = np.lexsort((place, -np.nan_to_num(low, nan=-1.0), is_out | np.isnan(low)))
    first = both.iloc[rank].drop_duplicates("micrograph_id")
    return first.sort_index(ignore_index=True)
