"""Labels of micrographs of a workspace: files of annotation tools, matched to the ledger and merged."""

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from emqa_dask.archive.name_escapes import escape_name
from emqa_dask.pipeline.workspace.reviewed import REVIEWED
from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.review.labels.reading import read_labels
from emqa_dask.review.labels.shapes import TOLERANCE_PX

N_SHOWN_URIS = 3  # that a label may mean, in a message


def read_matched_labels(
    paths: Sequence[str], ledger: pd.DataFrame, reviewed: Mapping[str, LabelledMicrograph] | None = None
) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> what the files and folders `paths` together say about it.

    `ledger` has micrograph_id, uri, frame, height_px, width_px and content_sha256; with `path`, labels may name files
    by their path, also relative to the file of labels. `reviewed` are the labels of the path REVIEWED. Raises
    ValueError as review.labels.reading.read_labels(), match_labels() and merge_labels() do.
    """
    index = _NameIndex(ledger)
    matched = {
        path: reviewed
        if path == REVIEWED and reviewed is not None
        else _match(read_labels(path, partial(index.find_shape, _find_folder(path))), ledger, index, path)
        for path in paths
    }
    return merge_labels(matched)


def _find_folder(path: str | Path) -> str:
    """The folder to which names in a file or folder of labels may be relative."""
    absolute = os.path.abspath(path)
    return absolute if os.path.isdir(absolute) else os.path.dirname(absolute)


class _NameIndex:
    """Micrographs of a ledger by the names that labels may give them."""

    def __init__(self, ledger: pd.DataFrame):
        self._ledger = ledger
        self.rows_by_uri = ledger.groupby("uri").groups
        self._uris_by_digest = _index_texts(ledger, "content_sha256")
        self._uris_by_path = _index_texts(ledger, "path")
        self._uris_by_ending: dict[str, set[str]] = {}
        self._uris_by_stem: dict[str, set[str]] = {}
        for uri in self.rows_by_uri:
            for k in range(uri.count("/") + 1):
                ending = uri.split("/", k)[-1]
                self._uris_by_ending.setdefault(ending, set()).add(uri)
                self._uris_by_stem.setdefault(_drop_suffix(ending), set()).add(uri)

    def find_uris(self, label: LabelledMicrograph, folder: str) -> set[str]:
        """URIs that a label may mean: by content, else by URI or path, by the end of the URI, and without the suffix.

        `folder`: of the file of labels; the path may be relative to it. A name with folders that no URI has is looked
        up by its ending, down to its base name.
        """
        if label.content_sha256 in self._uris_by_digest:
            uris = self._uris_by_digest[label.content_sha256]
            return uris & self._find_named(folder, label.name) or uris
        return set() if label.content_sha256 else self._find_named(folder, label.name)

    def _find_named(self, folder: str, name: str) -> set[str]:
        exact_uris = {name} & self.rows_by_uri.keys() | self._find_path(folder, name)
        if exact_uris:
            return exact_uris
        if "\\" in name:
            return self._find_named(folder, name.replace("\\", "/"))  # as Windows writes paths
        name = posixpath.normpath(name).lstrip("/") if name else name
        while name.startswith("../"):
            name = name[3:]
        if name in self.rows_by_uri:
            return {name}
        for k in range(name.count("/") + 1):
            ending = name.split("/", k)[-1]
            uris = self._uris_by_ending.get(ending) or self._uris_by_stem.get(ending)
            uris = uris or self._uris_by_stem.get(_drop_suffix(ending))
            if uris:
                return uris
        return set()

    def _find_path(self, folder: str, name: str) -> set[str]:
        """URIs of the file with the path `name`, absolute or relative to `folder`."""
        is_uri = "://" in name
        path = name if is_uri or not name else os.path.normpath(os.path.join(folder, name))
        return self._uris_by_path.get(escape_name(path), set())

    def find_shape(self, folder: str, name: str, frame: int) -> tuple[int, int] | None:
        """Height and width, px, of the only micrograph with this name and frame; None without one."""
        uris = self._find_named(folder, name)
        if len(uris) != 1:
            return None
        rows = self.list_frames(next(iter(uris)), frame)
        return (int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0])) if len(rows) else None

    def list_frames(self, uri: str, frame: int) -> pd.DataFrame:
        """Rows of the ledger of a file and frame."""
        rows = self._ledger.loc[self.rows_by_uri[uri]]
        return rows[rows["frame"] == frame]


def _index_texts(ledger: pd.DataFrame, column: str) -> dict[str, set[str]]:
    """URIs by the values of a column, which may be missing."""
    uris: dict[str, set[str]] = {}
    if column in ledger:
        for text, uri in zip(ledger[column], ledger["uri"], strict=True):
            uris.setdefault(text, set()).add(uri)
    return uris


def _drop_suffix(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def match_labels(
    labels: Iterable[LabelledMicrograph], ledger: pd.DataFrame, path: str | Path
) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> label, for labels of `ledger` (micrograph_id, uri, frame, height_px, width_px, content_sha256).

    A label names its file by the content's SHA-256, by the URI, by a path (where `ledger` has `path`), absolute or
    relative to the file of labels `path`, or by the end of exactly one URI ("day 1/a.tif" of "scans/day 1/a.tif"), with
    another suffix or none. ValueError names the labels of images that the workspace does not
    have, that match several micrographs, that have another size, and objects outside their image.
    """
    return _match(list(labels), ledger, _NameIndex(ledger), path)


