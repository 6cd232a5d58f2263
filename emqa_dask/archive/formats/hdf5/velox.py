"""Velox EMD (Thermo Fisher, FEI): the images in Data/Image, with the JSON metadata beside each, read by h5py alone."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage
from emqa_dask.archive.formats.hdf5.attributes import parse_json
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_entry, get_first_entry
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import is_reciprocal, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_FORMAT = "EMD (Velox)"
_ELEMENT_LABEL = re.compile(r"(?:[A-Z][a-z]?)(?:[-_ ]?[KLM]\w*)?")
_ELECTRON_CHARGE_C = 1.602176634e-19
_ANALYTICAL_DETECTORS = ("superx", "dual-x", "dualx", "eds", "edx", "ultra-x", "ultrax")
_AXES = ImageAxes(0, 1, None, (2,))  # Velox counts frames by the last axis


def is_velox(file: h5py.File, path: Path) -> bool:
    """Whether Velox (or its developer's kit) wrote `file`."""
    if "Data" not in file or not isinstance(file["Data"], h5py.Group):
        return False
    version = file.get("Version")
    if isinstance(version, h5py.Dataset):
        return True
    return isinstance(file.get("Data/Image"), h5py.Group) and "Info" in file


def read_velox(file: h5py.File) -> Contents:
    """All images in Data/Image, in the order of their names; element maps, Fourier transforms and others are named."""
    group = file.get("Data/Image")
    labels = _read_labels(file)
    images: list[ImageDataset] = []
    others: list[OtherArray] = []
    n_lost = 0
    for name in group if isinstance(group, h5py.Group) else ():
        try:
            dataset = group[name]["Data"]
            metadata = _read_metadata(group[name])
            label = labels.get(name) or clean_text(get_entry(metadata, "BinaryResult.Detector")) or ""
            content = _read_image(dataset, metadata, label)
        except (KeyError, OSError, RuntimeError, ValueError, AttributeError, TypeError):
            n_lost += 1
            continue
        if isinstance(content, NoImage):
            others.append(OtherArray(label or name, content))
        else:
            images.append(content)
    n_spectra = _count_spectra(file)
    if not images and not others:
        if n_spectra:
            others.append(OtherArray("/Data", NoImage("spectrum", f"{n_spectra} spectra without an image")))
        elif n_lost:
            raise ValueError("no image in /Data/Image can be opened")
    remark = f"{n_lost} of {len(group)} images in /Data/Image cannot be opened" if n_lost else ""
    return Contents(_FORMAT, tuple(images), tuple(others), remark, n_lost)


def _count_spectra(file: h5py.File) -> int:
    groups = (file.get(f"Data/{name}") for name in ("Spectrum", "SpectrumStream", "SpectrumImage"))
    return sum(len(group) for group in groups if isinstance(group, h5py.Group))


def _read_metadata(group: h5py.Group) -> dict[str, Any]:
    """The JSON of the first frame; empty where it is absent or broken: the pixels are read all the same."""
    dataset = group.get("Metadata")
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 2 or dataset.dtype.itemsize != 1:
        return {}
    try:
        text = dataset[:, 0].tobytes().split(b"\0", 1)[0]
    except (OSError, RuntimeError, ValueError):
        return {}
    metadata = parse_json(text)
    return metadata if isinstance(metadata, dict) else {}


def _read_image(dataset: h5py.Dataset, metadata: Mapping, label: str) -> ImageDataset | NoImage:
    size = " x ".join(map(str, dataset.shape))
    if dataset.dtype.names is not None or dataset.dtype.kind == "c":
        return NoImage("signal", f"complex values of {size} pixels (a Fourier transform or DPC), not a micrograph")
    if dataset.dtype.kind not in "iuf" or dataset.ndim not in (2, 3) or 0 in dataset.shape:
        return NoImage("signal", f"values of type {dataset.dtype} and shape {size}")
    unit = get_entry(metadata, "BinaryResult.PixelUnitX")
    if is_reciprocal(unit):
        return NoImage("diffraction", f"a diffraction pattern of {size} pixels in {unit}")
    if _is_element_map(metadata, label):
        return NoImage("signal", "an element map")
    if re.search(r"\bFFT\b", label):
        return NoImage("signal", "a Fourier transform")
    axes = _AXES if dataset.ndim == 3 else ImageAxes(0, 1)
    return make_image(dataset, axes, _make_header(metadata, label, dataset.shape[1]))


def _is_element_map(metadata: Mapping, label: str) -> bool:
    """Whether an image was computed from X-ray spectra: its detector is one for X-rays, or its title is an element.

    A title alone says nothing where a scanned detector recorded the image.
    """
    detector = (clean_text(get_entry(metadata, "BinaryResult.Detector")) or "").lower()
    types = {
        str(d.get("DetectorName", "")).lower(): str(d.get("DetectorType", ""))
        for d in _list_detectors(metadata).values()
    }
    analytical = [name for name, kind in types.items() if kind == "AnalyticalDetector"]
    if detector and types.get(detector, "AnalyticalDetector") == "AnalyticalDetector":
        is_xray = detector.startswith(_ANALYTICAL_DETECTORS) or any(name.startswith(detector) for name in analytical)
        if is_xray:
            return True
    has_index = get_entry(metadata, "BinaryResult.DetectorIndex") is not None
    return not detector and not has_index and bool(analytical) and _ELEMENT_LABEL.fullmatch(label) is not None


def _list_detectors(metadata: Mapping) -> dict[str, Mapping]:
    detectors = get_entry(metadata, "Detectors")
    if not isinstance(detectors, Mapping):
        return {}
    return {name: detector for name, detector in detectors.items() if isinstance(detector, Mapping)}


def _make_header(metadata: Mapping, label: str, width: int) -> Header:
    number = get_entry(metadata, "BinaryResult.DetectorIndex")
    detector = _list_detectors(metadata).get(f"Detector-{number}", {})
    is_scanned = detector.get("DetectorType") == "ScanningDetector" or (
        not detector and parse_positive(get_entry(metadata, "Scan.DwellTime")) > 0
    )
    exposure = get_entry(metadata, "Scan.FrameTime") if is_scanned else detector.get("ExposureTime")
    unit = get_entry(metadata, "BinaryResult.PixelUnitX") or ""
    x_nm = length_to_nm(get_entry(metadata, "BinaryResult.PixelSize.width"), unit)
    y_nm = length_to_nm(
        get_entry(metadata, "BinaryResult.PixelSize.height"), get_entry(metadata, "BinaryResult.PixelUnitY") or unit
    )
    header = Header(
        voltage_kv=parse_positive(get_entry(metadata, "Optics.AccelerationVoltage"), 1e-3),
        magnification=_read_magnification(metadata),
        instrument=clean_text(get_first_entry(metadata, "Instrument.InstrumentModel", "Instrument.InstrumentClass")),
        acquired=_read_date(metadata),
        dose_e_per_nm2=_compute_dose(metadata, x_nm, y_nm) if is_scanned else math.nan,
        exposure_s=parse_positive(exposure),
        detector=clean_text(detector.get("DetectorName"))
        or clean_text(get_entry(metadata, "BinaryResult.Detector"))
        or label
        or None,
        stage_x_um=parse_number(get_entry(metadata, "Stage.Position.x")) * 1e6,
        stage_y_um=parse_number(get_entry(metadata, "Stage.Position.y")) * 1e6,
        stage_z_um=parse_number(get_entry(metadata, "Stage.Position.z")) * 1e6,
        tilt_deg=math.degrees(parse_number(get_entry(metadata, "Stage.AlphaTilt"))),
        foreign=flatten_metadata(metadata),
    )
    return choose_pixel_size(header, [StatedSize(x_nm, y_nm, "BinaryResult.PixelSize")], width)


def _read_magnification(metadata: Mapping) -> float:
    paths = ("CustomProperties.StemMagnification.value", "Optics.NominalMagnification")
    return next((m for path in paths if (m := parse_positive(get_entry(metadata, path))) > 1), math.nan)


def _read_date(metadata: Mapping) -> str | None:
    path = "Acquisition.AcquisitionStartDatetime.DateTime"
    seconds = parse_positive(get_entry(metadata, path))
    return f"{np.datetime64(int(seconds), 's')}+00:00" if 0 < seconds < 4e9 else None


def _compute_dose(metadata: Mapping, x_nm: float, y_nm: float) -> float:
    """Electrons per nm^2 of a scan: the current on the screen for the dwell time in the area of a pixel."""
    current = parse_positive(get_first_entry(metadata, "Optics.LastMeasuredScreenCurrent", "Optics.ScreenCurrent"))
    dwell_s = parse_positive(get_entry(metadata, "Scan.DwellTime"))
    dose = current * dwell_s / _ELECTRON_CHARGE_C / (x_nm * y_nm)
    return dose if 0 < dose < math.inf else math.nan


def _read_labels(file: h5py.File) -> dict[str, str]:
    """{name of an image in Data/Image: its title} from the displays of the file; empty where they cannot be read."""
    labels: dict[str, str] = {}
    for group_name in ("Displays/ImageDisplay", "Presentation/Displays/ImageDisplay"):
        group = file.get(group_name)
        for display in group.values() if isinstance(group, h5py.Group) else ():
            try:
                _add_label(file, labels, parse_json(display[0]))
            except (KeyError, OSError, RuntimeError, ValueError, AttributeError, TypeError, IndexError):
                continue
    return labels


def _add_label(file: h5py.File, labels: dict[str, str], settings: Mapping) -> None:
    if "data" in settings:  # since version 11: a reference to a reference
        data_path = parse_json(file[settings["data"]][0])["dataPath"]
        labels[data_path.rpartition("/")[2]] = str(settings.get("id") or settings.get("title") or "")
    elif "dataPath" in settings:
        labels[settings["dataPath"].rpartition("/")[2]] = str(get_entry(settings, "display.label") or "")
