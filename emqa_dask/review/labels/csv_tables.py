"""Labels of a CSV file: points (uri,y,x) or counts (uri,n_objects)."""

from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors

MAX_OBJECTS = 10_000_000  # of an image; more is no count that a person made
HEADERS = {"counts": ("uri", "n_objects"), "points": ("uri", "y", "x")}


def read_label_table(path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of a CSV file with one of HEADERS and, optionally, a column `frame`.

    Counts: a row per image. Points: a row per object, y and x in px from the upper left corner of the image; a row with
    empty y and x is an image without objects. Raises ValueError, naming file and line, for other headers, empty cells,
    values that are no number, negative counts and images that are counted twice.
    """
    table = _read_csv(path)
    kind = _find_kind(table, path)
    if table.empty:
        raise ValueError(f"{path}: it has no images")
    numbers = table[[name for name in (*HEADERS[kind][1:], "frame") if name in table]].apply(_parse_column)
    faults = _find_faults(table, numbers, kind)
    if faults:
        raise ValueError(f"{path}: {list_errors(faults)}")
    frames = numbers["frame"].astype(int) if "frame" in numbers else pd.Series(0, table.index)
    labels = []
    for (name, frame), rows in numbers.groupby([table["uri"], frames], sort=False):
        if kind == "counts":
            labels.append(LabelledMicrograph(name, int(frame), None, n_objects=int(rows["n_objects"].iloc[0])))
        else:
            points = rows[["y", "x"]].dropna().to_numpy(dtype=np.float64)
            labels.append(LabelledMicrograph(name, int(frame), None, points=points))
    return labels


def _read_csv(path: str | Path) -> pd.DataFrame:
    """The file's cells as texts without surrounding blanks; ValueError for what is no CSV."""
    try:
        table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # also of its encoding
        raise ValueError(f"{path}: no CSV in UTF-8 with a header uri,n_objects or uri,y,x: {error}") from error
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror}): give a CSV file of labels") from error
    table = table.apply(lambda column: column.str.strip())
    table.columns = table.iloc[0].tolist()
    table = table.iloc[1:].reset_index(drop=True)
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{path}: the column {repeated} occurs twice; keep one of them")
    return table


def _find_kind(table: pd.DataFrame, path: str | Path) -> str:
    """The kind of HEADERS that the table has; ValueError for none and for both."""
    kinds = [kind for kind, header in HEADERS.items() if set(header) <= set(table.columns)]
    if len(kinds) != 1:
        columns = ", ".join(map(str, table.columns[:10]))
        raise ValueError(f"{path}: its header has to be uri,n_objects or uri,y,x[,frame]; it has the columns {columns}")
    return kinds[0]


def _parse_column(column: pd.Series) -> pd.Series:
    """Numbers of a column of texts; NaN for empty cells and for anything else."""
    return pd.to_numeric(column, errors="coerce").astype(np.float64)


def _find_faults(table: pd.DataFrame, numbers: pd.DataFrame, kind: str) -> list[str]:
    """Faults of cells and repeated images, by line."""
    faults = [f"line {k + 2}: uri is empty" for k in np.flatnonzero(table["uri"] == "")]
    is_empty = pd.DataFrame({name: table[name] == "" for name in numbers})
    if kind == "points":  # y and x may be empty together: an image without objects
        is_open = is_empty["y"] & is_empty["x"]
        is_empty = is_empty.assign(y=is_empty["y"] & ~is_open, x=is_empty["x"] & ~is_open)
        repeated = is_open & table.duplicated(["uri", *_list_frame_columns(table)], keep=False)
        faults += [
            f"line {k + 2}: {table['uri'][k]!r} has points and a row without one" for k in np.flatnonzero(repeated)
        ]
    else:
        repeated = table.duplicated(["uri", *_list_frame_columns(table)])
        faults += [f"line {k + 2}: {table['uri'][k]!r} is counted twice" for k in np.flatnonzero(repeated)]
    for name, values in numbers.items():
        is_whole = name in ("n_objects", "frame")
        is_bad = ~np.isfinite(values) & (table[name] != "")
        if is_whole:
            is_bad |= (values < 0) | (values > MAX_OBJECTS) | (values % 1 > 0)
        demand = f"a whole number from 0 to {MAX_OBJECTS:,}" if is_whole else "a number of pixels"
        faults += [f"line {k + 2}: {name} is {table[name][k][:40]!r}: {demand}" for k in np.flatnonzero(is_bad)]
        faults += [f"line {k + 2}: {name} is empty" for k in np.flatnonzero(is_empty[name])]
    return faults


def _list_frame_columns(table: pd.DataFrame) -> list[str]:
    return ["frame"] if "frame" in table else []
