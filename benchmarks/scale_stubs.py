"""Stand-ins for what looks at pixels, so that the rest can be measured on archives that nobody could store.

survey_files() and make_partition() write the parts that tasks.survey and tasks.partition_tables write, without reading
files and without arithmetic on images.
"""

import contextlib
import fcntl
import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive.survey import compute_micrograph_id
from emqa_dask.pipeline.commands import ingest, make_tables
from emqa_dask.pipeline.tasks import survey as survey_tasks
from emqa_dask.pipeline.workspace.micrograph_ledger import unpack_rows
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, replace
from emqa_dask.store import parts, stacks

SIZE_PX = 2048


def survey(entry, settings) -> tuple[dict, list[dict]]:
    """An ok file with one micrograph of 2048 x 2048 px, 16 bit, whose checksums are made from its URI."""
    sha = hashlib.sha256(entry.uri.encode()).hexdigest()
    row = {key: getattr(entry, key) for key in ("uri", "size_bytes", "modified_ns")}
    row |= {"content_sha256": sha, "format": "TIFF", "kind": "micrograph", "status": "ok", "reason": "", "error": None}
    frame = dict.fromkeys(tables.MICROGRAPHS.names) | {
        "micrograph_id": compute_micrograph_id(sha, entry.uri, 0),
        "uri": entry.uri,
        "frame": 0,
        "content_sha256": sha,
        "pixel_sha256": sha[::-1],
        "height_px": SIZE_PX,
        "width_px": SIZE_PX,
        "dtype": "uint16",
        "colour_fraction": 0.0,
        "nm_per_pixel": 0.31,
        "nm_per_pixel_y": 0.31,
        "nm_per_pixel_source": "header",
        "instrument": "Themis",
        "magnification": 94000.0,
        "header": '{"note": "' + "x" * 400 + '"}',
    }
    return row | {"n_frames": 1}, [frame]


def survey_files(workspace, name, entries, settings, call) -> dict:
    """pipeline.tasks.survey.survey_files() with survey() as above."""
    survey_tasks.survey_file = survey
    return survey_tasks.survey_files(workspace, name, entries, settings)


@functools.lru_cache(maxsize=1)
def make_example() -> dict[str, pd.DataFrame]:
    """Rows of each table for one real synthetic micrograph."""
    from emqa_dask.detect.log import detect_image
    from emqa_dask.pipeline.tasks import image_measurement, map_tiles, measure_objects, predict
    from emqa_dask.predict.predictions import predict_images
    from emqa_dask.store.thumbnails import make_thumbnail
    from emqa_dask.synthetic.profiles import make_sample

    settings = replace(Settings(), {"detect": {"detectors": ["log"]}})
    image = make_sample("cavity-tem", np.random.default_rng(1), shape=(512, 512)).image
    blobs = detect_image(image, settings.detect)
    row = {"micrograph_id": "0" * 32, "colour_fraction": 0.0, "nm_per_pixel": 0.31, "voltage_kv": 200.0}
    row |= {"nm_per_pixel_y": 0.31, "height_px": image.shape[0], "width_px": image.shape[1]}
    evidence, features = image_measurement.measure_image(image, row, blobs, settings)
    evidence = tables.conform(evidence, tables.EVIDENCE).to_pandas()
    features = tables.conform([features], tables.FEATURES).to_pandas()
    predicted = predict_images(predict.join_evidence(evidence, features), settings.predict.models)
    blobs = blobs.head(3).assign(micrograph_id=row["micrograph_id"])
    blobs = tables.conform(blobs, tables.DETECTIONS).to_pandas()
    thumbnail = {"micrograph_id": row["micrograph_id"], "jpeg": make_thumbnail(image, 32)}
    measured = measure_objects.measure_detections(evidence, blobs, pd.DataFrame([row]), settings.measure)
    example = {"detections": blobs, "evidence": evidence, "features": features, "predictions": predicted}
    measured["tiles"] = map_tiles.map_tiles(evidence, blobs, features, pd.DataFrame([row]))
    example |= {table: tables.conform(rows, SCHEMAS[table]).to_pandas() for table, rows in measured.items()}
    return example | {"thumbnails": pd.DataFrame([thumbnail])}


def make_partition(workspace, partition, packed_rows, settings, wanted, call) -> dict:
    """write_example() with an example that each worker makes."""
    return write_example(make_example(), workspace, partition, packed_rows, settings, wanted)


def write_example(example, workspace, partition, packed_rows, settings, wanted) -> dict:
    """Every part that partition_tables.make_tables() would write, from one example image, with a signature each."""
    started = time.perf_counter()
    rows = unpack_rows(packed_rows)
    where = list_run_folders(settings)
    if all(parts.has_part(workspace.uri, where[t], partition.name, SCHEMAS[t]) for t in wanted):
        return {"outcome": "found", "n_images": len(rows), "stages": {"stub": time.perf_counter() - started}}
    ids = rows["micrograph_id"].to_numpy()
    n = len(rows)
    rng = np.random.default_rng(int(ids[0][:8], 16))
    repeated = {
        table: pd.concat([table_rows] * n, ignore_index=True).assign(micrograph_id=np.repeat(ids, len(table_rows)))
        for table, table_rows in example.items()
        if table in wanted
    }
    if "features" in repeated:
        size = len(repeated["features"]["signature"].iloc[0])
        tones = rng.integers(-127, 128, (n, size), np.int8)
        repeated["features"]["signature"] = [row.tobytes() for row in tones]
    for table in wanted:
        parts.write_part(workspace.uri, where[table], partition.name, repeated[table], SCHEMAS[table])
    write_shard(workspace, partition)
    n_bytes = n * SIZE_PX * SIZE_PX * 2
    return {"n_images": n, "bytes": n_bytes, "stages": {"stub": time.perf_counter() - started}}


def write_shard(workspace, partition) -> None:
    """A shard of one byte: a run that is repeated looks whether shards are there."""
    length = stacks.read_grid(workspace.uri, partition.stack).shard_length
    path = Path(stacks.shard_uri(workspace.uri, partition, length))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0")


class StubTimes(NamedTuple):
    """Seconds that the stubs of an image take, in which they only wait."""

    disk_s: float  # of a disk that serves one worker at a time
    compute_s: float  # of a worker by itself


def make_slow_partition(times, example, workspace, partition, packed_rows, settings, wanted, call) -> dict:
    """write_example() after the StubTimes `times` of each image."""
    started = time.perf_counter()
    for _ in range(len(partition)):
        with (Path(workspace.uri) / "disk.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            time.sleep(times.disk_s)
    read = time.perf_counter()
    time.sleep(len(partition) * times.compute_s)
    computed = time.perf_counter()
    record = write_example(example, workspace, partition, packed_rows, settings, wanted)
    return record | {"stages": {"disk": read - started, "compute": computed - read} | record["stages"]}


@contextlib.contextmanager
def use_stubs(times: StubTimes) -> Iterator[None]:
    """Runs in the block use stubs for reading files and for all work on pixels."""
    survey_function, partition_function = ingest.survey_files, make_tables.make_partition
    ingest.survey_files = survey_files
    make_tables.make_partition = functools.partial(make_slow_partition, times, make_example())
    try:
        yield
    finally:
        ingest.survey_files, make_tables.make_partition = survey_function, partition_function
