"""A bar with rate and time left on a terminal; elsewhere a line now and then, and one at the end of a stage."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from tqdm import tqdm

from emqa_dask.run.task import Result

EVERY_S = 30.0  # between lines where there is no terminal


def watch(
    results: Iterable[Result],
    stage: str,
    total: int | None = None,
    *,
    unit: str = "images",
    stream: TextIO | None = None,
    every_s: float = EVERY_S,
) -> Iterator[Result]:
    """Yield `results` unchanged and show how far they are: images done of `total`, rate, time left, failures.

    On a terminal a bar; otherwise a line every `every_s` seconds and one at the end (none for no task).
    `stream` is where it goes, by default stderr.
    """
    stream = sys.stderr if stream is None else stream
    bar = tqdm(total=total, desc=stage, unit=f" {unit}", file=stream, disable=not stream.isatty(), dynamic_ncols=True)
    started = said = time.monotonic()
    n_images = n_tasks = n_failed = 0
    try:
        for result in results:
            n_images += result.event["n_images"]
            n_tasks += 1
            n_failed += result.outcome == "failed"
            bar.update(result.event["n_images"])
            if n_failed:
                bar.set_postfix_str(f"{n_failed} failed", refresh=False)
            now = time.monotonic()
            if bar.disable and now - said >= every_s:
                said = now
                print(line(stage, n_images, total, now - started, n_failed, unit), file=stream, flush=True)
            yield result
    finally:
        bar.close()
        if bar.disable and n_tasks:
            seconds = time.monotonic() - started
            print(line(stage, n_images, None, seconds, n_failed, unit), file=stream, flush=True)


def line(stage: str, n: int, total: int | None, seconds: float, n_failed: int, unit: str = "images") -> str:
    """One line of progress: "detect: 120 of 4000 images, 12.0/s, 5:23 left, 1 task failed"."""
    rate = n / seconds if seconds > 0 else 0.0
    failed = f", {n_failed} task{'s' * (n_failed > 1)} failed" if n_failed else ""
    if total is None or n >= total:
        return f"{stage}: {n} {unit} in {clock(seconds)}, {rate:.1f}/s{failed}"
    left = f", {clock((total - n) / rate)} left" if rate > 0 else ""
    return f"{stage}: {n} of {total} {unit}, {rate:.1f}/s{left}{failed}"


def clock(seconds: float) -> str:
    """A duration as people write it: 4.2 s, 5:23, 2:05:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
