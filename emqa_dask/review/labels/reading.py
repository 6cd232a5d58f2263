"""Labels of micrographs from a file or folder of any known format, which its content tells."""

import zipfile
from pathlib import Path

from emqa_dask.coco.values import read_json
from emqa_dask.review.labels.coco import read_coco
from emqa_dask.review.labels.csv_tables import read_label_table
from emqa_dask.review.labels.cvat import read_cvat
from emqa_dask.review.labels.fiji import read_fiji
from emqa_dask.review.labels.labelme import is_labelme, read_labelme
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.via import CSV_COLUMNS, is_via, read_via, read_via_table
from emqa_dask.review.labels.yolo import ShapeFinder, list_label_texts, read_yolo

FORMATS = "COCO, VIA or LabelMe JSON, CVAT XML, CSV, ROIs of Fiji, or a folder of LabelMe, YOLO or Fiji files"
CVAT_MEMBER = "annotations.xml"  # of the zip file that CVAT exports
N_SNIFFED_BYTES = 4096  # of a file, to tell its format
MAX_CVAT_BYTES = 2**32  # of the XML in a zip file


def read_labels(path: str | Path, find_shape: ShapeFinder = lambda name, frame: None) -> list[LabelledMicrograph]:
    """The labelled images of a file or folder `path` in one of FORMATS.

    `find_shape` gives height and width of an image by name and frame, which the files of YOLO do not have. Raises
    ValueError, naming the file and the object, for unknown formats and for labels that are damaged, empty, repeated or
    outside their image.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, find_shape)
    try:
        with open(path, "rb") as stream:
            head = stream.read(N_SNIFFED_BYTES)
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror}): give {FORMATS}") from error
    if head.startswith(b"Iout"):
        return read_fiji([path], path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return read_cvat(path.read_bytes(), path)
    if path.suffix.lower() == ".csv":
        first_line = text.partition(b"\n")[0]
        if all(name.encode() in first_line for name in CSV_COLUMNS):
            return read_via_table(_read_text(path), path)
        return read_label_table(path)
    return _read_json_labels(path)


def _read_json_labels(path: Path) -> list[LabelledMicrograph]:
    content = read_json(path)
    if is_labelme(content):
        return read_labelme({path.name: content}, path)
    return read_via(content, path) if is_via(content) else read_coco(content, path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from error


def _read_zip(path: Path) -> list[LabelledMicrograph]:
    """Labels of CVAT's zip file, or of Fiji's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if CVAT_MEMBER in names and archive.getinfo(CVAT_MEMBER).file_size <= MAX_CVAT_BYTES:
                return read_cvat(archive.read(CVAT_MEMBER), path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a zip file ({error})") from error
    if not any(name.lower().endswith(".roi") for name in names):
        raise ValueError(f"{path}: neither ROIs of Fiji nor {CVAT_MEMBER} of CVAT are in it")
    return read_fiji([path], path)


def _read_folder(folder: Path, find_shape: ShapeFinder) -> list[LabelledMicrograph]:
    """Labels of LabelMe, Fiji or YOLO in a folder; ValueError where it has files of none or of several of them."""
    json_files = sorted(folder.rglob("*.json"))
    contents = {file.relative_to(folder).as_posix(): read_json(file) for file in json_files}
    contents = {name: content for name, content in contents.items() if is_labelme(content)}
    roi_files = sorted(file for suffix in ("*.roi", "*.zip") for file in folder.rglob(suffix))
    texts = list_label_texts(folder)
    formats = {"LabelMe": contents, "Fiji": roi_files, "YOLO": texts}
    names = [name for name, files in formats.items() if files]
    if len(names) != 1:
        found_formats = f"files of {' and '.join(names)}" if names else "no labels"
        raise ValueError(
            f"{folder} has {found_formats}: give a folder with JSON of LabelMe, ROIs of Fiji or texts of YOLO"
        )
    if contents:
        return read_labelme(contents, folder)
    return read_fiji(roi_files, folder) if roi_files else read_yolo(folder, find_shape)
