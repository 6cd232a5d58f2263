"""Instrument containers by RosettaSciIO (ELID, HSPY, BCF, SUR ...): signals -> frames or a reason."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.axes import ImageAxes, count_planes, iterate_planes, read_plane
from emqa_dask.archive.checks import guards
from emqa_dask.archive.formats.signal_kinds import SignalKind, classify_signal, has_eds_evidence, is_rgb
from emqa_dask.archive.metadata.signal_header import make_header
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source, capture_warnings

# Above this many bytes of pixels a container is opened lazily, by dask arrays computed in this thread.
EAGER_BYTES = 256 * 2**20
# Options of plug-ins: of a Bruker composite the images alone, since decoding its spectra takes minutes and may fail.
PLUGIN_OPTIONS: dict[str, dict[str, Any]] = {"BCF": {"select_type": "image"}}


def open_rosetta(path: str | Path, format: str, plugin: str, n_bytes: int, **options: Any) -> Source:
    """A file that the RosettaSciIO plug-in `plugin` reads -> Source; `n_bytes` estimates its decoded pixels.

    Raises ReadError when the plug-in cannot read it. Signals that are no micrographs are named in the reason.
    """
    options = {**PLUGIN_OPTIONS.get(format, {}), **options}
    with capture_warnings():
        try:
            reader = import_module(f"rsciio.{plugin}").file_reader
            if n_bytes > EAGER_BYTES:
                options["lazy"] = True
            signals = reader(str(path), **options)
        except ImportError as error:
            raise ReadError(f"{format} is not read: it needs {error.name or error}, which is not installed") from error
        except Exception as error:  # a foreign parser on a foreign file: anything can come
            raise ReadError(f"broken {format}: {describe_error(error)}") from error
        return make_source(signals, format)


def describe_error(error: object) -> str:
    """Type and text of an exception in one line."""
    name = "" if type(error).__name__ == "error" else f"{type(error).__name__}: "
    return (name + " ".join(str(error).split())[:200]).removesuffix(": ")


def make_source(signals: Sequence[Mapping], format: str) -> Source:
    """RosettaSciIO's signal dictionaries -> Source; each 2-D image, and each image of a stack, is a frame."""
    has_eds = has_eds_evidence(signals)
    return combine_signals([(signal, classify_signal(signal, has_eds=has_eds)) for signal in signals], format)


def combine_signals(signals: Sequence[tuple[Mapping, SignalKind]], format: str) -> Source:
    """Source of signals whose kinds are known; frames of complex images are only for read_micrograph()."""
    frames: list[Frame] = []
    others: list[SignalKind] = []
    complex_frames: list[Frame] = []
    for signal, verdict in signals:
        if verdict.axes is not None:
            frames += _make_frames(signal, verdict.axes)
            continue
        others.append(verdict)
        if verdict.kind == "signal" and np.dtype(signal["data"].dtype).kind == "c" and signal["data"].ndim == 2:
            complex_frames += _make_frames(signal, ImageAxes(0, 1))
    if frames:
        remark = f"{len(others)} other signals left out: {others[0].reason}" if others else ""
        return Source(format, "stack" if len(frames) > 1 else "micrograph", remark, tuple(frames))
    if others:
        return Source(format, others[0].kind, others[0].reason, tuple(complex_frames))
    return Source(format, "spectrum", f"{format} without any image in it")


def _make_frames(signal: Mapping, axes: ImageAxes) -> list[Frame]:
    data = signal["data"]
    height = int(data.shape[axes.y])
    width = int(data.shape[axes.x])
    has_structure = is_rgb(np.dtype(data.dtype))
    dtype = np.dtype(data.dtype["R"] if has_structure else data.dtype).newbyteorder("=")
    is_colour = has_structure or axes.colour is not None
    rows = min(height, max(1, WINDOW_BYTES // max(1, width * dtype.itemsize * (3 if is_colour else 1))))
    guards.check_frames(count_planes(data.shape, axes))
    header = make_header(signal, axes.y, axes.x)
    return [
        Frame(height, width, dtype.name, header, partial(_read_rows, data, axes, plane), rows, is_colour)
        for plane in iterate_planes(data.shape, axes)
    ]


def _read_rows(data: Any, axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    rows = read_plane(data, axes, plane, y0, y1)
    return np.stack([rows[c] for c in "RGB"], axis=-1) if rows.dtype.names else rows
