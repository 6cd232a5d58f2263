"""Progress of a stage: a bar on a terminal, or else lines."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from tqdm import tqdm

from emqa_dask.run.task import Result

LINE_INTERVAL_S = 30.0  # between lines where there is no terminal


def show_progress(
    results: Iterable[Result],
    stage: str,
    total: int | None = None,
    *,
    unit: str = "images",
    stream: TextIO | None = None,
    every_s: float = LINE_INTERVAL_S,
    waits_for: Callable[[], str] = lambda: "",
) -> Iterator[Result]:
    """`results` unchanged, while progress is shown: images done of `total`, rate, time left, failures.

    On a terminal a bar; otherwise a line every `every_s` seconds and one at the end (none for no task).
    Where no result comes for as long, either says what `waits_for` says. `stream` is where it goes, by default stderr.
    """
    stream = sys.stderr if stream is None else stream
    bar = tqdm(total=total, desc=stage, unit=f" {unit}", file=stream, disable=not stream.isatty(), dynamic_ncols=True)
    started = last_line_s = time.monotonic()
    n_images = n_tasks = n_failed = 0
    silence = _SilenceReporter(stage, bar, stream, every_s, waits_for)
    try:
        for result in results:
            silence.last = time.monotonic()
            n_images += result.event["n_images"]
            n_tasks += 1
            n_failed += result.outcome == "failed"
            bar.update(result.event["n_images"])
            if n_failed:
                bar.set_postfix_str(f"{n_failed} failed", refresh=False)
            now_s = time.monotonic()
            if bar.disable and now_s - last_line_s >= every_s:
                last_line_s = now_s
                print(format_progress(stage, n_images, total, now_s - started, n_failed, unit), file=stream, flush=True)
            yield result
    finally:
        silence.is_over.set()
        bar.close()
        if bar.disable and n_tasks:
            seconds = time.monotonic() - started
            print(format_progress(stage, n_images, None, seconds, n_failed, unit), file=stream, flush=True)


class _SilenceReporter:
    """Thread that reports what a run waits for whenever no result has come for `every_s` seconds."""

    def __init__(self, stage: str, bar: tqdm, stream: TextIO, every_s: float, waits_for: Callable[[], str]):
        self.stage = stage
        self.bar = bar
        self.stream = stream
        self.every_s = every_s
        self.waits_for = waits_for
        self.last = time.monotonic()
        self.is_over = threading.Event()
        threading.Thread(target=self._watch, name="emqa-silence", daemon=True).start()

    def _watch(self) -> None:
        while not self.is_over.wait(max(self.every_s, 0.1) / 2):
            last = self.last
            silent_s = time.monotonic() - self.last
            if silent_s < self.every_s:
                continue
            text = self.waits_for()
            if text and last == self.last and not self.is_over.is_set():
                self._say(f"nothing is done for {format_duration(silent_s)}, waiting for {text}")

    def _say(self, text: str) -> None:
        with contextlib.suppress(ValueError, OSError):  # the stream may have been closed
            if not self.bar.disable:
                self.bar.set_postfix_str(text)
            else:
                print(f"{self.stage}: {text}", file=self.stream, flush=True)


def format_progress(stage: str, n: int, total: int | None, seconds: float, n_failed: int, unit: str = "images") -> str:
    """One line of progress: "detect: 120 of 4000 images, 12.0/s, 5:23 left, 1 task failed"."""
    rate = n / seconds if seconds > 0 else 0.0
    failure_text = f", {n_failed} task{'s' * (n_failed > 1)} failed" if n_failed else ""
    if total is None or n >= total:
        return f"{stage}: {n} {unit} in {format_duration(seconds)}, {rate:.1f}/s{failure_text}"
    time_left_text = f", {format_duration((total - n) / rate)} left" if rate > 0 else ""
    return f"{stage}: {n} of {total} {unit}, {rate:.1f}/s{time_left_text}{failure_text}"


def format_duration(seconds: float) -> str:
    """A duration as text: 4.2 s, 5:23, 2:05:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{remaining_seconds:02d}" if hours else f"{minutes}:{remaining_seconds:02d}"
