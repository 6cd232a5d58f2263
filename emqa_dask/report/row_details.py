"""Details of the rows in view: texts, identities and numbers that the table neither sorts nor filters by."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.report.formatting import escape_invisible

TEXTS = {  # name on the page -> column of tables.TRIAGE
    "text": "explanation",
    "because": "because",
    "id": "micrograph_id",
    "partition": "partition",
    "detector": "detector",
    "source": "nm_per_pixel_source",
}
INTEGERS = {"height": "height_px", "width": "width_px"}
NUMBERS = {  # name on the page -> column, decimal digits
    "precision": ("predicted_precision", 4),
    "precision_low": ("predicted_precision_low", 4),
    "precision_high": ("predicted_precision_high", 4),
    "recall": ("predicted_recall", 4),
    "recall_low": ("predicted_recall_low", 4),
    "recall_high": ("predicted_recall_high", 4),
    "agreement": ("detector_agreement", 4),
    "nm_y": ("nm_per_pixel_y", 6),
    "defocus": ("defocus_nm", 1),
    "density": ("density_per_um2", 6),
    "diameter": ("mean_diameter_nm", 3),
    "area_fraction": ("area_fraction", 5),
    "swelling": ("swelling_percent", 4),
    "mutual": ("mutual_information_nats", 5),
}


def list_row_details(rows: pa.Table) -> dict[str, list]:
    """Details of `rows` (tables.TRIAGE) by name: a value per row, None where it is unknown."""
    details = {name: _list_texts(rows[column]) for name, column in TEXTS.items()}
    details |= {name: rows[column].to_pylist() for name, column in INTEGERS.items()}
    for name, (column, digits) in NUMBERS.items():
        numbers = pc.round(rows[column], digits)
        details[name] = pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64())).to_pylist()
    uris = pc.dictionary_encode(rows["uri"].combine_chunks()).indices.to_numpy()
    is_stacked = (np.bincount(uris)[uris] > 1) | (rows["frame"].to_numpy() > 0)
    details["stacked"] = is_stacked.astype(int).tolist()
    return details


def _list_texts(texts: pa.ChunkedArray) -> list[str | None]:
    """Texts with invisible characters written out; None for missing ones."""
    return [None if text is None else escape_invisible(text) for text in texts.to_pylist()]
