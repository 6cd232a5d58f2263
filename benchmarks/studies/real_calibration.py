"""Verdicts after `emqa calibrate` with a few labels of the same archive, on its other images."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.studies.real_triage import TriageGroup, read_verdicts
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.cli.arguments import build_parser

LINKED_BYTES = 1 << 20  # files from this size, the pixels, are links: no verb changes them
MIN_TEST_IMAGES = 10  # without labels, on which verdicts are judged


def can_calibrate(group: TriageGroup, n_labels: int) -> bool:
    """Whether enough labelled images are there to calibrate and to judge."""
    return 0 < n_labels <= len(group.boxes) - MIN_TEST_IMAGES


def triage_with_labels(group: TriageGroup, workspace: Path, n_labels: int, seed: int) -> pd.DataFrame:
    """The rows of triage_images() of the images without labels, after `n_labels` images drawn at random were labelled.

    workspace: of a finished run on the group; it is not changed.
    """
    copy = workspace.with_name(f"{workspace.name}-labels{n_labels}-{seed}")
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(workspace, copy, copy_function=_link_or_copy)
    names = sorted(group.boxes)
    order = np.random.default_rng(seed).permutation(len(names))
    labelled = sorted(names[k] for k in order[:n_labels])
    paths = {path.name: path for path in group.paths}
    labels = copy.with_suffix(".json")
    labels.write_text(json.dumps(make_coco(group, [paths[name] for name in labelled])))
    for arguments in (["calibrate", str(copy), str(labels)], ["rescore", str(copy)]):
        options = build_parser().parse_args(arguments)
        options.run(options)
    rows = read_verdicts(str(copy), group.boxes)
    return rows[~rows["uri"].isin(labelled)].assign(n_labels=n_labels, seed=seed)


def _link_or_copy(source: str, target: str) -> str:
    if os.path.getsize(source) >= LINKED_BYTES:
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def make_coco(group: TriageGroup, paths: Sequence[Path]) -> dict:
    """COCO JSON with the boxes of the images `paths`, cut at their edges."""
    document: dict = {"images": [], "annotations": [], "categories": [{"id": 1, "name": group.kind}]}
    for number, path in enumerate(paths, start=1):
        height, width = read_micrograph(path)[0].shape
        document["images"].append({"id": number, "file_name": path.name, "height": height, "width": width})
        for box in np.clip(group.boxes[path.name], 0, [height, width, height, width]):
            y0, x0 = box[:2].tolist()
            y1, x1 = box[2:].tolist()
            identity = {"id": len(document["annotations"]) + 1, "image_id": number, "category_id": 1}
            size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            document["annotations"].append(identity | size)
    return document
