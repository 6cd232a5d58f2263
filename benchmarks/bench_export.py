"""How long exports take against reading alone, and how much memory: up to 10^6 stub images with 100 objects each.

The workspace has real tables (ledger, verdicts, a part with detections per partition); the objects of every partition
are the same 3,200 discs. Reading is what every export does first: ledger, verdicts and parts, into batches. Each
measurement is a process of its own; exports go into a sink that counts bytes, so that the disk does not matter, or
with --disk into a file.
"""

import argparse
import hashlib
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emqa_dask import tables
from emqa_dask.mask_runs import encode_objects, find_runs
from emqa_dask.pipeline.workspace.image_selection import ImageSelection, Query, iterate_batches
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.review.exports.formats import FORMATS
from emqa_dask.settings import Settings, replace
from emqa_dask.store import checksum, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

SIZE_PX = 2048
PER_PARTITION = 32  # images
N_OBJECTS = 100  # of an image
STACK = f"{SIZE_PX}x{SIZE_PX}-uint16-0.31nm"
STREAMED = [name for name, export_format in FORMATS.items() if export_format.suffix]


class Sink:
    """A stream that counts bytes."""

    def __init__(self):
        self.n_bytes = 0

    closed = False

    def write(self, data) -> int:
        n_bytes = memoryview(data).nbytes
        self.n_bytes += n_bytes
        return n_bytes

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        pass


def make_objects(has_masks: bool) -> pd.DataFrame:
    """Rows of tables.DETECTIONS of the images of a partition."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(N_OBJECTS * PER_PARTITION):
        radius = rng.uniform(5, 20)
        y, x = rng.uniform(30, SIZE_PX - 30, 2)
        rows.append((y, x, y - radius, x - radius, y + radius, x + radius, np.pi * radius**2, 2 * radius))
    columns = ["y_px", "x_px", "y0", "x0", "y1", "x1", "area_px", "diameter_px"]
    frame = pd.DataFrame(rows, columns=columns).reindex(columns=tables.DETECTIONS.names)
    frame["diameter_nm"] = 0.31 * frame["diameter_px"]
    frame["polarity"] = np.int8(-1)
    frame["score"] = rng.uniform(0.5, 1, len(rows))
    frame = frame.assign(label="cavity", detector="log", micrograph_id="0" * 32)
    if has_masks:
        frame["mask_rle"] = [encode_disc(*row) for row in frame[["y_px", "x_px", "diameter_px"]].to_numpy() / (1, 1, 2)]
        frame["circularity"] = 1.02
    return frame


def encode_disc(y: float, x: float, radius: float) -> str:
    y0, x0 = int(y - radius), int(x - radius)
    rows, columns = np.ogrid[: 2 * radius + 2, : 2 * radius + 2]
    runs = find_runs(((rows - y + y0) ** 2 + (columns - x + x0) ** 2 <= radius**2).T)
    runs += np.array([x0, y0, y0])
    text, _ = encode_objects(runs, np.array([0, len(runs)]), SIZE_PX, SIZE_PX**2)
    return text.tobytes().decode()


def make_ids(start: int, stop: int) -> list[str]:
    return [hashlib.sha256(b"%d" % k).hexdigest()[:32] for k in range(start, stop)]


def write_workspace(root: str, n: int, has_masks: bool) -> None:
    """A finished workspace of `n` stub images."""
    settings = replace(Settings(), {"detect": {"detectors": ["log"]}})
    workspace = Workspace(root)
    Path(root).mkdir(parents=True)
    marker.write_marker(root, "/archive")
    stored_settings.write_settings(root, settings)
    parts.write_table(workspace.catalog, [], tables.CATALOG)
    folder = list_run_folders(settings)["detections"]
    block = tables.conform(make_objects(has_masks), tables.DETECTIONS).combine_chunks()
    with (
        parts.open_table_writer(workspace.micrographs, tables.MICROGRAPHS) as write_ledger,
        parts.open_table_writer(workspace.triage, tables.TRIAGE) as write_triage,
    ):
        for frames in iterate_ledger(n):
            write_ledger(frames)
            verdicts = frames.reindex(columns=tables.TRIAGE.names)
            verdicts = verdicts.assign(status="ok", verdict="trust", detector="log", n_detections=N_OBJECTS)
            verdicts["reasons"] = [[] for _ in range(len(verdicts))]
            write_triage(verdicts.assign(is_nm_per_pixel_suspect=False))
            for name, rows in frames.groupby("partition"):
                ids = pa.array(np.repeat(rows["micrograph_id"].to_numpy(object), N_OBJECTS), pa.string())
                block_ids = block.slice(0, len(ids)).set_column(0, "micrograph_id", ids)
                write_part(Path(workspace.part(folder, name)), block_ids)


def write_part(path: Path, table: pa.Table) -> None:
    """As store.parts.write_part(), without waiting for the disk, which 30,000 times takes an hour."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="lz4", use_dictionary=["micrograph_id"], write_statistics=False)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(checksum.add_checksum(buffer.getvalue()))


