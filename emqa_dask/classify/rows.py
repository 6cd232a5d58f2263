"""What an ensemble says of micrographs as rows of tables.PROBABILITIES."""

from collections.abc import Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.classify.ensemble import ImageOutputs

N_EMBEDDED_MEMBERS = (
    4  # members whose embeddings are kept: of one, distances tell less; all would be the bulk of the table
)


def make_probability_rows(
    micrograph_ids: Sequence[str],
    examined: Sequence[ImageOutputs],
    classifier: str,
    *,
    numbers: Sequence[int] | None = None,
    embedded: int = N_EMBEDDED_MEMBERS,
) -> pd.DataFrame:
    """Rows of tables.PROBABILITIES: one for each micrograph and member, in their order; see Ensemble.numbers.

    `classifier` is the card's name. The first `embedded` members' embeddings are kept: each member's
    mean another thing.
    """
    rows = []
    for key, one in zip(micrograph_ids, examined, strict=True):
        for k, number in enumerate(range(len(one.probabilities)) if numbers is None else numbers):
            row = {"micrograph_id": key, "classifier": classifier, "member": number}
            row |= {
                "probabilities": one.probabilities[k],
                "embedding": one.embeddings[k] if number < embedded else None,
            }
            rows.append(row)
    return pd.DataFrame(rows) if rows else tables.empty(tables.PROBABILITIES)
