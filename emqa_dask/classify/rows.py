"""What an ensemble says of micrographs as rows of tables.PROBABILITIES."""

from collections.abc import Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.classify.ensemble import Examined

EMBEDDED = 1  # members whose embeddings are kept: all of them would be the bulk of the table


def probability_rows(
    micrograph_ids: Sequence[str], examined: Sequence[Examined], classifier: str, *, embedded: int = EMBEDDED
) -> pd.DataFrame:
    """Rows of tables.PROBABILITIES: one for each micrograph and member, in their order.

    `classifier` is the card's name. The first `embedded` members' embeddings are kept: each member's
    mean another thing.
    """
    rows = [
        {
            "micrograph_id": key,
            "classifier": classifier,
            "member": member,
            "probabilities": one.probabilities[member],
            "embedding": one.embeddings[member] if member < embedded else None,
        }
        for key, one in zip(micrograph_ids, examined, strict=True)
        for member in range(len(one.probabilities))
    ]
    return pd.DataFrame(rows) if rows else tables.empty(tables.PROBABILITIES)
