"""TIA files: images of .ser files, their imaging conditions from the .emi file beside them."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from emqa_dask.archive.formats.ser import SerImage, SerSeries, is_finite_step, make_row_reader, read_series
from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.emi import EmiObject, make_header, read_emi, select_object
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source

MIN_RECIPROCAL_STEP = 1e4  # 1/m per pixel; patterns have 1e6 to 1e9, and no image has 10 km per pixel


def open_ser(path: Path) -> Source:
    """TIA .ser: images from it, microscope, mode and date from the .emi beside it where there is one."""
    series = read_series(path)
    if series.is_spectral:
        return _describe_spectra(series)
    if not series.images:
        raise ReadError(series.problem or f"a SER without any of the {series.n_total:,} images that were planned")
    emi = find_emi(path)
    entry = select_object(read_emi(emi), path) if emi is not None else None
    not_image = _describe_other_kind(series, entry, emi)
    if not_image is not None:
        return not_image
    frames = tuple(_make_frame(path, image, entry) for image in series.images)
    n_lost = series.n_valid - len(frames)
    reason = f"{n_lost} of {series.n_valid} images lost: {series.problem}" if n_lost else ""
    if not n_lost and series.n_valid < series.n_total:
        reason = f"the series was stopped after {series.n_valid} of {series.n_total} images"
    return Source("SER", "stack" if len(frames) > 1 else "micrograph", reason, frames, n_frames_lost=n_lost)


def _describe_spectra(series: SerSeries) -> Source:
    if not series.n_valid:
        return Source("SER", "spectrum", "a spectrum, which TIA keeps in the .emi file, not an image")
    shape = " x ".join(str(d.size) for d in reversed(series.dimensions))
    if series.n_valid == 1:
        return Source("SER", "spectrum", "a spectrum, not an image")
    return Source("SER", "spectrum", f"{series.n_valid:,} spectra ({shape} positions), not an image")


def _describe_other_kind(series: SerSeries, entry: EmiObject | None, emi: Path | None) -> Source | None:
    """What a series is whose elements are no micrographs; None for micrographs.

    The unit of the pixels is not in the .ser file, but the size of the calibration tells m from 1/m.
    """
    image = series.images[0]
    size = f"{image.height_px} x {image.width_px} pixels"
    if np.dtype(image.dtype).kind == "c":
        return Source("SER", "signal", f"complex values of {size} (a Fourier transform), not a micrograph")
    if series.has_positions and len(series.images) > 1:
        n = len(series.images)
        return Source("SER", "diffraction", f"{n:,} images of {size} at {n:,} positions of the beam (4D-STEM data)")
    patterns = "a diffraction pattern" if len(series.images) == 1 else "diffraction patterns"
    if any(is_finite_step(s) and abs(s) > MIN_RECIPROCAL_STEP for s in (image.step_x, image.step_y)):
        return Source("SER", "diffraction", f"{patterns} of {size}, calibrated in 1/m, not a micrograph")
    if entry is None or entry.is_scanned:
        return None
    if entry.is_reciprocal or "Diffraction" in entry.mode or "STEM" in entry.mode:
        name = emi.name if emi is not None else "the .emi"
        return Source("SER", "diffraction", f"{patterns} of a camera by the mode in {name}, not a micrograph")
    return None


def _make_frame(path: Path, image: SerImage, entry: EmiObject | None) -> Frame:
    time_s = image.time_s
    header = (
        make_header(entry, time_s) if entry is not None else Header(acquired=dates.parse_date_near(None, None, time_s))
    )
    stated_sizes = []
    if is_finite_step(image.step_x) and is_finite_step(image.step_y) and image.step_x != 1.0:  # 1: not calibrated
        stated_sizes = [StatedSize(image.step_x * 1e9, image.step_y * 1e9, "the .ser")]
    header = choose_pixel_size(header, stated_sizes, image.width_px)
    rows = max(1, WINDOW_BYTES // (image.width_px * np.dtype(image.dtype).itemsize))
    return Frame(
        image.height_px,
        image.width_px,
        np.dtype(image.dtype).name,
        header,
        make_row_reader(path, image),
        min(rows, image.height_px),
    )


def find_emi(ser: Path) -> Path | None:
    """x_1.ser -> x.emi where that lies beside it, in upper or lower case."""
    stems = dict.fromkeys((re.sub(r"_\d+$", "", ser.stem), ser.stem))
    candidates = [ser.with_name(stem + suffix) for stem in stems for suffix in (".emi", ".EMI", ".Emi")]
    return next((path for path in candidates if path.is_file()), None)


def open_emi(path: Path) -> Source:
    """TIA .emi: metadata of the .ser files beside it, which carry the pixels; frames only for read_micrograph()."""
    names = _list_sers(path)
    if not names:
        return Source("EMI", "metadata", "metadata of .ser files, none of which lies beside it")
    shown_names = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    frames: tuple[Frame, ...] = ()
    for name in names:
        with suppress(ReadError):  # the .ser's own row says what is wrong with it
            frames = open_ser(path.with_name(name)).frames
        if frames:
            break
    return Source("EMI", "metadata", f"metadata of {shown_names}, which carry the pixels", frames)


def _list_sers(emi: Path) -> list[str]:
    """Names of the .ser files of a .emi in its folder, by their numbers."""
    pattern = re.compile(re.escape(emi.stem) + r"_(\d+)", re.IGNORECASE)
    numbers = {}
    for path in emi.parent.iterdir():
        match = pattern.fullmatch(path.stem)
        if match and path.suffix.lower() == ".ser":
            numbers[path.name] = int(match[1])
    return sorted(numbers, key=lambda name: (numbers[name], name))
