"""What a signal of RosettaSciIO is: an image, spectra, diffraction patterns, an element map or something else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, count_planes, identify_axes
from emqa_dask.archive.metadata.headers import get_entry
from emqa_dask.archive.metadata.units import is_reciprocal, nm_per_unit, normalise_unit

SPECTRAL_TYPES = ("EDS", "EELS", "CL", "XPS", "RAMAN", "PL", "LUM", "TRLUM")  # first letters of HyperSpy's signal types
SAME_SCALE = 0.01  # relative difference of the scales along x and y of an image of a spectrometer
_ELEMENTS = (
    " H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U "
)
_LINE_TITLE = re.compile(r"X-ray line intensity of .*: [A-Z][a-z]?_[KLM]")  # as HyperSpy titles its element maps


@dataclass(frozen=True)
class SignalKind:
    """Kind as in tables.CATALOG, and the reason where it is no micrograph, or the axes where it is one."""

    kind: str
    reason: str = ""
    axes: ImageAxes | None = None


def classify_signal(signal: Mapping, *, has_eds: bool = False) -> SignalKind:
    """Kind of one signal. has_eds: whether its file has X-ray data, so that an element as a title means a map."""
    shape = tuple(int(n) for n in signal["data"].shape)
    size = " x ".join(map(str, shape))
    names, units = _list_names_and_units(signal, len(shape))
    if _is_series_of_spectra(signal, shape, units):
        description = "a spectrum image" if len(shape) >= 3 else "a series of spectra"
        return SignalKind("spectrum", f"{description} of {size} values, not a micrograph")
    dtype = np.dtype(signal["data"].dtype)
    axes = _identify_image_axes(signal, np.dtype(np.uint8) if is_rgb(dtype) else dtype, names, units)
    if isinstance(axes, NoImage):
        return SignalKind(axes.kind, axes.reason)
    if min(shape[axes.y], shape[axes.x]) == 1:
        return SignalKind("spectrum", f"a profile of {size} points, not an image")
    if sum(n > 1 for n in shape) > 3:
        description = f"{len(shape)}-dimensional data of {size} values (4D-STEM?), not micrographs"
        return SignalKind("diffraction", description)
    title = get_title(signal)
    if _get_signal_type(signal).startswith("EDS"):
        return SignalKind("signal", f"a map of X-ray counts ({title}), not a micrograph")
    if _LINE_TITLE.match(title) or (has_eds and has_element_title(signal)):
        return SignalKind("signal", f"an element map ({title}), not a micrograph")
    return SignalKind("stack" if count_planes(shape, axes) > 1 else "micrograph", "", axes)


def is_rgb(dtype: np.dtype) -> bool:
    """Whether pixels are structures of red, green and blue."""
    return dtype.names is not None and {"R", "G", "B"} <= set(dtype.names)


def get_title(signal: Mapping) -> str:
    """Title of a signal; "" where it has none."""
    return str(get_entry(signal, "metadata.General.title") or "").strip()


def has_element_title(signal: Mapping) -> bool:
    """Whether a signal is titled as an element or a line of one: C, Au, Fe Ka, O_K."""
    title = get_title(signal)
    is_line = re.fullmatch(r"[A-Z][a-z]?(?:[-_ ][KLM]a?)?", title) is not None
    return is_line and f" {re.split('[-_ ]', title)[0]} " in _ELEMENTS


def has_eds_evidence(signals: Sequence[Mapping]) -> bool:
    """Whether a file has X-ray data: a spectrum, its detector or elements in a signal, or several maps."""
    if sum(map(has_element_title, signals)) > 1:
        return True
    places = ("Sample.elements", "Sample.xray_lines", "Acquisition_instrument.TEM.Detector.EDS",
              "Acquisition_instrument.SEM.Detector.EDS")  # fmt: skip
    return any(
        _get_signal_type(signal).startswith("EDS")
        or any(_is_filled(get_entry(signal, f"metadata.{place}")) for place in places)
        for signal in signals
    )


def _is_filled(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _get_signal_type(signal: Mapping) -> str:
    return str(get_entry(signal, "metadata.Signal.signal_type") or "").upper()


def _list_names_and_units(signal: Mapping, n_axes: int) -> tuple[list[str], list[str]]:
    """Name and unit of each axis; empty where they are not known."""
    axes = signal["axes"]
    if len(axes) != n_axes:
        return [], []
    return [str(axis.get("name") or "") for axis in axes], [str(axis.get("units") or "") for axis in axes]


def _identify_image_axes(signal: Mapping, dtype: np.dtype, names: list[str], units: list[str]) -> ImageAxes | NoImage:
    """Axes of the images in a signal: its two signal axes in their order, whatever they are called.

    HyperSpy takes the last axis for x, and some plug-ins call it y.
    """
    shape = tuple(int(n) for n in signal["data"].shape)
    axes = identify_axes(shape, dtype, names, units)
    if isinstance(axes, NoImage) and axes.kind in ("spectrum", "diffraction"):
        return axes
    signal_axes = [k for k, axis in enumerate(signal["axes"]) if not axis.get("navigate", False)]
    if names == ["x", "y", "z"] and len(signal_axes) == 3:  # of Semper: layers, rows and columns in this order
        return identify_axes(shape, dtype, ["z", "y", "x"], units)
    if not names or len(signal_axes) != 2:
        return axes
    plane = identify_axes([shape[k] for k in signal_axes], dtype)
    if isinstance(plane, NoImage):
        return plane
    others = tuple(k for k in range(len(shape)) if k not in signal_axes)
    return ImageAxes(signal_axes[0], signal_axes[1], None, others)


def _is_series_of_spectra(signal: Mapping, shape: tuple[int, ...], units: list[str]) -> bool:
    """Whether one axis of a signal is that of a spectrum, by HyperSpy's axes or by the type of the signal.

    Images that a spectrometer recorded (a survey image, a map of the whole intensity) have a length along both axes.
    """
    if len(shape) < 2 or len(units) != len(shape):
        return False
    is_navigation = [bool(axis.get("navigate", False)) for axis in signal["axes"]]
    is_image = len(shape) == 2 and min(shape) > 1 and _have_same_lengths(signal["axes"])
    if is_navigation.count(False) == 1:
        return not is_image
    if any(map(is_reciprocal, units)):
        return False
    return _get_signal_type(signal).startswith(SPECTRAL_TYPES) and not is_image


def _have_same_lengths(axes: Sequence[Mapping]) -> bool:
    """Whether both axes are lengths in steps of the same size, as in an image."""
    steps = [abs(float(axis.get("scale") or 0)) * nm_per_unit(axis.get("units")) for axis in axes]
    is_wavelength = any(str(axis.get("name") or "").lower() == "wavelength" for axis in axes)
    has_units = all(normalise_unit(axis.get("units")) for axis in axes)
    return has_units and not is_wavelength and min(steps) > 0 and abs(steps[0] / steps[1] - 1) < SAME_SCALE
