"""Checks of stored files against their checksums; damaged files are put aside and made again."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm import tqdm

from emqa_dask import models
from emqa_dask.partition import Partition
from emqa_dask.pipeline.workspace import (
    damaged_tables,
    failures,
    image_page_index,
    journal,
    micrograph_ledger,
    preconditions,
    provenance,
)
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FILES, SURVEY_FRAMES, name_failures_folder
from emqa_dask.pipeline.workspace.stages import list_downstream_tables, list_run_folders
from emqa_dask.settings import Settings, Store
from emqa_dask.store import aside, files, layout, lock, marker, micrographs, parts, stacks, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
READERS = 4  # threads that read the stored files
GIB = 2**30
THUMBNAILS = layout.name_table_folder("thumbnails")


def put_aside_damaged_tables(
    workspace: Workspace, settings: Settings, say: Say, *, all_files: bool = False, has_pixels: bool = True
) -> int:
    """Number of damaged files of `workspace`, except outputs of the report. Puts them aside and reports each.

    Tables of runs with these `settings` are read (`all_files`: of all runs), and the stored pixels unless they exceed
    store.verify_gib or no step needs pixels (`has_pixels`). Where a shard is missing or damaged, the part of thumbnails
    that was made with it is put aside. A damaged ledger is replaced by its copy. A bucket has its own checksums, so
    that only missing files are searched there, unless `all_files`. The caller holds the workspace's lock.
    """
    names = files.list_names(workspace.uri)
    if not any(workspace.catalog.endswith(f"/{name}") or name.startswith("micrographs") for name in names):
        return 0  # nothing was stored yet
    is_read = all_files or files.is_local(workspace.uri)
    n_damaged = _examine_ledger(workspace, say) + _examine_catalog(workspace, say)
    if is_read:
        part_folders = workspace.list_table_folders() if all_files else _list_run_folders(settings)
        n_damaged += _examine_parts(workspace, part_folders, list_run_folders(settings), say)
    partitions = list(micrograph_ledger.list_partitions(workspace))
    n_damaged += _examine_stacks(workspace, partitions, settings.store, say)
    limit_bytes = math.inf if all_files else settings.store.verify_gib * GIB
    return n_damaged + _examine_shards(workspace, partitions, limit_bytes, is_read and has_pixels, say)


def verify(root: str, say: Say) -> int:
    """Exit code: 0, or 2 for damaged files. Reads every stored file of workspace `root` and puts damaged ones aside.

    Raises ValueError, with the remedy, where the settings or a model are damaged.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    settings = stored_settings.read_settings(root)
    models.verify_models(
        (*settings.detect.networks, *settings.predict.models, *filter(None, [settings.classify.model]))
    )
    with lock.hold_lock(root, say):
        listed = {
            workspace.part(folder, name) for folder, name in _list_parts(workspace, list_run_folders(settings).values())
        }
        missing_uris = [] if files.exists(workspace.catalog) else [workspace.catalog]
        if not any(map(files.exists, (workspace.micrographs, workspace.micrographs_copy))):
            missing_uris.append(workspace.micrographs)
        n_damaged = put_aside_damaged_tables(workspace, settings, say, all_files=True)
        n_lost = damaged_tables.put_aside_damaged(workspace, say)
        document = provenance.read(workspace)
        missing_uris += [uri for uri in preconditions.find_missing_parts(workspace, settings) if uri not in listed]
        missing_uris += (
            [workspace.failures] if document and not damaged_tables.read_checksum(workspace.failures) else []
        )
        missing_uris += [workspace.provenance] if not document and files.exists(workspace.triage) else []
        damaged_pages = image_page_index.find_damaged_pages(workspace) if document else []
        missing_uris += [*provenance.find_damaged_outputs(workspace, document)]
        for uri in (*missing_uris, *map(workspace.image_data, damaged_pages)):
            n_damaged += 1
            say(f"damaged or missing: {uri}")
        if damaged_pages:
            image_page_index.forget_pages(workspace, damaged_pages)
    if n_damaged:
        command = marker.format_triage_command(root, marker.read_sources(root))
        say(f"{n_damaged:,} files are damaged: {command} makes them again")
    elif not n_lost:
        say("every stored file is as it was written")
    return 2 if n_damaged or n_lost else 0


