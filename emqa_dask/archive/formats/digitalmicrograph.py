"""Gatan's Digital Micrograph files (.dm3, .dm4), by RosettaSciIO: each image on its own, the preview left out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.axes import NoImage, identify_axes
from emqa_dask.archive.formats import rosetta
from emqa_dask.archive.formats.signal_kinds import SignalKind, classify_signal, has_eds_evidence
from emqa_dask.archive.metadata.headers import get_entry
from emqa_dask.archive.metadata.units import nm_per_unit
from emqa_dask.archive.source import ReadError, Source, capture_warnings

RGB_TYPES = (8, 23)  # data types of Digital Micrograph
AXIS_NAMES = ("x", "y", "z")  # of the fastest axes first


def open_dm(path: str | Path, format: str) -> Source:
    """DM3 or DM4 -> Source. An image that cannot be read does not cost the others; ReadError when none can."""
    from rsciio.digitalmicrograph._api import DigitalMicrographReader, ImageObject

    path = Path(path)
    with capture_warnings():
        try:
            with open(path, "rb") as file:
                reader = DigitalMicrographReader(file)
                reader.parse_file()
                trees = _drop_preview(reader.get_image_dictionaries() or [])
                tags = {k: v for k, v in reader.tags_dict.items() if k != "ImageList"}
                signals, problems = _read_signals(ImageObject, trees, tags, file)
        except Exception as error:  # a foreign parser on a foreign file: anything can come
            raise ReadError(f"broken {format}: {rosetta.describe_error(error)}") from error
        if problems and not signals:
            raise ReadError(f"broken {format}: {problems[0]}")
        has_eds = has_eds_evidence(signals)
        source = rosetta.combine_signals([(s, _classify(s, has_eds=has_eds)) for s in signals], format)
    if not problems:
        return source
    loss = f"{len(problems)} of {len(trees)} images lost: {problems[0]}"
    reason = f"{loss}; {source.reason}" if source.reason else loss
    return replace(source, reason=reason, n_frames_lost=len(problems))


def _drop_preview(trees: list[Any]) -> list[Any]:
    """Images without the small RGB one that Digital Micrograph writes before them."""
    if len(trees) < 2 or get_entry(trees[0], "ImageData.DataType") not in RGB_TYPES:
        return trees
    n_pixels = [_count_pixels(tree) for tree in trees]
    is_preview = not get_entry(trees[0], "ImageTags.DataBar") and n_pixels[0] < max(n_pixels[1:])
    return trees[1:] if is_preview else trees


def _count_pixels(tree: Mapping) -> int:
    dimensions = get_entry(tree, "ImageData.Dimensions") or {}
    return int(np.prod([int(n) for n in dimensions.values()], dtype=np.int64))


def _read_signals(image_class: Any, trees: list[Any], tags: Mapping, file: Any) -> tuple[list[dict], list[str]]:
    """Signals as RosettaSciIO makes them, and what is wrong with the images that cannot be read."""
    signals = []
    problems = []
    for tree in trees:
        try:
            signals.append(_read_signal(image_class(tree, file), tags, file.name))
        except Exception as error:  # one image of a type that the plug-in does not know
            problems.append(rosetta.describe_error(error))
    return signals, problems


def _read_signal(image: Any, tags: Mapping, file_name: str) -> dict:
    image.filename = file_name
    n_bytes = int(image.size) * np.dtype(image.dtype).itemsize
    is_lazy = n_bytes > rosetta.EAGER_BYTES and image.imdict.ImageData.DataType not in RGB_TYPES
    axes = image.get_axes_dict()
    for axis, name in zip(reversed(axes), AXIS_NAMES):  # of CL images, RosettaSciIO calls one axis a wavelength
        axis["name"] = name
    original = {**tags, "ImageList": {"TagGroup0": image.imdict.to_dict()}}
    return {
        "data": image.get_data(is_lazy),
        "axes": axes,
        "metadata": image.get_metadata(),
        "original_metadata": original,
        "mapping": image.get_mapping(),
    }


def _classify(signal: Mapping, *, has_eds: bool) -> SignalKind:
    """Kind of one image, by the format that Digital Micrograph states, else by its axes."""
    tags = get_entry(signal, "original_metadata.ImageList.TagGroup0.ImageTags") or {}
    shape = tuple(int(n) for n in signal["data"].shape)
    size = " x ".join(map(str, shape))
    stated_format = str(get_entry(tags, "Meta Data.Format") or "")
    if stated_format.startswith("Spectrum") or get_entry(tags, "spim") is not None:
        description = "a spectrum image" if len(shape) >= 3 else "spectra"
        return SignalKind("spectrum", f"{description} of {size} values, not a micrograph")
    if stated_format.startswith("Diffraction") and len(shape) == 2:
        return SignalKind("diffraction", f"a diffraction pattern of {size} pixels, not a micrograph")
    verdict = classify_signal(signal, has_eds=has_eds)
    is_spectrometer = get_entry(tags, "Meta Data.Signal") in ("EELS", "X-ray")
    if verdict.axes is None and stated_format == "Image" and len(shape) == 2 and not is_spectrometer:
        axes = identify_axes(shape, signal["data"].dtype, ("y", "x"), [a["units"] for a in signal["axes"]])
        verdict = verdict if isinstance(axes, NoImage) else SignalKind("micrograph", "", axes)
    if verdict.axes is not None and _is_uncalibrated_pattern(tags, signal["axes"][-1]):
        return SignalKind("diffraction", f"a diffraction pattern of {size} pixels by its imaging mode")
    return verdict


def _is_uncalibrated_pattern(tags: Mapping, axis: Mapping) -> bool:
    """Whether a camera recorded the image in diffraction mode, and its axes have no length that says otherwise."""
    info = get_entry(tags, "Microscope Info") or {}
    is_scanned = "DigiScan" in tags or "STEM" in str(info.get("Illumination Mode"))
    is_diffraction = "DIFF" in str(info.get("Imaging Mode")).upper()
    return is_diffraction and not is_scanned and not nm_per_unit(axis.get("units")) > 0
