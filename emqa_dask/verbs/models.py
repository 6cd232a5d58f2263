"""What makes models and settings: train detector, train ensemble, tune log, tune order, tune types."""

from collections.abc import Sequence
from typing import Any

from emqa_dask.cli import ensemble_verb, model_verbs, tune_types_verb, tune_verbs
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts

DETECTOR_OPTIONS: dict[str, Any] = {
    **{"start": None, "frozen": False, "steps": None, "learning_rate": None, "validation": 0.2, "device": "cpu"},
    **{"seed": 0, "licence": "not stated", "resume": False, "reviewed": ()},
}
ENSEMBLE_OPTIONS: dict[str, Any] = {
    **{"images": "", "members": 16, "min_members": None, "method": "ensemble", "window": 64, "whole": False},
    **{"windows_per_image": 36, "backbone": "wide_resnet", "depth": 16, "widen": 2, "dropout": None, "epochs": 200},
    **{"patience": 100, "batch": 64, "learning_rate": 1e-3, "precision": "float32", "halve_every": 50},
    **{"false_flags": 0.05, "examples": 480, "shifted": (), "seed": 0, "licence": "not stated"},
    **{"learning_curve": False, "target": 0.95, "shares": None, "curve_members": 3, "unlabelled": "", "search": 0},
}
TUNE_OPTIONS: dict[str, Any] = {
    **{
        "lattice": "",
        "count_per_um2": None,
        "nm_per_pixel": None,
        "reference": "",
        "rewards": (),
        "evaluations": 48,
        "seed": 0,
    },
    **{"method": "bayes", "baselines": False, "choose": "euclidean", "images": 6, "windows": None},
}


def train_detector(coco: str | Sequence[str], images: str | Sequence[str], out: str, **options: Any) -> str:
    """Model directory of a Mask R-CNN trained on labelled micrographs. The verb `train detector`.

    Parameters
    ----------
    coco : str or sequence of str
        Files of COCO JSON.
    images : str or sequence of str
        A folder of images for each of them.
    out : str
        Model directory to write.
    **options
        start (None): model directory or bundled detector to fine-tune. frozen (False): leave its backbone as it is.
        steps (None): of four crops each; 3000, or 600 with start. learning_rate (None). validation (0.2): share of
        the images that is held back. device ("cpu"): or "cuda". seed (0). licence ("not stated"): of the weights.
        resume (False): go on with an interrupted training. reviewed (()): workspaces whose accepted images are learnt
        from, too; coco and images may be empty then.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    TypeError
        For an option that does not exist.
    ValueError
        If files and folders do not pair up, or labels do not fit their images.
    """
    values = complete_options(DETECTOR_OPTIONS, options)
    values |= {"coco": list_texts(coco), "images": list_texts(images), "out": str(out)}
    values["reviewed"] = list_texts(values["reviewed"])
    call_verb(model_verbs.run_train_detector, "train", **values)
    return str(out)


def train_ensemble(labels: str, out: str, settings: Settings | None = None, **options: Any) -> str:
    """Model directory of a classifier ensemble trained on labelled micrographs. The verb `train ensemble`.

    Parameters
    ----------
    labels : str
        CSV file with the columns uri and label, and perhaps split and group.
    out : str
        Model directory to write.
    settings : Settings, optional
        Where the members are trained. Default: the defaults.
    **options
        images (""): folder from which uris start; the folder of `labels`. members (16). min_members (None): enough of
        them; all. method ("ensemble"): or "softmax", "dropout". window (64): side in px. whole (False): shrink images
        to a window. windows_per_image (36). backbone ("wide_resnet"): or a classifier of torchvision. depth (16),
        widen (2): of the wide ResNet. dropout (None): 0, with method "dropout" 0.3. epochs (200). patience (100).
        batch (64): windows a step. learning_rate (0.001). precision ("float32"): or "bfloat16". halve_every (50):
        epochs. false_flags (0.05): share of in-domain images. examples (480): of each kind of shift. shifted (()):
        texts KIND=FOLDER of images out of domain. learning_curve (False): train on shares of the labels, too.
        target (0.95): accuracy whose number of labels is asked for. shares (None): of the labels; 0.1 to 1.
        curve_members (3). unlabelled (""): folder of images for the confidence; the test images. search (0): trials of
        hyperparameters. seed (0). licence ("not stated"): of the weights.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    TypeError
        For an option that does not exist.
    ValueError
        If labels or options do not fit.
    """
    values = complete_options(ENSEMBLE_OPTIONS, options)
    values |= {"labels": str(labels), "out": str(out), "shifted": list_texts(values["shifted"])}
    call_verb(ensemble_verb.run_train_ensemble, "train", settings=settings, **values)
    return str(out)


