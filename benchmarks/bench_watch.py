"""Delay from a complete file to its verdict, memory, and alarms of `emqa watch` on files that are written as it runs.

    python -m benchmarks.bench_watch [--files 200] [--minutes 1] [--workers 2] [--drift FILE] [--shape 512]

Files of one session are written at even intervals; every tenth is written in two halves with a pause of 3 s between
them, every twentieth is replaced by another image later. Detector: log. From file --drift on, images have more noise.
A delay is the time from the end of writing to the line with the verdict; memory is that of the process that watches.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import tifffile

from emqa_dask.synthetic.particles import draw_particles

PAUSE_S = 3.0  # between the halves of a file
HALVED = 10  # each tenth file is written in halves
REPLACED = 20  # each twentieth is replaced
WAIT_S = 120.0  # for the last verdicts
N_CONTENTS = 20  # images that all files are made of, each with its own noise


class Writer:
    """Writes the files of a session, and notes when each version is complete."""

    def __init__(self, folder: Path, n_files: int, interval_s: float, drift: int, side_px: int) -> None:
        self.complete_s: list[tuple[str, float]] = []  # name and time of each version, in the order of their ends
        self.n_versions = n_files + n_files // REPLACED
        self._folder = folder
        self._n_files = n_files
        self._interval_s = interval_s
        self._drift = drift
        rng = np.random.default_rng(0)
        shape = (side_px, side_px)
        self._contents = [draw_particles(rng, shape).image.astype(np.float32) for _ in range(N_CONTENTS)]

    def write_all(self) -> None:
        """Write all files at even intervals; halves and replacements are written by threads."""
        start_s = time.monotonic()
        threads = []
        for k in range(self._n_files):
            time.sleep(max(0.0, start_s + k * self._interval_s - time.monotonic()))
            threads.append(threading.Thread(target=self._write_file, args=(k,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _write_file(self, k: int) -> None:
        path = self._folder / f"{k:05d}.tif"
        self._write(path, self._encode(k, 0), PAUSE_S if k % HALVED == HALVED - 1 else 0.0)
        if k % REPLACED == 0 and k // REPLACED < self._n_files // REPLACED:
            time.sleep(20 * self._interval_s + PAUSE_S)
            self._write(path, self._encode(k, 1), 0.0)

    def _encode(self, k: int, version: int) -> bytes:
        rng = np.random.default_rng([k, version])
        image = self._contents[int(rng.integers(N_CONTENTS))]
        noise = image.std() * (0.3 if self._drift and k >= self._drift else 0.1)
        stream = BytesIO()
        tifffile.imwrite(stream, image + rng.normal(0, noise, image.shape).astype(np.float32))
        return stream.getvalue()

    def _write(self, path: Path, content: bytes, pause_s: float) -> None:
        with path.open("wb") as stream:
            if pause_s:
                stream.write(content[: len(content) // 2])
                stream.flush()
                time.sleep(pause_s)
                stream.write(content[len(content) // 2 :])
            else:
                stream.write(content)
        self.complete_s.append((path.name, time.monotonic()))


class Reader:
    """Lines of JSON of a watch, with the time of each."""

    def __init__(self, stream) -> None:
        self.events: list[tuple[dict, float]] = []
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream) -> None:
        for line in stream:
            self.events.append((json.loads(line), time.monotonic()))

    def list_verdicts(self) -> list[tuple[str, float]]:
        """Name and time of the verdicts on images that could be read."""
        return [(event["uri"], s) for event, s in self.events if event["event"] == "verdict"]


def summarise(writer: Writer, reader: Reader, memory_mib: list[float]) -> dict:
    """Delays, versions without or with several verdicts, memory and alarms."""
    versions = Counter(name for name, _ in writer.complete_s)
    verdicts: dict[str, list[float]] = {}
    for name, s in reader.list_verdicts():
        verdicts.setdefault(name, []).append(s)
    delays = []
    seen: Counter[str] = Counter()
    for name, s in writer.complete_s:
        times = verdicts.get(name, [])
        if seen[name] < len(times):
            delays.append(times[seen[name]] - s)
        seen[name] += 1
    alarms = [event for event, _ in reader.events if event["event"] == "alarm"]
    names = ("statistic", "n_images", "first_uri", "last_uri")
    half = len(memory_mib) // 2
    return {
        "versions": sum(versions.values()),
        "judged_once": sum(len(verdicts.get(name, [])) == n for name, n in versions.items()),
        "files": len(versions),
        "median_delay_s": round(statistics.median(delays), 2),
        "p95_delay_s": round(float(np.percentile(delays, 95)), 2),
        "memory_mib_at_half_and_end": [round(memory_mib[half]), round(memory_mib[-1])],
        "alarms": [{name: alarm[name] for name in names} for alarm in alarms],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--drift", type=int, default=0, help="number of the first file with more noise; 0 = none")
    parser.add_argument("--shape", type=int, default=512, help="px a side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scans"
        folder.mkdir()
        interval_s = 60 * arguments.minutes / arguments.files
        writer = Writer(folder, arguments.files, interval_s, arguments.drift, arguments.shape)
        command = [sys.executable, "-m", "emqa_dask", "watch", str(folder), "--workspace", f"{name}/ws", "--json"]
        command += ["--detector", "log", "--workers", str(arguments.workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
            reader = Reader(process.stdout)
            writer._write(folder / "first.tif", writer._encode(0, 2), 0.0)  # workers start at the first file
            while not reader.events:
                time.sleep(0.2)
            writer.complete_s.clear()
            reader.events.clear()
            memory_mib: list[float] = []
            thread = threading.Thread(target=writer.write_all)
            thread.start()
            deadline_s = time.monotonic() + 60 * arguments.minutes + WAIT_S
            while time.monotonic() < deadline_s:
                memory_mib.append(psutil.Process(process.pid).memory_info().rss / 2**20)
                if not thread.is_alive() and len(reader.list_verdicts()) >= writer.n_versions:
                    break
                time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            process.wait(30)
        print(json.dumps(summarise(writer, reader, memory_mib), indent=1))


if __name__ == "__main__":
    main()
