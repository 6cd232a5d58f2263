"""emqa train detector and emqa import detector: networks from labelled images, or from other people's checkpoints."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emqa_dask import models
from emqa_dask.archive import readers
from emqa_dask.detect.mask_rcnn import convert
from emqa_dask.detect.normalise import normalise
from emqa_dask.train import detector


def read_image(path: Path) -> np.ndarray:
    """The first micrograph of a file in any format that an archive may have. ValueError names a file without one."""
    frames = readers.open_source(str(path)).frames
    if not frames:
        raise ValueError(f"{path}: there is no micrograph in it")
    return frames[0].read()


def train_detector(
    sets: Sequence[tuple[str, str]],
    out: str,
    *,
    start: str | None = None,
    say: Callable[[str], None] = print,
    **options,
) -> dict:
    """detector.train() on images of any format; `start` may be a bundled detector's name."""
    where = None if start is None else models.locate(start)
    pairs = [(Path(coco), Path(images)) for coco, images in sets]
    return detector.train(pairs, Path(out), normalise=normalise, read=read_image, start=where, say=say, **options)


def import_detector(
    checkpoint: str, out: str, classes: Sequence[str], config: str | None, architecture: str | None
) -> None:
    """A model directory from a checkpoint: of detectron2 with `config`, of torchvision with `architecture` (TOML)."""
    name = Path(out).name
    if config is not None:
        convert.import_detectron2(config, checkpoint, out, name=name, classes=classes)
        return
    try:
        told = tomllib.loads(Path(architecture).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{architecture}: not valid TOML: {error}") from error
    convert.import_torchvision(checkpoint, told.get("architecture", told), out, name=name, classes=classes)