def _list_run_folders(settings: Settings) -> list[str]:
    table_folders = list(dict.fromkeys(list_run_folders(settings).values()))
    surveyed = [SURVEY_FILES, SURVEY_FRAMES, name_failures_folder(SURVEY_FILES)]
    return [*table_folders, *map(name_failures_folder, table_folders), *surveyed, journal.EVENTS]


def _examine_ledger(workspace: Workspace, say: Say) -> int:
    """1 for a damaged ledger or copy of it, else 0. Restores one from the other."""
    ledger = workspace.micrographs
    copy = workspace.micrographs_copy
    checksums = damaged_tables.read_checksum(ledger), damaged_tables.read_checksum(copy)
    if not any(map(files.exists, (ledger, copy))) or (checksums[0] and checksums[0] == checksums[1]):
        return 0
    is_copy_damaged = files.exists(copy) and not checksums[1]
    if checksums[0]:
        aside.copy_ledger(workspace.uri)  # where a run was killed before it had done so, nothing is damaged
        if is_copy_damaged:
            say(f"damaged: {copy}, made again")
        return int(is_copy_damaged)
    aside.put_aside(workspace.uri, ledger)
    if checksums[1]:
        files.copy_file(copy, ledger)
        say(f"damaged or missing: {ledger}, replaced by its copy")
    else:
        aside.put_aside(workspace.uri, copy)
        say(f"damaged: {ledger} and its copy; `emqa triage` reads the archive anew, and all is made again")
    return 1


def _examine_catalog(workspace: Workspace, say: Say) -> int:
    uri = workspace.catalog
    if not files.exists(uri) or damaged_tables.read_checksum(uri):
        return 0
    say(f"damaged: {uri}, put aside as {aside.put_aside(workspace.uri, uri)}; `emqa triage` reads the archive anew")
    return 1


def _examine_parts(workspace: Workspace, part_folders: Iterable[str], table_folders: dict[str, str], say: Say) -> int:
    """Number of damaged parts in the folders `part_folders`. Puts them aside with the tables that depend on them.

    A part whose failures are missing is made again, with all tables of `table_folders` that were made from it.
    """
    part_pairs = _list_parts(workspace, part_folders)
    n_damaged = 0
    with ThreadPoolExecutor(READERS) as pool:
        counts = pool.map(_count_failed, [workspace.part(folder, name) for folder, name in part_pairs])
        for (folder, name), n_failed in zip(part_pairs, counts, strict=True):
            uri = workspace.part(folder, name)
            if n_failed is None:
                say(f"damaged: {uri}, put aside as {aside.put_aside(workspace.uri, uri)}")
                table = _find_paired_folder(folder)
            elif n_failed and not files.exists(workspace.part(name_failures_folder(folder), name)):
                say(f"missing: {workspace.part(name_failures_folder(folder), name)}; what it belongs to is made again")
                table = folder
            else:
                continue
            n_damaged += 1
            if table:
                aside.put_aside(workspace.uri, workspace.part(table, name))
            if dependent := [table_name for table_name in table_folders if table_folders[table_name] == table]:
                failures.drop_parts(
                    workspace, table_folders, list_downstream_tables(dependent[0], table_folders)[1:], name
                )
    return n_damaged


def _list_parts(workspace: Workspace, part_folders: Iterable[str]) -> list[tuple[str, str]]:
    """(folder, name) of the parts in the folders `part_folders`."""
    return [(folder, name) for folder in part_folders for name in parts.list_parts(workspace.uri, folder)]


def _count_failed(uri: str) -> int | None:
    """Number of images that failed when the part at `uri` was made; None where it is damaged."""
    try:
        return parts.read_n_failed(uri)
    except (FileNotFoundError, parts.DamagedTable):
        return None


