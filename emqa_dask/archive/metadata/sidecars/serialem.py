"""Metadata files of SerialEM and Tomography beside images (.mdoc, .idoc): PixelSpacing = 2.7, [ZValue = 0]."""

import math
import re
from collections.abc import Mapping

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import ImageFile, parse_position_um
from emqa_dask.archive.metadata.texts import parse_key_values
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_KINDS = ("ZValue", "FrameSet", "Image")  # of sections: per frame, per movie, per file of a series
_SECTION = re.compile(r"^[ \t]*\[(ZValue|FrameSet|Image) *= *([^\]\n]*)\]", re.MULTILINE)
_INSTRUMENT = re.compile(
    r"^[ \t]*\[?T *= *(?:SerialEM|Tomography): *(?:\w+ on +)?(\S(?:[ \t]?\S)*)\s{2,}\d", re.MULTILINE
)
_NM_PER_UM = 1000.0
_E_PER_NM2 = 100.0  # of one electron per square Angstrom


# Columns of frames of Gatan's cameras, and of those with pixels of half size, which SerialEM calls binning 0.5.
_WHOLE_PIXELS = (3710, 3838, 4092, 5760)
_HALF_PIXELS = tuple(2 * n for n in _WHOLE_PIXELS)


def is_serialem(text: str) -> bool:
    """Whether `text` is a metadata file of SerialEM."""
    return _SECTION.search(text) is not None


def read_serialem(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of each frame where every frame has its section, or else those that all frames share."""
    all_sections = [(kind, name.strip()) for kind, name in _SECTION.findall(text)]
    kind = next((kind for kind in _KINDS if any(kind == k for k, _ in all_sections)), "")
    names = [f"{kind} = {name}".lower() for k, name in all_sections if k == kind]
    names = [name for name in names if kind != "Image" or name == f"image = {image.name}".lower()]
    values = parse_key_values(_SECTION.sub(lambda match: f"[{match[1]} = {match[2].strip()}]", text))
    by_section: dict[str, dict[str, str]] = {}
    for key, value in values.items():
        (section, _, name) = key.rpartition(".")
        by_section.setdefault(section, {})[name] = value
    sections = [by_section.get("", {}) | by_section.get(name, {}) for name in names]
    match = _INSTRUMENT.search(text)
    instrument = clean_text(match[1]) if match else None
    if len(sections) == image.n_frames:
        return [_read_section(section, 1, instrument, image) for section in sections]
    if len(sections) == 1:  # one exposure, of which each frame is a part
        return [_read_section(sections[0], image.n_frames, instrument, image)]
    if not sections:  # of a series of files, without this one
        return []
    first = sections[0]
    shared = {key: value for key, value in first.items() if all(s.get(key) == value for s in sections)}
    return [_read_section(shared, 1, instrument, image)]


def _read_section(section: Mapping[str, str], n_parts: int, instrument: str | None, image: ImageFile) -> VendorMetadata:
    (x, _, y) = section.get("stageposition", "").partition(" ")
    dose = parse_positive(section.get("exposuredose"), _E_PER_NM2 / n_parts)
    if n_parts > 1:  # "0.43 4": 0.43 electrons per square Angstrom in each of 4 frames
        first_frame = parse_positive(section.get("framedosesandnumber", "").partition(" ")[0], _E_PER_NM2)
        dose = first_frame if first_frame > 0 else dose
    header = Header(
        voltage_kv=parse_positive(section.get("voltage")),
        magnification=parse_positive(section.get("magnification")),
        instrument=instrument,
        acquired=dates.parse_date(section.get("datetime")),
        dose_e_per_nm2=dose,
        stated_defocus_nm=parse_number(section.get("defocus")) * _NM_PER_UM,
        exposure_s=parse_positive(section.get("exposuretime"), 1 / n_parts),
        stage_x_um=parse_position_um(x, "um"),
        stage_y_um=parse_position_um(y, "um"),
        stage_z_um=parse_position_um(section.get("stagez"), "um"),
        tilt_deg=parse_number(section.get("tiltangle")),
        foreign=section,
    )
    image_size = section.get("imagesize", "").split()
    width_px = parse_positive(image_size[0]) if image_size else math.nan
    size = StatedSize(parse_positive(section.get("pixelspacing"), 0.1), math.nan, "PixelSpacing", width_px)
    has_half_pixels = parse_positive(section.get("binning")) < 1
    is_doubtful = not image_size and image.width_px in (_WHOLE_PIXELS if has_half_pixels else _HALF_PIXELS)
    problem = "PixelSpacing may be that of pixels of another size, for the movie has super-resolution or was binned"
    return VendorMetadata(header, (size,), problem=problem if is_doubtful else "")
