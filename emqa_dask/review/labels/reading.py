"""Labels of micrographs from a file of any known format, which its content tells."""

from pathlib import Path

from emqa_dask.coco.values import read_json
from emqa_dask.review.labels.coco import read_coco
from emqa_dask.review.labels.csv_tables import read_label_table
from emqa_dask.review.labels.micrograph import LabelledMicrograph


def read_labels(path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of the file `path`: COCO JSON, or a CSV file of points or counts.

    Raises ValueError, naming the file and the object, for labels that are damaged, outside their image or repeated.
    """
    if Path(path).suffix.lower() == ".csv":
        return read_label_table(path)
    return read_coco(read_json(path), path)
