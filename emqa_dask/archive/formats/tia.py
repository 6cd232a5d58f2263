"""TIA files (.ser with pixels, .emi with metadata), by RosettaSciIO."""

import math
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from emqa_dask.archive.formats.rosetta import open_rosetta
from emqa_dask.archive.metadata import dates, values
from emqa_dask.archive.metadata.values import clean_text, parse_positive
from emqa_dask.archive.source import Frame, ReadError, Source


def open_ser(path: Path) -> Source:
    """TIA .ser: pixels from it, microscope and mode from the .emi beside it where there is one."""
    source = open_rosetta(path, "SER", "tia", path.stat().st_size)
    emi = find_emi(path)
    conditions = read_emi(emi) if emi is not None else {}
    if not conditions or not source.frames:
        return source
    mode = conditions.get("Mode", "")
    if "Diffraction" in mode or ("STEM" in mode and "CameraNamePath" in conditions):
        return Source("SER", "diffraction", f"a diffraction pattern by the mode in {emi.name}, not a micrograph")
    update = {
        "voltage_kv": parse_positive(conditions.get("High tension")),
        "magnification": parse_positive(conditions.get("Magnification")),
        "instrument": (clean_text(conditions.get("Microscope")) or "").removeprefix("Microscope ") or None,
        "acquired": dates.parse_date(conditions.get("AcquireDate")),
        "exposure_s": parse_positive(conditions.get("Integration time")),
    }
    values = {k: v for k, v in update.items() if v is not None and v == v}
    frames = [
        replace(f, header=replace(f.header, **values, foreign={**conditions, **f.header.foreign}))
        for f in source.frames
    ]
    return replace(source, frames=tuple(frames))


def find_emi(ser: Path) -> Path | None:
    """x_1.ser -> x.emi where that lies beside it."""
    stem = re.sub(r"_\d+$", "", ser.stem)
    return next((p for s in (".emi", ".EMI") if (p := ser.with_name(stem + s)).is_file()), None)


def read_emi(emi: Path) -> dict[str, str]:
    """Flat {label: value} of the first ObjectInfo in a .emi; empty when there is none."""
    match = re.search(rb"<ObjectInfo>.*?</ObjectInfo>", emi.read_bytes(), re.DOTALL)
    if match is None:
        return {}
    xml = match[0].decode("utf-8", "replace")
    out = dict(re.findall(r"<Label>([^<]*)</Label>\s*<Value>([^<]*)</Value>", xml))
    out |= dict(re.findall(r"<(AcquireDate|CameraNamePath)>([^<]*)<", xml))
    volts = re.search(r"<AcceleratingVoltage>([^<]*)<", xml)
    if volts and math.isfinite(values.parse_number(volts[1])):
        out["High tension"] = str(values.parse_number(volts[1]) / 1000)
    return out


def open_emi(path: Path) -> Source:
    """TIA .emi: metadata of the .ser files beside it, which carry the pixels; frames only for read_micrograph()."""
    sers = sorted(p.name for p in path.parent.glob(f"{_escape_glob(path.stem)}_*") if p.suffix.lower() == ".ser")
    if not sers:
        return Source("EMI", "metadata", "metadata of .ser files, none of which lies beside it")
    names = ", ".join(sers[:3]) + (" ..." if len(sers) > 3 else "")
    frames: tuple[Frame, ...] = ()
    with suppress(ReadError):  # the .ser's own row says what is wrong with it
        frames = tuple(f for name in sers[:1] for f in open_ser(path.with_name(name)).frames)
    return Source("EMI", "metadata", f"metadata of {names}, which carry the pixels", frames)


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?\[\]])", r"[\1]", name)