def iterate_ledger(n: int) -> Iterator[pd.DataFrame]:
    for start in range(0, n, parts.ROWS_PER_GROUP):
        numbers = np.arange(start, min(n, start + parts.ROWS_PER_GROUP))
        frames = pd.DataFrame({"micrograph_id": make_ids(numbers[0], numbers[-1] + 1), "index": numbers})
        frames = frames.reindex(columns=tables.MICROGRAPHS.names)
        frames["uri"] = [f"session-{k // 1000:04d}/image-{k:07d}.tif" for k in numbers]
        frames["partition"] = [f"{STACK}-{k // PER_PARTITION * PER_PARTITION:08d}" for k in numbers]
        frames["content_sha256"] = frames["micrograph_id"] * 2
        yield frames.assign(
            frame=0,
            height_px=SIZE_PX,
            width_px=SIZE_PX,
            dtype="uint16",
            nm_per_pixel=0.31,
            nm_per_pixel_y=0.31,
            stack=STACK,
        )


def measure(root: str, name: str, path: str) -> dict:
    """Seconds and peak memory of one export in this process; "read" reads alone."""
    workspace = Workspace(root)
    settings = stored_settings.read_settings(root)
    if name != "read":  # numba loads what it compiled
        first = next(iterate_batches(workspace, settings, ImageSelection(workspace, Query()), has_thumbnails=False))
        write(name, [first], path)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    cpu = time.process_time()
    batches = iterate_batches(workspace, settings, ImageSelection(workspace, Query(("trust",))))
    if name == "read":
        n_bytes = 0
        n_objects = sum(len(batch.objects) for batch in batches)
    else:
        n_bytes = write(name, batches, path)
        n_objects = 0
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "objects": n_objects,
        "bytes": n_bytes,
        "before_mib": before_mib,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def write(name: str, batches, path: str) -> int:
    """Bytes of an export into the file `path`, or nowhere."""
    if path:
        with open(path, "wb") as stream:
            FORMATS[name].write_batches(batches, stream, has_polygons=False)
        return Path(path).stat().st_size
    sink = Sink()
    FORMATS[name].write_batches(batches, sink, has_polygons=False)
    return sink.n_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", metavar="N", type=int, default=100_000)
    parser.add_argument("--formats", metavar="NAME", nargs="*", choices=STREAMED, default=STREAMED)
    parser.add_argument("--masks", action="store_true", help="objects have masks")
    parser.add_argument("--disk", action="store_true", help="write files instead of counting bytes")
    parser.add_argument("--json", metavar="OUT", help="write the figures there, too")
    parser.add_argument("--workspace", metavar="WS", help="one that an earlier call has made")
    parser.add_argument("--keep", action="store_true", help="leave the workspace there")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--path", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.workspace, options.step, options.path)))
        return
    folder = tempfile.mkdtemp(prefix="emqa-export-")
    root = options.workspace or f"{folder}/ws"
    if not options.workspace:
        write_workspace(root, options.images, options.masks)
    results = {"images": options.images, "masks": options.masks}
    print(f"{'step':>9} {'wall s':>8} {'cpu s':>8} {'GB':>7} {'MiB':>6} {'us/object':>9}", flush=True)
    for step in ("read", *options.formats, "read"):
        path = f"{folder}/export" if options.disk and step != "read" else ""
        command = [sys.executable, "-m", "benchmarks.bench_export", "--step", step, "--workspace", root, "--path", path]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        row = json.loads(output.splitlines()[-1])
        results.setdefault(step, row)
        us = 1e6 * row["cpu_s"] / (options.images * N_OBJECTS)
        seconds = f"{step:>9} {row['wall_s']:8.1f} {row['cpu_s']:8.1f}"
        print(f"{seconds} {row['bytes'] / 1e9:7.2f} {row['peak_mib']:6.0f} {us:9.2f}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))
    if not options.keep:
        shutil.rmtree(folder)
    else:
        print(root)


if __name__ == "__main__":
    main()
