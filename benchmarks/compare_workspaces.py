"""Are the results in two workspaces of one archive equal? Tables, thumbnails, triage.csv and stored pixels.

    python -m benchmarks.compare_workspaces BEFORE AFTER --renamed upright=axis_alignment

BEFORE and AFTER are workspaces that two versions of emqa made from the same archive. A table is found by its name; the
digest in the name of its folder depends on settings and models and is ignored. Rows are matched by the table's key, and
columns by name. NaN equals NaN, null equals null, and floats have to be equal unless --rtol is given.
Columns that differ between two runs of the same version are not compared; EXCLUDED_COLUMNS lists them. Settings,
models, events and provenance are no results and are not compared either. Exit code 1 when anything differs.
"""

import argparse
import csv
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

# The columns that identify a row. Rows with equal keys keep their order, which counts: detections are sorted by score.
KEYS = {
    "catalog": ("uri",),
    "micrographs": ("micrograph_id",),
    "thumbnails": ("micrograph_id",),
    "detections": ("micrograph_id",),
    "features": ("micrograph_id",),
    "evidence": ("micrograph_id", "detector"),
    "predictions": ("micrograph_id", "detector"),
    "probabilities": ("micrograph_id", "member"),
    "regions": ("micrograph_id",),
    "classifications": ("micrograph_id",),
    "sessions": ("cohort",),
    "drifts": ("cohort", "quantity", "reference"),
    "flags": ("micrograph_id", "flag"),
    "failures": ("uri", "stage", "kind"),
    "triage": ("uri", "frame"),
    "triage.csv": ("uri", "frame"),
}
EXCLUDED_COLUMNS = {
    "failures": ("worker", "peak_memory_bytes"),  # the worker that met a failure is chance
    "triage": ("partition",),  # it depends on which files were surveyed first
    "triage.csv": ("partition",),
}
MAX_TEXT = 70  # characters of a value that are printed
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class CompareOptions:
    """What may differ.

    The keys of `tables`, `columns` and `values` are old names; their values are new names. A column is "column" or
    "table.column". A text in `values` is a whole value, or a whole item of a list. `reworded` contains the new names of
    columns with texts of which only the numbers are compared.
    """

    tables: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    reworded: frozenset[str] = frozenset()
    rtol: float = 0.0


class Table(NamedTuple):
    """A table in memory: type and values by column, rows sorted by key."""

    types: dict[str, str]
    columns: dict[str, list]
    keys: tuple[str, ...]


class Comparison(NamedTuple):
    """Result of comparing one table, or the files of the stacks."""

    name: str
    n_rows: int  # or files
    n_columns: int
    differences: list[str]  # lines to print; none when equal


def find_table_files(workspace: Path, name: str) -> list[Path]:
    """Files of table `name`: one, or the parts in its current folder; none where the workspace lacks the table."""
    for single in (workspace / name, workspace / f"{name}.parquet"):
        if single.is_file():
            return [single]
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})?")
    folders = [path for path in sorted(workspace.iterdir()) if path.is_dir() and pattern.fullmatch(path.name)]
    if len(folders) > 1:
        current = json.loads((workspace / "provenance.json").read_text())["folders"][name]
        folders = [workspace / current]
    return [path for folder in folders for path in sorted(folder.glob("*.parquet"))]


def read_table(workspace: Path, name: str) -> Table | None:
    """Table `name`, unsorted and without key; None where the workspace lacks it."""
    files = find_table_files(workspace, name)
    if not files:
        return None
    if files[0].suffix == ".csv":
        return _read_csv(files[0])
    table = pa.concat_tables([pq.ParquetFile(path).read().replace_schema_metadata(None) for path in files])
    types = {column.name: str(column.type) for column in table.schema}
    return Table(types, {column: table[column].to_pylist() for column in table.column_names}, ())


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = csv.reader(stream)
    columns = {column: [_parse_number(row[k]) for row in rows] for k, column in enumerate(header)}
    return Table(dict.fromkeys(header, "text"), columns, ())


def _parse_number(text: str) -> float | str:
    return float(text) if NUMBER.fullmatch(text) else text


