"""Detections of the product's detectors on real images, stored per image and content of the detector.

An image goes through the readers of the archive and through the detector as in a triage. What was stored is not
computed again.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emqa_dask import models, tables
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.mask_rcnn import load_detector
from emqa_dask.pipeline.workspace.stages import VERSIONS
from emqa_dask.settings import Detect, digest, load_settings

LOG_PREFIX = "log:"  # "log:nanoparticle-tem": the LoG with the settings of a template
CORNERS = ["y0", "x0", "y1", "x1"]


@dataclasses.dataclass(frozen=True)
class StudyDetector:
    """A detector of the product by its name: a bundled model, a model directory, or "log:TEMPLATE"."""

    name: str
    stability_scale: float = 0.0  # as in the settings [detect]

    @property
    def is_log(self) -> bool:
        return self.name.startswith(LOG_PREFIX)

    @property
    def log_settings(self) -> Detect:
        """The settings of the LoG of the template, sizes in px."""
        return load_settings(template=self.name.removeprefix(LOG_PREFIX)).detect.with_pixel_size(np.nan)

    @property
    def key(self) -> str:
        """Name of the folder of its detections: changes with its content and with the version of the stage."""
        if self.is_log:
            settings = dataclasses.replace(self.log_settings, detectors=("log",))
            return f"log-{digest(VERSIONS['detect'], settings)}"
        content = models.digest_model_card(models.locate_model(self.name))
        inputs = (self.stability_scale,) if self.stability_scale else ()
        return f"{Path(self.name).name}-{digest(VERSIONS['detect'], content, *inputs)}"

    def list_classes(self) -> tuple[str, ...]:
        """Classes of its objects; the LoG has none."""
        return () if self.is_log else load_detector(models.locate_model(self.name)).card.classes

    def detect(self, image: NDArray) -> pd.DataFrame:
        """Detections of one image: rows of tables.DETECTIONS without micrograph_id."""
        if self.is_log:
            return detect_image(image, self.log_settings)
        directory = models.locate_model(self.name)
        return load_detector(directory, stability_scale=self.stability_scale).detect([image])[0]


def _locate_detections(folder: Path, path: Path) -> Path:
    identity = hashlib.sha256("/".join(path.parts[-3:]).encode()).hexdigest()[:8]
    return folder / f"{path.stem[:80]}-{identity}.parquet"


def read_detections(
    detector: StudyDetector, paths: Iterable[Path], cache: Path, say: Callable[[str], None] = print
) -> dict[Path, pd.DataFrame]:
    """Detections by image file, those above no score floor but the detector's own; stored under `cache`."""
    folder = cache / detector.key
    folder.mkdir(parents=True, exist_ok=True)
    paths = list(paths)
    missing = [path for path in paths if not _locate_detections(folder, path).exists()]
    for k, path in enumerate(missing):
        rows = detector.detect(read_micrograph(path)[0]).assign(micrograph_id=path.name)
        temporary = _locate_detections(folder, path).with_suffix(".tmp")
        pq.write_table(tables.conform(rows, tables.DETECTIONS), temporary)
        temporary.rename(_locate_detections(folder, path))
        if (k + 1) % 50 == 0:
            say(f"{detector.name}: {k + 1} of {len(missing)} images")
    return {path: pd.read_parquet(_locate_detections(folder, path)) for path in paths}
