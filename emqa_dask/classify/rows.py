"""Outputs of an ensemble as rows of tables.PROBABILITIES."""

from collections.abc import Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.classify.ensemble import ImageOutputs

N_EMBEDDED_MEMBERS = 4  # members: distances of one say less, embeddings of all would be the bulk of the table


def make_probability_rows(
    micrograph_ids: Sequence[str],
    outputs: Sequence[ImageOutputs],
    classifier: str,
    *,
    member_numbers: Sequence[int] | None = None,
    n_embedded: int = N_EMBEDDED_MEMBERS,
) -> pd.DataFrame:
    """Rows of tables.PROBABILITIES: one for each micrograph and member, in their order.

    `classifier` is the card's name, `member_numbers` are `Ensemble.member_numbers` (None: 0, 1, ...). Embeddings are
    stored for members with a number below `n_embedded`: members have embeddings of their own, which are not comparable.
    No micrographs give an empty table with all columns.
    """
    rows = []
    for micrograph_id, output in zip(micrograph_ids, outputs, strict=True):
        numbers_of_members = range(len(output.probabilities)) if member_numbers is None else member_numbers
        for k, number in enumerate(numbers_of_members):
            rows.append(
                {
                    "micrograph_id": micrograph_id,
                    "classifier": classifier,
                    "member": number,
                    "probabilities": output.probabilities[k],
                    "embedding": output.embeddings[k] if number < n_embedded else None,
                }
            )
    return pd.DataFrame(rows) if rows else tables.empty(tables.PROBABILITIES)