def rename_table(table: Table, name: str, options: CompareOptions) -> Table:
    """`table`, called `name` in the older workspace, with the new names of its columns and values."""
    renames = {column: _rename_column(name, column, options) for column in table.columns}
    types = {renames[column]: kind for column, kind in table.types.items()}
    columns = {renames[column]: values for column, values in table.columns.items()}
    if options.values:
        columns = {column: [_rename_value(value, options.values) for value in columns[column]] for column in columns}
    return Table(types, columns, table.keys)


def _rename_column(table: str, column: str, options: CompareOptions) -> str:
    return options.columns.get(f"{table}.{column}", options.columns.get(column, column))


def _rename_value(value: Any, renames: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_rename_value(item, renames) for item in value]
    return renames.get(value, value) if isinstance(value, str) else value


def sort_table(table: Table, keys: tuple[str, ...], excluded: tuple[str, ...]) -> Table:
    """`table` without the columns `excluded`, rows sorted by `keys`."""
    rows = list(zip(*([(value is not None, value) for value in table.columns[key]] for key in keys), strict=True))
    order = sorted(range(len(rows)), key=rows.__getitem__)
    columns = {column: [values[k] for k in order] for column, values in table.columns.items() if column not in excluded}
    return Table({column: table.types[column] for column in columns}, columns, keys)


def is_equal(before: Any, after: Any, rtol: float = 0.0) -> bool:
    """Are two values of a column equal? NaN equals NaN; lists are compared item by item."""
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(is_equal(a, b, rtol) for a, b in zip(before, after, strict=True))
    if isinstance(before, float) and isinstance(after, float):
        if math.isnan(before) or math.isnan(after):
            return math.isnan(before) and math.isnan(after)
        return math.isclose(before, after, rel_tol=rtol)
    return before == after


def has_equal_numbers(before: Any, after: Any) -> bool:
    """Do two texts, or lists of texts, contain the same numbers in any order? Null equals null only."""
    if before is None or after is None:
        return before is after
    a, b = (Counter(NUMBER.findall(" ".join(x) if isinstance(x, list) else str(x))) for x in (before, after))
    return a == b


def compare_tables(before: Table, after: Table, options: CompareOptions, n_shown: int = 3) -> Iterator[str]:
    """Lines that describe how two sorted tables differ; none when they are equal."""
    for column in sorted(before.columns.keys() - after.columns.keys()):
        yield f"column {column} is missing after"
    for column in sorted(after.columns.keys() - before.columns.keys()):
        yield f"column {column} is new"
    keys = [list(zip(*(table.columns[key] for key in table.keys), strict=True)) for table in (before, after)]
    if keys[0] != keys[1]:
        counts = Counter(keys[0]), Counter(keys[1])
        yield f"{len(keys[0])} rows before, {len(keys[1])} after"
        yield from (f"  row only before: {_format_key(key)}" for key in [*(counts[0] - counts[1])][:n_shown])
        yield from (f"  row only after: {_format_key(key)}" for key in [*(counts[1] - counts[0])][:n_shown])
        return
    for column in [column for column in before.columns if column in after.columns]:
        if before.types[column] != after.types[column]:
            yield f"{column} is {before.types[column]} before, {after.types[column]} after"
        yield from _compare_columns(column, before, after, keys[0], options, n_shown)


def _compare_columns(
    column: str, before: Table, after: Table, keys: list[tuple], options: CompareOptions, n_shown: int
) -> Iterator[str]:
    pairs = list(zip(before.columns[column], after.columns[column], strict=True))
    if column in options.reworded:
        unequal = [k for k, (a, b) in enumerate(pairs) if not has_equal_numbers(a, b)]
    else:
        unequal = [k for k, (a, b) in enumerate(pairs) if not is_equal(a, b, options.rtol)]
    if unequal:
        yield f"{column} differs in {len(unequal)} of {len(pairs)} rows"
    for k in unequal[:n_shown]:
        yield f"  {_format_key(keys[k])}: {_format_change(*pairs[k])}"


def _format_key(key: tuple) -> str:
    return ", ".join(map(str, key))


