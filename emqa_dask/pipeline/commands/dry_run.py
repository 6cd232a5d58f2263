"""Counts and estimated cost of a run (--dry-run), from a sample of the archive."""

import random
import time
from collections import Counter
from collections.abc import Callable

from emqa_dask.archive import readers
from emqa_dask.archive.survey import fetch_file, survey_file
from emqa_dask.pipeline.tasks import image_measurement
from emqa_dask.pipeline.tasks.classify import classify_partition
from emqa_dask.pipeline.tasks.custom_checks import run_check
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles, Archives, list_sources, name_sources
from emqa_dask.pipeline.workspace.batches import list_workspace_folders
from emqa_dask.pipeline.workspace.check_functions import resolve_checks
from emqa_dask.run.cluster import count_cores
from emqa_dask.run.progress import format_duration
from emqa_dask.settings import Settings

Say = Callable[[str], None]


def estimate_run(
    archive: Archives, settings: Settings, say: Say = print, n_sample: int = 16, workspace: str | None = None
) -> int:
    """Reports the size of the archive and the cost of its run, estimated from a sample that this process runs.

    Files of `workspace`, which may lie in the archive, do not count.
    """
    settings = resolve_checks(settings, is_forced=True)
    rng = random.Random(0)
    sample = []
    n_files = 0
    n_bytes = 0
    archive_files = ArchiveFiles(name_sources(list_sources(archive)), settings.archive)
    archive_files.check_sources()
    workspace_folders = list_workspace_folders(workspace) if workspace else ()
    for entry in archive_files:
        if f"{entry.path}/".startswith(workspace_folders):
            continue
        n_files = n_files + 1
        n_bytes = n_bytes + entry.size_bytes
        if len(sample) < n_sample:
            sample.append(entry)
        elif (k := rng.randrange(n_files)) < n_sample:  # reservoir: every file is as likely
            sample[k] = entry
    started = time.perf_counter()
    megapixels = 0.0
    pixel_bytes = 0
    n_micrographs = 0
    n_files_by_kind = Counter()
    for entry in sample:
        row, frames = survey_file(entry, settings.archive)
        n_files_by_kind[row["kind"] if row["status"] == "ok" else row["status"]] += 1
        for frame in frames:
            with fetch_file(entry.path) as path:
                image = readers.open_source(path).frames[frame["frame"]].read()
            image_measurement.measure_image(
                image, frame, image_measurement.detect_objects(image, frame, settings), settings
            )
            if settings.classify.model:
                classify_partition([frame["micrograph_id"]], [image], settings)
            for check in settings.flags.custom:
                run_check(image, frame, check)
            megapixels = megapixels + image.size / 1e6
            pixel_bytes = pixel_bytes + image.nbytes
            n_micrographs += 1
    seconds = time.perf_counter() - started
    scale = n_files / max(len(sample), 1)
    workers = settings.run.workers or count_cores()
    per_megapixel = 1000 * seconds / max(megapixels, 1e-9)
    say(f"{n_files:,} files, {n_bytes / 1e9:,.2f} GB")
    if left_out := archive_files.describe_left_out():
        say(left_out)
    say(f"a sample of {len(sample)}: {', '.join(f'{n} {kind}' for kind, n in n_files_by_kind.most_common())}")
    say(f"about {n_micrographs * scale:,.0f} micrographs, {megapixels * scale:,.0f} megapixels")
    duration = format_duration(seconds * scale / workers)
    say(f"about {duration} on {workers} workers ({per_megapixel:,.0f} ms per megapixel)")
    say(f"at most {pixel_bytes * scale / 1e9:,.2f} GB of disk before compression")
    return 0
