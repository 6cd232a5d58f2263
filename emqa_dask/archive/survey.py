"""Catalog row of an archive entry and a row for each of its micrographs; every byte is hashed and decoded once."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask import tables, uris
from emqa_dask.archive import companions
from emqa_dask.archive.entries import ZARR_SUFFIXES, Entry
from emqa_dask.archive.measured_scale import MAX_FRAMES, complete_pixel_size
from emqa_dask.archive.metadata.xml_text import MAX_XML_BYTES
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.rows import describe_damage, describe_error, dump_header, fit_row, format_error, join_lines
from emqa_dask.archive.source import Frame, ReadError, Source
from emqa_dask.settings import Archive

_BLOCK = 2**18  # bytes hashed at a time: they stay in the cache of the processor
_MAX_HASHED_BYTES = 2**31  # of files that hold no image (films, disk images): larger ones are listed, not read


def survey_file(entry: Entry, settings: Archive) -> tuple[dict, list[dict]]:
    """The tables.CATALOG row of `entry`, and tables.MICROGRAPHS rows (without stack, index, partition) for its frames.

    Never raises for what a file holds: bad data give status "failed" or "skipped" and a reason. Every frame is decoded
    in full, by row windows of about 64 MiB where the format allows it. A stack with some readable frames is "ok" and
    its reason names the lost ones; `frame` keeps the position in the file.
    """
    row: dict[str, Any] = {
        "uri": entry.uri, "content_sha256": None, "size_bytes": entry.size_bytes, "modified_ns": entry.modified_ns,
        "format": None, "kind": "unknown", "status": "failed", "reason": entry.problem, "error": None, "n_frames": 0,
        "n_frames_lost": 0, "is_present": True,
    }  # fmt: skip
    if entry.problem:
        return fit_row(row, tables.CATALOG), []
    micrographs: list[dict] = []
    try:
        with fetch_file(entry.path, entry.sidecars) as path:
            micrographs = _survey_local_file(path, row, settings)
    except Exception as error:
        _set_failed(row, error)
    row["reason"] = join_lines(row["reason"])
    return fit_row(row, tables.CATALOG), [fit_row(micrograph, tables.MICROGRAPHS) for micrograph in micrographs]


def _survey_local_file(path: str, row: dict, settings: Archive) -> list[dict]:
    """Fill `row` from the local file at `path`; the rows of its micrographs."""
    try:
        source = open_source(path)
    except Exception as error:
        _set_failed(row, error)
        row["content_sha256"], row["size_bytes"] = hash_content(path)
        return []
    row |= {"format": source.format, "kind": source.kind, "reason": source.reason}
    is_image = source.kind in ("micrograph", "stack")
    if is_image:  # where even the smallest frame is over the limit, nothing is read: a sparse file can be endless
        check_megapixels(min(source.frames, key=lambda f: f.height_px * f.width_px), settings.max_megapixels)
    else:
        row["status"] = "failed" if source.is_failed else "skipped"
    if is_image or row["size_bytes"] <= _MAX_HASHED_BYTES:
        row["content_sha256"], row["size_bytes"] = hash_content(path)
    return _survey_frames(row, source, settings) if is_image else []


def _set_failed(row: dict, error: Exception) -> None:
    row |= {"status": "failed", "reason": describe_error(error), "error": format_error(error)}
    row["format"] = row["format"] or getattr(error, "format", None)


def _survey_frames(row: dict, source: Source, settings: Archive) -> list[dict]:
    rows = []
    failures = []
    for number, frame in enumerate(source.frames):
        try:
            is_searched = len(source.frames) <= MAX_FRAMES
            rows.append(_survey_frame(row, number, frame, settings, is_searched=is_searched))
        except Exception as error:
            failures.append((number, describe_error(error), format_error(error)))
    row["n_frames"] = len(rows)
    row["n_frames_lost"] = source.n_frames_lost + len(failures)
    row["status"] = "ok" if rows else "failed"
    if failures:
        number, reason, row["error"] = failures[0]
        if len(source.frames) > 1:
            reason = f"{len(failures)} of {len(source.frames)} frames lost, the first is frame {number}: {reason}"
        row["reason"] = "; ".join(filter(None, (row["reason"], reason)))
    return rows


def _survey_frame(row: dict, number: int, frame: Frame, settings: Archive, *, is_searched: bool) -> dict:
    """The row of a frame; `is_searched`: its pixels are searched for a scale bar or a lattice, if it is read whole."""
    check_megapixels(frame, settings.max_megapixels)
    digest = hashlib.sha256()
    readings = []
    for y0, y1 in frame.row_ranges():
        reading = frame.read_with_colour(y0, y1)
        digest.update(np.ascontiguousarray(reading.pixels, reading.pixels.dtype.newbyteorder("<")).data)
        readings.append(reading._replace(pixels=np.empty((0, 0))))
    n_pixels = frame.height_px * frame.width_px
    whole = reading.pixels if is_searched and len(readings) == 1 else None
    header, scale_bar = complete_pixel_size(frame.header, whole, settings)
    return {
        "micrograph_id": compute_micrograph_id(row["content_sha256"], row["uri"], number),
        "uri": row["uri"],
        "frame": number,
        "content_sha256": row["content_sha256"],
        "pixel_sha256": digest.hexdigest(),
        "height_px": frame.height_px,
        "width_px": frame.width_px,
        "dtype": frame.dtype,
        "colour_fraction": sum(reading.n_coloured for reading in readings) / n_pixels,
        "colour": next((reading.colour for reading in readings if reading.colour), None),
        "annotated_fraction": sum(reading.n_annotated for reading in readings) / n_pixels,
        "damage": describe_damage(list(dict.fromkeys(note for reading in readings for note in reading.damage))),
        "nm_per_pixel": header.nm_per_pixel,
        "nm_per_pixel_y": header.nm_per_pixel_y,
        "nm_per_pixel_source": header.nm_per_pixel_source,
        "pixel_size_problem": header.pixel_size_problem,
        "scale_bar": scale_bar,
        "voltage_kv": header.voltage_kv,
        "magnification": header.magnification,
        "instrument": header.instrument,
        "acquired": header.acquired,
        "dose_e_per_nm2": header.dose_e_per_nm2,
        "stated_defocus_nm": header.stated_defocus_nm,
        "exposure_s": header.exposure_s,
        "detector": header.detector,
        "stage_x_um": header.stage_x_um,
        "stage_y_um": header.stage_y_um,
        "stage_z_um": header.stage_z_um,
        "tilt_deg": header.tilt_deg,
        "header": dump_header(header.foreign),
    }


def compute_micrograph_id(content_sha256: str, uri: str, frame: int) -> str:
    """First 32 hex digits of the SHA-256 of "content_sha256, URI, frame", separated by NUL: stable for ever."""
    return hashlib.sha256(f"{content_sha256}\0{uri}\0{frame}".encode()).hexdigest()[:32]


def check_megapixels(frame: Frame, max_megapixels: float) -> None:
    """ReadError for a frame over `max_megapixels`, before anything is decoded."""
    megapixels = frame.height_px * frame.width_px / 1e6
    if megapixels > max_megapixels:
        raise ReadError(
            f"{megapixels:,.0f} megapixels are over the limit of {max_megapixels:g}; raise archive.max_megapixels"
        )


def hash_content(path: str | Path) -> tuple[str, int]:
    """SHA-256 and size of a file; of a folder: over each file's relative path and SHA-256, in sorted order."""
    digest = hashlib.sha256()
    n_bytes = 0
    if os.path.isdir(path):
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                full_path = os.path.join(folder, name)
                inner_hash, n = hash_content(full_path)
                n_bytes += n
                digest.update(os.fsencode(os.path.relpath(full_path, path)) + b"\0" + inner_hash.encode() + b"\0")
        return digest.hexdigest(), n_bytes
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(block):
            digest.update(block[:n])
            n_bytes += n
    return digest.hexdigest(), n_bytes


