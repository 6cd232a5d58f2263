"""What is done with a workspace after its run: status, verify, retry, calibrate, rescore."""

from collections.abc import Sequence

from emqa_dask.cli import model_verbs, run_verbs
from emqa_dask.results.run import Run, open_run
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts


def print_status(workspace: str, *, watch: bool = False, every: float = 10.0) -> int:
    """Number 0, or 2 when something failed, after printing what is done and what failed. The verb `status`.

    Parameters
    ----------
    workspace : str
        Workspace.
    watch : bool, default False
        Print again until no run is at work.
    every : float, default 10
        Seconds between two times, with `watch`.

    Returns
    -------
    int
        0, or 2 when files or tasks failed.

    Raises
    ------
    ValueError
        If there is no workspace.
    """
    return call_verb(run_verbs.run_status, "status", workspace=str(workspace), watch=watch, every=every)


def verify_workspace(workspace: str) -> int:
    """Number 0, or 2 when a file is damaged, after holding every file against its checksum. The verb `verify`.

    Parameters
    ----------
    workspace : str
        Workspace. Damaged files are put aside in its folder ``damaged``; the next run makes them again.

    Returns
    -------
    int
        0, or 2 when a file is damaged.

    Raises
    ------
    ValueError
        If there is no workspace.
    RuntimeError
        If a run uses the workspace.
    """
    return call_verb(run_verbs.run_verify, "verify", workspace=str(workspace))


def retry_failures(workspace: str, settings: Settings | None = None, *, stage: str | None = None) -> Run:
    """Run after trying failed files and images again; other finished work is kept. The verb `retry --failed`.

    Parameters
    ----------
    workspace : str
        Workspace.
    settings : Settings, optional
        Default: those of the workspace.
    stage : str, optional
        Only what failed in this stage: ingest, store, thumbnail, detect, classify or featurise.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed again.

    Raises
    ------
    ValueError
        If there is no workspace or no such stage.
    RuntimeError
        If another run uses the workspace.
    """
    options = {"failed": True, "stage": stage}
    call_verb(run_verbs.run_retry, "retry", workspace=str(workspace), settings=settings, **options)
    return open_run(workspace)


def calibrate_workspace(
    workspace: str,
    labels: str | Sequence[str],
    settings: Settings | None = None,
    *,
    detectors: Sequence[str] = (),
    iou: float | None = None,
    out: str = "",
    figures: str = "",
) -> Run:
    """Run whose trust and predicted F1 are fitted to a few labelled images. The verb `calibrate`.

    Parameters
    ----------
    workspace : str
        Workspace.
    labels : str or sequence of str
        Files of labels: COCO, CVAT, VIA, YOLO, LabelMe, Fiji or CSV.
    settings : Settings, optional
        Default: those of the workspace.
    detectors : sequence of str, optional
        Detectors among which the best one is chosen. Default: those of the settings.
    iou : float, optional
        Intersection over union from which a box counts as found.
    out : str, optional
        Folder for the models. Default: ``models`` in the workspace.
    figures : str, optional
        Folder for the tables and figures of ``study_f1`` with ``short=True``. Default: none are made.

    Returns
    -------
    Run
        The workspace with its new settings; `rescore_workspace` replays the verdicts.

    Raises
    ------
    ValueError
        If there is no workspace, or the labels do not fit its images.
    RuntimeError
        If another run uses the workspace.
    """
    options = {"labels": list_texts(labels), "detectors": list(detectors), "iou": iou, "out": str(out)}
    options["figures"] = str(figures)
    call_verb(model_verbs.run_calibrate, "calibrate", workspace=str(workspace), settings=settings, **options)
    return open_run(workspace)


def rescore_workspace(workspace: str, settings: Settings | None = None) -> Run:
    """Run after replaying evidence, predictions, verdicts and report; no pixel is read. The verb `rescore`.

    Parameters
    ----------
    workspace : str
        Workspace.
    settings : Settings, optional
        With other quality models, score floors or limits. Default: those of the workspace.

    Returns
    -------
    Run
        The workspace.

    Raises
    ------
    ValueError
        If there is no workspace, or the settings need pixels.
    RuntimeError
        If another run uses the workspace.
    """
    call_verb(model_verbs.run_rescore, "rescore", workspace=str(workspace), settings=settings)
    return open_run(workspace)
