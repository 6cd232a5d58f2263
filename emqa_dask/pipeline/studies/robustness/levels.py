"""One level of noise on one group of micrographs: the settings tuned for it, and what detectors find."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.pipeline.commands.tune_log_group import GroupTuning
from emqa_dask.pipeline.studies.output import ResultStore
from emqa_dask.pipeline.tasks.noise_detections import judge_detectors, select_settings
from emqa_dask.pipeline.tasks.tune_log import TuningImage
from emqa_dask.run.execute import execute
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Settings
from emqa_dask.tune.noise import GaussianNoise

TUNED = "LoG*"  # the name that the paper gives to the tuned detector
UNTUNED = "untuned LoG"


class LevelResult(NamedTuple):
    """What a level of noise has given."""

    group: str
    noise: float  # standard deviation, of the image's range
    chosen_settings: dict[str, float]  # the tuned settings and their objectives
    history: pd.DataFrame  # every evaluation, see tune.search
    rows: pd.DataFrame  # uri, detector, counts and rewards: a row for each image and detector
    points: dict[str, NDArray[np.float64]]  # detector -> (n, 3) y_px, x_px, radius of the first image


@dataclass(frozen=True)
class LevelRunner:
    """Computes the levels of a group, with the results of an earlier run where they are there."""

    tuning: GroupTuning  # of the group, without noise
    known_objects: Sequence[pd.DataFrame | None]  # of each image
    networks: tuple[str, ...]
    settings: Settings
    store: ResultStore

    def compute_level(self, noise: float) -> LevelResult:
        """The result of a level."""
        group = self.tuning.group.name
        stored = self.store.load_or_compute(f"{group} {noise!r}", lambda: np.array(json.dumps(self._compute(noise))))
        record = json.loads(str(stored))
        points = {name: np.asarray(values, float).reshape(-1, 3) for name, values in record["points"].items()}
        history = pd.DataFrame(record["history"])
        return LevelResult(group, noise, record["chosen"], history, pd.DataFrame(record["rows"]), points)

    def make_images(self, noise: float) -> list[TuningImage]:
        """The sampled micrographs with noise and known objects."""
        tuning = self.tuning
        gaussian = GaussianNoise(noise, tuning.options.seed)
        rows = tuning.rows.to_dict("records")
        return [
            TuningImage(tuning.root, row, tuning.defaults, objects, gaussian)
            for row, objects in zip(rows, self.known_objects, strict=True)
        ]

    def _compute(self, noise: float) -> dict[str, Any]:
        tuned = replace(self.tuning, noise=GaussianNoise(noise, self.tuning.options.seed)).run()
        history = tuned.search_histories[self.tuning.options.method].table
        chosen_settings = {key: float(value) for key, value in tuned.chosen_row.items()}
        records = self._judge(noise, chosen_settings)
        rows = [{"uri": uri, **row} for uri, record in zip(self.tuning.rows["uri"], records) for row in record["rows"]]
        return {
            "chosen": chosen_settings,
            "history": history.astype(float).to_dict("list"),
            "rows": rows,
            "points": records[0]["points"],
        }

    def _judge(self, noise: float, chosen_settings: dict[str, float]) -> list[dict]:
        """Records of judge_detectors() of every image, in order; RuntimeError names an image that fails."""
        tuning = self.tuning
        log_settings = {TUNED: select_settings(tuning.defaults, chosen_settings), UNTUNED: tuning.defaults}
        arguments = (log_settings, self.networks, self.settings, tuning.physics)
        tasks = [Task(str(k), (image, *arguments), 1) for k, image in enumerate(self.make_images(noise))]
        records = {}
        limits = Limits(tuning.timeout_s)
        for result in execute(judge_detectors, tasks, stage="tune", client=tuning.client, limits=limits):
            number = int(result.task.name)
            if result.outcome == "failed":
                raise RuntimeError(f"{tuning.rows['uri'][number]}: {result.error}")
            if result.outcome == "done":
                records[number] = result.value
        return [records[k] for k in range(len(tasks))]
