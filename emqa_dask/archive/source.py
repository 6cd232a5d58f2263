"""Source and Frame: contents of one file, and how rows of it are read; damage and captured warnings."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from emqa_dask.archive.colour.grey_image import MAX_PIXELS, GreyImage, convert_colours, describe_luma
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


class Reading(NamedTuple):
    """Rows of a frame, and what is known about them."""

    pixels: np.ndarray  # (h, w), in the acquired dtype
    n_coloured: int  # pixels with colour that is neither of a colour map nor of annotations
    damage: list[str]  # a phrase for each part of the file whose pixels are damaged or absent
    colour: str = ""  # as in the column `colour` of tables.MICROGRAPHS; "" for grey
    n_annotated: int = 0  # pixels that coloured annotations covered


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
    colour_map: str = ""  # name of the look-up table that the file shows these intensities with

    def row_ranges(self) -> Iterator[tuple[int, int]]:
        """Row windows (y0, y1) that cover the frame in order, each about 64 MiB where the format allows it."""
        step = self.rows_per_read
        if step < 1:
            row_bytes = self.width_px * np.dtype(self.dtype).itemsize * (3 if self.is_colour else 1)
            step = max(1, WINDOW_BYTES // max(row_bytes, 1))
        if self.is_colour and self._is_explained():
            step = self.height_px
        for y0 in range(0, self.height_px, step):
            yield y0, min(y0 + step, self.height_px)

    def read(self, y0: int = 0, y1: int | None = None) -> np.ndarray:
        """Rows y0:y1 as (y1 - y0, width) in the acquired dtype, native endian, C order; colour becomes grey."""
        return self._read(y0, self.height_px if y1 is None else y1)[0]

    def read_with_colour(self, y0: int = 0, y1: int | None = None) -> Reading:
        """As read(), with what the colours of these rows are, and damage.

        The damage is a phrase for each part of the file whose pixels are damaged or absent, as far as its format and
        its decoder can tell; empty where all are whole.
        """
        damage: list[str] = []
        token = _RECORDED_DAMAGE.set(damage)
        try:
            pixels, image = self._read(y0, self.height_px if y1 is None else y1)
        finally:
            _RECORDED_DAMAGE.reset(token)
        return Reading(pixels, image.n_coloured, damage, image.colour, image.n_annotated)

    def _is_explained(self) -> bool:
        """Whether the image is small enough for its colours to be explained, from the whole of it."""
        return self.height_px * self.width_px <= MAX_PIXELS

    def _read(self, y0: int, y1: int) -> tuple[np.ndarray, GreyImage]:
        """Rows y0:y1 as grey, and the image that they are of: the whole one where its colours are explained."""
        rows = self._decode(y0, y1)
        if rows.ndim == 2:
            image = GreyImage(rows, f"colour map: {self.colour_map}" if self.colour_map else "")
        elif not self._is_explained():
            image = describe_luma(rows)
        else:
            is_whole = (y0, y1) == (0, self.height_px)
            image = convert_colours(rows if is_whole else self._decode(0, self.height_px))
            return _to_native_order(image.pixels[y0:y1]), image
        return _to_native_order(image.pixels), image

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


_LOGGERS = tuple(logging.getLogger(name) for name in ("tifffile", "rsciio", "asyncio"))


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
    collector = _MessageCollector(notes)
    old_states = [(log, log.propagate, log.handlers) for log in _LOGGERS]
    for log in _LOGGERS:
        log.propagate = False
        log.handlers = [collector]
    try:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            yield notes
        notes.extend(str(w.message) for w in records)
    finally:
        for log, propagates_messages, handlers in old_states:
            log.propagate = propagates_messages
            log.handlers = handlers
