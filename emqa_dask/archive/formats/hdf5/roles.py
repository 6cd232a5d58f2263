"""What an array is by its name and its neighbours: mask, thumbnail, pyramid level, reference, probability map."""

import re
from collections.abc import Mapping, Sequence

import cv2
import h5py
import numpy as np

from emqa_dask.archive.axes import NoImage
from emqa_dask.archive.checks.hdf5_filters import load_filters

# Words of any part of a path.
_GROUP_ROLES = (
    (("mask", "masks", "label", "labels", "labelmap", "labelimage", "segmentation", "segmentations", "seg",
      "annotation", "annotations", "groundtruth", "rois", "instances", "binarized", "thresholded"),
     "a mask or segmentation"),
    (("thumbnail", "thumbnails", "thumb", "thumbs", "preview", "previews", "icon", "iconimage"), "a thumbnail"),
)  # fmt: skip
# Words of the array's own name.
_ROLES = (
    (("gt", "roi", "segm", "binary", "boundary", "boundaries", "skeleton",
      "featureids", "grainids"), "a mask or segmentation"),
    (("prob", "probs", "probability", "probabilities", "prediction", "predictions", "softmax", "logits", "heatmap",
      "confidence"), "a probability map"),
    (("gain", "gainref", "gainreference", "darkref", "darkreference", "flatfield", "badpixels", "defects", "defectmap",
      "pixelmask"), "a reference of the camera"),
    (("fft", "fourier", "powerspectrum", "fftmag", "fftphase"), "a Fourier transform"),
    (("variance", "uncertainty", "uncertainties", "errors", "error", "std", "stddev", "sigma", "weights", "weight"),
     "an uncertainty"),
    (("coordinates", "coords", "positions", "shifts", "drift", "bboxes", "histogram", "lut", "palette", "colormap"),
     "a table of numbers"),
    (("ipf", "ipfcolor", "ipfcolors", "euler"), "a map of orientations"),
)  # fmt: skip
_WHOLE_NAMES = {
    "dark": "a reference of the camera", "white": "a reference of the camera", "flat": "a reference of the camera",
    "datadark": "a reference of the camera", "datawhite": "a reference of the camera",
}  # fmt: skip
_DIFFRACTION = ("diffraction", "dp", "dps", "cbed", "ped", "nbed", "saed", "pacbed", "ronchigram", "pattern",
                "patterns", "rawpatterns", "kikuchi", "ebsp", "ebsps")  # fmt: skip
_GENERIC_NAMES = ("data", "image", "images", "array", "values", "frames", "frame", "raw", "dataset", "signal", "value")
_LEVEL_NAME = re.compile(r"(?:s|l|level|lvl|res|resolution|scale|mip|zoom|pyramid|ds)?[ _-]?\d+x?", re.IGNORECASE)
MAX_COPY_PX = 512  # of the longer side of a small copy; larger ones are images of their own
MIN_COPY_RATIO = 3  # of the image to a small copy of it, in length
MAX_COMPARED_PIXELS = 2**26  # of an image that is decoded for the comparison with a small one
MIN_COPY_CORRELATION = 0.8  # of a small copy with the image at its size; other images of one specimen are below
MAX_ARRAYS = 500  # of a file, for the comparison of each with each
ASPECT_TOLERANCE = 0.03  # relative


def describe_role(name: str) -> NoImage | None:
    """What an array is that its path in the file calls no image; None for other names."""
    parts = [part for part in name.split("/") if part]
    for part in reversed(parts):
        role = _find_role(part, _GROUP_ROLES)
        if role:
            return NoImage("signal", role)
    own_names = [part for part in parts if "".join(_split_words(part)) not in _GENERIC_NAMES]
    if not own_names:
        return None
    role = _find_role(own_names[-1], _ROLES) or _WHOLE_NAMES.get("".join(_split_words(own_names[-1])))
    if role:
        return NoImage("signal", role)
    is_pattern = _find_role(own_names[-1], ((_DIFFRACTION, "pattern"),))
    return NoImage("diffraction", "a diffraction pattern") if is_pattern else None