def _format_change(before: Any, after: Any) -> str:
    """Both values, from shortly before the first character in which they differ."""
    texts = [repr(before), repr(after)]
    n_common = next((k for k, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    start = max(n_common - MAX_TEXT // 2, 0)
    older, newer = (("..." if start else "") + text[start : start + MAX_TEXT] for text in texts)
    return f"{older} before, {newer} after"


def compare_table(name: str, before: Path, after: Path, options: CompareOptions) -> Comparison | None:
    """Comparison of table `name` (its old name) of two workspaces; None where neither has it."""
    renamed = options.tables.get(name, name)
    older = read_table(before, name)
    newer = read_table(after, renamed)
    if older is None and newer is None:
        return None
    if older is None or newer is None:
        return Comparison(name, 0, 0, ["the table is missing " + ("before" if older is None else "after")])
    older = rename_table(older, name, options)
    keys = tuple(_rename_column(name, key, options) for key in KEYS[name])
    if missing := [key for key in keys if key not in newer.columns]:
        return Comparison(renamed, 0, 0, [f"column {key} is missing after" for key in missing])
    excluded = tuple(_rename_column(name, column, options) for column in EXCLUDED_COLUMNS.get(name, ()))
    older = sort_table(older, keys, excluded)
    newer = sort_table(newer, keys, excluded)
    differences = list(compare_tables(older, newer, options))
    return Comparison(renamed, len(newer.columns[keys[0]]), len(newer.columns), differences)


def compare_pixels(before: Path, after: Path) -> Comparison:
    """Comparison of the stacks: the bytes of each shard, and Zarr's and OME's metadata without our own attributes."""
    older = {str(path.relative_to(before)): path for path in _list_stack_files(before)}
    newer = {str(path.relative_to(after)): path for path in _list_stack_files(after)}
    differences = [f"{name} is missing after" for name in sorted(older.keys() - newer.keys())]
    differences += [f"{name} is new" for name in sorted(newer.keys() - older.keys())]
    common = sorted(older.keys() & newer.keys())
    differences += [f"{name} differs" for name in common if _read_content(older[name]) != _read_content(newer[name])]
    return Comparison("micrographs.zarr", len(newer), 0, differences)


def _list_stack_files(workspace: Path) -> list[Path]:
    return [path for path in (workspace / "micrographs.zarr").rglob("*") if path.is_file()]


def _read_content(path: Path) -> Any:
    if path.name != "zarr.json":
        return path.read_bytes()
    document = json.loads(path.read_text())
    document["attributes"].pop("emqa_dask", None)
    return document


def compare_workspaces(before: Path, after: Path, options: CompareOptions) -> list[Comparison]:
    """Comparisons of all tables that either workspace has, and of the pixels."""
    compared = [compare_table(name, before, after, options) for name in KEYS]
    return [*(one for one in compared if one is not None), compare_pixels(before, after)]


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    add = parser.add_argument
    add("--renamed", action="append", default=[], metavar="OLD=NEW", help="a column, as COLUMN=NEW or TABLE.COLUMN=NEW")
    add("--renamed-table", action="append", default=[], metavar="OLD=NEW", help="a table")
    add("--renamed-value", action="append", default=[], metavar="OLD=NEW", help="a code, such as a reason or a flag")
    add("--reworded", action="append", default=[], metavar="COLUMN", help="texts: compare only the numbers in them")
    add("--rtol", type=float, default=0.0, metavar="X", help="relative tolerance of floats; default: 0, equal")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_options(arguments)
    columns, tables, values = (
        dict(pair.split("=", 1) for pair in pairs) for pairs in (args.renamed, args.renamed_table, args.renamed_value)
    )
    options = CompareOptions(tables, columns, values, frozenset(args.reworded), args.rtol)
    for workspace in (args.before, args.after):
        if not (workspace / "workspace.json").is_file():
            print(f"{workspace} is no workspace")
            return 1
    compared = compare_workspaces(args.before, args.after, options)
    print(f"{'table':18}{'rows':>8}{'columns':>9}  result")
    for one in compared:
        print(f"{one.name:18}{one.n_rows:8}{one.n_columns or '':>9}  {'differs' if one.differences else 'equal'}")
        for line in one.differences:
            print(f"    {line}")
    n_different = sum(bool(one.differences) for one in compared)
    print(f"{len(compared)} compared, {n_different} differ")
    return int(n_different > 0)


if __name__ == "__main__":
    sys.exit(main())
