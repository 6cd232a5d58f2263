"""Source and Frame: contents of one file, and how rows of it are read; damage, luma and captured warnings."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from emqa_dask.archive.metadata.headers import Header

WINDOW_BYTES = 64 * 2**20  # decoded at a time, if the format allows it


class ReadError(ValueError):
    """A file that should contain micrographs and could not be read; the message is one plain sentence."""

    format: str | None = None  # what the content looks like


_RECORDED_DAMAGE: ContextVar[list[str] | None] = ContextVar("damage", default=None)


def is_damage_recorded() -> bool:
    """Whether damage of the rows that are read is recorded; the search for damage can take as long as reading."""
    return _RECORDED_DAMAGE.get() is not None


def record_damage(sentence: str) -> None:
    """Record that pixels of the rows that are read are damaged or absent; Frame.read_with_colour() returns it."""
    notes = _RECORDED_DAMAGE.get()
    if notes is not None and sentence not in notes:
        notes.append(sentence)


@dataclass(frozen=True)
class Frame:
    """One 2-D image of a file; `read_rows(y0, y1)` gives rows as (h, w) or (h, w, 3) and leaves no file open."""

    height_px: int
    width_px: int
    dtype: str  # numpy name, as acquired
    header: Header
    read_rows: Callable[[int, int], np.ndarray] = field(repr=False)
    # Rows worth reading at a time: the whole height for formats that can only be decoded whole.
    rows_per_read: int = 0
    is_colour: bool = False

    def row_ranges(self) -> Iterator[tuple[int, int]]:
        """Row windows (y0, y1) that cover the frame in order, each about 64 MiB where the format allows it."""
        step = self.rows_per_read
        if step < 1:
            row_bytes = self.width_px * np.dtype(self.dtype).itemsize * (3 if self.is_colour else 1)
            step = max(1, WINDOW_BYTES // max(row_bytes, 1))
        for y0 in range(0, self.height_px, step):
            yield y0, min(y0 + step, self.height_px)

    def read(self, y0: int = 0, y1: int | None = None) -> np.ndarray:
        """Rows y0:y1 as (y1 - y0, width) in the acquired dtype, native endian, C order; colour becomes luma."""
        rows = self._decode(y0, self.height_px if y1 is None else y1)
        return _to_native_order(rows if rows.ndim == 2 else convert_to_luma(rows))

    def read_with_colour(self, y0: int = 0, y1: int | None = None) -> tuple[np.ndarray, int, list[str]]:
        """As read(), how many of these pixels have RGB channels that differ by over 8 % of the full range, and damage.

        The damage is a phrase for each part of the file whose pixels are damaged or absent, as far as its format and
        its decoder can tell; empty where all are whole.
        """
        damage: list[str] = []
        token = _RECORDED_DAMAGE.set(damage)
        try:
            rows = self._decode(y0, self.height_px if y1 is None else y1)
        finally:
            _RECORDED_DAMAGE.reset(token)
        if rows.ndim == 2:
            grey = rows
            n_coloured = 0
        elif is_grey(rows):
            grey = rows[..., 0]
            n_coloured = 0
        else:
            grey = convert_to_luma(rows)
            n_coloured = count_coloured(rows)
        return _to_native_order(grey), n_coloured, damage

    def _decode(self, y0: int, y1: int) -> np.ndarray:
        """Rows y0:y1 as the format gives them: (h, w) or (h, w, 3)."""
        if not 0 <= y0 < y1 <= self.height_px:
            raise ValueError(f"rows {y0}:{y1} are not within 0:{self.height_px}")
        with capture_warnings():
            rows = np.asarray(self.read_rows(y0, y1))
        if rows.shape[:2] != (y1 - y0, self.width_px) or rows.ndim not in (2, 3):
            raise ReadError(f"decoded {rows.shape} where rows {y0}:{y1} of width {self.width_px} were expected")
        return rows


def _to_native_order(grey: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(grey, dtype=grey.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Source:
    """What one file is. `frames` are images; only those of kind "micrograph" or "stack" are micrographs."""

    format: str | None  # TIFF, MRC, DM3, PNG ...; None when not recognised
    kind: str  # see tables.CATALOG
    reason: str = ""  # one sentence: why it is no micrograph, or what to know about it
    frames: tuple[Frame, ...] = ()
    is_failed: bool = False  # it should be a micrograph by its name, but is none
    n_frames_lost: int = 0  # images that the file should have and `frames` lacks; 1 where their number is unknown


def add_damage(source: Source, sentence: str, shape: tuple[int, ...] | None = None) -> Source:
    """`source`, whose frames (those that an array of `shape` can hold) note this damage whenever they are read."""

    def read_rows(frame: Frame, y0: int, y1: int) -> np.ndarray:
        record_damage(sentence)
        return frame.read_rows(y0, y1)

    def noted(frame: Frame) -> Frame:
        sizes = [frame.height_px, frame.width_px] if shape is None else list(shape)
        for size in (frame.height_px, frame.width_px):
            if size not in sizes:
                return frame
            sizes.remove(size)
        return replace(frame, read_rows=partial(read_rows, frame))

    return replace(source, frames=tuple(map(noted, source.frames)))


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels of (h, w, 3) are equal."""
    return np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])


def convert_to_luma(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) of any real dtype -> (h, w) of the same dtype: the channel where all are equal, else ITU-R BT.601 luma.

    Integers are rounded to nearest. The weights 0.299, 0.587, 0.114 sum to 1, so equal channels stay exact.
    """
    if is_grey(rgb):
        return np.ascontiguousarray(rgb[..., 0])
    out = np.empty(rgb.shape[:2], dtype=rgb.dtype)
    step = max(1, 2**22 // max(rgb.shape[1], 1))
    for y in range(0, rgb.shape[0], step):  # by blocks: the float copy is eight times the pixels
        with np.errstate(invalid="ignore", over="ignore"):
            block = rgb[y : y + step].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        out[y : y + step] = np.rint(block) if rgb.dtype.kind in "iu" else block
    return out


def count_coloured(rgb: np.ndarray) -> int:
    """Number of pixels of (h, w, 3) whose channels differ by over 8 % of the full range (dtype's, or 1 for floats)."""
    full_scale = float(np.iinfo(rgb.dtype).max) if rgb.dtype.kind in "iu" else 1.0
    red = rgb[..., 0]
    green = rgb[..., 1]
    blue = rgb[..., 2]
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite pixels
        difference = high - low if rgb.dtype.kind == "u" else high.astype(np.float64) - low
    return int(np.count_nonzero(difference > 0.08 * full_scale))


class _MessageCollector(logging.Handler):
    def __init__(self, notes: list[str]):
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(record.getMessage())


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Messages that the reading libraries warn of or log, which then do not reach the terminal."""
    notes: list[str] = []
    loggers = [logging.getLogger(name) for name in ("tifffile", "rsciio", "asyncio")]
    old_states = [(log, log.propagate, list(log.handlers)) for log in loggers]
    for log in loggers:
        log.propagate = False
        log.handlers = [_MessageCollector(notes)]
    try:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            yield notes
        notes.extend(str(w.message) for w in records)
    finally:
        for log, propagates_messages, handlers in old_states:
            log.propagate = propagates_messages
            log.handlers = handlers