def _find_role(part: str, roles: Sequence[tuple[Sequence[str], str]]) -> str:
    tokens = _split_words(part)
    joined = "".join(tokens)
    return next(
        (role for role_words, role in roles if joined in role_words or any(t in role_words for t in tokens)), ""
    )


def _split_words(name: str) -> list[str]:
    """Words of a name in lower case: "labelImage_2" gives label, image, 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", name)
    return re.findall(r"[a-z]+|\d+", spaced.lower())


def find_smaller_copies(file: h5py.File, shapes: Mapping[str, Sequence[int]]) -> dict[str, NoImage]:
    """{name: what it is} of arrays that are levels of a pyramid, or small copies of another one by their pixels.

    shapes: {path in the file: (height, width)} of arrays that are images by all else.
    """
    copies: dict[str, NoImage] = {}
    if len(shapes) > MAX_ARRAYS:
        return copies
    for name, shape in shapes.items():
        for other_name, other_shape in shapes.items():
            if _is_level(name, shape, other_name, other_shape):
                copies[name] = NoImage("signal", f"a coarser level of {other_name}")
                break
            if _has_size_of_copy(shape, other_shape) and _has_pixels_of_copy(file, name, other_name):
                copies[name] = NoImage("signal", f"a small copy of {other_name}")
                break
    return copies


def find_levels(shapes: Mapping[str, Sequence[int]]) -> dict[str, NoImage]:
    """{name: what it is} of arrays that are coarser levels of a pyramid by their names and shapes."""
    levels: dict[str, NoImage] = {}
    if len(shapes) > MAX_ARRAYS:
        return levels
    for name, shape in shapes.items():
        finest = next((n for n, s in shapes.items() if _is_level(name, shape, n, s)), None)
        if finest is not None:
            levels[name] = NoImage("signal", f"a coarser level of {finest}")
    return levels


def _is_level(name: str, shape: Sequence[int], other_name: str, other_shape: Sequence[int]) -> bool:
    """Both names are equal except for the number of a level, and the shape is that of the other one halved."""
    parts = name.split("/")
    other_parts = other_name.split("/")
    pairs = [(a, b) for a, b in zip(parts, other_parts) if a != b]
    if len(parts) != len(other_parts) or len(pairs) != 1 or not all(map(_LEVEL_NAME.fullmatch, pairs[0])):
        return False
    for k in range(1, 12):
        factor = 2**k
        is_scaled = all(n in (m // factor, -(-m // factor)) for n, m in zip(shape, other_shape))
        if is_scaled and all(m > n for n, m in zip(shape, other_shape)):
            return True
    return False


def _has_size_of_copy(shape: Sequence[int], other_shape: Sequence[int]) -> bool:
    height, width = shape
    other_height, other_width = other_shape
    if max(height, width) > MAX_COPY_PX or max(shape) * MIN_COPY_RATIO > max(other_shape):
        return False
    return abs(height / width * other_width / other_height - 1) < ASPECT_TOLERANCE


def _has_pixels_of_copy(file: h5py.File, name: str, other_name: str) -> bool:
    """Whether one array is the other one at a smaller size; False where they cannot be compared."""
    dataset = file[name]
    other = file[other_name]
    if dataset.ndim != 2 or other.ndim != 2 or other.size > MAX_COMPARED_PIXELS:
        return False
    try:
        load_filters(dataset)
        load_filters(other)
        small = np.asarray(dataset[()], np.float32)
        shrunk = cv2.resize(np.asarray(other[()], np.float32), small.shape[::-1], interpolation=cv2.INTER_AREA)
    except (OSError, RuntimeError, ValueError, cv2.error):
        return False
    with np.errstate(invalid="ignore", divide="ignore"):
        return bool(np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > MIN_COPY_CORRELATION)
