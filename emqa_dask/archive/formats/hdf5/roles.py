"""What an array is by its name and its neighbours: mask, thumbnail, pyramid level, reference, probability map."""

import re
from collections.abc import Mapping, Sequence

from emqa_dask.archive.axes import NoImage

_ROLES = (
    (("mask", "masks", "label", "labels", "labelmap", "labelimage", "seg", "segm", "segmentation", "segmentations",
      "annotation", "annotations", "groundtruth", "gt", "instances", "clusters", "particles", "rois", "roi"),
     "a mask or segmentation"),
    (("prob", "probs", "probability", "probabilities", "prediction", "predictions", "softmax", "logits", "heatmap",
      "confidence"), "a probability map"),
    (("thumbnail", "thumbnails", "thumb", "thumbs", "preview", "previews", "icon", "iconimage", "snapshot"),
     "a thumbnail"),
    (("gain", "gainref", "gainreference", "darkref", "darkreference", "flatfield", "badpixels", "defects", "defectmap",
      "pixelmask"), "a reference of the camera"),
    (("fft", "fourier", "powerspectrum", "fftmag", "fftphase"), "a Fourier transform"),
    (("variance", "uncertainty", "uncertainties", "errors", "error", "std", "stddev", "sigma", "weights", "weight"),
     "an uncertainty"),
    (("coordinates", "coords", "positions", "points", "spots", "peaks", "shifts", "drift", "offsets", "boxes",
      "bboxes", "histogram", "lut", "palette", "colormap"), "a table of numbers"),
)  # fmt: skip
_WHOLE_NAMES = {
    "dark": "a reference of the camera", "white": "a reference of the camera", "flat": "a reference of the camera",
    "datadark": "a reference of the camera", "datawhite": "a reference of the camera",
}  # fmt: skip
_DIFFRACTION = ("diffraction", "dp", "dps", "cbed", "ped", "nbed", "saed", "pacbed", "dpmean", "dpmax", "ronchigram")
MAX_THUMBNAIL_PX = 256  # of the longer side
MIN_THUMBNAIL_RATIO = 4  # of the image to its thumbnail, in length
ASPECT_TOLERANCE = 0.03  # relative


def describe_role(name: str) -> NoImage | None:
    """What an array is that its path in the file calls no image; None for other names."""
    parts = [part for part in name.split("/") if part]
    for part in reversed(parts):
        tokens = _split_words(part)
        joined = "".join(tokens)
        for role_words, role in _ROLES:
            if joined in role_words or any(token in role_words for token in tokens):
                return NoImage("signal", role)
        if joined in _DIFFRACTION or any(token in _DIFFRACTION for token in tokens):
            return NoImage("diffraction", "a diffraction pattern")
    leaf = "".join(_split_words(parts[-1])) if parts else ""
    return NoImage("signal", _WHOLE_NAMES[leaf]) if leaf in _WHOLE_NAMES else None


def _split_words(name: str) -> list[str]:
    """Words of a name in lower case: "labelImage_2" gives label, image, 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", name)
    return re.findall(r"[a-z]+|\d+", spaced.lower())


def find_smaller_copies(shapes: Mapping[str, Sequence[int]]) -> dict[str, NoImage]:
    """{name: what it is} of arrays that are levels of a pyramid or thumbnails of another one.

    shapes: {path in the file: (height, width)} of arrays that are images by all else.
    """
    copies = {}
    for name, shape in shapes.items():
        for other_name, other_shape in shapes.items():
            if _is_level(name, shape, other_name, other_shape):
                copies[name] = NoImage("signal", f"a coarser level of {other_name}")
                break
            if _is_thumbnail(shape, other_shape):
                copies[name] = NoImage("signal", f"a small copy of {other_name} by its size")
                break
    return copies


def _is_level(name: str, shape: Sequence[int], other_name: str, other_shape: Sequence[int]) -> bool:
    """Both names are equal except for their numbers, and the shape is that of the other one halved (repeatedly)."""
    if re.sub(r"\d+", "#", name) != re.sub(r"\d+", "#", other_name) or name == other_name:
        return False
    for k in range(1, 12):
        factor = 2**k
        is_scaled = all(n in (m // factor, -(-m // factor)) for n, m in zip(shape, other_shape))
        if is_scaled and all(m > n for n, m in zip(shape, other_shape)):
            return True
    return False


def _is_thumbnail(shape: Sequence[int], other_shape: Sequence[int]) -> bool:
    height, width = shape
    other_height, other_width = other_shape
    if max(height, width) > MAX_THUMBNAIL_PX or max(shape) * MIN_THUMBNAIL_RATIO > max(other_shape):
        return False
    return abs(height / width * other_width / other_height - 1) < ASPECT_TOLERANCE
