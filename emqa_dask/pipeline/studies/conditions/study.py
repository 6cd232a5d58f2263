"""The study of imaging conditions: true F1 over a grid, a response surface on a copy of the model, figures."""

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emqa_dask import models, output_folders
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.conditions import acquire, figures, grid
from emqa_dask.pipeline.studies.conditions.recordings import read_recordings
from emqa_dask.predict.surface_fit import SurfaceFit, assess_response_surface, check_axes, fit_response_surface
from emqa_dask.response_surface import ResponseSurface, find_best_conditions, make_card_table
from emqa_dask.settings import Settings

Say = Callable[[str], None]
TITLE = "emqa study conditions"
# Half an order of magnitude in dose, a factor of 1.5 in pixel size.
DOSES_E_PER_NM2 = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
DEFOCI_NM = (-400.0, -200.0, -80.0, 0.0, 80.0, 200.0, 400.0)
PIXELS_NM = (0.08, 0.12, 0.18, 0.27)
OWN_CONSTRUCT = (
    "After the question of DaCosta and Scott, how a model's performance changes with the imaging conditions. Only the "
    "abstract of their paper is public; the response surface is the construct of emqa_dask."
)


@dataclass(frozen=True)
class ConditionsOptions:
    """What the study draws, and over which grid."""

    n_images: int = 24
    side_nm: float = 36.0  # of a drawn specimen
    seed: int = 0
    doses_e_per_nm2: tuple[float, ...] = DOSES_E_PER_NM2
    defoci_nm: tuple[float, ...] = DEFOCI_NM
    pixels_nm: tuple[float, ...] = PIXELS_NM

    def check(self) -> None:
        """Raises ValueError for numbers that make no grid."""
        check_integer("--specimens", self.n_images, 1)
        check_number("--side", self.side_nm, 0)
        check_seed("--seed", self.seed)

    def make_axes(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """The axes of the conditions `names`, in their order."""
        values = {"dose_e_per_nm2": self.doses_e_per_nm2, "defocus_nm": self.defoci_nm, "nm_per_pixel": self.pixels_nm}
        return check_axes({name: values[name] for name in names})


def study_conditions(
    model: str,
    out: str,
    model_out: str,
    settings: Settings,
    options: ConditionsOptions,
    *,
    workspace: str = "",
    labels: Sequence[str] = (),
    say: Say = print,
) -> SurfaceFit:
    """Runs the study of quality model `model`, writes the folder `out` and the model directory `model_out`.

    Images are the micrographs of `workspace` that the files `labels` label, or without a workspace drawn HRTEM
    particles. The detector is that of the model, with `settings`. Returns how well held-out points of the grid are
    predicted. Raises ValueError, before any work, for a model, a grid or labels that do not do, and FileExistsError
    where something else is in the place of what is written. An interrupted study goes on from its results.
    """
    options.check()
    output.check_out(out, TITLE)
    output_folders.check_folder(model_out)
    matching, settings, digest = read_matching(model, settings)
    if workspace:
        axes = options.make_axes(acquire.RECORDED_CONDITIONS)
        recordings = read_recordings(workspace, settings, labels)
        for recording in recordings:
            acquire.check_recording(recording, axes)
        names = [recording.name for recording in recordings]
        images = [
            functools.partial(acquire.acquire_recording, recording, number, options.seed, axes)
            for number, recording in enumerate(recordings)
        ]
        source = f"{len(names)} labelled micrographs of {Path(workspace).name}, at lower doses and with larger pixels"
    else:
        axes = options.make_axes(acquire.DRAWN_CONDITIONS)
        names = [f"specimen {number}" for number in range(options.n_images)]
        images = [
            functools.partial(acquire.acquire_scene, number, options.seed, options.side_nm, axes)
            for number in range(options.n_images)
        ]
        source = f"{len(names)} drawn specimens (gold particles on carbon, HRTEM): no real image is among them"
    inputs = (TITLE, digest, settings.detect, matching, options, workspace, tuple(labels), names)
    store = output.open_result_store(out, *inputs)
    f1 = grid.compute_grid_f1(images, settings, matching, store, say)
    mean_f1 = np.nanmean(f1, axis=0)
    fit = assess_response_surface(axes, mean_f1, options.seed)
    surface = fit_response_surface(axes, mean_f1, options.seed)
    facts = {"images": source, "n_images": len(names), "n_points": len(mean_f1), "seed": options.seed}
    facts |= {"held_out_spearman": fit.spearman, "held_out_mae": fit.mae}
    _write_model(model, model_out, surface, facts)
    _write_tables(out, surface, fit, f1, names, {"model": model, **facts, "settings": vars(options)})
    store.remove()
    say(f"held-out quarters of the grid: Spearman {fit.spearman:.3f}, mean error of F1 {fit.mae:.3f}")
    say(f"model with the response surface: {model_out}; use it with --set predict.models='[\"{model_out}\"]'")
    say(f"tables and figures: {out}/index.html")
    return fit


def read_matching(model: str, settings: Settings) -> tuple[grid.Matching, Settings, str]:
    """What counts as found, the settings with the model's detector alone, and the digest of the model.

    Raises models.ModelError for the card of another kind of model.
    """
    directory = models.locate_model(model)
    detector, score_floor = models.read_detector_and_floor(model)
    card = models.load_model_card(directory)
    entry = card.get("quality_model", card.get("forest", {}))
    if entry.get("rule", "greedy") not in ("greedy", "optimal"):
        raise models.ModelError(
            f"{directory / 'card.toml'}: F1 by {entry['rule']}: the study matches boxes; calibrate with labels of boxes"
        )
    matching = grid.Matching(score_floor, float(entry.get("iou_threshold", 0.1)), str(entry.get("rule", "greedy")))
    detectors = [name for name in settings.detect.detectors if _name_detector(name) == detector] or [detector]
    if detectors[0] != "log":
        models.locate_model(detectors[0])
    settings = replace(settings, detect=replace(settings.detect, detectors=tuple(detectors[:1])))
    return matching, settings, models.digest_model_card(directory)


def _name_detector(name: str) -> str:
    """The name on the card of a detector of the settings."""
    if name in ("log", "auto"):
        return name
    return str(models.load_model_card(models.locate_model(name)).get("name", name))


def _write_model(model: str, model_out: str, surface: ResponseSurface, facts: Mapping[str, Any]) -> None:
    """Writes a copy of the model directory with the surface on its card."""
    directory = models.locate_model(model)
    card = models.load_model_card(directory)
    with output_folders.write_folder(model_out) as fresh:
        for name in card.get("files", {}):
            shutil.copyfile(models.check_file(directory, name, card), fresh / name)
        models.write_model_card(fresh, {**card, **make_card_table(surface, **facts)})


def _write_tables(
    out: str,
    surface: ResponseSurface,
    fit: SurfaceFit,
    f1: NDArray,
    names: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    axes = surface.axes
    best, best_f1 = find_best_conditions(surface)
    mean_f1 = np.nanmean(f1, axis=0)
    tables = [
        output.StudyTable("grid", "True F1 at each point of the grid", grid.tabulate_grid(axes, f1, fit.f1, best_f1)),
    ]
    plots = [
        output.StudyFigure("maps", "True F1 over the conditions.", figures.plot_maps(axes, mean_f1)),
        output.StudyFigure(
            "doses", "True F1 against the dose, and the surface.", figures.plot_doses(axes, mean_f1, surface)
        ),
        output.StudyFigure(
            "held_out", "Each quarter of the grid, predicted from the others.", figures.plot_held_out(mean_f1, fit)
        ),
    ]
    conditions = ", ".join(f"{name} {value:g}" for name, value in best.items())
    paragraphs = [
        f"Images: {facts['images']}. Best conditions of the grid: {conditions}, with F1 {best_f1:.2f}.",
        "Conditions outside the grid have no predicted loss.",
        OWN_CONSTRUCT,
    ]
    summary = {**facts, "best_conditions": best, "best_f1": best_f1}
    output.write_study(out, TITLE, summary, tables, plots, paragraphs)
