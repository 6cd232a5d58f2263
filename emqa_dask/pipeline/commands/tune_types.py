"""emqa tune types: types of the atomic columns of a workspace's lattice images."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from emqa_dask import tables
from emqa_dask.number_ranges import check_integer, check_seed
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.tasks.tune_types import TypeRequest, map_partition
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Settings, digest
from emqa_dask.store import files, lock, marker, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.tune.atom_types import MAX_TYPES, MIN_COLUMNS

COLUMNS = ["micrograph_id", "uri", "frame", "stack", "index", "partition"]
VERSION = 1  # of the maps; raised when the same detections and options give others
N_NAMED_IMAGES = 5  # whose types are unknown
Say = Callable[[str], None]


def map_types(
    root: str,
    settings: Settings,
    globs: tuple[str, ...] = (),
    *,
    max_types: int = MAX_TYPES,
    seed: int = 0,
    say: Say = print,
) -> int:
    """Exit code: 0, or 2 when some micrographs failed. Maps the types of the atomic columns of workspace `root`.

    With `globs` only the micrographs whose URI matches one of them are mapped. The columns are the detections of log,
    or of the first detector where log did not look. The workspace gets the tables ATOM_MAPS, ATOM_TYPES and
    ATOM_COLUMNS and a picture of each micrograph. A micrograph that was mapped with these options is not mapped again.
    Raises ValueError, with the remedy, where detections are missing, no URI matches, or `max_types` or `seed` is
    impossible.
    """
    marker.read_source(root)
    workspace = Workspace(root)
    request = _make_request(settings, max_types, seed)
    tasks = _make_tasks(workspace, request, globs)
    n_failed = 0
    with lock.hold_lock(root, say), open_cluster(settings, (*PRELOAD, __name__), say) as client:
        results = execute(map_partition, tasks, stage="types", client=client, limits=Limits(settings.run.timeout_s))
        for result in show_progress(results, "types", len(tasks)):
            n_failed += result.value.get("n_failed", result.task.n_images)
            if result.outcome == "failed":
                say(f"  failed: {result.task.name}: {result.error}")
    _describe_maps(workspace, {task.name for task in tasks}, say)
    return 2 if n_failed else 0


def _make_request(settings: Settings, max_types: int, seed: int) -> TypeRequest:
    check_integer("--max-types", max_types, 1)
    check_seed("--seed", seed)
    detectors = list(name_detectors(settings.detect))
    detector = "log" if "log" in detectors else detectors[0]
    inputs = (list_run_folders(settings)["detections"], detector, settings.featurise.score_floor, max_types, seed)
    return TypeRequest(*inputs, digest("tune types", VERSION, *inputs))


def _make_tasks(workspace: Workspace, request: TypeRequest, globs: tuple[str, ...]) -> list[Task]:
    """A task for each partition with micrographs that match.

    Raises ValueError where a partition has no detections, and where none matches.
    """
    tasks = []
    for rows in micrograph_ledger.iter_current(workspace, COLUMNS):
        if globs:
            rows = rows[[any(fnmatchcase(uri, pattern) for pattern in globs) for uri in rows["uri"]]]
        for name, own in rows.groupby("partition", sort=False):
            packed = micrograph_ledger.pack_rows(own)
            tasks.append(Task(str(name), (workspace, str(name), packed, request), len(own)))
    if not tasks:
        condition = f"whose URI matches {', '.join(globs)}" if globs else "in it"
        raise ValueError(
            f"{files.redact(workspace.uri)}: there is no micrograph {condition}: "
            "give a workspace or a --cohort with some"
        )
    if missing := {task.name for task in tasks} - set(parts.list_parts(workspace.uri, request.detections)):
        command = marker.format_command("detect", workspace.uri)
        raise ValueError(
            f"{files.redact(workspace.uri)}: {len(missing):,} of {len(tasks):,} partitions have no detections with "
            f"these settings; types are those of detected columns: run {command} first, with the same settings"
        )
    return tasks


def _describe_maps(workspace: Workspace, names: set[str], say: Say) -> None:
    """Says how many micrographs have which number of types, and names some whose types are unknown."""
    columns = ["uri", "n_types", "verdict"]
    partition_names = sorted(names.intersection(parts.list_parts(workspace.uri, "atom_maps")))
    maps = parts.read_table(workspace.uri, "atom_maps", tables.ATOM_MAPS, columns, partition_names)
    unknown = maps[maps["n_types"].isna()]
    for row in unknown.head(N_NAMED_IMAGES).itertuples():
        say(f"  {row.uri}: {row.verdict}")
    if len(unknown) > N_NAMED_IMAGES:
        say(f"  and {len(unknown) - N_NAMED_IMAGES:,} more; an image needs {MIN_COLUMNS} columns")
    counts = maps["n_types"].dropna().astype(int).value_counts().sort_index()
    texts = [f"{n:,} with {k} type{'s' if k > 1 else ''}" for k, n in counts.items()]
    summary = ", ".join([*texts, f"{len(unknown):,} unknown"])
    say(f"{len(maps):,} micrographs: {summary}; atom_maps, atom_types, atom_columns and atom_overlays: {workspace.uri}")
