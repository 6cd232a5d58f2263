"""emqa train detector and emqa import detector: networks from labelled images, or from checkpoints."""

import dataclasses
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emqa_dask import models, networks, output_folders
from emqa_dask.archive import readers
from emqa_dask.detect.mask_rcnn import convert
from emqa_dask.detect.normalise import normalise
from emqa_dask.pipeline.commands.detector_domain import add_detector_domain
from emqa_dask.pipeline.workspace.reviewed_set import SUFFIX, write_reviewed_set
from emqa_dask.train import coco, detector


def read_image(path: Path) -> np.ndarray:
    """The first micrograph of a file in any format of an archive, or the array of a .npy file.

    Raises ValueError for a file without one.
    """
    if path.suffix == SUFFIX:
        return np.load(path, allow_pickle=False)
    frames = readers.open_source(str(path)).frames
    if not frames:
        raise ValueError(f"{path}: there is no micrograph in it")
    return frames[0].read()


def train_detector(
    coco_datasets: Sequence[tuple[str, str]],
    out: str,
    options: detector.DetectorOptions,
    say: Callable[[str], None] = print,
    *,
    reviewed: Sequence[str] = (),
) -> dict:
    """Validation scores of a detector that was trained on images of any format; see `detector.train_detector`.

    `reviewed` are workspaces whose accepted images are sets, too. `options.start` may be the name of a bundled
    detector. The model gets the domain of its images by content. Raises ValueError without any set.
    """
    if not coco_datasets and not reviewed:
        raise ValueError("nothing to learn from: give --coco and --images, or --reviewed")
    with tempfile.TemporaryDirectory() as scratch:
        datasets = list(coco_datasets)
        for number, root in enumerate(reviewed):
            folder = Path(scratch, str(number))
            folder.mkdir()
            datasets.append(write_reviewed_set(root, folder, say))
        return _train(datasets, out, options, say)


def _train(
    coco_datasets: Sequence[tuple[str, str]], out: str, options: detector.DetectorOptions, say: Callable[[str], None]
) -> dict:
    if options.start is not None:
        options = dataclasses.replace(options, start=models.locate_model(str(options.start)))
    dataset_paths = [(Path(coco), Path(images)) for coco, images in coco_datasets]
    scores = detector.train_detector(dataset_paths, Path(out), options, normalise=normalise, read=read_image, say=say)
    paths = [row.path for row in coco.read_coco_sets(dataset_paths)[0]]
    add_detector_domain(Path(out), paths, read_image, options.device, say)
    return scores


def import_detector(
    checkpoint: str, out: str, classes: Sequence[str], config: str | None, architecture: str | None
) -> None:
    """A model directory from a checkpoint: of detectron2 with `config`, of torchvision with `architecture` (TOML).

    Raises FileExistsError where `out` exists, and ValueError, naming the file, for a file that cannot be read and for
    class names that occur twice.
    """
    output_folders.check_free(out)
    name = Path(out).name
    if len(set(classes)) != len(classes) or not all(name.strip() for name in classes):
        raise ValueError(f"--classes {' '.join(classes)}: every class needs a name of its own")
    for path in filter(None, (checkpoint, config, architecture)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
    if config is not None:
        convert.import_detectron2(config, checkpoint, out, name=name, classes=classes)
        return
    try:
        table = tomllib.loads(Path(architecture).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{architecture}: not valid TOML: {error}") from error
    table = table.get("architecture", table)
    if not isinstance(table, dict):
        raise ValueError(f"{architecture}: architecture is {table!r}: it has to be a table")
    try:  # torchvision raises errors of any kind for an invalid architecture
        networks.build_detector({"n_classes": len(classes), **table})
    except Exception as error:
        raise ValueError(f"{architecture}: no Mask R-CNN can be built of it: {error}") from error
    convert.import_torchvision(checkpoint, table, out, name=name, classes=classes)