@contextmanager
def fetch_file(path: str, sidecars: Sequence[str] = ()) -> Iterator[str]:
    """`path` itself where it is local; a temporary copy of an fsspec URI (file or Zarr folder), removed afterwards.

    The files at the URIs `sidecars` are fetched with it, and other files that belong to it (see companions.py).
    """
    if "://" not in path:
        yield path
        return
    fs, remote = uris.locate(path)
    with tempfile.TemporaryDirectory(prefix="emqa-", ignore_cleanup_errors=True) as folder:
        local = os.path.join(folder, _make_safe_file_name(remote))
        if local.lower().endswith(ZARR_SUFFIXES):
            _fetch_folder(fs, remote.rstrip("/"), local)
        else:
            fs.get_file(remote, local)
            _fetch_companions(fs, remote, local, [uris.locate(sidecar)[1] for sidecar in sidecars])
        yield local


def _make_safe_file_name(remote: str) -> str:
    """A name for the copy of `remote`: its own, where that is one that stays in its folder."""
    name = remote.rstrip("/").rpartition("/")[2].replace("\0", "")
    stem, suffix = os.path.splitext(name.replace(os.sep, "_").replace(os.altsep or os.sep, "_"))
    stem = stem.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    return f"{stem if stem.strip('.') else 'file'}{suffix[:12]}"


def _fetch_folder(fs: Any, remote: str, local: str) -> None:
    """Copy all files below `remote`, or the file that is called so; ReadError where a name leads out of it."""
    for path in fs.find(remote):
        if path == remote:
            return fs.get_file(remote, local)
        name = path[len(remote) :].lstrip("/")
        if any(part in ("", ".", "..") for part in name.split("/")) or os.path.isabs(name):
            raise ReadError(f"the Zarr folder holds a file whose name leads out of it: {name!r}")
        target = os.path.join(local, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        fs.get_file(path, target)


def _fetch_companions(fs: Any, remote: str, local: str, sidecars: Sequence[str]) -> None:
    """Copy the files that belong to `remote` to the folder of its copy `local`, except those that cannot be read."""
    (parent, _, name) = remote.rpartition("/")
    paths = list(sidecars)
    if ome_companion := companions.find_ome_companion(local):
        with suppress(FileNotFoundError, PermissionError):
            paths += [f"{parent}/{ome_companion}"] if fs.size(f"{parent}/{ome_companion}") <= MAX_XML_BYTES else []
    if name.lower().endswith(".emi"):
        listed = (p for p in fs.ls(parent, detail=False) if p.rpartition("/")[2].startswith(f"{name[:-4]}_"))
        paths += sorted(p for p in listed if p.lower().endswith(".ser"))
    for path in paths:
        _fetch_companion(fs, path, local)
    for part in companions.list_part_names(name):
        if _fetch_companion(fs, f"{parent}/{part}", local):
            break


def _fetch_companion(fs: Any, path: str, local: str) -> bool:
    """Whether there is a readable file at `path`, which is copied to the folder of `local`."""
    with suppress(FileNotFoundError, PermissionError):
        fs.get_file(path, os.path.join(os.path.dirname(local), _make_safe_file_name(path)))
        return True
    return False
