"""emqa tune order: maps of the disordered regions of an archive's lattice images."""

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from emqa_dask import output_folders, tables
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.tasks.tune_order import map_micrograph
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Settings
from emqa_dask.store import files, marker, parts
from emqa_dask.store.layout import Workspace

COLUMNS = ["micrograph_id", "uri", "frame", "stack", "index", "instrument", "magnification", "nm_per_pixel"]
COLUMNS += ["nm_per_pixel_y"]
MARKER = "emqa tune order.txt"  # marks a folder of order maps, as workspace.json marks a workspace
MARKER_CONTENT = b"emqa tune order writes tables and overlays into this folder.\n"
Say = Callable[[str], None]


def map_order(root: str, out: str, settings: Settings, globs: tuple[str, ...] = (), say: Say = print) -> int:
    """Exit code: 0, or 2 when some micrographs failed. Maps the disorder of the micrographs of workspace `root`.

    With `globs` only the micrographs whose URI matches one of them are mapped. The folder `out` gets order.parquet,
    windows.parquet and points.parquet, and overlays/ with a PNG for each micrograph. Each table is a folder with a part
    for each micrograph, which Parquet readers read as one table. A micrograph with parts is not mapped again. Raises
    ValueError where no URI matches, and FileExistsError where `out` is not empty and not a folder of order maps.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    check_out(out)
    tasks = list(_make_tasks(workspace, out, settings, globs))
    if not tasks:
        condition = f"whose URI matches {', '.join(globs)}" if globs else "in it"
        raise ValueError(f"{root}: there is no micrograph {condition}: give an archive or a --cohort that has some")
    files.write_bytes(files.join(out, MARKER), MARKER_CONTENT)
    n_failed = 0
    with open_cluster(settings, (*PRELOAD, __name__), say) as client:
        results = execute(map_micrograph, tasks, stage="order", client=client, limits=Limits(settings.run.timeout_s))
        for result in show_progress(results, "order", len(tasks)):
            if result.outcome == "failed":
                n_failed += 1
                say(f"  failed: {result.task.args[1]['uri']}: {result.error}")
    say(f"{_describe_maps(out)}; tables and overlays: {out}")
    return 2 if n_failed else 0


def _describe_maps(out: str) -> str:
    """Numbers of micrographs with and without disordered regions."""
    maps = parts.read_table(out, "order.parquet", tables.LATTICE_ORDER)
    fraction = maps["disordered_fraction"]
    counts = f"{fraction.gt(0).sum()} with disordered regions, {fraction.eq(0).sum()} ordered"
    return f"{len(maps)} micrographs: {counts}, {fraction.isna().sum()} unknown"


def check_out(out: str) -> None:
    """Raises FileExistsError, with the remedy, where `out` is not empty and not a folder of order maps."""
    is_used = bool(files.list_names(out))
    if files.is_local(out):
        path = files.locate(out)[1]
        output_folders.check_parent_folders(output_folders.make_absolute(path))
        is_used = os.path.lexists(path) and (not os.path.isdir(path) or bool(os.listdir(path)))
    if is_used and not _has_marker(out):
        raise FileExistsError(
            f"{files.redact(out)} is there and is not a folder of emqa tune order: nothing is written into it; give "
            "--out a new folder"
        )


def _has_marker(out: str) -> bool:
    fs, path = files.locate(files.join(out, MARKER))
    return fs.isfile(path) and fs.cat_file(path) == MARKER_CONTENT


def _make_tasks(workspace: Workspace, out: str, settings: Settings, globs: tuple[str, ...]) -> Iterator[Task]:
    """A task for each micrograph that matches, with the detector's settings of its cohort."""
    for rows in micrograph_ledger.iter_current(workspace, COLUMNS):
        for row in rows.to_dict("records"):
            if not globs or any(fnmatchcase(row["uri"], pattern) for pattern in globs):
                place = (row["uri"], row["instrument"], row["magnification"])
                pixel_side_nm = float(compute_pixel_side_nm(row["nm_per_pixel"], row["nm_per_pixel_y"]))
                detect = settings.resolve_detect_settings(*place, pixel_side_nm)
                windows = settings.resolve_detect_windows(*place)
                yield Task(row["micrograph_id"], (workspace, row, out, detect, windows), 1)
