"""The search for the settings of one group of micrographs, on Dask workers or in this process."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.pipeline.commands.tune_log_files import TunedGroup
from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
from emqa_dask.pipeline.tasks.tune_log import SEARCHED_SETTINGS, TuningImage, average_objectives, evaluate_settings
from emqa_dask.pipeline.tasks.tune_log_windows import MIN_OBJECTIVE_RANGE, WindowPlan, find_polarity, search_window
from emqa_dask.pipeline.workspace.acquisition_groups import GroupSample
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.run.execute import execute
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Detect, Settings
from emqa_dask.tune import search, tiles
from emqa_dask.tune.lattice import LatticePhysics
from emqa_dask.tune.noise import NO_NOISE, GaussianNoise
from emqa_dask.tune.space import SearchSpace

MESSAGE_INTERVAL = 4  # batches
N_MESSAGES = 10  # of the progress of many tasks, about
Say = Callable[[str], None]


@dataclass(frozen=True)
class GroupTuning:
    """The search for the settings of one group."""

    root: str
    group: GroupSample
    rows: pd.DataFrame  # the sampled micrographs, with the pixel size that counts
    references: Sequence[pd.DataFrame | None]  # reference objects of each of them
    defaults: Detect  # the settings in use
    space: SearchSpace
    options: TuneOptions
    physics: LatticePhysics | None
    names: tuple[str, ...]  # of the rewards
    timeout_s: float
    client: Any  # distributed.Client; None: in this process
    say: Say
    noise: GaussianNoise = NO_NOISE  # that is added to the images

    @classmethod
    def prepare(
        cls,
        root: str,
        group: GroupSample,
        references: Sequence[pd.DataFrame | None],
        settings: Settings,
        options: TuneOptions,
        physics: LatticePhysics | None,
        names: tuple[str, ...],
        client: Any,
        say: Say,
    ) -> "GroupTuning":
        """The search of a group, with its pixel size and search space."""
        rows = group.rows
        if options.nm_per_pixel is not None:
            rows = rows.assign(nm_per_pixel=options.nm_per_pixel, nm_per_pixel_y=options.nm_per_pixel)
        sides_nm = compute_pixel_side_nm(rows["nm_per_pixel"], rows["nm_per_pixel_y"])
        is_sized = np.isfinite(sides_nm)
        if physics is not None and is_sized.any() and not is_sized.all():
            uris = ", ".join(rows["uri"][~is_sized])
            say(f"{group.name}: left out, because a lattice or density needs the pixel size, which is unknown: {uris}")
            rows = rows[is_sized]
            references = [reference for reference, has_size in zip(references, is_sized, strict=True) if has_size]
        median_nm = float(np.nanmedian(sides_nm)) if np.isfinite(sides_nm).any() else math.nan
        space = _make_space(physics, median_nm)
        defaults = group.cohort.merge_detect_settings(settings.detect).with_pixel_size(median_nm)
        timeout_s = settings.run.timeout_s
        return cls(root, group, rows, references, defaults, space, options, physics, names, timeout_s, client, say)

    def run(self) -> TunedGroup:
        """The chosen settings, after a search by each method."""
        options = self.options
        sample = f"{len(self.rows)} of {self.group.n_micrographs:,} micrographs"
        self.say(f"{self.group.name}: {sample}, {options.evaluations} evaluations of {', '.join(self.names)}")
        methods = options.select_methods()
        n_total = options.evaluations * len(methods)
        search_histories = {}
        for number, method in enumerate(methods):
            search_histories[method] = self._search(method, number * options.evaluations, n_total)
        history = search_histories[options.method]
        chosen_row = history.select_row(options.choose, MIN_OBJECTIVE_RANGE)
        settings = history.select_settings(options.choose, MIN_OBJECTIVE_RANGE)
        windows = None if options.windows is None else self.tune_windows(settings, options.windows)
        tuned = TunedGroup(self.group, search_histories, chosen_row, history.table.iloc[0], windows)
        for line in tuned.describe(self.names):
            self.say(line)
        return tuned

    def _search(self, method: str, n_before: int, n_total: int) -> search.SearchHistory:
        """The history of one method; `n_before` evaluations of `n_total` were done by other methods."""
        n_done = n_before
        batch = self.options.batch

        def evaluate(candidates: list[dict]) -> np.ndarray:
            nonlocal n_done
            values = self._evaluate(candidates)
            n_done += len(candidates)
            if n_done % (MESSAGE_INTERVAL * batch) < batch:
                self.say(f"{self.group.name}: {n_done} of {n_total} evaluations")
            return values

        return search.run_search(
            evaluate,
            self.space,
            self.names,
            evaluations=self.options.evaluations,
            seed=self.options.seed,
            method=method,
            batch=batch,
            initial=[{key: getattr(self.defaults, key) for key in SEARCHED_SETTINGS}],
        )

    def _evaluate(self, candidates: list[dict]) -> np.ndarray:
        """Objectives (candidates, rewards): means over the sampled micrographs that have a finite value."""
        settings = [dataclasses.replace(self.defaults, **candidate) for candidate in candidates]
        images = self.make_images(candidates)
        tasks = [Task(str(k), (image, settings, self.names, self.physics), 1) for k, image in enumerate(images)]
        records = self.run_tasks(evaluate_settings, tasks, self.rows["uri"])
        return average_objectives([record["objectives"] for record in records])

    def tune_windows(self, settings: dict[str, Any], size_px: int) -> pd.DataFrame:
        """A row for each window of the group's images: corners, settings, rewards, whether it falls back.

        `settings` are those of the whole images, which hold where a window has too few objects. A window is a task.
        """
        options = self.options
        images = self.make_images([settings])
        height, width = self.rows[["height_px", "width_px"]].iloc[0]
        windows = tiles.split_image((height, width), size_px)
        plan = WindowPlan(
            self.space, self.names, self.physics, settings, options.evaluations, options.seed, options.method,
            options.batch, options.choose,
        )  # fmt: skip
        self.say(f"{self.group.name}: {len(windows)} windows, {options.evaluations} evaluations each")
        polarities = self._find_polarities(images, settings)
        tasks = [Task(str(k), (images, polarities, window, plan), len(images)) for k, window in enumerate(windows)]
        names = [f"window y {window.y0}, x {window.x0}" for window in windows]
        records = self.run_tasks(search_window, tasks, names, "windows")
        return pd.DataFrame([record["row"] for record in records])

    def _find_polarities(self, images: Sequence[TuningImage], settings: dict[str, Any]) -> list[str]:
        """The polarity of each image; with "auto" the one that answers more strongly in all of it."""
        if self.defaults.polarity != "auto":
            return [self.defaults.polarity] * len(images)
        tasks = [Task(str(k), (image, settings), 1) for k, image in enumerate(images)]
        return [record["polarity"] for record in self.run_tasks(find_polarity, tasks, self.rows["uri"])]

    def make_images(self, candidates: Sequence[dict]) -> list[TuningImage]:
        """The sampled micrographs, for a search that has `candidates` beside those of the space."""
        lowest = min([self.space.threshold[0], *(candidate["threshold"] for candidate in candidates)])
        floor = dataclasses.replace(self.defaults, threshold=lowest)
        image_rows = zip(self.rows.to_dict("records"), self.references, strict=True)
        return [TuningImage(self.root, row, floor, reference, self.noise) for row, reference in image_rows]

    def run_tasks(self, function: Callable, tasks: Sequence[Task], names: Sequence[str], unit: str = "") -> list[dict]:
        """Records of `function` for each of `tasks`, whose names are their positions, in order.

        Progress is said in `unit`, if it is given. RuntimeError for a task that fails names it as in `names`.
        """
        records: dict[int, dict] = {}
        for result in execute(function, tasks, stage="tune", client=self.client, limits=Limits(self.timeout_s)):
            number = int(result.task.name)
            if result.outcome == "failed":
                raise RuntimeError(f"{names[number]}: {result.error}")
            if result.outcome == "done":
                records[number] = result.value
                if unit and len(records) % max(1, len(tasks) // N_MESSAGES) == 0:
                    self.say(f"{self.group.name}: {len(records)} of {len(tasks)} {unit}")
        return [records[k] for k in range(len(tasks))]


def _make_space(physics: LatticePhysics | None, nm_per_pixel: float) -> SearchSpace:
    """The search space: scales follow from a known spacing, else they have their defaults."""
    has_spacing = physics is not None and not math.isnan(physics.spacing_nm)
    return SearchSpace.make_for_physics(physics, nm_per_pixel) if has_spacing else SearchSpace()
