"""The papers' experiments on own data: study f1, study conditions, study robustness, study uncertainty."""

from collections.abc import Sequence
from typing import Any

from emqa_dask.cli import study_conditions as conditions_verb
from emqa_dask.cli import study_f1 as f1_verb
from emqa_dask.cli import study_robustness as robustness_verb
from emqa_dask.cli import study_uncertainty as uncertainty_verb
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts
from emqa_dask.verbs.models import complete_options

UNCERTAINTY_OPTIONS: dict[str, Any] = {
    **{"images": "", "shifted": (), "target": 0.95, "shares": None, "unlabelled": "", "members": 16},
    **{"curve_members": 3, "minutes": None, "epochs": 200, "patience": 100, "halve_every": 50, "batch": 64},
    **{"learning_rate": 1e-3, "depth": 16, "widen": 2, "window": 64, "whole": False, "windows_per_image": 4},
    **{"seed": 0},
}


def study_f1(
    source: str,
    labels: str | Sequence[str] = (),
    out: str = "study-f1",
    settings: Settings | None = None,
    *,
    detectors: Sequence[str] = (),
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    iou: float | None = None,
    repeats: int = 10,
    models: Sequence[str] = (),
    seed: int = 0,
    short: bool = False,
) -> str:
    """Folder of a study of how well a detector's F1 is predicted without labels. The verb `study f1`.

    Parameters
    ----------
    source : str
        A workspace, or a CSV table in one of the layouts of Li et al.: a row for each image and split.
    labels : str or sequence of str, optional
        Labels of micrographs of the workspace, in any format of ``calibrate_workspace``; none with a table.
    out : str, default "study-f1"
        Folder to write.
    settings : Settings, optional
        Default: those of the workspace.
    detectors, train_on, test_on : sequence of str, optional
        Detectors of the run; texts DETECTOR=SET and SET=GLOB. Default: all; names of detectors; folders.
    iou : float, optional
        IoU from which a box counts as found. Default: 0.1.
    repeats, seed : int
        Number of repeats of the random folds, default 10, and their seed.
    models : sequence of str, optional
        Models beside the forest. Default: both Gaussian processes.
    short : bool, default False
        The forest alone, without the number of features and the coverage of intervals.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If the table is faulty or small, or labels, detectors or sets do not fit the workspace.
    FileExistsError
        If something that no study wrote is at `out`.

    References
    ----------
    Li et al., Digital Discovery 4 (2025) 987.
    """
    values = {"source": str(source), "labels": list_texts(labels), "out": str(out), "models": list_texts(models)}
    values |= {"detectors": list_texts(detectors), "train_on": list_texts(train_on), "test_on": list_texts(test_on)}
    values |= {"iou": iou, "repeats": repeats, "seed": seed, "short": short, "kind": "f1"}
    call_verb(f1_verb.run_study_f1, "study", settings=settings, **values)
    return str(out)


def study_conditions(
    model: str,
    out: str = "study-conditions",
    settings: Settings | None = None,
    *,
    specimens: int | None = None,
    workspace: str = "",
    labels: Sequence[str] = (),
    dose: Sequence[float] | None = None,
    defocus: Sequence[float] | None = None,
    pixel_size: Sequence[float] | None = None,
    seed: int = 0,
    model_out: str = "",
) -> str:
    """Folder of a study of how a detector's F1 depends on imaging conditions. The verb `study conditions`.

    Parameters
    ----------
    model : str
        Quality model, which names its detector.
    out : str, default "study-conditions"
        Folder to write.
    settings : Settings, optional
        Of the detector. Default: those of the workspace, or the defaults.
    specimens : int, optional
        Number of specimens to draw.
    workspace : str, default ""
        Workspace with labelled micrographs, instead of drawn specimens.
    labels : sequence of str, optional
        Files of boxes, with `workspace`.
    dose : sequence of float, optional
        Doses of the grid, electrons per square nanometre.
    defocus : sequence of float, optional
        Defoci of the grid, nm, negative for underfocus; with `specimens`.
    pixel_size : sequence of float, optional
        Pixel sizes of the grid, nm.
    seed : int, default 0
        The same seed gives the same images.
    model_out : str, default ""
        Model directory to write: `model` with the response surface on its card. Default: `out` with "-model".

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If there are no labelled images, a grid has too few values, or images cannot be acquired again on it.
    FileExistsError
        If something that emqa_dask did not write is at `out` or `model_out`.
    """
    axes = {"dose": dose, "defocus": defocus, "pixel_size": pixel_size}
    values = {"model": str(model), "out": str(out), "model_out": str(model_out), "workspace": str(workspace), **axes}
    values |= {"labels": list_texts(labels), "specimens": specimens, "seed": seed, "kind": "conditions"}
    call_verb(conditions_verb.run_study_conditions, "study", settings=settings, **values)
    return str(out)


