"""Pages with the pictures of some rows, which the page loads on demand."""

import base64
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from emqa_dask.report.row_pages import format_call

PICTURES_PER_FILE = 24  # some 400 kB


def write_pictures(
    write: Callable[[str, str], None],
    rows: pd.DataFrame,
    jpegs: Mapping[str, bytes],
    boxes: Mapping[str, str],
    maps: Mapping[str, str],
    details: Mapping[str, Sequence],
) -> list[int]:
    """Positions of the rows with a picture, ascending. `write(name, text)` writes the file `name`.

    rows: tables.TRIAGE; the index is the position of each among all rows. The others are by micrograph_id: JPEG, boxes
    and entropy map (see overlays), and pairs of label and text.
    """
    rows = rows[rows["micrograph_id"].isin(jpegs.keys())]
    for number, first in enumerate(range(0, len(rows), PICTURES_PER_FILE)):
        own = rows.iloc[first : first + PICTURES_PER_FILE]
        ids = own["micrograph_id"].tolist()
        pictures = {
            "rows": own.index.tolist(),
            "jpeg": [base64.b64encode(jpegs[name]).decode() for name in ids],
            "boxes": [boxes.get(name) for name in ids],
            "maps": [maps.get(name) for name in ids],
            "details": [details.get(name) or None for name in ids],
        }
        write(f"thumbnails/{number:05d}.js", format_call("addPictures", pictures))
    return [int(position) for position in rows.index]
