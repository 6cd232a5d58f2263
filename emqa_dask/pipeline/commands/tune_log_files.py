"""Files that emqa tune log writes: settings and a folder of figures. Files of other origin are never replaced."""

import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import models, output_folders
from emqa_dask.pipeline.commands import tune_log_windows
from emqa_dask.pipeline.tasks.tune_log import SEARCHED_SETTINGS
from emqa_dask.pipeline.workspace.acquisition_groups import GroupSample
from emqa_dask.settings import Cohort, Detect, Settings, dump, dump_cohort
from emqa_dask.store import files
from emqa_dask.tune import pareto, plots, search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = "# Written by emqa tune log, which replaces this file as long as nobody changes it: SHA-256 "
FIGURE_DPI = 150
WINDOWS_FILE = "windows.csv"  # beside the traces of a group


class TunedGroup(NamedTuple):
    """The result of tuning a group."""

    group: GroupSample
    search_histories: dict[str, search.SearchHistory]  # by method; the chosen method comes first
    chosen_row: pd.Series  # row of the history with the chosen settings
    initial_row: pd.Series  # row of the history with the settings that were in use
    windows: pd.DataFrame | None = None  # see tune_log_windows.tune_windows; None unless windows were tuned

    def describe(self, names: Sequence[str]) -> list[str]:
        """A line with the settings and objectives before and after tuning, each."""
        lines = []
        for label, row in (("before", self.initial_row), ("after", self.chosen_row)):
            objectives = ", ".join(f"{name} {row[name]:.3g}" for name in names)
            sigmas = f"sigma {row.min_sigma:.3g} to {row.max_sigma:.3g} px"
            lines.append(
                f"  {label:<6} threshold {row.threshold:.3g}, overlap {row.overlap:.2f}, {sigmas}: {objectives}"
            )
        return lines if self.windows is None else [*lines, tune_log_windows.describe_windows(self.windows, names)]


def check_out(out: str) -> None:
    """Raises FileExistsError, with the remedy, where `out` or the folder beside it is not from a tuning."""
    folder = locate_figures(out)
    if files.is_local(out):
        output_folders.check_parent_folders(output_folders.make_absolute(files.locate(out)[1]))
        output_folders.check_collection(files.locate(folder)[1])
    elif files.list_names(folder):  # the origin of a folder in a bucket is not known
        raise FileExistsError(f"{files.redact(folder)} is there already: give another --out")
    _check_file(out)


def locate_figures(out: str) -> str:
    """The folder of traces and figures beside the settings file `out`."""
    return out.removesuffix(".toml") + ".tune"


def write_results(out: str, settings: Settings, tuned: Sequence[TunedGroup], method: str) -> None:
    """Writes the traces and figures of the last tuned group, and the settings of all of them."""
    folders = _name_folders(tuned)
    write_figures(files.join(locate_figures(out), folders[-1]), _make_files(tuned[-1], method))
    new_cohorts = [_make_cohort(group, settings.detect) for group in tuned]
    new_keys = {_get_key(cohort) for cohort in new_cohorts}
    other_cohorts = [cohort for cohort in settings.cohorts if _get_key(cohort) not in new_keys]
    common = dataclasses.replace(settings, cohorts=(*new_cohorts, *other_cohorts)).check()
    texts = [dump(dataclasses.replace(common, cohorts=()))]
    figures = locate_figures(out).rpartition("/")[2]
    texts += [dump_cohort(cohort, f"{figures}/{folder}/{WINDOWS_FILE}") for cohort, folder in zip(new_cohorts, folders)]
    texts += [dump_cohort(cohort) for cohort in other_cohorts]
    write_settings(out, "\n".join(texts).encode())


def _name_folders(tuned: Sequence[TunedGroup]) -> list[str]:
    """The folder of each group among the figures."""
    folders: list[str] = []
    for number, group in enumerate(tuned, 1):
        name = re.sub(r"[^\w.-]+", "-", group.group.name).strip("-.")
        folders.append(name if name and name not in folders else f"{name}-{number}")
    return folders


