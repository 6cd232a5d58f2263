"""Instrument containers by RosettaSciIO (DM3/DM4, SER/EMI, EMD, HSPY, ELID ...): signals -> frames or a reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.metadata import dates, units
from emqa_dask.archive.metadata.headers import Header, get_entry, get_first_entry
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.values import clean_text, parse_positive
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source, capture_warnings

# Above this many bytes of pixels a container is opened lazily, by dask arrays computed in this thread.
EAGER_BYTES = 256 * 2**20
_SPECTRUM_AXIS_UNITS = ("ev", "kev", "mev", "wavelength", "cm^-1", "1/cm")
_ELEMENTS = (
    " H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U "
)


@dataclass(frozen=True)
class SignalKind:
    kind: str
    reason: str


def open_rosetta(path: str | Path, format: str, plugin: str, n_bytes: int, **options: Any) -> Source:
    """A file that the RosettaSciIO plug-in `plugin` reads -> Source; `n_bytes` estimates its decoded pixels.

    Raises ReadError when the plug-in cannot read it. Signals that are no micrographs are named in the reason.
    """
    with capture_warnings():
        try:
            reader = import_module(f"rsciio.{plugin}").file_reader
            if n_bytes > EAGER_BYTES:
                options["lazy"] = True
            signals = reader(str(path), **options)
        except Exception as error:  # a foreign parser on a foreign file: anything can come
            raise ReadError(f"broken {format}: {_describe_error(error)}") from error
        return make_source(signals, format)


def _describe_error(error: object) -> str:
    name = "" if type(error).__name__ == "error" else f"{type(error).__name__}: "
    return (name + " ".join(str(error).split())[:200]).removesuffix(": ")


def make_source(signals: list[dict], format: str) -> Source:
    """RosettaSciIO's signal dictionaries -> Source; each 2-D image, and each image of a stack, is a frame."""
    frames: list[Frame] = []
    others: list[SignalKind] = []
    complex_frames: list[Frame] = []
    for signal in signals:
        verdict = classify_signal(signal)
        if verdict.kind in ("micrograph", "stack"):
            frames += _make_frames(signal)
        else:
            others.append(verdict)
            if verdict.kind == "signal" and np.dtype(signal["data"].dtype).kind == "c" and signal["data"].ndim == 2:
                complex_frames += _make_frames(signal)
    if frames:
        remark = f"{len(others)} other signals left out: {others[0].reason}" if others else ""
        return Source(format, "stack" if len(frames) > 1 else "micrograph", remark, tuple(frames))
    if others:
        return Source(format, others[0].kind, others[0].reason, tuple(complex_frames))
    return Source(format, "spectrum", f"{format} without any image in it")


def classify_signal(signal: dict) -> SignalKind:
    """What one signal is: micrograph, stack, spectrum, diffraction or signal, and the reason where it is no image."""
    data = signal["data"]
    axes = signal["axes"]
    shape = tuple(int(n) for n in data.shape)
    dtype = np.dtype(data.dtype)
    axis_units = [str(a.get("units") or "") for a in axes]
    signal_type = str(get_entry(signal, "metadata.Signal.signal_type") or "")
    size = " x ".join(map(str, shape))
    if len(shape) < 2 or (sum(n > 1 for n in shape) == 0 and len(shape) != 2):
        return SignalKind("spectrum", f"a spectrum or profile of {size} points, not an image")
    is_spectral = any(unit.strip().lower() in _SPECTRUM_AXIS_UNITS for unit in axis_units)
    if is_spectral or signal_type.startswith(("EDS", "EELS", "CL")):
        description = "a spectrum image" if len(shape) >= 3 else "a series of spectra"
        return SignalKind("spectrum", f"{description} of {size} values, not a micrograph")
    if any(units.is_reciprocal(u) for u in axis_units[-2:]):
        description = "a diffraction pattern" if len(shape) == 2 else "a stack of diffraction patterns"
        return SignalKind("diffraction", f"{description} of {size} pixels in {axis_units[-1]}, not a micrograph")
    if len(shape) > 3:
        return SignalKind("diffraction", f"{len(shape)}-dimensional data of {size} values (4D-STEM?), not micrographs")
    if dtype.kind == "c":
        return SignalKind(
            "signal", f"complex values of {size} pixels (a Fourier transform or a wave), not a micrograph"
        )
    if dtype.kind not in "biuf" and not _is_rgb(dtype):
        return SignalKind("signal", f"values of type {dtype}, not an image")
    if 0 in shape:
        return SignalKind("signal", f"an image of {size} pixels")
    title = str(get_entry(signal, "metadata.General.title") or "")
    if re.fullmatch(r"[A-Z][a-z]?(?:[-_ ][KLM]a?)?", title) and f" {re.split('[-_ ]', title)[0]} " in _ELEMENTS:
        return SignalKind("signal", f"an element map ({title}), not a micrograph")
    if len(shape) == 3 and not _is_stack(axes):
        return SignalKind("spectrum", f"a spectrum image of {size} values, not a micrograph")
    return SignalKind("stack" if len(shape) == 3 else "micrograph", "")


