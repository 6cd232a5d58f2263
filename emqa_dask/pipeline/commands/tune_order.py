"""emqa tune order: maps of the disordered regions of an archive's lattice images."""

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from emqa_dask import output_folders, tables
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.tasks.tune_order import map_micrograph
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import watch
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Settings
from emqa_dask.store import files, layout, parts

COLUMNS = ["micrograph_id", "uri", "frame", "stack", "index", "instrument", "magnification", "nm_per_pixel"]
MARKER = "emqa tune order.txt"  # says that the folder is ours, as workspace.json does of a workspace
MARKED = b"emqa tune order writes tables and overlays into this folder.\n"


def map_order(
    root: str, out: str, settings: Settings, globs: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> int:
    """Map the disorder of the micrographs of workspace `root`, all or those of URIs that match; into folder `out`.

    There are order.parquet, windows.parquet and points.parquet, folders of a part per micrograph which readers of
    Parquet take for one table each, and overlays/, a PNG per micrograph. One whose parts are there already is not done
    again. Gives 0, or 2 when some failed. ValueError where no URI matches, FileExistsError where `out` is not a folder
    of order maps and not empty.
    """
    layout.source_of(root)
    check_out(out)
    tasks = list(_tasks(root, out, settings, globs))
    if not tasks:
        which = f"whose URI matches {', '.join(globs)}" if globs else "in it"
        raise ValueError(f"{root}: there is no micrograph {which}: give an archive or a --cohort that has some")
    files.write_bytes(files.join(out, MARKER), MARKED)
    n_failed = 0
    with open_cluster(settings, (*PRELOAD, __name__), say) as client:
        results = execute(map_micrograph, tasks, stage="order", client=client, limits=Limits(settings.run.timeout_s))
        for result in watch(results, "order", len(tasks)):
            if result.outcome == "failed":
                n_failed += 1
                say(f"  failed: {result.task.args[1]['uri']}: {result.error}")
    done = parts.read_table(out, "order.parquet", tables.ORDER)
    shares = done["disordered_fraction"]
    said = f"{shares.gt(0).sum()} with disordered regions, {shares.eq(0).sum()} ordered, {shares.isna().sum()} unknown"
    say(f"{len(done)} micrographs: {said}; tables and overlays: {out}")
    return 2 if n_failed else 0


def check_out(out: str) -> None:
    """FileExistsError, with the remedy, where `out` is there, not empty and not a folder of order maps."""
    is_used = bool(files.names(out))
    if files.is_local(out):
        path = files.locate(out)[1]
        output_folders.check_parents(output_folders.absolute(path))
        is_used = os.path.lexists(path) and (not os.path.isdir(path) or bool(os.listdir(path)))
    if is_used and not _is_marked(out):
        raise FileExistsError(
            f"{files.redact(out)} is there and is not a folder of emqa tune order: nothing is written into it; give "
            "--out a new folder"
        )


def _is_marked(out: str) -> bool:
    fs, path = files.locate(files.join(out, MARKER))
    return fs.isfile(path) and fs.cat_file(path) == MARKED


def _tasks(root: str, out: str, settings: Settings, globs: tuple[str, ...]) -> Iterator[Task]:
    for rows in micrograph_ledger.current(root, COLUMNS):
        for row in rows.to_dict("records"):
            if not globs or any(fnmatchcase(row["uri"], pattern) for pattern in globs):
                how = settings.detect_of(row["uri"], row["instrument"], row["magnification"], row["nm_per_pixel"])
                yield Task(row["micrograph_id"], (root, row, out, how), 1)
