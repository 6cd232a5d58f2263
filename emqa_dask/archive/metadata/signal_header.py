"""Imaging conditions of a signal of RosettaSciIO, mapped as HyperSpy maps them; and those of Digital Micrograph."""

import math
from collections.abc import Mapping
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.dose import compute_scan_dose
from emqa_dask.archive.metadata.headers import Header, get_entry, get_first_entry
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

DM_TAGS = "ImageList.TagGroup0.ImageTags"
FILETIME_1970 = 116444736000000000  # 100 ns since 1601, as Windows counts
FILETIMES_PER_S = 10_000_000


def make_header(signal: Mapping, y: int, x: int) -> Header:
    """Header of one signal: pixel size from its axes y and x (their positions), the rest from its metadata."""
    original = signal.get("original_metadata") or {}
    tree = _apply_mapping(original, signal.get("metadata") or {}, signal.get("mapping") or {})
    instrument = {**_get_branch(tree, "SEM"), **_get_branch(tree, "TEM")}
    tags = get_entry(original, DM_TAGS) or {}
    width = int(signal["data"].shape[x])
    height = int(signal["data"].shape[y])
    size = _state_size(signal["axes"], y, x)
    dwell_s = parse_positive(get_first_entry(instrument, "dwell_time", "Detector.dwell_time"))
    exposure = get_first_entry(tags, "DataBar.Exposure Time (s)", "Acquisition.Parameters.High Level.Exposure (s)")
    exposure_s = parse_positive(exposure or get_first_entry(instrument, "Camera.exposure", "Detector.Camera.exposure"))
    name = get_first_entry(tags, "Session Info.Microscope", "Microscope Info.Name", "Microscope Info.Microscope")
    stage = get_entry(instrument, "Stage") or {}
    header = Header(
        voltage_kv=parse_positive(instrument.get("beam_energy")),
        magnification=parse_positive(
            get_first_entry(tags, "Microscope Info.Indicated Magnification", "Microscope_Info.Indicated_Magnification")
            or instrument.get("magnification")
        ),
        instrument=clean_text(instrument.get("microscope")) or clean_text(name),
        acquired=_read_date(tree, tags),
        dose_e_per_nm2=compute_scan_dose(
            parse_positive(instrument.get("beam_current"), 1e-9), dwell_s, abs(size.x_nm * size.y_nm)
        ),
        exposure_s=exposure_s if exposure_s > 0 else dwell_s * width * height,
        detector=_find_detector(instrument, tags),
        stage_x_um=parse_number(stage.get("x")) * 1e3,  # HyperSpy has mm
        stage_y_um=parse_number(stage.get("y")) * 1e3,
        stage_z_um=parse_number(stage.get("z")) * 1e3,
        tilt_deg=parse_number(stage.get("tilt_alpha")),
        foreign=_select_metadata(original) or dict(signal.get("metadata") or {}),
    )
    return choose_pixel_size(header, [size], width)


def _get_branch(tree: Mapping, name: str) -> Mapping:
    branch = get_entry(tree, f"Acquisition_instrument.{name}")
    return branch if isinstance(branch, Mapping) else {}


def _state_size(signal_axes: list[Mapping], y: int, x: int) -> StatedSize:
    if len(signal_axes) <= max(y, x):
        return StatedSize(math.nan)
    steps = [length_to_nm(signal_axes[k].get("scale"), signal_axes[k].get("units")) for k in (x, y)]
    return StatedSize(steps[0], steps[1], "the calibration of the axes")


def _read_date(tree: Mapping, tags: Mapping) -> str | None:
    """Date of acquisition. Digital Micrograph writes it in the language of its computer, and a time that is clear."""
    date = get_entry(tags, "DataBar.Acquisition Date")
    time = get_entry(tags, "DataBar.Acquisition Time")
    if not clean_text(date):
        known_date = dates.parse_date(get_entry(tree, "General.date"), get_entry(tree, "General.time"))
        return None if known_date and known_date.startswith("1970-01-01") else known_date  # the time 0 is no date
    filetime = parse_number(get_entry(tags, "DataBar.Acquisition Time (OS)"))
    if filetime > FILETIME_1970:
        return dates.parse_date_near(date, time, (filetime - FILETIME_1970) / FILETIMES_PER_S)
    is_american = (clean_text(time) or "").upper().endswith(("AM", "PM"))
    return dates.parse_date(date, time, month_first=is_american)


def _find_detector(instrument: Mapping, tags: Mapping) -> str | None:
    """Name of the detector or camera; DigiScan, which drives the beam, is none."""
    places = ("DataBar.Signal Name", "Acquisition.Device.Name", "DataBar.Device Name")
    names = [clean_text(get_entry(tags, place)) for place in places]
    names += [clean_text(get_first_entry(instrument, "Detector.Camera.Name", "Detector.name"))]
    return next((name for name in names if name and name != "DigiScan"), None)


def _select_metadata(original: Mapping) -> dict[str, Any]:
    """The image's own tags first, since the header column keeps only the first 4 kB."""
    tags = get_entry(original, DM_TAGS)
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
