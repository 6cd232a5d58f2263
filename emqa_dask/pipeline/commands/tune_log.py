"""emqa tune log: settings of [detect] for each cohort of an archive, chosen by rewards on some of its micrographs."""

import dataclasses
import functools
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import tune_log_files
from emqa_dask.pipeline.tasks.tune_log import SEARCHED_SETTINGS, evaluate_settings, evaluate_tiles
from emqa_dask.pipeline.workspace import cohorts
from emqa_dask.report.spreadsheet import defuse
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Cohort, Detect, Settings, dump
from emqa_dask.store import files, layout
from emqa_dask.tune import lattice, pareto, plots, rewards, search
from emqa_dask.tune.lattice import LatticePhysics
from emqa_dask.tune.space import SearchSpace

# By a lattice's measure 41 % of objects that lie anywhere are crowded: without one the image has to bear them out.
LATTICE_REWARDS = ("count_error", "crowding")
DENSITY_REWARDS = ("count_error", "doubtful_count")
IMAGE_REWARDS = ("doubtful_count",)
MIN_OBJECTIVE_RANGE = (
    0.1  # of an objective: a front that is narrower is not stretched, else 0.1 % counts as much as 10 %
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneOptions:
    """What is asked of a tuning."""

    lattice: str = ""  # TOML file, see tune.lattice
    count_per_um2: float | None = None  # expected density, where there is no lattice
    nm_per_pixel: float | None = None  # of all micrographs; None = as their headers say
    rewards: tuple[str, ...] = ()
    evaluations: int = 48
    seed: int = 0
    method: str = "bayes"
    baselines: bool = False  # the other two methods as well, to compare with
    choose: str = "euclidean"
    images: int = 6  # of each cohort
    cohorts: tuple[str, ...] = ()  # patterns on the URI; none = instrument x magnification x session
    batch: int = 4
    windows: int | None = None  # px; side of sliding windows that each get an optimum of their own

    def check(self) -> None:
        """ValueError for a number that makes no sense, a lattice that cannot be read and an unknown reward."""
        check_integer("--evaluations", self.evaluations, 1)
        check_integer("--images", self.images, 1)
        check_seed("--seed", self.seed)
        for name in ("count_per_um2", "nm_per_pixel"):
            if getattr(self, name) is not None:
                check_number(f"--{name.replace('_', '-')}: {name}", getattr(self, name), 0)
        if self.windows is not None:
            check_integer("--windows", self.windows, 1)
        self.physics()
        self.objectives()

    def physics(self) -> LatticePhysics | None:
        """ValueError where both a lattice and a density are given."""
        if self.lattice and self.count_per_um2 is not None:
            raise ValueError("--lattice and --count-per-um2 exclude each other: a lattice says the density, too")
        if self.lattice:
            return lattice.read_lattice(self.lattice)
        return None if self.count_per_um2 is None else lattice.make_density_physics(self.count_per_um2)

    def objectives(self) -> tuple[str, ...]:
        """The rewards by name; ValueError for those that do not exist."""
        chosen = self.rewards or (
            LATTICE_REWARDS if self.lattice else IMAGE_REWARDS if self.count_per_um2 is None else DENSITY_REWARDS
        )
        for name in chosen:
            rewards.load_reward(name)
        return tuple(chosen)


class TunedGroup(NamedTuple):
    """What became of a cohort."""

    cohort: cohorts.GroupSample
    traces: dict[str, search.Trace]  # by method; the one that was asked for comes first
    chosen: pd.Series  # the row of its trace
    before: pd.Series  # the same of the settings that were there before
    windows: pd.DataFrame  # uri and the columns of tune.windows; no rows where none was asked for


def tune_log(root: str, out: str, settings: Settings, wanted: TuneOptions, say: Say = print) -> list[TunedGroup]:
    """Tune the LoG for every cohort of workspace `root`; writes `out`, the settings file that triage takes.

    Traces and figures go into a folder beside it (<out without .toml>.tune). Settings are evaluated on Dask workers,
    `wanted.batch` at a time; a worker keeps the scale space's maxima of an image, so that settings which differ in
    threshold and overlap only filter it once. ValueError where rewards need what is not known, FileExistsError where
    `out` or the folder is there and not what a tuning wrote.
    """
    layout.source_of(root)
    wanted.check()
    tune_log_files.check_out(out)
    physics = wanted.physics()
    names = wanted.objectives()
    found = cohorts.sample_groups(root, wanted.images, wanted.cohorts)
    done = []
    with open_cluster(settings, (*PRELOAD, evaluate_settings.__module__), say) as client:
        for cohort in found:
            done.append(_tune(root, cohort, settings, wanted, physics, names, client, say))
            _write(out, settings, done, wanted)  # what is finished is kept, whatever comes
    say(f"settings: {out}; figures and traces: {tune_log_files.locate_figures(out)}")
    return done


def _tune(root, cohort, settings, wanted, physics, names, client, say) -> TunedGroup:
    is_known = wanted.nm_per_pixel is not None
    rows = cohort.rows.assign(nm_per_pixel=wanted.nm_per_pixel) if is_known else cohort.rows
    nm = float(np.nanmedian(rows["nm_per_pixel"])) if rows["nm_per_pixel"].notna().any() else math.nan
    common = cohort.match.detect(settings.detect).with_pixel_size(nm)
    space = (
        SearchSpace.from_physics(physics, nm)
        if physics is not None and not math.isnan(physics.spacing_nm)
        else SearchSpace()
    )
    before = {key: getattr(common, key) for key in SEARCHED_SETTINGS}
    methods = [wanted.method, *(m for m in search.METHODS if wanted.baselines and m != wanted.method)]
    traces = {}
    n_done = 0
    of = f"{len(rows)} of {cohort.n:,} micrographs"
    say(f"{cohort.name}: {of}, {wanted.evaluations} evaluations of {', '.join(names)}")
    for method in methods:

        def evaluate(tried: list[dict]) -> np.ndarray:
            nonlocal n_done
            values = _evaluate(root, rows, common, tried, space, names, physics, settings, client)
            n_done += len(tried)
            if n_done % (4 * wanted.batch) < wanted.batch:
                say(f"{cohort.name}: {n_done} of {wanted.evaluations * len(methods)} evaluations")
            return values

        traces[method] = search.run_search(
            evaluate,
            space,
            names,
            evaluations=wanted.evaluations,
            seed=wanted.seed,
            method=method,
            batch=wanted.batch,
            initial=[before],
        )
    trace = traces[wanted.method]
    map_ = _map(root, rows, common, trace, space, names, physics, settings, wanted, client)
    tuned = TunedGroup(cohort, traces, trace.chosen(wanted.choose, MIN_OBJECTIVE_RANGE), trace.table.iloc[0], map_)
    for when, row in (("before", tuned.before), ("after", tuned.chosen)):
        rewarded = ", ".join(f"{name} {row[name]:.3g}" for name in names)
        say(f"  {when:<6} threshold {row.threshold:.3g}, overlap {row.overlap:.2f}, sigma {row.min_sigma:.3g} to "
            f"{row.max_sigma:.3g} px: {rewarded}")  # fmt: skip
    return tuned


def _evaluate(root, rows, common, tried, space, names, physics, settings, client) -> np.ndarray:
    """Objectives (len(tried), len(names)): means over the images of `rows`."""
    found = _on_workers(evaluate_settings, root, rows, common, tried, space, names, physics, settings, client)
    values = np.array([value["objectives"] for value in found])
    known = np.isfinite(values).any(axis=0)
    mean = np.nanmean(np.where(known, values, 0.0), axis=0)
    return np.where(known, mean, np.inf)


def _map(root, rows, common, trace, space, names, physics, settings, wanted, client) -> pd.DataFrame:
    """The best of the settings that a search has tried in every window of the images of `rows`."""
    if wanted.windows is None:
        return pd.DataFrame({"uri": []})
    tried = trace.table[list(SEARCHED_SETTINGS)].drop_duplicates().to_dict("records")
    function = functools.partial(evaluate_tiles, wanted.windows, wanted.choose)
    found = _on_workers(function, root, rows, common, tried, space, names, physics, settings, client)
    return pd.concat([value["table"].assign(uri=uri) for value, uri in zip(found, rows["uri"])], ignore_index=True)


def _on_workers(function, root, rows, common, tried, space, names, physics, settings, client) -> list[dict]:
    """The records of `function` for each image of `rows`, in their order; RuntimeError names one that fails."""
    floor = dataclasses.replace(common, threshold=min([space.threshold[0], *(t["threshold"] for t in tried)]))
    every = [dataclasses.replace(common, **t) for t in tried]
    tasks = [
        Task(str(k), (root, row, floor, every, names, physics), 1) for k, row in enumerate(rows.to_dict("records"))
    ]
    found = {}
    for result in execute(function, tasks, stage="tune", client=client, limits=Limits(settings.run.timeout_s)):
        if result.outcome == "failed":
            raise RuntimeError(f"{rows['uri'][int(result.task.name)]}: {result.error}")
        found |= {int(result.task.name): result.value} if result.outcome == "done" else {}
    return [found[k] for k in range(len(tasks))]


def _write(out: str, settings: Settings, done: list[TunedGroup], wanted: TuneOptions) -> None:
    """The settings file of the cohorts that are done, and the last one's traces and figures."""
    new = [_with_changes(tuned, settings.detect) for tuned in done]
    others = [c for c in settings.cohorts if _key(c) not in set(map(_key, new))]
    content = dump(dataclasses.replace(settings, cohorts=(*new, *others)).check()).encode()
    tune_log_files.write_settings(out, content)
    names = [re.sub(r"[^\w.-]+", "-", tuned.cohort.name).strip("-.") for tuned in done]
    name = names[-1] if names[-1] and names[-1] not in names[:-1] else f"{names[-1]}-{len(names)}"
    tune_log_files.write_figures(files.join(tune_log_files.locate_figures(out), name), _figures(done[-1], wanted))


def _figures(tuned: TunedGroup, wanted: TuneOptions) -> dict[str, bytes]:
    """Traces and figures of a cohort by the names of their files."""
    made = {f"trace-{method}.csv": trace.table.to_csv(index=False).encode() for method, trace in tuned.traces.items()}
    figures = {"hypervolume": plots.plot_hypervolume(_volumes(tuned.traces))}
    if len(tuned.traces[wanted.method].objectives) > 1:
        figures["pareto"] = plots.plot_pareto_front(tuned.traces[wanted.method])
    if len(tuned.windows):
        table = tuned.windows.assign(uri=tuned.windows["uri"].map(defuse))
        made["windows.csv"] = table.to_csv(index=False).encode()
        for k, (uri, table) in enumerate(tuned.windows.groupby("uri", sort=False)):
            labels = {"threshold": f"threshold, {uri}", "overlap": "overlap"}
            figures[f"windows-{k}"] = plots.plot_tile_map(table, labels)
    for name, figure in figures.items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        made[f"{name}.png"] = stream.getvalue()
    return made


def _volumes(traces: dict[str, search.Trace]) -> dict[str, np.ndarray]:
    """Hypervolumes of several searches, measured from one point."""
    reference = np.max([trace.reference for trace in traces.values()], axis=0)
    return {
        m: pareto.compute_hypervolume_trace(t.table[list(t.objectives)].to_numpy(), reference)
        for m, t in traces.items()
    }


def _key(cohort: Cohort) -> tuple:
    return cohort.uri, cohort.instrument, cohort.magnification


def _with_changes(tuned: TunedGroup, detect: Detect) -> Cohort:
    """The cohort with the settings found, which are in px: diameters in nm of `detect` do not apply to it."""
    kinds = {"num_sigma": int, "log_scale": bool}
    changes = {key: kinds.get(key, float)(tuned.chosen[key]) for key in SEARCHED_SETTINGS}
    if detect.max_diameter_nm > 0:
        changes |= {"min_diameter_nm": 0.0, "max_diameter_nm": 0.0}
    return dataclasses.replace(tuned.cohort.match, changes=tuple(sorted(changes.items())))
