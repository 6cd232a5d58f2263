"""Labels of Fiji (ImageJ): ROI files and zip files of them, one zip per image."""

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.shapes import Outline, make_box, make_ellipse, make_point, make_polygons
from emqa_dask.uris import parse_frame_name

if TYPE_CHECKING:
    from roifile import ImagejRoi

NAME_ENDINGS = re.compile(r"[-_ ]?(RoiSet|ROIs?)$", re.IGNORECASE)  # that Fiji or people append to an image's name
MAX_ROI_BYTES = 2**26  # of a file in a zip; a polygon of 65,535 corners has 0.8 MB


def read_fiji(paths: list[Path], path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of ROI files and zip files `paths`, which are `path` or lie in it.

    A ROI is of the image that its property `image` names, as `emqa export` writes it, or else of the image with the
    name of its file: "scan 1.zip" and "scan 1_RoiSet.zip" are of "scan 1". The position in a stack is the frame.
    Raises ValueError, naming file and ROI, for lines and for files that are damaged.
    """
    labels = LabelCollection(path)
    for file in paths:
        default_name = NAME_ENDINGS.sub("", file.name.removesuffix(".zip").removesuffix(".roi")) or file.name
        for name, roi in _read_rois(file):
            properties = _parse_properties(roi.props)
            uri, frame = parse_frame_name(properties.get("image") or default_name)
            frame = frame or max(roi.position - 1, 0)
            item = f"ROI {name!r} of {file.name}"
            labels.add_image((uri, frame), uri, frame, content_sha256=properties.get("content_sha256", ""))
            try:
                outlines = _parse_outlines(roi, properties.get("box"))
            except ValueError as error:
                labels.add_error(f"{item} {error}")
                continue
            label = properties.get("label", "")
            for outline in outlines:
                labels.add_object((uri, frame), item, outline, label, properties.get("object", name))
    return labels.list_micrographs()


def _read_rois(file: Path) -> list[tuple[str, "ImagejRoi"]]:
    """Names and ROIs of a file."""
    try:
        from roifile import ImagejRoi
    except ImportError as error:
        raise ValueError(f"{file}: ROIs of Fiji need the package roifile: pip install roifile") from error
    try:
        if not zipfile.is_zipfile(file):
            return [(file.stem, ImagejRoi.frombytes(file.read_bytes()))]
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".roi")]
            if large := [m.filename for m in members if m.file_size > MAX_ROI_BYTES]:
                raise ValueError(f"{large[0]} is too large for a ROI")
            return [(m.filename[:-4], ImagejRoi.frombytes(archive.read(m))) for m in members]
    except (ValueError, OSError, zipfile.BadZipFile, IndexError, KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{file}: not ROIs of Fiji ({error})") from error
    except Exception as error:  # struct.error is no ValueError
        raise ValueError(f"{file}: damaged ROIs of Fiji ({type(error).__name__}: {error})") from error


def _parse_properties(text: str) -> dict[str, str]:
    """Properties of a ROI, lines "key: value"."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {key: value for key, _, value in pairs}


def _parse_outlines(roi: "ImagejRoi", box_text: str | None) -> list[Outline]:
    """The outline of a ROI, or one for each point of a ROI of points; ValueError for lines."""
    kind = roi.roitype.name
    if kind == "POINT":
        return [make_point(y, x) for x, y in roi.coordinates().astype(float).tolist()]
    if kind in ("RECT", "OVAL") and not roi.composite:
        x0, y0 = (roi.xd, roi.yd) if roi.subpixelrect else (roi.left, roi.top)
        width, height = (roi.widthd, roi.heightd) if roi.subpixelrect else (roi.right - x0, roi.bottom - y0)
        if kind == "RECT":
            return [make_box(y0, x0, y0 + height, x0 + width)]
        return [make_ellipse(y0 + height / 2, x0 + width / 2, height / 2, width / 2)]
    if kind in ("POLYGON", "FREEHAND", "TRACED", "RECT"):
        polygons = [np.asarray(points, float) for points in roi.coordinates(multi=True)]
        if not polygons or any(len(points) < 3 for points in polygons):
            raise ValueError("has no outline: it needs at least 3 points")
        return [make_polygons(polygons, _parse_box(box_text))]
    raise ValueError(f"is of the type {kind.lower()}: use rectangles, ovals, polygons, freehand areas or points")


def _parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """y0, x0, y1, x1 of a text; None without one."""
    numbers = [float(number) for number in (text or "").split()]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None
