"""Labels of a CSV file: points (uri,y,x), counts (uri,n_objects) or boxes (uri,y0,x0,y1,x1)."""

from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.coco.masks import AnnotationErrorMaker, decode_mask
from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.review.labels.shapes import Outline, make_box, make_mask, make_point

MAX_OBJECTS = 10_000_000  # of an image; more is no count that a person made
HEADERS = {"boxes": ("y0", "x0", "y1", "x1"), "counts": ("n_objects",), "points": ("y", "x")}
NAMES = ("uri", "content_sha256")  # columns of which one names the image
WHOLE_NUMBERS = ("n_objects", "frame", "height_px", "width_px")


def read_label_table(path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of a CSV file with the columns of one of HEADERS and one of NAMES; `frame` is optional.

    Counts: a row per image. Points: a row per object, y and x in px from the upper left corner of the image. Boxes: a
    row per object, half-open, px; `mask_rle` with `height_px` and `width_px` is its mask, `object` its identity. A row
    with empty coordinates is an image without objects; `label` is the object's class. Raises ValueError, naming file
    and line, for other headers, empty cells, values that are no number, negative counts and images that are counted
    twice.
    """
    table = read_text_table(path, "uri,n_objects or uri,y,x")
    kind = _find_kind(table, path)
    if table.empty:
        raise ValueError(f"{path}: it has no images")
    columns = [name for name in (*HEADERS[kind], *WHOLE_NUMBERS) if name in table]
    numbers = table[list(dict.fromkeys(columns))].apply(_parse_column)
    faults = _find_faults(table, numbers, kind)
    if faults:
        raise ValueError(f"{path}: {list_errors(faults)}")
    frames = numbers["frame"].astype(int) if "frame" in numbers else pd.Series(0, table.index)
    names = [table[name] if name in table else pd.Series("", table.index) for name in NAMES]
    if kind == "counts":
        rows = zip(*names, frames, numbers["n_objects"].astype(int), strict=True)
        return [
            LabelledMicrograph(uri, int(frame), None, n_objects=int(n), content_sha256=digest.lower())
            for uri, digest, frame, n in rows
        ]
    labels = LabelCollection(path)
    for k, key in enumerate(zip(*names, frames, strict=True)):
        labels.add_image(key, key[0], int(key[2]), _get_shape(numbers, k), key[1])
        if not np.isnan(numbers[HEADERS[kind][0]].iloc[k]):
            outline = _make_outline(table, numbers, kind, k, path)
            label, object_id = (table[name].iloc[k] if name in table else "" for name in ("label", "object"))
            labels.add_object(key, f"line {k + 2}", outline, label, object_id)
    return labels.list_micrographs()


def _get_shape(numbers: pd.DataFrame, k: int) -> tuple[int, int] | None:
    """Height and width, px, of the image of row `k`; None without these columns."""
    if "height_px" not in numbers or "width_px" not in numbers:
        return None
    return int(numbers["height_px"].iloc[k]), int(numbers["width_px"].iloc[k])


def _make_outline(table: pd.DataFrame, numbers: pd.DataFrame, kind: str, k: int, path: str | Path) -> Outline:
    """The object of row `k`."""
    if kind == "points":
        return make_point(float(numbers["y"].iloc[k]), float(numbers["x"].iloc[k]))
    y0, x0 = numbers[["y0", "x0"]].iloc[k].tolist()
    y1, x1 = numbers[["y1", "x1"]].iloc[k].tolist()
    shape = _get_shape(numbers, k)
    counts = table["mask_rle"].iloc[k] if "mask_rle" in table else ""
    if not counts or shape is None:
        return make_box(y0, x0, y1, x1)
    make_error = AnnotationErrorMaker(Path(path), f"line {k + 2}")
    return make_mask(decode_mask({"size": list(shape), "counts": counts}, shape, make_error), (y0, x0, y1, x1))


def read_text_table(path: str | Path, header: str) -> pd.DataFrame:
    """The file's cells as texts without surrounding blanks; ValueError for what is no CSV.

    The header is read as a row, so that a row with more cells is an error, and not one with an index. `header`: the
    columns that the message asks for.
    """
    try:
        table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # also of its encoding
        raise ValueError(f"{path}: no CSV in UTF-8 with a header {header}: {error}") from error
    table = table.fillna("").apply(lambda column: column.str.strip())  # rows may lack their last cells
    table.columns = table.iloc[0].tolist()
    table = table.iloc[1:].reset_index(drop=True)
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{path}: the column {repeated} occurs twice; keep one of them")
    return table


def _find_kind(table: pd.DataFrame, path: str | Path) -> str:
    """The kind of HEADERS that the table has; ValueError for none and for several."""
    kinds = [kind for kind, header in HEADERS.items() if set(header) <= set(table.columns)]
    if len(kinds) != 1 or not set(NAMES) & set(table.columns):
        columns = ", ".join(map(str, table.columns[:10]))
        raise ValueError(
            f"{path}: its header has to be uri,n_objects or uri,y,x[,frame] or uri,y0,x0,y1,x1; it has the columns "
            f"{columns}"
        )
    return kinds[0]


def _parse_column(column: pd.Series) -> pd.Series:
    """Numbers of a column of texts; NaN for empty cells and for anything else."""
    return pd.to_numeric(column, errors="coerce").astype(np.float64)


def _find_faults(table: pd.DataFrame, numbers: pd.DataFrame, kind: str) -> list[str]:
    """Faults of cells and repeated images, by line."""
    names = [name for name in NAMES if name in table]
    has_name = (table[names] != "").any(axis=1)
    faults = [f"line {k + 2}: {names[0]} is empty" for k in np.flatnonzero(~has_name)]
    name = table[names[0]]
    keys = [*names, *(["frame"] if "frame" in table else [])]
    is_empty = pd.DataFrame({column: table[column] == "" for column in numbers})
    if kind == "counts":
        repeated = table.duplicated(keys)
        faults += [f"line {k + 2}: {name[k]!r} is counted twice" for k in np.flatnonzero(repeated)]
    else:  # the coordinates may be empty together: an image without objects
        coordinates = list(HEADERS[kind])
        is_open = is_empty[coordinates].all(axis=1)
        is_empty[coordinates] &= ~is_open.to_numpy()[:, None]
        repeated = is_open & table.duplicated(keys, keep=False)
        faults += [f"line {k + 2}: {name[k]!r} has {kind} and a row without one" for k in np.flatnonzero(repeated)]
    for column, values in numbers.items():
        is_whole = column in WHOLE_NUMBERS
        is_bad = ~np.isfinite(values) & (table[column] != "")
        if is_whole:
            is_bad |= (values < 0) | (values > MAX_OBJECTS) | (values % 1 > 0)
        demand = f"a whole number from 0 to {MAX_OBJECTS:,}" if is_whole else "a number of pixels"
        faults += [f"line {k + 2}: {column} is {table[column][k][:40]!r}: {demand}" for k in np.flatnonzero(is_bad)]
        faults += [f"line {k + 2}: {column} is empty" for k in np.flatnonzero(is_empty[column])]
    return faults