def _find_paired_folder(folder: str) -> str:
    """The folder whose parts are valid only with those of `folder`, such as a table with its failures; "" for none."""
    if folder == SURVEY_FRAMES:
        return SURVEY_FILES
    start = name_failures_folder("")
    return folder.removeprefix(start) if folder.startswith(start) else ""


def _examine_stacks(workspace: Workspace, partitions: Sequence[Partition], settings: Store, say: Say) -> int:
    """Number of stacks with missing or damaged metadata, which are written again."""
    stack_partitions: dict[str, list[Partition]] = {}
    for partition in partitions:
        stack_partitions.setdefault(partition.stack, []).append(partition)
    damaged = [name for name in stack_partitions if stacks.is_damaged(workspace.uri, name)]
    if damaged:
        stacks.write_root(workspace.uri)
    for name in damaged:
        *shape, dtype = layout.parse_shape(name)
        stacks.open_or_grow(
            workspace.uri,
            name,
            tuple(shape),
            dtype,
            shard_length=_find_shard_length(workspace, stack_partitions[name], settings),
            occupied=_merge_slot_ranges(stack_partitions[name]),
            settings=settings,
        )
        say(f"damaged: the metadata of {workspace.stack(name)}, written again")
    return len(damaged)


def _merge_slot_ranges(partitions: Sequence[Partition]) -> list[tuple[int, int]]:
    """Half-open ranges of assigned slots of one stack."""
    runs: list[tuple[int, int]] = []
    for partition in partitions:
        start = runs.pop()[0] if runs and runs[-1][1] == partition.start else partition.start
        runs.append((start, partition.stop))
    return runs


def _find_shard_length(workspace: Workspace, partitions: Sequence[Partition], settings: Store) -> int:
    """Micrographs per shard of a stack: the greatest common divisor of the partitions' starts, or the stored length."""
    starts = math.gcd(*(partition.start for partition in partitions))
    first_partition = partitions[0]
    return (
        starts
        or stacks.find_shard_length(workspace.uri, first_partition)
        or max(settings.shard_length, len(first_partition))
    )


def _examine_shards(
    workspace: Workspace, partitions: Iterable[Partition], limit_bytes: float, is_read: bool, say: Say
) -> int:
    """Number of missing or damaged shards. Puts their thumbnails aside, because one stage makes both."""
    names_with_thumbnails = set(parts.list_parts(workspace.uri, THUMBNAILS))
    stored_partitions = [partition for partition in partitions if partition.name in names_with_thumbnails]
    sizes = [_read_shard_bytes(workspace, partition) for partition in stored_partitions]
    is_read = is_read and sum(sizes) <= limit_bytes
    find_damaged = partial(_find_damaged_slots, workspace, is_read)
    n_damaged = 0
    with ThreadPoolExecutor(READERS) as pool, _open_progress_bar(sum(sizes) * is_read) as progress:
        for partition, size, damaged_slots in zip(
            stored_partitions, sizes, pool.map(find_damaged, stored_partitions, sizes), strict=True
        ):
            progress.update(size)
            if damaged_slots:
                n_damaged += 1
                aside.put_aside(workspace.uri, workspace.part(THUMBNAILS, partition.name))
                say(f"damaged: {len(damaged_slots)} of {len(partition)} stored micrographs of {partition.name}")
    return n_damaged


def _read_shard_bytes(workspace: Workspace, partition: Partition) -> int:
    """Bytes of the shard of `partition`; 0 without one."""
    return files.read_size(
        stacks.shard_uri(workspace.uri, partition, stacks.read_grid(workspace.uri, partition.stack).shard_length)
    )


def _find_damaged_slots(workspace: Workspace, is_read: bool, partition: Partition, size: int) -> list[int]:
    if is_read:
        return micrographs.find_damaged_slots(workspace.uri, partition)
    return [] if size else list(range(len(partition)))


def _open_progress_bar(n_bytes: int) -> tqdm:
    is_shown = sys.stderr.isatty() and n_bytes > GIB
    return tqdm(total=n_bytes, desc="verify", unit="B", unit_scale=True, disable=not is_shown, dynamic_ncols=True)
