"""Labels of micrographs of a workspace: files of annotation tools, matched to the ledger and merged."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors


def match_labels(
    labels: list[LabelledMicrograph], ledger: pd.DataFrame, path: str | Path
) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> label, for labels of `ledger` (micrograph_id, uri, frame, height_px, width_px).

    A label's name is the URI, or the end of exactly one URI ("day 1/a.tif" of "scans/day 1/a.tif"). ValueError names
    the labels of images that the workspace does not have, that match several micrographs, or that have another size.
    """
    rows_by_uri = ledger.groupby("uri").groups
    uris_by_ending = _index_endings(rows_by_uri)
    matched: dict[str, LabelledMicrograph] = {}
    errors = []
    n_foreign = 0
    for label in labels:
        uris = {label.name} if label.name in rows_by_uri else uris_by_ending.get(label.name, set())
        if len(uris) != 1:
            count = f"one of {len(uris)} micrographs" if uris else "not in the workspace"
            errors.append(f"{label.name!r} is {count}")
            n_foreign += not uris
            continue
        rows = ledger.loc[rows_by_uri[next(iter(uris))]]
        rows = rows[rows["frame"] == label.frame]
        fault = _find_mismatch(label, rows, matched)
        if fault:
            errors.append(f"{label.name!r} {fault}")
        else:
            matched[rows["micrograph_id"].iloc[0]] = label
    if n_foreign == len(labels) > 1:
        raise ValueError(f"{path}: these are labels of another archive: {list_errors(errors)}")
    if errors:
        raise ValueError(f"{path}: {len(errors)} labelled images: {list_errors(errors)}")
    return matched


def _index_endings(uris: Mapping) -> dict[str, set[str]]:
    """URIs by each of their endings that begins with a name of a folder or file."""
    endings: dict[str, set[str]] = {}
    for uri in uris:
        for k in range(uri.count("/") + 1):
            endings.setdefault(uri.split("/", k)[-1], set()).add(uri)
    return endings


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
