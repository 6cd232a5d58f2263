"""The pages of images: which images get one, their neighbours in time, and the tasks that write their data."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_key import PACKAGE, digest_code
from emqa_dask.pipeline.tasks.nearest_labelled import list_labelled_images
from emqa_dask.pipeline.tasks.report_images import Neighbours, write_image_data
from emqa_dask.pipeline.workspace import image_page_index
from emqa_dask.pipeline.workspace.image_page_index import PageFile
from emqa_dask.report import micrograph_page
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.custom_checks import list_rules

IMAGES_PER_TASK = 128  # images of a task, about: their detections are in memory
PLACE_COLUMNS = ["micrograph_id", "partition", "session", "acquired"]


def write_image_pages(
    workspace: Workspace, settings: Settings, facts: Mapping, listed: NDArray, execute: Executor | None
) -> list[str]:
    """URIs of the files that all pages of images share. Writes them, and the data and pictures of the images.

    Every micrograph gets a page where there are at most report.max_image_pages, else those of the rows of triage at
    the sorted positions `listed`. Data of unchanged partitions stay as they are. `execute` writes the data on workers;
    without it, this process does.
    """
    places = _read_places(workspace, settings.report.max_image_pages, listed)
    _write_data(workspace, settings, find_neighbours(places), _find_labelled(places, settings), execute)
    shared = [workspace.image_index]
    for name, data in micrograph_page.render_files(facts, list_rules(settings.flags)).items():
        shared.append(files.join(workspace.report_folder, name))
        files.write_bytes(shared[-1], data)
    return shared


def _find_labelled(places: pd.DataFrame, settings: Settings) -> dict[str, str]:
    """micrograph_id -> address of the labelled images that have a page."""
    ids = {micrograph_id for own in list_labelled_images(settings) for micrograph_id in own.images.micrograph_ids}
    labelled = places[places["micrograph_id"].isin(ids)]
    return dict(zip(labelled["micrograph_id"], labelled["partition"] + "/" + labelled["micrograph_id"]))


def _write_data(
    workspace: Workspace,
    settings: Settings,
    neighbours: dict[str, dict[str, Neighbours]],
    addresses: Mapping[str, str],
    execute: Executor | None,
) -> None:
    """Write the data of partitions that have changed since the last report, and remove those of other partitions.

    A partition is in the index only while its file is whole: an interrupted report writes it again.
    """
    sources = image_page_index.digest_pages(workspace, settings, digest_code(PACKAGE), neighbours, addresses)
    names = set(files.list_names(workspace.image_data_folder))
    index = {
        name: entry
        for name, entry in image_page_index.read_index(workspace).items()
        if entry.source == sources.get(name) and f"{name}.js" in names
    }
    changed = {name: images for name, images in neighbours.items() if name not in index}
    if changed:
        image_page_index.write_index(workspace, index)
    tasks = _make_tasks(workspace, settings, changed, addresses)
    n_images = sum(map(len, changed.values()))
    for record in _execute_tasks(tasks, n_images, execute if changed else None):
        index |= {name: PageFile(sources[name], content) for name, content in record["digests"].items()}
    for name in names:
        if name.removesuffix(".js") not in neighbours:
            files.remove_file(files.join(workspace.image_data_folder, name))
    image_page_index.write_index(workspace, index)


def _execute_tasks(tasks: Iterable[Task], n_images: int, execute: Executor | None) -> Iterator[dict]:
    """Records of write_image_data()."""
    if execute is None:
        yield from (write_image_data(*task.args) for task in tasks)
        return
    for result in execute(write_image_data, tasks, "pages", n_images):
        # A failed task is done again here, so that its error is raised.
        yield write_image_data(*result.task.args) if result.outcome == "failed" else result.value


def _read_places(workspace: Workspace, max_images: int, listed: NDArray) -> pd.DataFrame:
    """PLACE_COLUMNS of the micrographs that get a page, in the order of triage."""
    batches = [tables.empty(tables.TRIAGE)[PLACE_COLUMNS]]
    is_every = parts.count_rows(workspace.micrographs) <= max_images
    first = 0
    for rows in parts.iterate_table(workspace.triage, tables.TRIAGE, PLACE_COLUMNS):
        n_rows = len(rows)
        if not is_every:
            rows = rows.iloc[listed[(listed >= first) & (listed < first + n_rows)] - first]
        batches.append(rows[rows["micrograph_id"].notna() & rows["partition"].notna()])
        first += n_rows
    return pd.concat(batches, ignore_index=True)


def find_neighbours(places: pd.DataFrame) -> dict[str, dict[str, Neighbours]]:
    """Partition -> micrograph_id -> the images of its session that were acquired just before and after it.

    Images without a date have no neighbours, and those of one date follow the order of `places` (PLACE_COLUMNS).
    """
    address = places["partition"] + "/" + places["micrograph_id"]
    dated = pd.to_datetime(places["acquired"], format="ISO8601", errors="coerce", utc=True)
    order = dated.dropna().sort_values(kind="stable").index
    by_session = address[order].groupby(places["session"][order], sort=False, dropna=False)
    previous_addresses = by_session.shift(1).reindex(places.index).fillna("")
    next_addresses = by_session.shift(-1).reindex(places.index).fillna("")
    neighbours: dict[str, dict[str, Neighbours]] = {}
    image_neighbours = map(Neighbours, previous_addresses, next_addresses)
    for partition, micrograph_id, own in zip(places["partition"], places["micrograph_id"], image_neighbours):
        neighbours.setdefault(partition, {})[micrograph_id] = own
    return neighbours


def _make_tasks(
    workspace: Workspace,
    settings: Settings,
    neighbours: Mapping[str, dict[str, Neighbours]],
    addresses: Mapping[str, str],
) -> Iterator[Task]:
    """Tasks for write_image_data(), of whole partitions and about IMAGES_PER_TASK images each."""
    names = list(neighbours)
    sizes = np.array([len(neighbours[name]) for name in names], int)
    numbers = (np.cumsum(sizes) - sizes) // IMAGES_PER_TASK
    for number in np.unique(numbers):
        batch = {names[k]: neighbours[names[k]] for k in np.flatnonzero(numbers == number)}
        n_images = sum(map(len, batch.values()))
        yield Task(f"{number:06d}", (workspace, batch, settings, addresses), n_images)