def tune_log(
    source: str,
    out: str = "tuned.toml",
    settings: Settings | None = None,
    *,
    workspace: str | None = None,
    cohorts: Sequence[str] = (),
    **options: Any,
) -> str:
    """Settings file of the blob detector for each cohort, chosen by rewards. The verb `tune log`.

    Parameters
    ----------
    source : str
        An archive or a workspace.
    out : str, default "tuned.toml"
        File to write; `load_settings` reads it.
    settings : Settings, optional
        Default: those of the workspace.
    workspace : str, optional
        Where the archive is stored. Default: ``./<name of the archive>.emqa``.
    cohorts : sequence of str, optional
        Patterns of URIs, each one cohort. Default: all cohorts of the archive.
    **options
        lattice (""): TOML file with the crystal. count_per_um2 (None): expected objects. nm_per_pixel (None): where
        headers do not say it. reference (""): a detector of the workspace, or a file of labels. rewards (()): names, or
        package.module:function. evaluations (48): settings to try per cohort. seed (0). method ("bayes"): or "random",
        "evolution". baselines (False): run the other methods, too. choose ("euclidean"): or "chebyshev". images (6): of
        each cohort. windows (None): side of windows in px.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    TypeError
        For an option that does not exist.
    ValueError
        If options do not fit together.
    """
    values = complete_options(TUNE_OPTIONS, options)
    values |= {"rewards": list_texts(values["rewards"]), "source": str(source), "out": str(out)}
    values |= {"workspace": workspace, "cohorts": list_texts(cohorts), "kind": "log"}
    call_verb(tune_verbs.run_tune_log, "tune", settings=settings, **values)
    return str(out)


def map_order(
    source: str,
    out: str = "order",
    settings: Settings | None = None,
    *,
    workspace: str | None = None,
    cohorts: Sequence[str] = (),
) -> str:
    """Folder with maps and tables of the disordered regions of lattice images. The verb `tune order`.

    Parameters
    ----------
    source : str
        An archive or a workspace.
    out : str, default "order"
        Folder to write.
    settings : Settings, optional
        Default: those of the workspace.
    workspace : str, optional
        Where the archive is stored. Default: ``./<name of the archive>.emqa``.
    cohorts : sequence of str, optional
        Patterns of URIs. Default: all micrographs.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If `out` is not empty, or no image matches.
    """
    values = {"source": str(source), "out": str(out), "workspace": workspace, "cohorts": list_texts(cohorts)}
    call_verb(tune_verbs.run_tune_order, "tune", settings=settings, kind="order", **values)
    return str(out)


def map_atom_types(
    workspace: str,
    settings: Settings | None = None,
    *,
    cohorts: Sequence[str] = (),
    max_types: int = 6,
    seed: int = 0,
) -> str:
    """Workspace with tables and pictures of the types of atomic columns. The verb `tune types`.

    Parameters
    ----------
    workspace : str
        A workspace with detections.
    settings : Settings, optional
        Default: those of the workspace.
    cohorts : sequence of str, optional
        Patterns of URIs. Default: all micrographs.
    max_types : int, default 6
        Largest number of types that is tried.
    seed : int, default 0
        Same seed, same types.

    Returns
    -------
    str
        `workspace`.

    Raises
    ------
    ValueError
        If detections are missing, no image matches, or an option is impossible.

    References
    ----------
    Barakati et al., Physics-based reward driven image analysis in microscopy.
    """
    values = {"workspace": str(workspace), "cohorts": list_texts(cohorts), "max_types": max_types, "seed": seed}
    call_verb(tune_types_verb.run_tune_types, "tune", settings=settings, kind="types", **values)
    return str(workspace)


def complete_options(defaults: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """`options` with defaults for those that are not given; TypeError for one that does not exist."""
    if unknown := sorted(set(options) - set(defaults)):
        raise TypeError(f"no option {', '.join(unknown)}; there are {', '.join(defaults)}")
    return defaults | options