def study_robustness(
    source: str,
    out: str = "study-robustness",
    settings: Settings | None = None,
    *,
    noise: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    lattice: str = "",
    count_per_um2: float | None = None,
    nm_per_pixel: float | None = None,
    labels: str = "",
    evaluations: int = 48,
    seed: int = 0,
    images: int = 3,
    cohorts: Sequence[str] = (),
    workspace: str | None = None,
) -> str:
    """Folder of a study of how a detector that is tuned by physics holds in noise. The verb `study robustness`.

    After Barakati et al., figure 3.

    Parameters
    ----------
    source : str
        An archive or a workspace.
    out : str, default "study-robustness"
        Folder to write.
    settings : Settings, optional
        Of the detector before tuning, and of the networks to compare with.
    noise : sequence of float
        Levels: standard deviations as fractions of the range of grey values of an image.
    lattice : str, default ""
        TOML file with the crystal that is seen.
    count_per_um2 : float, optional
        Expected objects per square micrometre, where there is no lattice.
    nm_per_pixel : float, optional
        Pixel size, where headers do not say it.
    labels : str, default ""
        File of known objects to compare with.
    evaluations, seed, images : int
        Settings to try for each cohort and level, seed of search and noise, micrographs of each cohort.
    cohorts : sequence of str, optional
        Patterns on the URI; micrographs that match one are a cohort.
    workspace : str, optional
        Where an archive is stored. Default: its name with ".emqa".

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If there are no micrographs, nothing to tune by, no pixel size, or a level of noise is out of range.
    """
    values = {"count_per_um2": count_per_um2, "nm_per_pixel": nm_per_pixel, "evaluations": evaluations, "seed": seed}
    values |= {"source": str(source), "out": str(out), "lattice": str(lattice), "labels": str(labels)}
    values |= {"noise": list(noise), "images": images, "cohorts": list_texts(cohorts), "workspace": workspace}
    call_verb(robustness_verb.run_study_robustness, "study", settings=settings, kind="robustness", **values)
    return str(out)


def study_uncertainty(
    labels: str, out: str = "study-uncertainty", settings: Settings | None = None, **options: Any
) -> str:
    """Folder of a study of what softmax, dropout and ensembles know of their errors. The verb `study uncertainty`.

    Parameters
    ----------
    labels : str
        CSV file with the columns uri and label, and perhaps split and group.
    out : str, default "study-uncertainty"
        Folder to write.
    settings : Settings, optional
        Where the networks are trained. Default: the defaults.
    **options
        images (""): folder from which uris start; the folder of `labels`. shifted (()): texts KIND=FOLDER of images out
        of domain. target (0.95): accuracy of figure 4. shares (None): of the labels; 0.1 to 1. unlabelled (""): folder
        of images for figure 4. members (16). curve_members (3). minutes (None): begin no network after them.
        epochs (200). patience (100). halve_every (50). batch (64). learning_rate (0.001). depth (16). widen (2).
        window (64). whole (False). windows_per_image (4). seed (0).

    Returns
    -------
    str
        `out`.

    Raises
    ------
    TypeError
        For an option that does not exist.
    ValueError
        If there are too few labels for a split, or a folder has no image.
    RuntimeError
        If a method has no network after `minutes`.

    References
    ----------
    Zhang, Kailkhura & Han, ACS Omega 6 (2021) 12711.
    """
    values = complete_options(UNCERTAINTY_OPTIONS, options)
    values |= {"labels": str(labels), "out": str(out), "shifted": list_texts(values["shifted"])}
    call_verb(uncertainty_verb.run_study_uncertainty, "study", settings=settings, kind="uncertainty", **values)
    return str(out)
