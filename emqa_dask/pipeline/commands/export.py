"""emqa export: the detections of a run in the format of another tool, partition by partition."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from emqa_dask import output_folders
from emqa_dask.pipeline.workspace import preconditions
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.image_selection import ImageSelection, Query, iterate_batches
from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.formats import FORMATS
from emqa_dask.run.progress import format_duration
from emqa_dask.settings import Settings
from emqa_dask.store import files, marker
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
EXPORTS = "exports"  # folder of the workspace
NEXT_STEPS = {  # what opens an export, by format
    "fiftyone": "python -c \"import fiftyone as fo; fo.launch_app(fo.Dataset.from_dir('{out}', "
    "dataset_type=fo.types.COCODetectionDataset, label_types=['detections', 'segmentations'])).wait()\"",
    "napari": "napari {stacks}/STACK/0 {out}/STACK/points.csv {out}/STACK/shapes.csv",
}


def export(
    root: str,
    format_name: str,
    settings: Settings,
    *,
    query: Query,
    detector: str | None = None,
    out: str = "",
    has_polygons: bool = False,
    say: Say = print,
) -> int:
    """Exit code 0. Writes the micrographs of `query` and their detections as `format_name`, one of FORMATS.

    The detections are those from the score floor on: of `detector`, by default of the detector that a verdict rests on.
    `out` is a file, or a folder that is not there yet; default: <workspace>/exports/<format>. Memory holds some
    thousand micrographs, and 16 bytes for each of the others. Raises ValueError for a detector that the run does not
    have, and FileExistsError for a folder that is there.
    """
    workspace = Workspace(root)
    preconditions.require_tables(workspace, marker.read_sources(root))
    names = name_detectors(settings.detect)
    if detector is not None and detector not in names:
        raise ValueError(f"--detector {detector}: this run has {', '.join(names)}")
    export_format = FORMATS[format_name]
    out = out or files.join(workspace.uri, EXPORTS, f"{format_name}{export_format.suffix}")
    started = time.monotonic()
    if not export_format.suffix:
        _check_folder(out, format_name)
    selection = ImageSelection(workspace, query)
    batches = iterate_batches(workspace, settings, selection, detector, export_format.has_thumbnails)
    counter = _Counter(batches)
    if export_format.suffix:
        with files.write_whole(out) as stream:
            export_format.write_batches(counter, stream, has_polygons)
    else:
        _write_folder(Path(out), lambda folder: export_format.write_batches(counter, folder, has_polygons))
    duration = format_duration(time.monotonic() - started)
    say(f"{counter.n_images:,} micrographs with {counter.n_objects:,} objects in {duration}: {files.redact(out)}")
    if step := NEXT_STEPS.get(format_name):
        say(step.format(out=out, stacks=workspace.stacks))
    return 0


class _Counter:
    """Batches, with the numbers of images and objects in them."""

    def __init__(self, batches: Iterable[Batch]):
        self._batches = batches
        self.n_images = 0
        self.n_objects = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.n_images += len(batch.images)
            self.n_objects += len(batch.objects)
            yield batch


def _check_folder(out: str, format_name: str) -> None:
    """Raises an error where no folder `out` can be made."""
    if not files.is_local(out):
        raise ValueError(f"{files.redact(out)} is a bucket, and {format_name} is a folder of files: give --out DIR")
    output_folders.check_free(out)


def _write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make the folder `target`, which gets its name when `write` has filled it."""
    partial = target.parent / f".{target.name}.partial"
    number = 0
    while os.path.lexists(partial):
        number += 1
        partial = target.parent / f".{target.name}.{number}.partial"
    partial.mkdir(parents=True)
    try:
        write(partial)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