def write_settings(out: str, content: bytes) -> None:
    """Writes the settings file, with a first line by which a later tuning recognises it; errors as `check_out`."""
    _check_file(out)  # it may have appeared since the first check
    files.write_bytes(out, _make_header(content) + b"\n" + content)


def write_figures(folder: str, contents: dict[str, bytes]) -> None:
    """Writes files by their names; on a disk the folder appears as a whole."""
    if not files.is_local(folder):
        for name, content in contents.items():
            files.write_bytes(files.join(folder, name), content)
        return
    with output_folders.write_folder(files.locate(folder)[1]) as fresh:
        for name, content in contents.items():
            (fresh / name).write_bytes(content)
        models.write_model_card(fresh, {"task": "traces and figures of emqa tune log"})


def _check_file(out: str) -> None:
    """Raises FileExistsError where `out` exists and is not an unchanged settings file of a tuning."""
    fs, path = files.locate(out)
    if (fs.exists(path) or os.path.islink(path)) and not _is_unchanged(out):
        raise FileExistsError(
            f"{files.redact(out)} is there and is not a settings file that emqa tune log wrote and nobody changed: it "
            "is not replaced; give another --out, or move it away"
        )


def _is_unchanged(out: str) -> bool:
    """Whether `out` is a settings file as a tuning wrote it."""
    fs, path = files.locate(out)
    if not fs.isfile(path) or (files.is_local(out) and os.path.islink(path)):
        return False
    header, _, content = files.read_bytes(out).partition(b"\n")
    return header == _make_header(content)


def _make_header(content: bytes) -> bytes:
    return f"{HEADER}{hashlib.sha256(content).hexdigest()}".encode()


def _get_key(cohort: Cohort) -> tuple:
    return cohort.uri, cohort.instrument, cohort.magnification


def _make_cohort(tuned: TunedGroup, detect: Detect) -> Cohort:
    """The section [[cohorts]] of a tuned group. Its scales are in px, so diameters in nm of `detect` are cleared."""
    setting_types = {"num_sigma": int, "log_scale": bool}
    changes = {key: setting_types.get(key, float)(tuned.chosen_row[key]) for key in SEARCHED_SETTINGS}
    if detect.max_diameter_nm > 0:
        changes |= {"min_diameter_nm": 0.0, "max_diameter_nm": 0.0}
    windows = () if tuned.windows is None else tune_log_windows.make_map(tuned.windows)
    return dataclasses.replace(tuned.group.cohort, windows=windows, changes=tuple(sorted(changes.items())))


def _make_files(tuned: TunedGroup, method: str) -> dict[str, bytes]:
    """Traces, tables and figures of a group, by the names of their files."""
    contents = {
        f"trace-{name}.csv": history.table.to_csv(index=False).encode()
        for name, history in tuned.search_histories.items()
    }
    if tuned.windows is not None:
        contents[WINDOWS_FILE] = tuned.windows.to_csv(index=False).encode()
    for name, figure in _draw_figures(tuned, method).items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=FIGURE_DPI)
        contents[f"{name}.png"] = stream.getvalue()
    return contents


def _draw_figures(tuned: TunedGroup, method: str) -> dict[str, "Figure"]:
    """Hypervolume, Pareto front (of two objectives or more) and the map of windows."""
    figures = {"hypervolume": plots.plot_hypervolume(_compute_hypervolumes(tuned.search_histories))}
    if len(tuned.search_histories[method].objectives) > 1:
        figures["pareto"] = plots.plot_pareto_front(tuned.search_histories[method])
    if tuned.windows is not None:
        labels = {"threshold": "threshold", "max_sigma": "max_sigma (px)", "overlap": "overlap"}
        figures["windows"] = plots.plot_tile_map(tuned.windows, labels)
    return figures


def _compute_hypervolumes(search_histories: dict[str, search.SearchHistory]) -> dict[str, np.ndarray]:
    """Hypervolume after each evaluation, by method, from one common reference point."""
    reference = np.max([history.reference for history in search_histories.values()], axis=0)
    return {
        method: pareto.compute_hypervolume_history(history.table[list(history.objectives)].to_numpy(), reference)
        for method, history in search_histories.items()
    }
