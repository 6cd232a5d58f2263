"""The study of robustness: noise of several levels, settings tuned for each, counts, figure 3 of Barakati et al."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from emqa_dask import models
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands.tune_log_group import GroupTuning
from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.robustness import show
from emqa_dask.pipeline.studies.robustness.levels import LevelResult, LevelRunner
from emqa_dask.pipeline.tasks import noise_detections
from emqa_dask.pipeline.workspace.acquisition_groups import GroupSample, sample_groups
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.tuning_references import read_labelled_references
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Settings
from emqa_dask.store import files, marker
from emqa_dask.store.layout import Workspace
from emqa_dask.tune import lattice

Say = Callable[[str], None]
NOISE_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_NOISE = 10.0  # of the image's range; nothing is left of the image


@dataclass(frozen=True)
class RobustnessOptions:
    """Options of the study."""

    tuning: TuneOptions
    noise_levels: tuple[float, ...] = NOISE_LEVELS
    labels: str = ""  # file of known objects

    def check(self) -> None:
        """Raises ValueError for a level out of its range, and where there is nothing to tune by."""
        levels = self.noise_levels
        for level in levels:
            if not (math.isfinite(level) and 0 <= level <= MAX_NOISE):
                raise ValueError(
                    f"--noise {level:g}: a level is a number from 0 to {MAX_NOISE:g}, of the image's range"
                )
        if len(set(levels)) < max(2, len(levels)):
            raise ValueError(
                f"--noise {' '.join(f'{level:g}' for level in levels)}: give two levels or more, each once"
            )
        self.tuning.check()
        if self.tuning.read_physics() is None:
            raise ValueError(
                "no physics to tune by: give --lattice FILE or --count-per-um2 X, the objects that are to be expected"
            )


def study_robustness(
    root: str, out: str, settings: Settings, options: RobustnessOptions, say: Say = print
) -> list[LevelResult]:
    """Runs the study on workspace `root` and writes the folder `out`; the results of every group and level of noise.

    The LoG is tuned anew for each level, as `emqa tune log` does. Networks are those that settings.detect names. Raises
    ValueError, before any work, for options, labels and micrographs that do not do, and FileExistsError where something
    else is at `out`. An interrupted study goes on after the last level that it finished.
    """
    options.check()
    output.check_out(out, show.TITLE)
    marker.read_source(root)
    workspace = Workspace(root)
    networks = tuple(name for name in settings.detect.networks if not settings.detect.is_automatic)
    name_detectors(settings.detect)
    references = read_labelled_references(options.labels, workspace, settings, "--labels") if options.labels else None
    micrograph_ids = references.micrograph_ids if references else None
    groups = sample_groups(workspace, options.tuning.images, options.tuning.cohorts, micrograph_ids)
    groups = [group for group in groups if len(group.rows)]
    _check_pixel_sizes(groups, options.tuning)
    objects = [references.read_objects(g.rows) if references else [None] * len(g.rows) for g in groups]
    levels = sorted(options.noise_levels)
    store = output.open_result_store(out, *_list_inputs(root, groups, objects, networks, settings, options))
    runners, results = [], []
    with open_cluster(settings, (*PRELOAD, noise_detections.__name__), say) as client:
        for group, group_objects in zip(groups, objects, strict=True):
            tuning = _prepare_tuning(root, group, settings, options.tuning, client, say)
            runners.append(LevelRunner(tuning, group_objects, networks, settings, store))
            for number, level in enumerate(levels, 1):
                say(f"{group.name}: noise {level:g}, level {number} of {len(levels)}")
                results.append(runners[-1].compute_level(level))
    facts = {"source": files.redact(root), "networks": networks, "settings": vars(options.tuning)}
    facts |= {"noise_levels": levels, "labels": options.labels, "n_images": sum(len(g.rows) for g in groups)}
    show.write_robustness_study(out, results, runners, facts)
    store.remove()
    for line in show.describe_results(results):
        say(line)
    say(f"tables and figures: {out}/index.html")
    return results


def _prepare_tuning(
    root: str, group: GroupSample, settings: Settings, options: TuneOptions, client: Any, say: Say
) -> GroupTuning:
    physics = options.read_physics()
    no_references = [None] * len(group.rows)
    names = options.select_rewards()
    return GroupTuning.prepare(root, group, no_references, settings, options, physics, names, client, say)


def _check_pixel_sizes(groups: Sequence[GroupSample], options: TuneOptions) -> None:
    """Raises ValueError, which names the micrograph, where a pixel size is needed and unknown."""
    if options.nm_per_pixel is not None:
        return
    for group in groups:
        sides_nm = compute_pixel_side_nm(group.rows["nm_per_pixel"], group.rows["nm_per_pixel_y"])
        for uri, side_nm in zip(group.rows["uri"], sides_nm):
            try:
                lattice.check_pixel_size(float(side_nm))
            except ValueError as error:
                raise ValueError(f"{uri}: {error}") from error


def _list_inputs(
    root: str,
    groups: Sequence[GroupSample],
    objects: Sequence[Sequence[pd.DataFrame | None]],
    networks: Sequence[str],
    settings: Settings,
    options: RobustnessOptions,
) -> list[object]:
    """All that a level depends on; the level itself is not among it, so that levels can be added."""
    tables = [table for group in objects for table in group if table is not None]
    labels_digest = hashlib.sha256("".join(table.to_csv() for table in tables).encode()).hexdigest()
    digests = [models.digest_model_card(models.locate_model(name)) for name in networks]
    ids = [(group.name, *group.rows["micrograph_id"]) for group in groups]
    cohorts = [group.cohort.merge_detect_settings(settings.detect) for group in groups]
    return [
        show.TITLE, root, ids, labels_digest, digests, cohorts, settings.featurise.score_floor, options.tuning,
        options.tuning.read_physics(),
    ]  # fmt: skip