def _match(
    labels: list[LabelledMicrograph], ledger: pd.DataFrame, index: _NameIndex, path: str | Path
) -> dict[str, LabelledMicrograph]:
    matched: dict[str, LabelledMicrograph] = {}
    errors = []
    n_foreign = 0
    folder = _find_folder(path)
    for label in labels:
        uris = index.find_uris(label, folder)
        name = label.name or label.content_sha256
        if len(uris) != 1:
            shown_uris = ", ".join(sorted(uris)[:N_SHOWN_URIS]) + (" ..." if len(uris) > N_SHOWN_URIS else "")
            count = f"one of {len(uris)} micrographs ({shown_uris})" if uris else "not in the workspace"
            errors.append(f"{name!r} is {count}")
            n_foreign += not uris
            continue
        rows = index.list_frames(next(iter(uris)), label.frame)
        fault = _find_mismatch(label, rows, matched)
        if fault:
            errors.append(f"{name!r} {fault}")
        else:
            matched[rows["micrograph_id"].iloc[0]] = label
    if n_foreign == len(labels) > 1:
        raise ValueError(f"{path}: these are labels of another archive: {list_errors(errors)}")
    if errors:
        raise ValueError(f"{path}: {len(errors)} labelled images: {list_errors(errors)}")
    return matched


def _find_mismatch(label: LabelledMicrograph, rows: pd.DataFrame, matched: Mapping) -> str:
    """The reason why a label does not fit the micrograph of its name and frame; "" when it fits."""
    if rows.empty:
        return f"has no frame {label.frame}"
    shape = (int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0]))
    if label.shape is not None and shape != label.shape:
        return f"is {shape[0]} x {shape[1]} px, labelled as {label.shape[0]} x {label.shape[1]}"
    if label.points is not None and ((label.points < 0) | (label.points > shape)).any():
        y, x = label.points[((label.points < 0) | (label.points > shape)).any(axis=1)][0]
        return f"is {shape[0]} x {shape[1]} px and has a point at y {y:g}, x {x:g}"
    if label.boxes is not None and label.shape is None:
        excess_px = np.maximum(-label.boxes[:, :2], label.boxes[:, 2:] - shape).max(axis=1, initial=0)
        if (excess_px > TOLERANCE_PX).any():
            y, x = label.boxes[excess_px > TOLERANCE_PX][0, :2]
            return f"is {shape[0]} x {shape[1]} px, and its object at y {y:g}, x {x:g} reaches outside"
    return "is labelled twice" if rows["micrograph_id"].iloc[0] in matched else ""


def merge_labels(matched_files: Mapping[str, Mapping[str, LabelledMicrograph]]) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> everything that several files of labels say about it.

    matched_files: file -> result of match_labels(). Raises ValueError, naming the images, where two files have labels
    of the same kind for an image, and where counts, boxes and points contradict each other.
    """
    merged: dict[str, LabelledMicrograph] = {}
    errors = []
    for path, matched in matched_files.items():
        for micrograph_id, label in matched.items():
            old_label = merged.get(micrograph_id, label)
            if old_label is not label and set(old_label.kinds) & set(label.kinds):
                errors.append(f"{label.name!r} has {' and '.join(label.kinds)} in {path} and in another file")
            merged[micrograph_id] = label.merge(old_label)
    errors += [f"{label.name!r} {fault}" for label in merged.values() if (fault := label.find_contradiction())]
    if errors:
        raise ValueError(f"{', '.join(map(str, matched_files))}: {list_errors(errors)}")
    return merged