def _is_rgb(dtype: np.dtype) -> bool:
    return dtype.names is not None and {"R", "G", "B"} <= set(dtype.names)


def _is_stack(axes: list[dict]) -> bool:
    """The first axis counts images and the last two are an image plane."""
    navigate = [bool(a.get("navigate", False)) for a in axes]
    return navigate in ([True, False, False], [False, False, False], [True, True, True])


def _make_frames(signal: dict) -> list[Frame]:
    data = signal["data"]
    header = make_header(signal)
    height, width = (int(n) for n in data.shape[-2:])
    rgb = _is_rgb(np.dtype(data.dtype))
    dtype = np.dtype(data.dtype["R"] if rgb else data.dtype).newbyteorder("=")
    rows = min(height, max(1, WINDOW_BYTES // max(1, width * dtype.itemsize * (3 if rgb else 1))))
    guards.check_frames(1 if data.ndim == 2 else int(data.shape[0]))
    planes = [()] if data.ndim == 2 else [(k,) for k in range(data.shape[0])]
    return [Frame(height, width, dtype.name, header, partial(_read_rows, data, k), rows, rgb) for k in planes]


def _read_rows(data: Any, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    rows = data[(*plane, slice(y0, y1))]
    if hasattr(rows, "compute"):  # a dask array; in this thread, whatever scheduler is set
        rows = rows.compute(scheduler="synchronous")
    rows = np.asarray(rows)
    return np.stack([rows[c] for c in "RGB"], axis=-1) if rows.dtype.names else rows


def make_header(signal: dict) -> Header:
    """Header of one signal: pixel size from its x axis, the rest from its metadata, mapped as HyperSpy maps them."""
    original = signal.get("original_metadata") or {}
    tree = _apply_mapping(original, signal.get("metadata") or {}, signal.get("mapping") or {})
    axis = signal["axes"][-1]
    instrument = lambda *names: next(  # noqa: E731
        (
            v
            for s in ("TEM", "SEM")
            for n in names
            if (v := get_entry(tree, f"Acquisition_instrument.{s}.{n}")) is not None
        ),
        None,
    )
    tags = get_entry(original, "ImageList.TagGroup0.ImageTags") or {}
    epoch = parse_positive(get_entry(original, "Acquisition.AcquisitionStartDatetime.DateTime"))
    detectors = get_entry(original, "Detectors") or {}
    detector = detectors.get(f"Detector-{get_entry(original, 'BinaryResult.DetectorIndex')}") or {}
    magnification = get_first_entry(
        tags, "Microscope Info.Indicated Magnification", "Microscope_Info.Indicated_Magnification"
    )
    name = get_first_entry(tags, "Session Info.Microscope", "Microscope Info.Name", "Microscope Info.Microscope")
    exposure = get_first_entry(tags, "DataBar.Exposure Time (s)", "Acquisition.Parameters.High Level.Exposure (s)")
    header = Header(
        voltage_kv=parse_positive(instrument("beam_energy")),
        magnification=parse_positive(
            magnification or instrument("magnification") or _get_velox_magnification(original)
        ),
        instrument=clean_text(instrument("microscope"))
        or clean_text(name)
        or clean_text(get_entry(original, "Instrument.InstrumentModel")),
        acquired=dates.parse_date(get_entry(tree, "General.date"), get_entry(tree, "General.time"))
        or _format_epoch(epoch),
        exposure_s=parse_positive(
            exposure or instrument("Camera.exposure", "Detector.Camera.exposure") or detector.get("ExposureTime")
        ),
        foreign=_select_metadata(original) or dict(signal.get("metadata") or {}),
    )
    return set_pixel_size(header, units.length_to_nm(axis.get("scale"), axis.get("units")))


def _get_velox_magnification(original: Mapping) -> Any:
    return get_first_entry(original, "CustomProperties.StemMagnification.value", "Optics.NominalMagnification")


def _format_epoch(seconds: float) -> str | None:
    if not 0 < seconds < 4e9:
        return None
    return str(np.datetime64(int(seconds), "s")) + "+00:00"


def _select_metadata(original: Mapping) -> dict[str, Any]:
    """The image's own tags first, since the header column keeps only the first 4 kB."""
    tags = get_entry(original, "ImageList.TagGroup0.ImageTags")
    return dict(tags) if isinstance(tags, Mapping) and tags else dict(original)


def _apply_mapping(original: Mapping, metadata: Mapping, mapping: Mapping) -> dict[str, Any]:
    """`metadata` with RosettaSciIO's `mapping` {foreign path: (our path, conversion)} applied, as HyperSpy does."""
    tree = _copy_tree(metadata)
    for path, target in mapping.items():
        value = get_entry(original, path)
        if value is None or not target:
            continue
        try:
            metadata_path, convert = target
            value = convert(value) if convert else value
        except Exception:  # one unreadable field must not cost the others
            continue
        if value is None:
            continue
        *parents, leaf = metadata_path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                break
        else:
            branch[leaf] = value
    return tree


def _copy_tree(tree: Mapping) -> dict[str, Any]:
    return {k: _copy_tree(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
