"""Imaging conditions of TIA images from the .emi file beside their .ser files."""

import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, name_element, parse_xml

MAX_OBJECT_BYTES = 2**20  # of the XML about one image; TIA writes about 6 kB
MAX_OBJECTS = 1000  # in a .emi; TIA writes one for each detector
SPACE_BYTES = 4096  # before the XML of an image, in which TIA names its .ser file and the space of its axes
# The name of the display of an image: "Search BF Scanning Display1", "Acquire HAADF Scanning Display1".
_DISPLAY = re.compile(rb"(?:Search|Acquire|Preview|View|Record) ([\w .+-]{1,40}?) (Scanning|Image) Display")
_SER_NAME = re.compile(rb"[^\\/\x00-\x1f\x7f-\xff]{1,200}_\d+\.ser", re.IGNORECASE)


@dataclass(frozen=True)
class EmiObject:
    """What a .emi says about one image."""

    ser_name: str = ""  # of the file with its pixels, as it was first saved; "" where nothing states it
    is_reciprocal: bool | None = None  # the space of its axes; None where nothing states it
    is_scanned: bool | None = None  # by a scanned detector, not by a camera; None where nothing states it
    mode: str = ""
    detector: str | None = None
    entries: dict[str, str] = field(default_factory=dict)  # {label: value}
    units: dict[str, str] = field(default_factory=dict)  # {label: unit}


def read_emi(path: str | Path) -> list[EmiObject]:
    """What a .emi says about each of its images, in its order; empty for a file without such text."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_objects(data)


def _read_objects(data: mmap.mmap) -> list[EmiObject]:
    objects = []
    position = 0
    while len(objects) < MAX_OBJECTS:
        start = data.find(b"<ObjectInfo>", position)
        stop = data.find(b"</ObjectInfo>", start)
        if start < 0 or stop < 0:
            break
        displays = list(_DISPLAY.finditer(data, position, start))
        text_before = data[max(position, start - SPACE_BYTES) : start]
        xml = data[start : min(stop + 13, start + MAX_OBJECT_BYTES)]
        objects.append(_make_object(xml, text_before, displays[-1] if displays else None))
        position = stop + 13
    return objects


def _make_object(xml: bytes, text_before: bytes, display: re.Match | None) -> EmiObject:
    root = parse_xml(xml.decode("utf-8", "replace"))
    entries, units = _read_entries(root)
    names = _SER_NAME.findall(text_before)
    camera = clean_text(find_text(root, "CameraNamePath"))
    detector = camera or clean_text(find_text(root, "DetectorName"))
    if detector is None and display is not None:
        detector = clean_text(display[1])
    spaces = re.findall(rb"(Real|Reciprocal|Diffraction|Fourier) Space", text_before)
    return EmiObject(
        ser_name=names[-1].decode("ascii") if names else "",
        is_reciprocal=spaces[-1] != b"Real" if spaces else None,
        is_scanned=_find_is_scanned(root, camera, entries.get("Mode", ""), display),
        mode=entries.get("Mode", ""),
        detector=detector,
        entries=entries,
        units=units,
    )


def _read_entries(root) -> tuple[dict[str, str], dict[str, str]]:
    entries: dict[str, str] = {}
    units: dict[str, str] = {}
    for item in find_elements(root, "Data"):
        label = find_text(item, "Label")
        if label:
            entries[label] = find_text(item, "Value") or ""
            units[label] = find_text(item, "Unit") or ""
    names = ("AcquireDate", "CameraNamePath", "DwellTimePath", "FrameTime", "Binning", "Manufacturer", "DetectorName",
             "AcceleratingVoltage")  # fmt: skip
    for name in names:
        text = find_text(root, name)
        if text:
            entries[name] = text
    if root is not None and "Magnification" not in entries:
        for info in find_elements(root, "AcquireInfo"):
            entries |= {name_element(e): (e.text or "").strip() for e in info if name_element(e) == "Magnification"}
    return entries, units


def _find_is_scanned(root, camera: str | None, mode: str, display: re.Match | None) -> bool | None:
    """Whether a detector recorded the image while the beam scanned the specimen.

    TIA calls every STEM mode "STEM ... Diffraction", since the lenses below the specimen are those of diffraction.
    """
    if camera:
        return False
    if find_text(root, "FrameTime") or (display is not None and display[2] == b"Scanning"):
        return True
    if display is not None or find_text(root, "DetectorPixelWidth"):
        return False
    return "STEM" in mode if mode else None


def select_object(objects: list[EmiObject], ser: Path) -> EmiObject | None:
    """The entry about the image in `ser`, by the name of its file, else by its number; None where there is none.

    A single entry is about every .ser file.
    """
    number = re.search(r"_(\d+)$", ser.stem)
    position = int(number[1]) if number else 1
    numbers = [re.search(r"_(\d+)\.ser$", entry.ser_name, re.IGNORECASE) for entry in objects]
    for entry, match in zip(objects, numbers):
        if match is not None and int(match[1]) == position:
            return entry
    if len(objects) == 1:
        return objects[0]
    return objects[position - 1] if 0 < position <= len(objects) else None


def make_header(entry: EmiObject, time_s: int) -> Header:
    """Imaging conditions that an entry of a .emi states. time_s: of the .ser file, in s since 1970; 0 for unknown."""

    def to_um(label: str) -> float:
        unit = entry.units.get(label) or "um"
        value = parse_number(entry.entries.get(label))
        length = length_to_nm(value, unit) / 1e3
        return value if value == 0 else length if value > 0 else -length

    entries = entry.entries
    kv = parse_positive(entries.get("High tension"))
    exposure = parse_positive(entries.get("FrameTime" if entry.is_scanned else "DwellTimePath"))
    return Header(
        voltage_kv=kv if kv > 0 else parse_positive(entries.get("AcceleratingVoltage"), 1e-3),
        magnification=parse_positive((entries.get("Magnification") or "").rstrip("xX ")),
        instrument=(clean_text(entries.get("Microscope")) or "").removeprefix("Microscope ") or None,
        acquired=dates.parse_date_near(entries.get("AcquireDate"), None, time_s),
        exposure_s=exposure if exposure > 0 else parse_positive(entries.get("Integration time")),
        detector=entry.detector,
        stage_x_um=to_um("Stage X"),
        stage_y_um=to_um("Stage Y"),
        stage_z_um=to_um("Stage Z"),
        tilt_deg=parse_number(entries.get("Stage A")),
        foreign=entries,
    )
