"""Where the frames of a block are kept: in memory, or in a temporary file."""

import math
import tempfile
from typing import IO

import numpy as np


class MemoryBlock:
    """Decoded frames in memory."""

    def __init__(self, frames: np.ndarray):
        self.frames = frames  # (n_frames, h, w) or (n_frames, h, w, 3)

    def write(self, y0: int, rows: np.ndarray) -> None:
        """Keep `rows` (n_frames, h, w) or (n_frames, h, w, 3), which begin at row `y0`."""
        self.frames[:, y0 : y0 + rows.shape[1]] = rows

    def read(self, number: int, y0: int, y1: int) -> np.ndarray:
        return self.frames[number, y0:y1].copy()


class FileBlock:
    """Decoded frames in a temporary file without a name, which the system removes with the process at the latest."""

    def __init__(self, frame_shape: tuple[int, ...], dtype: np.dtype):
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="emqa-")  # noqa: SIM115 - open as long as the block
        self._dtype = dtype
        self._frame_shape = frame_shape
        self._row_bytes = math.prod(frame_shape[1:]) * dtype.itemsize

    def __del__(self) -> None:
        self._file.close()

    def _seek(self, number: int, y: int) -> None:
        self._file.seek((number * self._frame_shape[0] + y) * self._row_bytes)

    def write(self, y0: int, rows: np.ndarray) -> None:
        for number, frame_rows in enumerate(rows):
            self._seek(number, y0)
            self._file.write(np.ascontiguousarray(frame_rows).data)

    def read(self, number: int, y0: int, y1: int) -> np.ndarray:
        self._seek(number, y0)
        rows = np.empty((y1 - y0, *self._frame_shape[1:]), self._dtype)
        if self._file.readinto(rows.data.cast("B")) != rows.nbytes:  # type: ignore[attr-defined]
            raise OSError("the temporary file of decoded frames is shorter than it was written")
        return rows


def take_memory(old_frames: MemoryBlock | FileBlock | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory for a block: that of the block before, whose pages the system has filled already, or new."""
    if isinstance(old_frames, MemoryBlock) and old_frames.frames.dtype == dtype:
        n_values = math.prod(shape)
        values = old_frames.frames.reshape(-1)
        if n_values <= values.size <= 2 * n_values:
            return values[:n_values].reshape(shape)
    return np.empty(shape, dtype)
