"""emqa tune log: settings of [detect] for each group of micrographs, chosen by rewards on a sample of the group.

A group has one instrument, magnification and folder, or the micrographs that a pattern selects. The settings file
gets a section [[cohorts]] for each group.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import tune_log_files
from emqa_dask.pipeline.commands.tune_log_files import TunedGroup
from emqa_dask.pipeline.tasks.tune_log import SEARCHED_SETTINGS, TuningImage, evaluate_settings, evaluate_tiles
from emqa_dask.pipeline.workspace.acquisition_groups import GroupSample, sample_groups
from emqa_dask.pipeline.workspace.tuning_references import find_references
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Detect, Settings
from emqa_dask.store import marker
from emqa_dask.store.layout import Workspace
from emqa_dask.tune import lattice, rewards, search
from emqa_dask.tune.lattice import LatticePhysics
from emqa_dask.tune.noise import NO_NOISE, GaussianNoise
from emqa_dask.tune.space import SearchSpace

# Crowding counts 41 % of randomly placed objects as crowded, so it serves lattices only; without a lattice the image
# itself has to confirm the objects.
LATTICE_REWARDS = ("count_error", "crowding")
DENSITY_REWARDS = ("count_error", "doubtful_count")
IMAGE_REWARDS = ("doubtful_count",)
REFERENCE_REWARDS = ("disagreement",)
MIN_OBJECTIVE_RANGE = 0.1  # of an objective: with a narrower one 0.1 % would count as much as 10 %
MESSAGE_INTERVAL = 4  # batches
Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneOptions:
    """Options of emqa tune log, by their names on the command line."""

    lattice: str = ""  # TOML file, see tune.lattice
    count_per_um2: float | None = None  # expected density, where there is no lattice
    nm_per_pixel: float | None = None  # of all micrographs; None: as their headers say
    reference: str = ""  # a detector of the workspace, or a file of labels, for the reward disagreement
    rewards: tuple[str, ...] = ()
    evaluations: int = 48
    seed: int = 0
    method: str = "bayes"
    baselines: bool = False  # the other two methods as well, to compare with
    choose: str = "euclidean"  # distance to the ideal point
    images: int = 6  # micrographs of each group
    cohorts: tuple[str, ...] = ()  # patterns on the URI; none: groups by instrument x magnification x folder
    batch: int = 4  # settings that are evaluated together
    windows: int | None = None  # side of tiles that get an optimum each, px

    def check(self) -> None:
        """Raises ValueError for a number out of its range, an unreadable lattice and an unknown reward."""
        check_integer("--evaluations", self.evaluations, 1)
        check_integer("--images", self.images, 1)
        check_seed("--seed", self.seed)
        for name in ("count_per_um2", "nm_per_pixel"):
            if getattr(self, name) is not None:
                check_number(f"--{name.replace('_', '-')}: {name}", getattr(self, name), 0)
        if self.windows is not None:
            check_integer("--windows", self.windows, 1)
        self.read_physics()
        self.select_rewards()

    def read_physics(self) -> LatticePhysics | None:
        """Known physics of the objects, or None; ValueError where both a lattice and a density are given."""
        if self.lattice and self.count_per_um2 is not None:
            raise ValueError("--lattice and --count-per-um2 exclude each other: a lattice says the density, too")
        if self.lattice:
            return lattice.read_lattice(self.lattice)
        return None if self.count_per_um2 is None else lattice.make_density_physics(self.count_per_um2)

    def select_rewards(self) -> tuple[str, ...]:
        """Names of the rewards; ValueError for those that do not exist or lack a reference."""
        names = self.rewards or self._choose_default_rewards()
        for name in names:
            rewards.load_reward(name)
            if name in REFERENCE_REWARDS and not self.reference:
                raise ValueError(f"--reward {name}: give --reference, a detector of the workspace or a file of labels")
        return tuple(names)

    def _choose_default_rewards(self) -> tuple[str, ...]:
        if self.reference:
            return REFERENCE_REWARDS
        if self.lattice:
            return LATTICE_REWARDS
        return IMAGE_REWARDS if self.count_per_um2 is None else DENSITY_REWARDS

    def select_methods(self) -> list[str]:
        """The search method and, for baselines, the other methods."""
        other_methods = [method for method in search.METHODS if method != self.method]
        return [self.method, *(other_methods if self.baselines else [])]


def tune_log(root: str, out: str, settings: Settings, options: TuneOptions, say: Say = print) -> list[TunedGroup]:
    """The tuned groups of workspace `root`; writes `out`, the settings file that triage takes.

    Traces and figures are written to a folder beside it (<out without .toml>.tune). Settings are evaluated on Dask
    workers, `options.batch` at a time. A worker keeps the scale-space maxima of an image, so that settings which differ
    in threshold and overlap filter it once. ValueError where rewards need a missing value, FileExistsError where `out`
    or the folder exists and is not from a tuning.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    options.check()
    tune_log_files.check_out(out)
    physics = options.read_physics()
    names = options.select_rewards()
    references = find_references(options.reference, workspace, settings) if options.reference else None
    micrograph_ids = references.micrograph_ids if references else None
    groups = sample_groups(workspace, options.images, options.cohorts, micrograph_ids)
    tuned = []
    with open_cluster(settings, (*PRELOAD, evaluate_settings.__module__), say) as client:
        for group in groups:
            objects = references.read_objects(group.rows) if references else [None] * len(group.rows)
            tuning = GroupTuning.prepare(root, group, objects, settings, options, physics, names, client, say)
            tuned.append(tuning.run())
            tune_log_files.write_results(out, settings, tuned, options.method)  # kept if the next group fails
    say(f"settings: {out}; figures and traces: {tune_log_files.locate_figures(out)}")
    return tuned


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
        tuned = TunedGroup(self.group, search_histories, chosen_row, history.table.iloc[0], self._tune_tiles(history))
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
        records = self._run_tasks(evaluate_settings, candidates)
        values = np.array([record["objectives"] for record in records])
        has_value = np.isfinite(values).any(axis=0)
        mean = np.nanmean(np.where(has_value, values, 0.0), axis=0)
        return np.where(has_value, mean, np.inf)

    def _tune_tiles(self, history: search.SearchHistory) -> pd.DataFrame:
        """The best of the evaluated settings in every tile of the sampled micrographs."""
        if self.options.windows is None:
            return pd.DataFrame({"uri": []})
        candidates = history.table[list(SEARCHED_SETTINGS)].drop_duplicates().to_dict("records")
        function = functools.partial(evaluate_tiles, self.options.windows, self.options.choose)
        records = self._run_tasks(function, candidates)
        tables = [record["table"].assign(uri=uri) for record, uri in zip(records, self.rows["uri"])]
        return pd.concat(tables, ignore_index=True)

    def _run_tasks(self, function: Callable, candidates: list[dict]) -> list[dict]:
        """Records of `function` for each sampled micrograph, in order; RuntimeError names one that fails."""
        lowest = min([self.space.threshold[0], *(candidate["threshold"] for candidate in candidates)])
        floor = dataclasses.replace(self.defaults, threshold=lowest)
        settings = [dataclasses.replace(self.defaults, **candidate) for candidate in candidates]
        image_rows = zip(self.rows.to_dict("records"), self.references, strict=True)
        images = [TuningImage(self.root, row, floor, reference, self.noise) for row, reference in image_rows]
        tasks = [Task(str(k), (image, settings, self.names, self.physics), 1) for k, image in enumerate(images)]
        records = {}
        for result in execute(function, tasks, stage="tune", client=self.client, limits=Limits(self.timeout_s)):
            number = int(result.task.name)
            if result.outcome == "failed":
                raise RuntimeError(f"{self.rows['uri'][number]}: {result.error}")
            if result.outcome == "done":
                records[number] = result.value
        return [records[k] for k in range(len(tasks))]


def _make_space(physics: LatticePhysics | None, nm_per_pixel: float) -> SearchSpace:
    """The search space: scales follow from a known spacing, else they have their defaults."""
    has_spacing = physics is not None and not math.isnan(physics.spacing_nm)
    return SearchSpace.make_for_physics(physics, nm_per_pixel) if has_spacing else SearchSpace()
